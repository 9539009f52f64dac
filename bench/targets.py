"""What is measured: the upstream itself, and proxies in front of it. Each runs on the proxies' core."""

import http.client
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import pinned
from bench.native import Aim, BenchTrouble, Programs, Reading, Shape, run_load
from bench.shapes import PLAIN_MODEL
from simulator.launcher import Child, ProcessTrouble, free_port, process_tree

KEY = "sk-bench-client-key"
_STOP_TIMEOUT_S = 20.0


class Target(ABC):
    """Something that answers the load client, from `start` to `stop`."""

    name = ""
    recorded = ""
    """Where it leaves a record of each request, so that losses can be counted; nothing: it leaves none."""
    survives = ""
    """What the record of an answer that has ended survives without exception."""

    @property
    @abstractmethod
    def aim(self) -> Aim:
        """Where its load goes."""

    @property
    def keeps_books(self) -> bool:
        """Whether it leaves a record of each request."""
        return bool(self.recorded)

    def run_load(self, programs: Programs, shape: Shape, core: int | None) -> Reading:
        """Put this load on it."""
        return run_load(programs, self.aim, shape, core)

    @abstractmethod
    def start(self) -> None:
        """Start the target; returns when it answers. Raises `BenchTrouble`."""

    @abstractmethod
    def stop(self) -> None:
        """End the target."""

    @abstractmethod
    def pids(self) -> list[int]:
        """Return the ids of the target's processes, whose CPU time is its cost."""

    def prepare(self) -> None:  # noqa: B027  most need none
        """Prepare for a reading; called before each."""

    def workers(self) -> list[int]:
        """Return the ids of the processes that answer requests, whose memory is looked at."""
        return self.pids()

    def version(self) -> str:
        """Return what exactly was measured."""
        return ""

    def records(self) -> int:
        """Return how many records the target has left so far."""
        return 0

    def database_pids(self) -> list[int]:
        """Return the processes of the database that belongs to the target, if it has one."""
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
        """Do nothing: the upstream runs already."""

    def stop(self) -> None:
        """Do nothing: the upstream goes on."""

    def pids(self) -> list[int]:
        """Return nothing: there is no proxy."""
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
        """Return the program, if it is installed."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return what to run; writes its configuration."""

    def environment(self) -> Mapping[str, str]:
        """Return the variables the program needs."""
        return {}

    def start(self) -> None:
        """Start the program and wait until it listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with pinned(self._core):
            child = self._child = Child(self.command(), self.environment(), self.directory / "log")
        try:
            child.wait_for(self.is_ready, f"answer from {self.name}")
        except ProcessTrouble as error:
            raise BenchTrouble(str(error)) from None

    def is_ready(self) -> bool:
        """Whether it answers at all."""
        return answers(self.port)

    def stop(self) -> None:
        """Stop the program by SIGTERM, then SIGKILL."""
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT_S)
            self._child = None

    def pids(self) -> list[int]:
        """Return the ids of all its processes."""
        return process_tree(self._child.pid) if self._child else []


class Nginx(Peer):
    """nginx `proxy_pass`, one worker, connections to the upstream kept, nothing buffered, no log."""

    name = "nginx"

    @staticmethod
    def where() -> Path | None:
        """Return the program, if it is installed."""
        found = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        return Path(found) if found else None

    def command(self) -> Sequence[str]:
        """Return the command, in the foreground, on a configuration of its own."""
        path = self.directory / "nginx.conf"
        path.write_text(_NGINX.format(directory=self.directory, port=self.port, upstream=self.upstream_port))
        return [str(self.where()), "-c", str(path), "-p", str(self.directory), "-e", "stderr"]

    def workers(self) -> list[int]:
        """Return the processes without the master."""
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


def answers(port: int) -> bool:
    """Return whether somebody answers there, whatever it is."""
    return _status(port, "GET", "/health/liveliness") is not None


def serves(port: int) -> bool:
    """Return whether a plain chat is answered."""
    body = json.dumps({"model": PLAIN_MODEL, "messages": [{"role": "user", "content": "hi"}]})
    return _status(port, "POST", "/v1/chat/completions", body) == http.client.OK


def _status(port: int, method: str, path: str, body: str | None = None) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer.status
