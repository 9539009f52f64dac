"""The vendors' SDKs, the newest and old ones, against the proxy: what frontends really run."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from simulator.launcher import ROOT
from tests.support.lab import Lab, check
from tests.support.metrics_page import PRICES
from tests.support.old_sdks import python_with_old_sdks
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

HI: list[Any] = [{"role": "user", "content": "hello"}]
PLAYS = {
    "answer": "sim:chunks=6,prompt=90,cached=20,out=6,flush",
    "tools": "sim:tools=1,prompt=90,out=7",
    "limited": "sim:fault=429,retry_after=3600",
    "refused": "sim:fault=401",
    "bad": "sim:fault=400",
    "cut": "sim:fault=cut,after=3,chunks=6,flush",
    "eof": "sim:fault=eof,after=3,chunks=6,flush",
    "error event": "sim:fault=error_event,after=3,chunks=6",
}
_SESSION = ROOT / "tests" / "support" / "sdk_session.py"
_OLD_ERRORS = {
    "unknown model": ["NotFoundError", 404],
    "limited": ["RateLimitError", 429],
    "refused key": ["InternalServerError", 502],
    "bad": ["BadRequestError", 400],
}


@pytest.fixture(scope="module")
def roomy_weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """A proxy that tells clients of each failure, with so many upstream keys that others are left."""
    secrets = ",".join(f"sk-upstream-roomy-{number:04}" for number in range(20))
    with WeirProcess(
        tmp_path_factory.mktemp("roomy"), upstream.url, OHMYGPT_API_KEYS=secrets, UPSTREAM_MAX_ATTEMPTS="1"
    ) as process:
        yield process


@pytest.fixture
def lab(roomy_weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    """Requests through that proxy; afterwards the books are checked."""
    opened = Lab(roomy_weir, upstream)
    yield opened
    opened.check_books()


def _session(lab: Lab, python: Path | str) -> dict[str, Any]:
    """Run the session script; its requests are counted from what the upstream and the books say."""
    command = [str(python), "-W", "error", str(_SESSION), lab.weir.url, CLIENT_KEY, json.dumps(PLAYS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    # Anthropic's SDK reads its list of models by pages of twenty.
    lists = 3 + -(-len(PRICES) // 20)
    # Chat and others, messages and a count, model lists, results.
    lab.expected_records += 13 + 12 + lists + 10
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(
    ("interpreter", "versions"),
    [
        (lambda: Path(sys.executable), [openai.__version__, anthropic.__version__]),
        (python_with_old_sdks, ["1.109.0", "0.70.0"]),
    ],
    ids=["newest", "old"],
)
def test_session(lab: Lab, interpreter: Callable[[], Path], versions: list[str]) -> None:
    result = _session(lab, interpreter())
    assert result["versions"] == versions
    _check_openai(result["openai"])
    _check_anthropic(result["anthropic"])
    assert result["results"] == {
        "embeddings": [[0.25, -0.5, 0.125]] * 2,
        "floats": [2, True],
        "completion": True,
        "flagged": False,
        "images": [2, 1],
        "speech": "fff3",
        "transcripts": [True, True, True],
    }
    lab.settle()
    for record in lab.new_records():
        if record["outcome"] == "ok" and record["endpoint"] in ("chat", "messages"):
            is_tool = record["outputTokens"] == 7
            check(record, "90/0/0/7" if is_tool else "70/20/0/6")


def _check_openai(said: dict[str, Any]) -> None:
    text = said["plain"][0]
    assert text
    assert said["plain"] == [text, 90, 6]
    assert len(said["streamed"]) > 0
    assert said["streamed usage"] == [6]
    assert len(said["silent"]) > 0
    assert said["silent usage"] == []
    assert said["helper"][0]
    assert said["helper"][1] == 6
    assert said["tool"]["query"] == "weir"
    assert said["models"][0] == "gpt-test"
    assert said["model"] == "vendor/model with space"
    assert said["errors"] == _OLD_ERRORS | {
        "no such path": ["NotFoundError", 404],
        "cut": said["errors"]["cut"],
        "ended early": said["errors"]["ended early"],
        "error in the stream": ["APIError", None],
    }
    for name in ("cut", "ended early"):
        assert said["errors"][name] is not None, "a truncated stream looked whole"


def _check_anthropic(said: dict[str, Any]) -> None:
    assert said["plain"][1:] == [70, 6]
    assert said["streamed"]
    assert said["last event"] == "message_stop"
    assert said["helper"][0] == said["helper"][1] != ""
    assert said["helper"][2] == 6
    assert said["tool"]["query"] == "weir"
    assert said["counted"] > 0
    assert said["models"][0] == "gpt-test"
    assert said["model"] == "vendor/model with space"
    assert {name: said["errors"][name] for name in _OLD_ERRORS} == _OLD_ERRORS
    for name in ("cut", "ended early"):
        assert said["errors"][name] is not None, "a truncated stream looked whole"
    assert said["errors"]["error in the stream"][0].endswith("Error")


def in_a_loop_of_its_own(work: Callable[[], Coroutine[Any, Any, list[str]]]) -> list[str]:
    """Run it in a thread: tests in a browser leave a loop running in a process that others share."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


