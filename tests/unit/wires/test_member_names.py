"""Names that another reader takes for ones that matter are refused; all others pass."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.endpoints import CHAT, FORWARDED, MESSAGES, Endpoint
from app.wires.errors import Refusal
from app.wires.member_names import MATTERING, refuse_lookalikes
from app.wires.request_body import parse_body

NAMES = sorted(MATTERING)


@pytest.mark.wire(99)
@given(st.sampled_from(NAMES), st.randoms())
def test_every_other_spelling_of_a_name_that_matters_is_refused(name: str, random: object) -> None:
    other = "".join(getattr(random, "choice")((letter.upper(), letter, f"{letter}_")) for letter in name)  # noqa: B009
    if other in MATTERING:
        refuse_lookalikes([other])
    else:
        with pytest.raises(Refusal, match="not spelled"):
            refuse_lookalikes(["temperature", other])


@pytest.mark.parametrize(
    "name",
    ["Stream", "STREAM", "streaM", "\u017ftream", "max_to\u212aens", "maxTokens", "max-tokens", "N",
     "n ", "stream\x00", "stream\x00x", "N\x1fo",
     "Model", "MODEL", "Max_Completion_Tokens", "STREAM_OPTIONS", "streamOptions"],
)  # fmt: skip
@pytest.mark.parametrize("endpoint", FORWARDED)
@pytest.mark.wire(99)
def test_lookalikes_are_refused_on_every_endpoint(name: str, endpoint: Endpoint) -> None:
    body = {"model": "m", "messages": [], name: True}
    for ascii_only in (True, False):
        with pytest.raises(Refusal, match="not spelled") as caught:
            parse_body(json.dumps(body, ensure_ascii=ascii_only).encode(), endpoint)
        assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.wire(99)
@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m","messages":[],"\\u0073tream":true}',
        b'{"\\u006dodel":"m","messages":[]}',
        b'{"model":"m","messages":[],"stream":true,"stream_options":{"\\u0069nclude_usage":true}}',
    ],
)
def test_names_that_matter_are_spelled_without_escapes(data: bytes) -> None:
    with pytest.raises(Refusal, match="escapes"):
        parse_body(data, CHAT)


@pytest.mark.wire(99)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"include_usage":true,"Include_Usage":false}', "not spelled"),
        ('{"include_usage":true,"include_usage":false}', "twice"),
        ('"x"', "must be an object"),
        ("[]", "must be an object"),
        ("0", "must be an object"),
        ("true", "must be an object"),
    ],
)
@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
def test_stream_options_are_an_object_with_names_of_its_own(
    options: str, message: str, endpoint: Endpoint
) -> None:
    data = b'{"model":"m","messages":[],"stream":true,"stream_options":%s}' % options.encode()
    with pytest.raises(Refusal, match=message):
        parse_body(data, endpoint)


@pytest.mark.wire(99)
@pytest.mark.parametrize(
    ("member", "param"),
    [
        (f'"stream":{value}', "stream")
        for value in ("1", '"true"', "[]", "{}", "0", '""', "truee"[:4] + "1")[:6]
    ]
    + [(f'"n":{value}', "n") for value in ("0", "-1", "129", "1.5", '"2"', "true", "[2]", "1e2")],
)
@pytest.mark.parametrize("endpoint", [CHAT, MESSAGES])
def test_switches_and_numbers_that_are_none_are_refused(member: str, param: str, endpoint: Endpoint) -> None:
    with pytest.raises(Refusal) as caught:
        parse_body(b'{"model":"m","messages":[],%s}' % member.encode(), endpoint)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "name", ["temperature", "Temperature", "top_p", "streams", "x_model", "nn", "", "_", "größe"]
)
def test_other_names_are_left_to_the_upstream(name: str) -> None:
    refuse_lookalikes([name])
