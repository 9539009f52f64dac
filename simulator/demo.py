"""`make demo`: the whole product on one screen, without network or account.

Starts the simulated upstream and the proxy with its embedded MongoDB in a temporary directory, makes a user,
sends one streamed and one plain request in each format, and shows the answers as they arrive and the records
they left. The proxy is driven from outside, by its commands and over HTTP, as any user would.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
RECORD_TIMEOUT_S = 10.0

QUESTION = [{"role": "user", "content": "Why do rivers keep count of their fish?"}]

# The demo's own model table: real ids and prices, and behind them simulated models, slow enough to watch.
MODELS = """
[[models]]
id = "gpt-5"
name = "GPT-5"
upstream_id = "gpt-5+chunks=14,delay_ms=60,prompt=1200,cached=1000,out=24"
input = 1.25
output = 10
cache_hit = 0.125

[[models]]
id = "claude-sonnet-4-5"
name = "Claude Sonnet 4.5"
upstream_id = "claude-sonnet-4-5+chunks=14,delay_ms=60,prompt=1800,cached=1400,write=300,out=24"
input = 3
output = 15
cache_write = 3.75
cache_hit = 0.30
"""

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


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class Demo:
    """A running proxy in front of a running simulator, both thrown away at the end."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._port = port
        self._processes: list[subprocess.Popen[str]] = []
        self._log = directory / "proxy.log"
        self._environ = dict(os.environ)  # noqa: TID251  handed on to the processes it starts
        self.url = ""
        self.admin_token = ""
        self.api_key = ""

    def start(self) -> None:
        """Start both, wait until they answer, make the user."""
        upstream = self._start_simulator()
        models = self._directory / "models.toml"
        models.write_text(MODELS)
        for name in ("MONGODB_URI", "PROXY_API_KEY", "ADMIN_TOKEN", "SECRET_KEY", "MONGODB_URI_FILE"):
            self._environ.pop(name, None)
        self._environ |= {
            "DATA_DIR": str(self._directory / "data"),
            "MODELS_FILE": str(models),
            "OHMYGPT_BASE_URL": upstream,
            "OHMYGPT_API_KEYS": "sk-demo-upstream-key-one,sk-demo-upstream-key-two",
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "LOG_FORMAT": "text",
        }
        self._start_proxy()
        added = self.flask("users", "add", "demo", "--credits", "5", "--json")
        self.api_key = json.loads(added)["apiKey"]
        self.admin_token = (self._directory / "data" / "admin-token").read_text().strip()

    def stop(self) -> None:
        """Stop both, the proxy first."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

    def flask(self, *arguments: str) -> str:
        """Run a `flask` command beside the proxy; its output."""
        command = [sys.executable, "-m", "flask", *arguments]
        done = subprocess.run(  # noqa: S603  our own command
            command, cwd=ROOT, env=self._environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"flask {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def record(self, request_id: str) -> dict[str, Any]:
        """The record of a request, as soon as the background writer has booked it."""
        address = f"{self.url}/api/admin/request-logs/{request_id}"
        deadline = time.monotonic() + RECORD_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = requests.get(
                address, headers={"Authorization": f"Bearer {self.admin_token}"}, timeout=10
            )
            if answer.ok:
                record: dict[str, Any] = answer.json()
                return record
            time.sleep(0.05)
        raise DemoError(f"request {request_id} left no record within {RECORD_TIMEOUT_S:.0f} s")

    def wait(self) -> None:
        """Until Ctrl-C, or until the proxy ends by itself."""
        self._processes[-1].wait()
        raise DemoError(f"the proxy has ended: {self._last_log_line()}")

    def _start_simulator(self) -> str:
        ready = self._directory / "simulator.url"
        process = self._spawn(
            [sys.executable, "-m", "simulator", "--ready-file", str(ready)], self._directory / "simulator.log"
        )
        self._wait_for(process, ready.exists, "the simulated upstream")
        return ready.read_text().strip()

    def _start_proxy(self) -> None:
        process = self._spawn([sys.executable, "-m", "gunicorn", "wsgi:app"], self._log)
        self._wait_for(process, lambda: self._answers(), "the proxy")

    def _answers(self) -> bool:
        for line in self._log.read_text().splitlines():
            if "Listening at: " in line:
                self.url = line.split("Listening at: ")[1].split()[0]
        if not self.url:
            return False
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/health", timeout=5).ok
        return False

    def _spawn(self, command: list[str], log: Path) -> "subprocess.Popen[str]":
        with log.open("w") as output:
            process = subprocess.Popen(  # noqa: S603  our own commands
                command, cwd=ROOT, env=self._environ, stdout=output, stderr=subprocess.STDOUT, text=True
            )
        self._processes.append(process)
        return process

    def _wait_for(self, process: "subprocess.Popen[str]", is_ready: Any, what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            if process.poll() is not None:
                raise DemoError(f"{what} did not start: {self._last_log_line()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{what} did not answer within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def _last_log_line(self) -> str:
        lines = self._log.read_text().strip().splitlines() if self._log.exists() else []
        return lines[-1] if lines else "it printed nothing"


def ask(demo: Demo, wire_format: str, *, stream: bool) -> str:
    """Send one request, print the answer as it arrives; the request id."""
    is_openai = wire_format == "openai"
    path = "/v1/chat/completions" if is_openai else "/v1/messages"
    body: dict[str, Any] = {"model": "gpt-5" if is_openai else "claude-sonnet-4-5", "messages": QUESTION}
    if not is_openai:
        body["max_tokens"] = 200
    if stream:
        body["stream"] = True
    headers = (
        {"Authorization": f"Bearer {demo.api_key}"}
        if is_openai
        else {"x-api-key": demo.api_key, "anthropic-version": "2023-06-01"}
    )
    title(
        f"{'OpenAI' if is_openai else 'Anthropic'} format, {'streamed' if stream else 'plain'}: POST {path}"
    )
    started = time.monotonic()
    with requests.post(demo.url + path, json=body, headers=headers, stream=stream, timeout=60) as answer:
        if not answer.ok:
            raise DemoError(f"{path} answered {answer.status_code}: {answer.text}")
        if stream:
            for text in streamed_text(answer, is_openai=is_openai):
                say(f"  {(time.monotonic() - started) * 1000:5.0f} ms  {text!r}")
        else:
            say("  " + plain_text(answer.json(), is_openai=is_openai))
        request_id: str = answer.headers["x-request-id"]
    return request_id


def streamed_text(answer: requests.Response, *, is_openai: bool) -> Iterator[str]:
    """The pieces of text of a stream, each as it arrives."""
    for line in answer.iter_lines(chunk_size=1):
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        text = (
            (event["choices"][0]["delta"] if event.get("choices") else {}).get("content")
            if is_openai
            else (event.get("delta", {}).get("text"))
        )
        if text:
            yield text


def plain_text(answer: dict[str, Any], *, is_openai: bool) -> str:
    """The text of a whole answer."""
    if is_openai:
        return str(answer["choices"][0]["message"]["content"])
    return "".join(block.get("text", "") for block in answer["content"])


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
    -d '{{"model": "gpt-5", "stream": true, "messages": [{{"role": "user", "content": "hi"}}]}}'

  from openai import OpenAI            # pip install openai
  OpenAI(base_url="{url}/v1", api_key="{key}").chat.completions.create(
      model="gpt-5", messages=[{{"role": "user", "content": "hi"}}])

  from anthropic import Anthropic      # pip install anthropic
  Anthropic(base_url="{url}", api_key="{key}").messages.create(
      model="claude-sonnet-4-5", max_tokens=100, messages=[{{"role": "user", "content": "hi"}}])

  The dashboard: {url}/admin
  Log in with this admin token: {demo.admin_token}

  Statistics, as a cron job reads them:
  curl -s '{url}/api/admin/model-stats?period=1h' -H 'Authorization: Bearer {demo.admin_token}'
""")