def test_async_openai(lab: Lab) -> None:
    """Many at once on one client, streamed and not."""

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{lab.weir.url}/v1", api_key=CLIENT_KEY, max_retries=0
        ) as client:

            async def streamed(number: int) -> str:
                stream = await client.chat.completions.create(
                    model="gpt-test", messages=HI, user=PLAYS["answer"], stream=True, seed=number
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def plain(number: int) -> str:
                answer = await client.chat.completions.create(
                    model="gpt-test", messages=HI, user=PLAYS["answer"], seed=number
                )
                return answer.choices[0].message.content or ""

            return await asyncio.gather(*(ask(n) for n in range(5) for ask in (streamed, plain)))

    texts = in_a_loop_of_its_own(run)
    lab.expected_records += 10
    assert all(texts)
    lab.settle()
    for record in lab.new_records()[:10]:
        check(record, "70/20/0/6")


def test_async_anthropic(lab: Lab) -> None:
    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic(
            base_url=lab.weir.url, api_key=CLIENT_KEY, max_retries=0
        ) as client:

            async def streamed() -> str:
                async with client.messages.stream(
                    model="claude-test", messages=HI, max_tokens=50, metadata={"user_id": PLAYS["answer"]}
                ) as stream:
                    return await stream.get_final_text()

            return await asyncio.gather(*(streamed() for _ in range(5)))

    texts = in_a_loop_of_its_own(run)
    lab.expected_records += 5
    assert all(texts)
    lab.settle()
    for record in lab.new_records()[:5]:
        check(record, "70/20/0/6")


def test_tools_streamed_through_both_helpers(lab: Lab) -> None:
    """The arguments come in pieces; put together by the SDK they are JSON again."""
    chat_tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with openai.OpenAI(base_url=f"{lab.weir.url}/v1", api_key=CLIENT_KEY) as client:
        with client.chat.completions.stream(
            model="gpt-test", messages=HI, user=PLAYS["tools"], tools=[chat_tool], tool_choice="required"
        ) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
        assert calls
        assert json.loads(calls[0].function.arguments)["query"] == "weir"
    tool: Any = {"name": "look", "input_schema": {"type": "object"}}
    with anthropic.Anthropic(base_url=lab.weir.url, api_key=CLIENT_KEY) as messages_client:
        with messages_client.messages.stream(
            model="claude-test",
            messages=HI,
            max_tokens=50,
            tools=[tool],
            tool_choice={"type": "any"},
            metadata={"user_id": PLAYS["tools"]},
        ) as message_stream:
            blocks = message_stream.get_final_message().content
        assert [block.input["query"] for block in blocks if block.type == "tool_use"] == ["weir"]
    lab.expected_records += 2


def test_ids_and_messages_of_errors(lab: Lab) -> None:
    """Support starts with an id: the SDKs find it, and it is the record's."""
    with openai.OpenAI(base_url=f"{lab.weir.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="Invalid request") as chat_error:
            client.chat.completions.create(model="gpt-test", messages=HI, user=PLAYS["bad"])
        answer = client.chat.completions.create(model="gpt-test", messages=HI, user=PLAYS["answer"])
    with (
        anthropic.Anthropic(base_url=lab.weir.url, api_key=CLIENT_KEY, max_retries=0) as messages_client,
        pytest.raises(anthropic.BadRequestError, match="Invalid request") as message_error,
    ):
        messages_client.messages.create(
            model="claude-test", messages=HI, max_tokens=5, metadata={"user_id": PLAYS["bad"]}
        )
    lab.expected_records += 3
    ids = [chat_error.value.request_id, answer._request_id, message_error.value.request_id]
    outcomes = [lab.weir.wait_record(str(request_id))["outcome"] for request_id in ids]
    assert outcomes == ["upstream_error", "ok", "upstream_error"]


def test_wrong_key(lab: Lab) -> None:
    with (
        openai.OpenAI(base_url=f"{lab.weir.url}/v1", api_key="sk-wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    with (
        anthropic.Anthropic(base_url=lab.weir.url, api_key="sk-wrong") as messages_client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        messages_client.messages.create(model="claude-test", messages=HI, max_tokens=5)


@pytest.mark.wire(61)
@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_each_retry_of_an_sdk_is_a_record(lab: Lab, vendor: str) -> None:
    """Two 503, then an answer: three requests for the SDK's one call, numbered."""
    if vendor == "openai":
        lab.upstream.behave("gpt-test", "fault=503", times=2)
        with openai.OpenAI(base_url=f"{lab.weir.url}/v1", api_key=CLIENT_KEY) as client:
            client.chat.completions.create(model="gpt-test", messages=HI, user=PLAYS["answer"])
    else:
        lab.upstream.behave("claude-test", "fault=503", times=2)
        with anthropic.Anthropic(base_url=lab.weir.url, api_key=CLIENT_KEY) as messages_client:
            messages_client.messages.create(
                model="claude-test", messages=HI, max_tokens=50, metadata={"user_id": PLAYS["answer"]}
            )
    lab.expected_records += 3
    lab.settle()
    records = lab.new_records()[:3]
    assert [record["clientRetryCount"] for record in records] == [0, 1, 2]
    assert [record["outcome"] for record in records] == ["upstream_error", "upstream_error", "ok"]
    assert [record["statusCode"] for record in records] == [502, 502, 200]
    check(records[2], "70/20/0/6")
    assert [entry["status"] for entry in lab.entries()] == [503, 503, 200]
