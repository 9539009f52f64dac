"""Streams of an upstream that falls silent, through a proxy that keeps them alive by comments alone."""

import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from simulator import Data, End, Head, Script, Wait
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.raw_http import RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

COMMENT = b": keep-alive\n\n"
EVERY_S = 0.15
HI: list[Any] = [{"role": "user", "content": "hello"}]
STREAM_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
RESPONSE = {"id": "resp_1", "object": "response", "model": "gpt-upstream", "output": []}
USAGE = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
RESPONSES = "/v1/responses"
STREAMS = {
    CHAT: sse.chat(),
    MESSAGES: sse.messages({"input_tokens": 9, "output_tokens": 1}, {"input_tokens": 9, "output_tokens": 2}),
    RESPONSES: [
        sse.named(
            "response.created",
            {"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}},
        ),
        sse.named("response.output_text.delta", {"type": "response.output_text.delta", "delta": "hi"}),
        sse.named(
            "response.completed",
            {"type": "response.completed", "response": {**RESPONSE, "status": "completed", "usage": USAGE}},
        ),
    ],
}


@pytest.fixture(scope="module")
def calm_weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    with WeirProcess(tmp_path_factory.mktemp("calm"), upstream.url, SSE_KEEPALIVE_S=str(EVERY_S)) as process:
        yield process


@pytest.fixture
def lab(calm_weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    opened = Lab(calm_weir, upstream)
    yield opened
    opened.check_books()


def asked(lab: Lab, path: str, script: Script, *, usage: bool | None = True) -> bytes:
    if path != RESPONSES:
        return lab.stream_body(path, script, usage=usage)
    return sse.compact({"model": "gpt-test", "user": lab.directive(script), "input": "hello", "stream": True})


def read_with_comments(connection: RawConnection, wanted: bytes) -> None:
    """Read all of `wanted` and two comments behind it; others lie within where the upstream got no time."""
    for _ in range(1000):
        body = connection.read_until(b"")
        told = body.replace(COMMENT, b"")
        assert wanted.startswith(told)
        if told == wanted and body.endswith(COMMENT * 2):
            return
        assert connection.read_piece() is not None
    pytest.fail(f"nothing but comments: {told!r}")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("path", STREAMS)
def test_a_silent_upstream_leaves_no_stream_silent(lab: Lab, path: str, end: bytes) -> None:
    """Before its first byte, between events and behind them; what is sent in halves stays whole."""
    events = [event.replace(b"\n", end) for event in STREAMS[path]]
    half = 25  # behind no letter that a key could begin with: it would be held back
    first, inside, between = lab.gate(), lab.gate(), lab.gate()
    script = Script.of(
        STREAM_HEAD,
        Wait(first),
        Data(events[0][:half]),
        Wait(inside),
        Data(events[0][half:]),
        Wait(between),
        *map(Data, events[1:]),
        End(),
    )
    with lab.open(path, asked(lab, path, script)) as connection:
        assert connection.read_head().status == 200
        assert connection.read_until(COMMENT).startswith(COMMENT)
        lab.upstream.open_gate(first)
        connection.read_until(events[0][:half])
        time.sleep(3 * EVERY_S)  # nothing may come now, and nothing shows that it would not
        lab.upstream.open_gate(inside)
        connection.read_until(events[0] + COMMENT)
        lab.upstream.open_gate(between)
        played = lab.played(connection.read_rest())
    assert played.body.replace(COMMENT, b"") == b"".join(events)
    assert events[0] in played.body
    check(played.record, "9/0/0/2")
    assert played.record["bytesOut"] == sum(map(len, events))


def test_a_chunk_of_usage_that_is_held_back_does_not_hold_back_comments(lab: Lab) -> None:
    events = sse.chat()
    usage = next(event for event in events if b'"prompt_tokens"' in event)
    at = events.index(usage)
    gate = lab.gate()
    script = Script.of(
        STREAM_HEAD,
        *map(Data, events[:at]),
        Data(usage[:20]),
        Wait(gate),
        Data(usage[20:]),
        *map(Data, events[at + 1 :]),
        End(),
    )
    with lab.open(CHAT, asked(lab, CHAT, script, usage=None)) as connection:
        connection.read_head()
        lab.upstream.wait_gate(gate)
        read_with_comments(connection, b"".join(events[:at]))
        lab.upstream.open_gate(gate)
        played = lab.played(connection.read_rest())
    assert played.body.replace(COMMENT, b"") == b"".join(events).replace(usage, b"")
    check(played.record, "9/0/0/2")


def test_a_compressed_stream_is_left_as_it_is(lab: Lab) -> None:
    play = "chunks=3,prompt=9,out=3,delay_ms=400,encoding=gzip"
    played = lab.stream(CHAT, play)
    assert played.response.headers["content-encoding"] == "gzip"
    assert COMMENT not in zlib.decompress(played.body, wbits=31)
    check(played.record, "9/0/0/3")


def test_a_client_that_leaves_a_silent_stream_is_noticed(lab: Lab) -> None:
    gate = lab.gate()
    script = Script.of(STREAM_HEAD, Wait(gate), *map(Data, STREAMS[CHAT]), End())
    connection = lab.open(CHAT, asked(lab, CHAT, script))
    connection.read_head()
    connection.read_until(COMMENT + COMMENT)
    connection.close()
    lab.fence()  # by then the worker has seen it leave
    lab.upstream.open_gate(gate)
    record = lab.only_record()
    check(record, "9/0/0/2", "client_abort", status=499)
    assert record["bytesOut"] == 0


def test_the_vendors_sdks_see_what_they_would_see_without(lab: Lab, calm_weir: WeirProcess) -> None:
    play = "sim:chunks=3,prompt=9,out=3,ttft_ms=500,delay_ms=400"
    seen: dict[str, tuple[str, Any]] = {}

    def ask_openai() -> None:
        with openai.OpenAI(api_key=CLIENT_KEY, base_url=f"{calm_weir.url}/v1", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="gpt-test", messages=HI, stream=True, user=play, stream_options={"include_usage": True}
            )
            chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        seen["openai"] = text, chunks[-1].usage.completion_tokens if chunks[-1].usage else None

    def ask_anthropic() -> None:
        with (
            anthropic.Anthropic(api_key=CLIENT_KEY, base_url=calm_weir.url, max_retries=0) as client,
            client.messages.stream(
                model="claude-test", messages=HI, max_tokens=50, metadata={"user_id": play}
            ) as stream,
        ):
            text = "".join(stream.text_stream)
            seen["anthropic"] = text, stream.get_final_message().usage.output_tokens

    threads = [threading.Thread(target=ask) for ask in (ask_openai, ask_anthropic)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.expected_records += 2
    assert {name: tokens for name, (_, tokens) in seen.items()} == {"openai": 3, "anthropic": 3}
    assert all(text for text, _ in seen.values())
    lab.settle()
    assert [record["outcome"] for record in lab.new_records() if record["endpoint"] != "models"] == [
        "ok",
        "ok",
    ]
