"""The peers that `make bench-peers` installs, each in a directory of its own, as their makers configure them.

None of them keeps records unless that is said.
"""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.native import Aim
from bench.shapes import MODELS
from bench.targets import KEY, Peer, serves
from simulator.launcher import ROOT, free_port

PEERS = ROOT / ".venv-bench-peers"
"""Where they are, a directory that git ignores."""


class LiteLLM(Peer):
    """LiteLLM's proxy with one worker and without a database: it checks one master key and books nothing."""

    name = "litellm"

    @staticmethod
    def where() -> Path | None:
        """Return the command, if it is installed."""
        return _installed("litellm", "litellm")

    def version(self) -> str:
        """Return the version of the package."""
        return _version("litellm", "litellm")

    def command(self) -> Sequence[str]:
        """Return the command, with the upstream as an OpenAI-compatible one."""
        models = [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"openai/{model}",
                    "api_base": f"http://127.0.0.1:{self.upstream_port}/v1",
                    "api_key": "sk-bench-upstream",
                },
            }
            for model in MODELS
        ]
        config = {
            "model_list": models,
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"telemetry": False, "num_retries": 0},
        }
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        options = ["--config", str(path), "--host", "127.0.0.1", "--port", str(self.port)]
        return [str(self.where()), *options, "--num_workers", "1", "--telemetry", "False"]

    def environment(self) -> Mapping[str, str]:
        """Return the environment for production; nothing is fetched from elsewhere."""
        return {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HOME": str(self.directory),
        }


class Portkey(Peer):
    """Portkey's gateway (node): it checks no key and books nothing."""

    name = "portkey"

    @staticmethod
    def where() -> Path | None:
        """Return the script, if it and node are installed."""
        found = PEERS / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        return found if found.exists() and shutil.which("node") else None

    def version(self) -> str:
        """Return the version of the package."""
        script = self.where()
        package = script.parent.parent / "package.json" if script else None
        return str(json.loads(package.read_text())["version"]) if package else ""

    @property
    def aim(self) -> Aim:
        """Its chat completions; the upstream is named by headers."""
        upstream = f"http://127.0.0.1:{self.upstream_port}/v1"
        return Aim(
            self.port, KEY, headers=("x-portkey-provider: openai", f"x-portkey-custom-host: {upstream}")
        )

    def command(self) -> Sequence[str]:
        """Return the command, without Portkey's console."""
        return [shutil.which("node") or "node", str(self.where()), f"--port={self.port}", "--headless"]

    def environment(self) -> Mapping[str, str]:
        """Return variables that list the upstream's host: private networks are refused otherwise."""
        return {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}


class Ferro(Peer):
    """Ferro Labs' gateway (Go), one thread of Go on its core: it checks one master key and books nothing.

    Without `RATE_LIMIT_RPS=0` it refuses what is above a limit, without `models` all that are not OpenAI's.
    """

    name = "ferro"

    @staticmethod
    def where() -> Path | None:
        """Return the program, if it is installed."""
        return _installed("ferro", "ferrogw")

    def version(self) -> str:
        """Return the version of the package."""
        return _version("ferro", "ferrogw")

    def command(self) -> Sequence[str]:
        """Return the command, with the upstream in OpenAI's place."""
        config = {
            "strategy": {"mode": "single"},
            "targets": [{"virtual_key": "openai", "models": list(MODELS)}],
            "plugins": self.plugins(),
        }
        (self.directory / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        return [str(self.where()), "serve"]

    def plugins(self) -> list[dict[str, object]]:
        """Return what it does with requests beside passing them on."""
        return []

    def environment(self) -> Mapping[str, str]:
        """Return the environment; a core is one thread's."""
        return {
            "GATEWAY_CONFIG": str(self.directory / "config.yaml"),
            "PORT": str(self.port),
            "RATE_LIMIT_RPS": "0",
            "MASTER_KEY": KEY,
            "OPENAI_API_KEY": "sk-bench-upstream",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.upstream_port}",
            "LOG_LEVEL": "error",
            "GOMAXPROCS": "1",
            "HOME": str(self.directory),
        }


class FerroLog(Ferro):
    """The same with its request log in SQLite: two rows a request, each a transaction of its own."""

    name = "ferro-log"
    recorded = "SQLite"
    survives = "power loss"

    @property
    def _log(self) -> Path:
        return self.directory / "requests.db"

    def plugins(self) -> list[dict[str, object]]:
        """Return the logger, at both ends of a request."""
        logger = {"name": "request-logger", "type": "logging", "enabled": True}
        how = {"level": "debug", "persist": True}
        return [logger | {"stage": stage, "config": how} for stage in ("before_request", "after_request")]

    def environment(self) -> Mapping[str, str]:
        """Return the environment, with the log's place."""
        log = {"REQUEST_LOG_STORE_BACKEND": "sqlite", "REQUEST_LOG_STORE_DSN": str(self._log)}
        return {**super().environment(), **log}

    def records(self) -> int:
        """Count the rows of requests that were answered."""
        with sqlite3.connect(f"file:{self._log}?mode=ro", uri=True, timeout=30) as log:
            (count,) = log.execute(
                "SELECT count(*) FROM request_logs WHERE stage = 'after_request'"
            ).fetchone()
        log.close()
        return int(count)


class Shepherd(Peer):
    """Shepherd's model gateway (Rust), `--backend openai`: it checks one key and books nothing."""

    name = "shepherd"

    @staticmethod
    def where() -> Path | None:
        """Return the command, if it is installed."""
        return _installed("shepherd", "smg")

    def version(self) -> str:
        """Return the version of the package."""
        return _version("shepherd", "smg")

    def command(self) -> Sequence[str]:
        """Return the command; it asks the upstream for its models."""
        options = {
            "backend": "openai",
            "worker-urls": f"http://127.0.0.1:{self.upstream_port}",
            "host": "127.0.0.1",
            "port": self.port,
            "prometheus-host": "127.0.0.1",
            "prometheus-port": free_port(),
            "history-backend": "none",
            "max-concurrent-requests": 0,
            "log-level": "error",
            "api-key": KEY,
        }
        told = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [str(self.where()), "launch", *told]

    def environment(self) -> Mapping[str, str]:
        """Return the environment; a core is one thread's."""
        return {"TOKIO_WORKER_THREADS": "1", "HOME": str(self.directory)}

    def is_ready(self) -> bool:
        """Whether it has found out which models there are: before that it serves none."""
        return serves(self.port)


def _installed(peer: str, command: str) -> Path | None:
    found = PEERS / peer / "bin" / command
    return found if found.exists() else None


def _version(peer: str, package: str) -> str:
    python = PEERS / peer / "bin" / "python"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=False
    ).stdout.strip()
