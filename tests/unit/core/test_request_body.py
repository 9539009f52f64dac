"""Request bodies: what is read, what is refused, and that nothing but the two edits changes a byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import GatewayError, Refusal
from app.core.request_body import MAX_MEMBERS, MAX_MODEL_LENGTH, Endpoint, parse_body
from tests.support.growth import assert_grows_linearly

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner), max_leaves=8
)
OPTIONS = (
    st.none()
    | st.dictionaries(TEXT, VALUES, max_size=3)
    | st.fixed_dictionaries(
        {"include_usage": st.booleans() | st.none()}, optional={"include_obfuscation": st.booleans()}
    )
)
BODIES = st.fixed_dictionaries(
    {"model": TEXT.filter(bool), "messages": st.lists(VALUES, max_size=3)},
    optional={"stream": st.booleans() | st.none() | TEXT, "stream_options": OPTIONS, "temperature": SCALARS},
)

SPACE = st.text(" \t\r\n", max_size=3)


def encode(body: dict[str, Any], space: str = "", *, ascii_only: bool = True) -> bytes:
    """JSON with whitespace in every place that allows it."""
    members = [
        f"{space}{json.dumps(name, ensure_ascii=ascii_only)}{space}:{space}"
        f"{json.dumps(value, ensure_ascii=ascii_only)}{space}"
        for name, value in body.items()
    ]
    return f"{space}{{{','.join(members)}}}{space}".encode()


def refusal(data: bytes, endpoint: Endpoint = Endpoint.CHAT) -> GatewayError:
    with pytest.raises(Refusal) as caught:
        parse_body(data, endpoint)
    assert caught.value.status == 400
    return caught.value


@given(BODIES, st.dictionaries(TEXT, VALUES, max_size=3), SPACE, st.booleans(), st.randoms())
def test_only_model_and_stream_options_ever_differ(
    known: dict[str, Any], other: dict[str, Any], space: str, ascii_only: bool, random: Any
) -> None:
    members = list({**other, **known}.items())
    random.shuffle(members)
    body = dict(members)
    data = encode(body, space, ascii_only=ascii_only)
    parsed = parse_body(data, Endpoint.CHAT)
    assert parsed.model == body["model"]
    assert parsed.stream is (body.get("stream") is True)
    assert parsed.forwarded(parsed.model, inject_usage=False) is data

    renamed = json.loads(parsed.forwarded("up/stream", inject_usage=False))
    assert renamed == {**body, "model": "up/stream"}

    if parsed.can_inject_usage:
        sent = json.loads(parsed.forwarded("up/stream", inject_usage=True))
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        assert sent == {**body, "model": "up/stream", "stream_options": options}


@given(BODIES, st.booleans())
def test_bytes_outside_the_edits_stay_as_they_came(body: dict[str, Any], inject: bool) -> None:
    marker = '"keep" :\t[ 1.50, 1e2, "\\u00e9", {"b":1,"a":2} ]'
    data = encode(body)[:-1] + f", {marker}}}".encode()
    if body.get("stream_options", ...) is ... or isinstance(body["stream_options"], dict | None):
        parsed = parse_body(data, Endpoint.CHAT)
        assert marker.encode() in parsed.forwarded("another", inject and parsed.can_inject_usage)


@given(BODIES, st.data())
def test_a_member_that_occurs_twice_is_refused_wherever_it_stands(body: dict[str, Any], data: Any) -> None:
    members = [(name, json.dumps(value)) for name, value in body.items()]
    name = data.draw(st.sampled_from(sorted(body)))
    again = (name, json.dumps(data.draw(VALUES)))
    members.insert(data.draw(st.integers(0, len(members))), again)
    text = "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in members) + "}"
    assert "twice" in refusal(text.encode()).message


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","model":"a","messages":[]}',
        b'{"model":"a","messages":[],"\\u006dodel":"b"}',
        b'{"model":"a","messages":[],"x":1,"x":12}',
        b'{"model":"a","messages":[],"x":12,"x":1}',
        b'{"x":"model","x":"model","model":"a","messages":[]}',
        b'{"":1,"":2,"model":"a","messages":[]}',
    ],
)
def test_duplicates_are_found_whatever_their_spelling_and_values(data: bytes) -> None:
    assert "twice" in refusal(data).message


def test_a_name_that_occurs_again_inside_a_value_is_no_duplicate() -> None:
    data = b'{"messages":[{"model":"x"},"\\"model\\":\\"y\\""],"model":"m"}'
    assert parse_body(data, Endpoint.CHAT).model == "m"


def test_escapes_in_names_and_values_are_understood() -> None:
    data = b'{ "\\u006d\\u006fdel" : "g\\u0070t" , "m\\u0065ssages" : [ ] , "str\\u0065am" : true }'
    parsed = parse_body(data, Endpoint.CHAT)
    assert (parsed.model, parsed.stream) == ("gpt", True)
    assert json.loads(parsed.forwarded("up", inject_usage=True)) == {
        "model": "up",
        "messages": [],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_usage_is_asked_for_right_after_the_opening_brace() -> None:
    data = b' {\n"model":"m","messages":[],"stream":true}'
    sent = parse_body(data, Endpoint.CHAT).forwarded("m", inject_usage=True)
    assert sent == b' {"stream_options":{"include_usage":true},\n"model":"m","messages":[],"stream":true}'


@pytest.mark.parametrize(
    ("options", "wanted", "can_inject"),
    [
        (b'{"include_usage":true}', True, False),
        (b'{ "include_usage" : true , "a":1}', True, False),
        (b'{"include_usage":false}', False, True),
        (b'{"include_usage":1}', False, True),
        (b'{"include_usage":"true"}', False, True),
        (b'{"\\u0069nclude_usage":true}', True, False),
        (b"{}", False, True),
        (b"null", False, True),
        (b"[]", False, False),
        (b'"x"', False, False),
        (b"true", False, False),
    ],
)
def test_what_the_client_says_of_usage_is_heard(options: bytes, wanted: bool, can_inject: bool) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":%s}' % options
    parsed = parse_body(data, Endpoint.CHAT)
    assert (parsed.usage_wanted, parsed.can_inject_usage) == (wanted, can_inject)


@pytest.mark.parametrize(
    "odd", [b"1e999", b"9" * 5000, b'"\xff"', b"123456789012345678901234567890", b"-0.0", b"1.50"]
)
def test_odd_values_in_stream_options_are_left_to_the_upstream(odd: bytes) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":{"a":%s}}' % odd
    sent = parse_body(data, Endpoint.CHAT).forwarded("m", inject_usage=True)
    assert b'"stream_options":{"a":%s,"include_usage":true}' % odd in sent


def test_a_name_in_stream_options_that_is_no_text_is_refused() -> None:
    assert refusal(b'{"model":"m","messages":[],"stream_options":{"\xff":1}}').param is None


@pytest.mark.wire(47)
@pytest.mark.parametrize("stream", [b"false", b'"true"', b"1", b"null", b"[true]"])
def test_usage_is_never_asked_for_without_a_stream(stream: bytes) -> None:
    parsed = parse_body(b'{"model":"m","messages":[],"stream":%s}' % stream, Endpoint.CHAT)
    assert not parsed.stream
    assert not parsed.can_inject_usage


@pytest.mark.wire(47)
@pytest.mark.parametrize("endpoint", [Endpoint.MESSAGES, Endpoint.COUNT_TOKENS])
def test_the_messages_endpoints_never_get_stream_options(endpoint: Endpoint) -> None:
    parsed = parse_body(b'{"model":"m","messages":[],"stream":true,"stream_options":3}', endpoint)
    assert parsed.stream is (endpoint is Endpoint.MESSAGES)
    assert not parsed.can_inject_usage


@pytest.mark.parametrize(
    ("data", "message", "param"),
    [
        (b"", "not valid JSON", None),
        (b"   ", "not valid JSON", None),
        (b"[]", "must be a JSON object", None),
        (b'"x"', "must be a JSON object", None),
        (b"null", "must be a JSON object", None),
        (b"{", "not valid JSON", None),
        (b'{"model":"m","messages":[]} trailing', "not valid JSON", None),
        (b'{"model":"m","messages":[],}', "not valid JSON", None),
        (b"{'model':'m'}", "not valid JSON", None),
        (b'\xef\xbb\xbf{"model":"m","messages":[]}', "not valid JSON", None),
        (b'{"\xff":1}', "not valid JSON", None),
        (b'{"model":"m","messages":["\\ud83d"}', "not valid JSON", None),
        (b"{}", "'model'", "model"),
        (b'{"messages":[]}', "'model'", "model"),
        (b'{"model":null,"messages":[]}', "must be a string", "model"),
        (b'{"model":1,"messages":[]}', "must be a string", "model"),
        (b'{"model":"\xff","messages":[]}', "must be a string", "model"),
        (b'{"model":"","messages":[]}', "1 to", "model"),
        (b'{"model":"%s","messages":[]}' % (b"x" * (MAX_MODEL_LENGTH + 1)), "1 to", "model"),
        (b'{"model":"m"}', "'messages'", "messages"),
        (b'{"model":"m","messages":null}', "array", "messages"),
        (b'{"model":"m","messages":{}}', "array", "messages"),
        (b'{"model":"m","messages":"[]"}', "array", "messages"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_its_reason(
    data: bytes, message: str, param: str | None
) -> None:
    error = refusal(data)
    assert message in error.message
    assert error.param == param


@pytest.mark.parametrize(
    "text", [rb"hi \ud83d", rb"\uD83D hi", rb"\ude00", rb"\ud83d\ud83d\ude00", rb"\\ud83d \ud83d"]
)
def test_half_an_emoji_is_forwarded_as_it_came(text: bytes) -> None:
    data = b'{"messages":["%s"],"model":"m","stream":true}' % text
    sent = parse_body(data, Endpoint.CHAT).forwarded("up", inject_usage=True)
    rest = b'"messages":["%s"],"model":"up","stream":true}' % text
    assert sent == b'{"stream_options":{"include_usage":true},' + rest


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_never_a_crash(data: bytes) -> None:
    refusal(data)


@given(BODIES, st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_damaged_body_is_read_or_refused_and_never_a_crash(
    body: dict[str, Any], position: int, damage: bytes
) -> None:
    data = bytearray(encode(body))
    position %= len(data)
    data[position : position + len(damage)] = damage
    try:
        parsed = parse_body(bytes(data), Endpoint.CHAT)
        parsed.forwarded("up", parsed.can_inject_usage)
    except Refusal:
        pass


@pytest.mark.parametrize(
    "nested", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000]
)
def test_nesting_without_end_is_refused(nested: bytes) -> None:
    assert "nested too deeply" in refusal(b'{"model":"m","messages":[%s]}' % nested).message


@pytest.mark.wire(68)
@pytest.mark.parametrize(
    "message", [b'"%s"' % (b"a" * 1_000_000), b'"%s"' % (b"\\\\" * 500_000), b"[" + b"1," * 500_000 + b"1]"]
)
def test_a_megabyte_is_read_in_linear_time(message: bytes) -> None:
    def read(size: int) -> bytes:
        messages = b",".join([message] * size)
        data = b'{"model":"m","stream":true,"messages":[%s],"last":1}' % messages
        return parse_body(data, Endpoint.CHAT).forwarded("up", inject_usage=True)

    assert message in read(1)
    assert_grows_linearly(read, 1)


def test_a_long_name_with_escapes_is_read_in_linear_time() -> None:
    def read(size: int) -> str:
        data = b'{"%s":1,"model":"m","messages":[]}' % (b"\\\\" * size)
        return parse_body(data, Endpoint.CHAT).model

    assert read(10) == "m"
    assert_grows_linearly(read, 200_000)


@pytest.mark.parametrize("count", [300, 30_000, 300_000])
def test_very_many_members_are_refused_before_they_are_decoded(count: int) -> None:
    members = b",".join(b'"%d":1' % number for number in range(count))
    message = refusal(b'{"model":"m","messages":[],%s}' % members).message
    assert message == f"the request body has more than {MAX_MEMBERS} members"


def test_a_long_conversation_is_not_taken_for_very_many_members() -> None:
    messages = b",".join([b'{"role":"user","content":"a: b"}'] * 20_000)
    assert parse_body(b'{"model":"m","messages":[%s]}' % messages, Endpoint.CHAT).model == "m"
