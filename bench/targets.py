"""What is measured: the upstream itself, and proxies in front of it. Each runs on the proxies' core."""

import http.client
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.adapters.embedded_mongo.child import Child
from bench.machine import pinned, process_tree
from bench.native import Aim, BenchTrouble
from drill.processes import free_port, start, tail

KEY = "sk-bench-client-key"
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0


class Target(ABC):
    """Something that answers the load client, from `start` to `stop`."""

    name = ""
    keeps_books = False
    """Whether it leaves a record of each request, so that losses can be counted."""

    @property
    @abstractmethod
    def aim(self) -> Aim:
        """Where its load goes."""

    @abstractmethod
    def start(self) -> None:
        """Start it; returns when it answers. Raises `BenchTrouble`."""

    @abstractmethod
    def stop(self) -> None:
        """End it."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Its processes, whose CPU time is its cost."""

    def prepare(self) -> None:  # noqa: B027  most need none
        """Called before each reading."""

    def workers(self) -> list[int]:
        """Those of them that answer requests, whose memory is looked at."""
        return self.pids()

    def version(self) -> str:
        """What exactly was measured."""
        return ""

    def records(self) -> int:
        """How many records it has left so far."""
        return 0

    def database_pids(self) -> list[int]:
        """The database that belongs to it, if it has one."""
        return []


class Direct(Target):
    """No proxy: what load client and upstream are capable of."""

    name = "direct"

    def __init__(self, upstream_port: int) -> None:
        self._port = upstream_port

    @property
    def aim(self) -> Aim:
        """The upstream itself."""
        return Aim(self._port)

    def start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        """It goes on."""

    def pids(self) -> list[int]:
        """None: there is no proxy."""
        return []


class Peer(Target):
    """A proxy that is one command with a configuration, without a database."""

    def __init__(self, upstream_port: int, directory: Path, core: int) -> None:
        self.upstream_port = upstream_port
        self.directory = directory
        self.port = free_port()
        self._core = core
        self._child: Child | None = None

    @property
    def aim(self) -> Aim:
        """Its chat completions."""
        return Aim(self.port, KEY)

    @staticmethod
    @abstractmethod
    def where() -> Path | None:
        """The program, if it is installed."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to run; writes its configuration."""

    def environment(self) -> Mapping[str, str]:
        """Variables it needs."""
        return {}

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "log"
        with pinned(self._core):
            child = self._child = start(self.command(), self.environment(), log)
        until = time.monotonic() + _START_TIMEOUT_S
        while not _answers(self.port):
            if not child.is_alive() or time.monotonic() > until:
                raise BenchTrouble(f"{self.name} does not start:\n{tail(log)}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT_S)
            self._child = None

    def pids(self) -> list[int]:
        """All its processes."""
        return process_tree(self._child.pid) if self._child else []


class Nginx(Peer):
    """nginx `proxy_pass`, one worker, connections to the upstream kept, nothing buffered, no log."""

    name = "nginx"

    @staticmethod
    def where() -> Path | None:
        """The program, if it is installed."""
        found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        return Path(found) if found else None

    def command(self) -> Sequence[str]:
        """In the foreground, on a configuration of its own."""
        path = self.directory / "nginx.conf"
        path.write_text(_NGINX.format(directory=self.directory, port=self.port, upstream=self.upstream_port))
        return [str(self.where()), "-c", str(path), "-p", str(self.directory), "-e", "stderr"]

    def workers(self) -> list[int]:
        """Without the master."""
        return self.pids()[1:]


_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  upstream simulated {{
    server 127.0.0.1:{upstream};
    keepalive 4096;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://simulated;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
    }}
  }}
}}
"""


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/liveliness")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
