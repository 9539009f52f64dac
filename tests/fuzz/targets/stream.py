"""Metered streams: read the same however they come, and not a byte is touched that is not asked for."""

from collections.abc import Iterator
from typing import Any

from app.common.lenient_json import loads_lenient
from app.wires.endpoints import Answers
from app.wires.meter import StreamMeter
from app.wires.sse import BOM, SseSplitter, parse_event
from app.wires.wire_format import WireFormat
from tests.fuzz.target import Material, Target, cut
from tests.fuzz.targets.metering import assert_sound, found
from tests.fuzz.targets.sse import FIXTURES

ANSWERS = (Answers.CHAT, Answers.MESSAGES, Answers.RESPONSES)


def check(data: bytes) -> None:
    material = Material(data)
    answers, strip, choices = material.one_of(ANSWERS), bool(material.byte() % 2), 1 + material.byte() % 3
    seed, body = material.byte(), material.rest()
    wire_format = WireFormat.ANTHROPIC if answers is Answers.MESSAGES else WireFormat.OPENAI

    def meter() -> StreamMeter:
        return StreamMeter(wire_format, strip, choices=choices, answers=answers)

    whole = metered(meter(), [body])
    assert metered(meter(), cut(body, seed)) == whole
    assert metered(meter(), by_event(body)) == whole
    if strip:
        assert_only_usage_removed(body, whole[0])
    else:
        assert whole[0] == body


def metered(meter: StreamMeter, reads: list[bytes]) -> tuple[bytes, list[Any]]:
    """What is forwarded and what was found, fed as the relay does: what may pass is only noted."""
    out = []
    for read in reads:
        if count := meter.passable(read):
            meter.note_passed(count, len(read))
            out.append(read)
        else:
            out.append(meter.feed(read))
    out.append(meter.flush())
    assert meter.flush() == b""
    assert_sound(meter)
    return b"".join(out), found(meter)


def by_event(body: bytes) -> list[bytes]:
    """The stream as upstreams send it: each event in a read of its own."""
    splitter = SseSplitter()
    return [*splitter.feed(body), splitter.pending()]


def assert_only_usage_removed(body: bytes, out: bytes) -> None:
    kept = iter(events(out))
    expected = next(kept, None)
    for event in events(body):
        if event == expected:
            expected = next(kept, None)
        else:
            assert is_usage_only(event[1]), event
    assert expected is None


def events(body: bytes) -> list[tuple[bytes, bytes]]:
    return [event for block in by_event(body.removeprefix(BOM)) if (event := parse_event(block)) is not None]


def is_usage_only(data: bytes) -> bool:
    chunk = loads_lenient(data)
    return isinstance(chunk["usage"], dict) and not chunk.get("choices") and chunk.get("error") is None


def seeds() -> Iterator[bytes]:
    for number, path in enumerate(FIXTURES):
        is_anthropic = path.stem.startswith("anthropic")
        for strip in (0, 1):
            yield bytes((is_anthropic, strip, number % 3, number)) + path.read_bytes()[: TARGET.max_bytes]
    for number, stream in enumerate(_RESPONSES):
        yield bytes((ANSWERS.index(Answers.RESPONSES), 0, 0, number)) + stream


_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
_RESPONSES = (
    _DELTA
    * 3
    + b'data: {"type":"response.completed","response":{"id":"r","model":"m","output":[{"type":"message"}],'
    b'"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":2}}}\n\n',
    _DELTA + b'event: error\ndata: {"type":"error","code":"c","message":"no"}\n\n'
    b'data: {"type":"response.failed","response":{"error":{"code":"c"},"usage":null}}\n\n',
    b'data: {"type":"response.output_item.done","item":{"type":"web_search_call","action":{"type":"search"}}}'
    b'\n\ndata: {"type":"response.incomplete","response":{"output":[],"tool_usage":{"web_search":'
    b'{"num_requests":2}},"usage":{"input_tokens":0,"output_tokens":-1}}}\n\n',
)


TARGET = Target(
    "stream",
    check,
    seeds,
    words=(
        *(b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n', b"data: [DONE]\n\n"),
        *(
            b'data: {"id":"a","model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
            b'"usage":null',
        ),
        *(b'"finish_reason":"stop"', b'"type":"message_start"', b"event: message_stop\n", b'"error":{'),
        *(
            b"event: content_block_delta\n",
            b'"delta":{"text":"x"}',
            b'"x_groq":{"usage":{',
            b"\\ud83d",
            b"NaN",
        ),
        *(
            b'"service_tier":"a"',
            b'"response":{',
            b'"type":"response.completed"',
            b"\n\n",
            b"\r\r",
            b"\xef\xbb\xbf",
        ),
    ),
)
