"""`weir demo`: the whole product on one screen, without network or account.

Starts the simulated upstream and the proxy with its embedded MongoDB in a temporary directory, makes a user,
sends one streamed and one plain request in each format, and shows the answers as they arrive and the records
they left. The proxy is driven from outside, by its commands and over HTTP, as any user would.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import requests

from simulator.launcher import PATIENCE_S, ROOT, Overdue, ProcessTrouble, Proxy, tail, wait_until
from simulator.process import SimulatorProcess

# What is set for another Weir is not for this one.
_OWN = ("MONGODB_URI", "MONGODB_URI_FILE", "PROXY_API_KEY", "ADMIN_TOKEN", "SECRET_KEY", "MODELS_FILE")
STOP_TIMEOUT_S = 30.0

QUESTION = "Why do rivers keep count of their fish?"
TALK = [{"role": "user", "content": QUESTION}]
GPT, CLAUDE = "gpt-5.4", "claude-sonnet-5-5"

# What the simulated models answer: slowly enough to watch, and with what a cache does.
ANSWERS = "chunks=14,delay_ms=60,cached=1000,write=200"


@dataclass(frozen=True)
class Format:
    """One of the formats: what is asked in it, and where the text is in its answers and events."""

    name: str
    path: str
    body: dict[str, Any]
    delta: Callable[[Any], Any]
    text: Callable[[Any], str]
    key_header: str = "authorization"


def _parts(blocks: list[Any]) -> str:
    return "".join(block.get("text", "") for block in blocks)


FORMATS = (
    Format(
        "OpenAI's chat format",
        "/v1/chat/completions",
        {"model": GPT, "messages": TALK},
        lambda event: event["choices"][0]["delta"].get("content") if event.get("choices") else None,
        lambda answer: str(answer["choices"][0]["message"]["content"]),
    ),
    Format(
        "Anthropic's format",
        "/v1/messages",
        {"model": CLAUDE, "messages": TALK, "max_tokens": 200},
        lambda event: event.get("delta", {}).get("text"),
        lambda answer: _parts(answer["content"]),
        "x-api-key",
    ),
    Format(
        "OpenAI's Responses API",
        "/v1/responses",
        {"model": GPT, "input": QUESTION},
        lambda event: event.get("delta"),
        lambda answer: _parts(answer["output"][-1]["content"]),
    ),
)

SHOWN = (
    "requestId",
    "userId",
    "userKeyId",
    "factoryKeyId",
    "model",
    "apiFormat",
    "stream",
    "inputTokens",
    "outputTokens",
    "cacheWriteTokens",
    "cacheHitTokens",
    "tokensUsed",
    "costNanoUsd",
    "creditsCost",
    "statusCode",
    "outcome",
    "usageSource",
    "latencyMs",
    "ttftMs",
    "overheadMs",
)


def _weir(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app", *arguments]


class _Weir(Proxy):
    command = _weir("run")

    def is_listening(self) -> bool:
        # By its own word: another program may answer on a port that is taken.
        return " answers on " in self.log and super().is_listening()


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class Demo:
    """A running proxy in front of a running simulator, both thrown away at the end."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        self._environ = dict(os.environ)  # noqa: TID251  handed on to the processes it starts
        self._upstream = SimulatorProcess(environment=self._environ)
        self._proxy: Proxy | None = None
        self.data_dir = directory / "data"
        self.url = ""
        self.admin_token = ""
        self.api_key = ""

    def start(self) -> None:
        """Start both, wait until they answer, make the user."""
        self._upstream.start()
        self._upstream.behave("*", ANSWERS)
        for name in _OWN:
            self._environ.pop(name, None)
        self._environ |= {
            "DATA_DIR": str(self.data_dir),
            "OHMYGPT_BASE_URL": self._upstream.url,
            "OHMYGPT_API_KEYS": "sk-demo-upstream-key-one,sk-demo-upstream-key-two",
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "LOG_FORMAT": "text",
        }
        self._proxy = _Weir(self._environ, self._directory / "proxy.log")
        self._proxy.start()
        self.url = self._proxy.url
        added = self.weir("users", "add", "demo", "--credits", "5", "--json")
        self.api_key = json.loads(added)["apiKey"]
        self.admin_token = (self.data_dir / "admin-token").read_text().strip()

    def stop(self) -> None:
        """Stop both, the proxy first."""
        if self._proxy is not None:
            self._proxy.discard(STOP_TIMEOUT_S)
        self._upstream.stop()

    def weir(self, *arguments: str) -> str:
        """Run a `weir` command beside the proxy; its output."""
        done = subprocess.run(  # noqa: S603  our own command
            _weir(*arguments), cwd=ROOT, env=self._environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"weir {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def record(self, request_id: str) -> dict[str, Any]:
        """Return the record of a request, as soon as the background writer has booked it."""
        address = f"{self.url}/api/admin/request-logs/{request_id}"
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        found: list[dict[str, Any]] = []

        def look() -> bool:
            answer = requests.get(address, headers=headers, timeout=PATIENCE_S)
            found.extend([answer.json()] if answer.ok else [])
            return bool(found)

        wait_until(look, PATIENCE_S, f"the record of request {request_id}")
        return found[0]

    def wait(self) -> None:
        """Until Ctrl-C, or until the proxy ends by itself."""
        assert self._proxy is not None  # noqa: S101  it was started
        self._proxy.running.wait(None)
        raise DemoError(f"the proxy has ended: {tail(self._proxy.log, 1) or 'it printed nothing'}")


def ask(demo: Demo, form: Format, *, stream: bool) -> str:
    """Send one request, print the answer as it arrives; return the request id."""
    key = demo.api_key if form.key_header == "x-api-key" else f"Bearer {demo.api_key}"
    headers = {form.key_header: key, "anthropic-version": "2023-06-01"}
    body = {**form.body, "stream": True} if stream else form.body
    title(f"{form.name}, {'streamed' if stream else 'plain'}: POST {form.path}")
    started = time.monotonic()
    address = demo.url + form.path
    with requests.post(address, json=body, headers=headers, stream=stream, timeout=PATIENCE_S) as answer:
        if not answer.ok:
            raise DemoError(f"{form.path} answered {answer.status_code}: {answer.text}")
        if stream:
            for text in streamed_text(answer, form):
                say(f"  {(time.monotonic() - started) * 1000:5.0f} ms  {text!r}")
        else:
            say("  " + form.text(answer.json()))
        request_id: str = answer.headers["x-request-id"]
    return request_id


def streamed_text(answer: requests.Response, form: Format) -> Iterator[str]:
    """Yield the pieces of text of a stream, each as it arrives."""
    for line in answer.iter_lines(chunk_size=1):
        if line.startswith(b"data: {") and (text := form.delta(json.loads(line[6:]))):
            yield text


def show_record(record: dict[str, Any]) -> None:
    """Print what a request left in MongoDB."""
    say("  its record:")
    for name in SHOWN:
        say(f"    {name:<17} {json.dumps(record.get(name))}")
    if record["outcome"] != "ok" or not record["costNanoUsd"]:
        raise DemoError(f"the record of {record['requestId']} is not that of a good, priced answer")


def show_ways_in(demo: Demo) -> None:
    """Print how to go on from here."""
    url, key = demo.url, demo.api_key
    title("Your turn")
    say(f"""  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
    -d '{{"model": "{GPT}", "stream": true, "messages": [{{"role": "user", "content": "hi"}}]}}'

  from openai import OpenAI            # pip install openai
  OpenAI(base_url="{url}/v1", api_key="{key}").responses.create(model="{GPT}", input="hi")

  from anthropic import Anthropic      # pip install anthropic
  Anthropic(base_url="{url}", api_key="{key}").messages.create(
      model="{CLAUDE}", max_tokens=100, messages=[{{"role": "user", "content": "hi"}}])

  Claude Code:
  ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key} ANTHROPIC_MODEL={CLAUDE} claude

  Codex:
  WEIR_KEY={key} codex -m {GPT} -c model_provider=weir \\
    -c 'model_providers.weir={{name="Weir",base_url="{url}/v1",env_key="WEIR_KEY",wire_api="responses"}}'

  The dashboard: {url}/admin
  Log in with this admin token: {demo.admin_token}

  Statistics, as a cron job reads them:
  curl -s '{url}/api/admin/model-stats?period=1h' -H 'Authorization: Bearer {demo.admin_token}'

  Commands, and the recipes of docs/cron.md:
  export DATA_DIR={demo.data_dir} WEIR={url}/api/admin AUTH='Authorization: Bearer {demo.admin_token}'
  weir stats usage --period month
""")


def show_model_stats(demo: Demo) -> None:
    """Print the model table as the admin API gives it."""
    title("GET /api/admin/model-stats?period=1h")
    answer = requests.get(
        f"{demo.url}/api/admin/model-stats?period=1h",
        headers={"Authorization": f"Bearer {demo.admin_token}"},
        timeout=PATIENCE_S,
    )
    answer.raise_for_status()
    for row in answer.json()["models"]:
        say(
            f"  {row['model']:<20} {row['requestCount']} requests, {row['totalTokens']} tokens, "
            f"{row['creditsBurned']:.9f} USD, p95 {row['p95LatencyMs']} ms"
        )


def title(text: str) -> None:
    """Print a heading."""
    say(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201  this is what a demonstration does


def run(*, once: bool, port: int) -> None:
    """Run the demonstration."""
    directory = Path(tempfile.mkdtemp(prefix="weir-demo-"))
    demo = Demo(directory, port)
    try:
        say("starting the simulated upstream, the proxy and its MongoDB ...")
        demo.start()
        say(f"Weir answers on {demo.url}; user 'demo' has 5 USD of credit.")
        for form in FORMATS:
            for stream in (True, False):
                show_record(demo.record(ask(demo, form, stream=stream)))
        show_model_stats(demo)
        show_ways_in(demo)
        if not once:
            say(f"  Weir stays up on {demo.url} until Ctrl-C.")
            demo.wait()
    finally:
        demo.stop()
        shutil.rmtree(directory, ignore_errors=True)


@click.command("demo")
@click.option("--once", is_flag=True, help="End after the proof instead of staying up.")
@click.option("--port", type=click.IntRange(0, 65535), help="The proxy's; default: 8005, with --once any.")
def command(once: bool, port: int | None) -> None:
    """Show everything on one screen: streams and plain answers of all formats, and the records they leave.

    Starts the proxy, a simulated upstream and a MongoDB in a temporary directory; needs no network and no
    account. Exit status 0 when every answer left its record.
    """
    # A closed terminal or `kill` ends the demonstration as Ctrl-C does: nothing is left running.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(once=once, port=port if port is not None else 0 if once else 8005)
    except KeyboardInterrupt:
        say("\nstopped.")
    except (DemoError, Overdue, ProcessTrouble, requests.RequestException) as error:
        raise click.ClickException(" ".join(str(error).split())) from None


if __name__ == "__main__":
    command(prog_name="python -m simulator.demo")