def show_model_stats(demo: Demo) -> None:
    """Print the model table as the admin API gives it."""
    title("GET /api/admin/model-stats?period=1h")
    answer = requests.get(
        f"{demo.url}/api/admin/model-stats?period=1h",
        headers={"Authorization": f"Bearer {demo.admin_token}"},
        timeout=10,
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
    """The demonstration."""
    directory = Path(tempfile.mkdtemp(prefix="weir-demo-"))
    demo = Demo(directory, port)
    try:
        say("starting the simulated upstream, the proxy and its MongoDB ...")
        demo.start()
        say(f"Weir answers on {demo.url}; user 'demo' has 5 USD of credit.")
        for wire_format in ("openai", "anthropic"):
            for stream in (True, False):
                show_record(demo.record(ask(demo, wire_format, stream=stream)))
        show_model_stats(demo)
        show_ways_in(demo)
        if not once:
            say(f"  Weir stays up on {demo.url} until Ctrl-C.")
            demo.wait()
    finally:
        demo.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run the demonstration; exit status 0 when every answer left its record."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--once", action="store_true", help="end after the proof instead of staying up")
    parser.add_argument("--port", type=int, help="the proxy's port (default: 8005, with --once a free one)")
    arguments = parser.parse_args()
    port = arguments.port if arguments.port is not None else (0 if arguments.once else 8005)
    # A closed terminal or `kill` ends the demonstration as Ctrl-C does: nothing is left running.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(once=arguments.once, port=port)
    except KeyboardInterrupt:
        say("\nstopped.")
    except (DemoError, requests.RequestException) as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
