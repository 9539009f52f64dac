"""Request bodies: refused with a 400, or read as any JSON reader reads them and forwarded with two edits."""

import json
import re
from collections.abc import Iterator
from typing import Any

from app.wires.endpoints import COUNT_TOKENS, FORWARDED
from app.wires.errors import INVALID_BODY, Refusal
from app.wires.request_body import RequestBody, parse_body
from tests.fuzz.target import Material, Target

NAMES = ("another", 'a"\\ é', "")
_SURROGATE, _ASTRAL = re.compile("[\ud800-\udfff]"), re.compile("[\U00010000-\U0010ffff]")


def check(data: bytes) -> None:
    material = Material(data)
    endpoint, name, inject = material.one_of(FORWARDED), material.one_of(NAMES), material.byte() % 2
    body = material.rest()
    try:
        parsed = parse_body(body, endpoint)
    except Refusal as refusal:
        assert_is_400(refusal)
        return
    members = members_of(body)
    # Unpaired surrogates are read as what takes their place, and no model has that in its name.
    assert parsed.model == members["model"] or "\ufffd" in parsed.model
    assert parsed.stream is (endpoint is not COUNT_TOKENS and members.get("stream") is True)
    assert parsed.choices >= 1
    assert parsed.output_limit is None or parsed.output_limit > 0
    assert parsed.forwarded(parsed.model, inject_usage=False) is body
    injects = bool(inject) and parsed.can_inject_usage
    forwarded = parsed.forwarded(name or parsed.model, injects)
    assert_edited(parsed, members, members_of(forwarded), name or parsed.model, injects)


def assert_is_400(refusal: Refusal) -> None:
    assert refusal.kind is INVALID_BODY
    assert refusal.message


def assert_edited(
    parsed: RequestBody, before: dict[str, Any], after: dict[str, Any], model: str, injects: bool
) -> None:
    expected = {**before, "model": before["model"] if model == parsed.model else model}
    if injects:
        assert parsed.stream
        # It is written anew, from what was read; unpaired surrogates are not, nor, beside them, pairs.
        expected["stream_options"] = readable({**(before.get("stream_options") or {}), "include_usage": True})
        after["stream_options"] = readable(after["stream_options"])
    # As text: NaN is not equal to itself, and 1 is to True.
    assert {name: repr(value) for name, value in after.items()} == {
        name: repr(value) for name, value in expected.items()
    }


def readable(value: Any) -> Any:
    """The same with the sign that stands for what cannot be read in place of all surrogates."""
    if isinstance(value, dict):
        return {readable(name): readable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [readable(inner) for inner in value]
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", _ASTRAL.sub("\ufffd\ufffd", value))
    return value


def members_of(body: bytes) -> dict[str, Any]:
    """The body as another reader has it, in which no name occurs twice at the top."""
    seen: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen.append(pairs)
        return dict(pairs)

    value = json.loads(body.decode("utf-8", "surrogateescape"), object_pairs_hook=keep)
    assert isinstance(value, dict)
    assert len(value) == len(seen[-1])  # the outermost object is finished last
    return value


def seeds() -> Iterator[bytes]:
    for number, text in enumerate(_SEEDS):
        yield bytes((number % 3, number % len(NAMES), 1)) + text.encode()


_SEEDS = (
    '{"model":"m","messages":[]}',
    '{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hi"}]}',
    ' {\n"model" : "m", "messages":[{"a":"\\u00e9\\ud83d\\ude00"}],"stream":true,"stream_options":null}',
    '{"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":true},"model":"a",'
    '"messages":[],"n":3,"max_tokens":10}',
    '{"model":"c","messages":[{"content":"\\ud83d"}],"max_completion_tokens":100000,"stream":true,'
    '"stream_options":{"include_usage":true}}',
    '{"model":"c","max_tokens":5,"system":"s","messages":[],"tools":[{"name":"a","input_schema":{"a":1}}],'
    '"stream":true}',
    '{"model":"a","model":"a","messages":[]}',
    '{"\\u006dodel":"gpt","m\\u0065ssages":[],"str\\u0065am":true,"n":2.0,"max_tokens":1e3}',
    '{"model":1,"messages":[]}',
    '{"model":"a","messages":{}}',
    '{"model":"a","messages":[],"n":"2","stream":1,"Model":"b","MAX_TOKENS":7}',
    "[" * 100,
    "",
)

TARGET = Target(
    "request_body",
    check,
    seeds,
    words=(
        *(b'"model":"m",', b'"messages":[]', b'"stream":true', b'"stream_options":{}', b'"n":2'),
        *(b'"include_usage":true', b'"max_tokens":5', b'"max_completion_tokens":5', b"null", b"\\ud83d"),
        *(b"\\u006d", b"NaN", b"-0", b"1e999", b"[[[[", b'{"a":', b"\xef\xbb\xbf", b"\\", b"stream_options"),
    ),
    max_bytes=1024,
)
