"""The peers that `make bench-peers` installs beside the project: LiteLLM's proxy and Portkey's gateway."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.native import Aim
from bench.shapes import MODELS
from bench.targets import KEY, Peer
from simulator.launcher import ROOT

PEERS = ROOT / ".venv-bench-peers"
"""Where they are, a directory that git ignores."""


class LiteLLM(Peer):
    """LiteLLM's proxy with one worker and without a database: it checks one master key and books nothing."""

    name = "litellm"

    @staticmethod
    def where() -> Path | None:
        """Return the command, if it is installed."""
        found = PEERS / "litellm" / "bin" / "litellm"
        return found if found.exists() else None

    def version(self) -> str:
        """Return the version of the package."""
        python = PEERS / "litellm" / "bin" / "python"
        code = "import importlib.metadata as m; print(m.version('litellm'))"
        return subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, check=False
        ).stdout.strip()

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
