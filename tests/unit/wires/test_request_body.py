"""Request bodies: what is read, what is refused, and that nothing but the two edits changes a byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires import request_body
from app.wires.endpoints import CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES, Endpoint
from app.wires.errors import GatewayError, Refusal
from app.wires.json_pairs import MAX_MEMBERS
from app.wires.member_names import MATTERING, refuse_lookalikes
from app.wires.request_body import _SURROGATE, MAX_MODEL_LENGTH, parse_body
from tests.support.growth import assert_grows_linearly

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner), max_leaves=8
)


def means_nothing(name: str) -> bool:
    """Tell whether nobody reads the name as one of those that matter."""
    try:
        refuse_lookalikes([name])
    except Refusal:
        return False
    return name not in MATTERING


NAMES = TEXT.filter(means_nothing)
OPTIONS = (
    st.none()
    | st.dictionaries(NAMES, VALUES, max_size=3)
    | st.fixed_dictionaries(
        {"include_usage": st.booleans() | st.none()}, optional={"include_obfuscation": st.booleans()}
    )
)
BODIES = st.fixed_dictionaries(
    {"model": TEXT.filter(bool), "messages": st.lists(VALUES, max_size=3)},
    optional={"stream": st.booleans() | st.none(), "stream_options": OPTIONS, "temperature": SCALARS},
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


def refusal(data: bytes, endpoint: Endpoint = CHAT) -> GatewayError:
    with pytest.raises(Refusal) as caught:
        parse_body(data, endpoint)
    assert caught.value.status == 400
    return caught.value


@given(BODIES, st.dictionaries(NAMES, VALUES, max_size=3), SPACE, st.booleans(), st.randoms())
def test_only_model_and_stream_options_ever_differ(
    known: dict[str, Any], other: dict[str, Any], space: str, ascii_only: bool, random: Any
) -> None:
    members = list({**other, **known}.items())
    random.shuffle(members)
    body = dict(members)
    data = encode(body, space, ascii_only=ascii_only)
    parsed = parse_body(data, CHAT)
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
        parsed = parse_body(data, CHAT)
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
    assert parse_body(data, CHAT).model == "m"


def test_escapes_in_values_and_in_names_of_no_interest_are_understood() -> None:
    data = b'{ "m\\u0065tadata" : "\\u0065" , "model" : "g\\u0070t" , "messages" : [ ] , "stream" : true }'
    parsed = parse_body(data, CHAT)
    assert (parsed.model, parsed.stream) == ("gpt", True)
    assert json.loads(parsed.forwarded("up", inject_usage=True)) == {
        "model": "up",
        "messages": [],
        "metadata": "e",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_usage_is_asked_for_right_after_the_opening_brace() -> None:
    data = b' {\n"model":"m","messages":[],"stream":true}'
    sent = parse_body(data, CHAT).forwarded("m", inject_usage=True)
    assert sent == b' {"stream_options":{"include_usage":true},\n"model":"m","messages":[],"stream":true}'


@pytest.mark.parametrize(
    ("options", "wanted", "can_inject"),
    [
        (b'{"include_usage":true}', True, False),
        (b'{ "include_usage" : true , "a":1}', True, False),
        (b'{"include_usage":false}', False, True),
        (b'{"include_usage":1}', False, True),
        (b'{"include_usage":"true"}', False, True),
        (b"{}", False, True),
        (b"null", False, True),
    ],
)
def test_what_the_client_says_of_usage_is_heard(options: bytes, wanted: bool, can_inject: bool) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":%s}' % options
    parsed = parse_body(data, CHAT)
    assert (parsed.usage_wanted, parsed.can_inject_usage) == (wanted, can_inject)


@pytest.mark.parametrize(
    "odd", [b"1e999", b"9" * 5000, b'"\xff"', b"123456789012345678901234567890", b"-0.0", b"1.50"]
)
def test_odd_values_in_stream_options_are_left_to_the_upstream(odd: bytes) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":{"a":%s}}' % odd
    sent = parse_body(data, CHAT).forwarded("m", inject_usage=True)
    assert b'"stream_options":{"a":%s,"include_usage":true}' % odd in sent


def test_a_name_in_stream_options_that_is_no_text_is_refused() -> None:
    assert refusal(b'{"model":"m","messages":[],"stream_options":{"\xff":1}}').param is None


@pytest.mark.wire(47)
@pytest.mark.parametrize("stream", [b"false", b"null"])
def test_usage_is_never_asked_for_without_a_stream(stream: bytes) -> None:
    parsed = parse_body(b'{"model":"m","messages":[],"stream":%s}' % stream, CHAT)
    assert not parsed.stream
    assert not parsed.can_inject_usage


@pytest.mark.wire(47)
@pytest.mark.parametrize("endpoint", [MESSAGES, COUNT_TOKENS])
def test_the_messages_endpoints_never_get_stream_options(endpoint: Endpoint) -> None:
    parsed = parse_body(b'{"model":"m","messages":[],"stream":true,"stream_options":{}}', endpoint)
    assert parsed.stream is (endpoint is MESSAGES)
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
    sent = parse_body(data, CHAT).forwarded("up", inject_usage=True)
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
        parsed = parse_body(bytes(data), CHAT)
        parsed.forwarded("up", parsed.can_inject_usage)
    except Refusal:
        pass


@pytest.mark.parametrize(
    # From Python 3.14 on it is the size of the stack that sets the limit.
    "nested",
    [b"[" * 1_000_000 + b"]" * 1_000_000, b'{"a":' * 500_000 + b"1" + b"}" * 500_000],
)
def test_nesting_without_end_is_refused(nested: bytes) -> None:
    assert "nested too deeply" in refusal(b'{"model":"m","messages":[%s]}' % nested).message


@pytest.mark.wire(68)
@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            b'"%s"' % (b"a" * 1_000_000),
            4,
        ),  # beyond what caches hold: a copy of one is read several times as fast
        (b'"%s"' % (b"\\\\" * 100_000), 4),
        (b"[" + b"1," * 500_000 + b"1]", 1),
    ],
    ids=["text", "escapes", "numbers"],
)
def test_a_megabyte_is_read_in_linear_time(message: bytes, size: int) -> None:
    def read(times: int) -> bytes:
        messages = b",".join([message] * times)
        data = b'{"model":"m","stream":true,"messages":[%s],"last":1}' % messages
        return parse_body(data, CHAT).forwarded("up", inject_usage=True)

    assert message in read(1)
    assert_grows_linearly(read, size)


def test_a_long_name_with_escapes_is_read_in_linear_time() -> None:
    def read(size: int) -> str:
        data = b'{"%s":1,"model":"m","messages":["\\u0041"]}' % (b"\\\\" * size)
        return refusal(data).message

    assert "longer than 256" in read(300)
    assert_grows_linearly(read, 200_000)


@pytest.mark.parametrize("count", [300, 30_000, 300_000])
def test_very_many_members_are_refused_before_they_are_decoded(count: int) -> None:
    members = b",".join(b'"%d":1' % number for number in range(count))
    message = refusal(b'{"model":"m","messages":[],%s}' % members).message
    assert message == f"the request body has more than {MAX_MEMBERS} members"


def test_a_long_conversation_is_not_taken_for_very_many_members() -> None:
    messages = b",".join([b'{"role":"user","content":"a: b"}'] * 20_000)
    assert parse_body(b'{"model":"m","messages":[%s]}' % messages, CHAT).model == "m"


@pytest.mark.parametrize("part", [b"1,", b"[],", b'{"a":1},', b'"\\n",'])
def test_a_large_body_of_hardly_anything_but_structure_is_refused(part: bytes) -> None:
    def body(size: int) -> bytes:
        return b'{"model":"m","messages":[[%s1]]}' % (part * (size // len(part)))

    assert parse_body(body(1_000_000), CHAT).model == "m"
    assert "too many values" in refusal(body(24_000_000)).message


@pytest.mark.parametrize("text", [b"a" * 3_000_000, b"\\ud800" * 300_000, b"x\\ud83d" * 300_000])
def test_others_may_go_on_while_a_large_body_is_read(text: bytes) -> None:
    data = b'{"model":"m","messages":["%s"]}' % text
    rests: list[None] = []
    body = parse_body(data, CHAT, lambda: rests.append(None))
    assert len(rests) > len(data) // (512 * 1024)
    assert len(body.readable) == len(data)
    assert b"\\ud8" not in body.readable


@given(st.lists(st.sampled_from([b"\\ud800", b"\\uDFFF", b"\\\\", b"x", b"\\n", b"\\u00e9"]), max_size=60))
def test_no_surrogate_is_overlooked_where_a_window_ends(parts: list[bytes]) -> None:
    text = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "_WINDOW", 7)
        assert request_body._without_surrogates(text, lambda: None) == _SURROGATE.sub(rb"\\ufffd", text)


def test_the_limit_of_a_response_is_lowered_or_added() -> None:
    for data, sent in (
        (b'{"model":"gpt-5","input":"x"}', b'{"max_output_tokens":7,"model":"gpt-5","input":"x"}'),
        (
            b'{"model":"gpt-5","max_output_tokens":90,"input":"x"}',
            b'{"model":"gpt-5","max_output_tokens":7,"input":"x"}',
        ),
        (b'{"model":"m","max_output_tokens":5}', b'{"model":"m","max_output_tokens":5}'),
    ):
        parsed = parse_body(data, RESPONSES)
        assert parsed.forwarded(parsed.model, inject_usage=False, output_cap=7) == sent


def test_a_response_is_never_asked_for_its_usage_and_need_not_have_messages() -> None:
    parsed = parse_body(b'{"model":"m","stream":true,"n":5}', RESPONSES)
    assert parsed.stream
    assert not parsed.can_inject_usage
    assert parsed.choices == 1


def test_a_stored_prompt_does_not_tell_the_model() -> None:
    with pytest.raises(Refusal) as caught:
        parse_body(b'{"prompt":{"id":"pmpt_1"}}', RESPONSES)
    assert "prices" in caught.value.message


def test_a_long_conversation_is_no_body_of_many_members() -> None:
    item = b'{"type":"message","role":"user","content":"x"}'
    assert parse_body(b'{"model":"m","input":[' + b",".join([item] * 50_000) + b"]}", RESPONSES).model == "m"


def listing(name: str, items: list[str]) -> bytes:
    return encode({"model": "m", "messages": []} | {name: "@"}).replace(
        b'"@"', f"[{','.join(items)}]".encode()
    )


@pytest.mark.parametrize("item", ["5", '{"a":[1,2],"b":"x,[{,"}', r'"\"],[\\"', "[[],[1,2]]"])
@pytest.mark.parametrize("name", ["messages", "tools", "input", "documents"])
def test_a_list_has_as_many_items_as_can_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, name: str, item: str
) -> None:
    monkeypatch.setattr(request_body, "MAX_ITEMS", 10)
    endpoint = CHAT if name in ("messages", "tools") else RESPONSES if name == "input" else RERANK
    assert parse_body(listing(name, [item] * 10), endpoint)
    told = refusal(listing(name, [item] * 11), endpoint)
    assert (told.message, told.param) == (f"{name!r} has more than 10 items", name)


def test_tokens_are_as_many_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MAX_ITEMS", 10)
    assert parse_body(listing("input", ["1"] * 50), EMBEDDINGS).input_tokens == 50


def test_items_are_counted_in_pieces() -> None:
    rests: list[int] = []
    data = listing("tools", ["[0]"] * 110_000)
    with pytest.raises(Refusal):
        parse_body(data, CHAT, lambda: rests.append(1))
    assert len(rests) > 100


@pytest.mark.parametrize(
    "name", ["service_tier", "speed", "inference_geo", "modalities", "prompt_cache_options"]
)
def test_words_are_no_books(name: str) -> None:
    assert refusal(listing(name, ['"audio"'] * 1000)).message == f"{name!r} is too long"


def test_an_input_of_very_many_parts_is_open_without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "_FEW_BYTES", 100)
    few = listing("messages", ['{"role":"user","content":"hi"}'] * 20)
    assert parse_body(few, CHAT).read_input().tokens is not None
    monkeypatch.setattr(request_body, "_MOST_LOOKED_AT", 60)
    assert parse_body(few, CHAT).read_input().tokens is None


def test_documents_are_counted_whatever_they_are() -> None:
    documents = ['"a"', '{"text":"b"}', "null"] * 100
    assert parse_body(listing("documents", documents), RERANK).quantities == (("search_unit", 3),)
