import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import errors
from app.core.error_bodies import (
    MAX_MESSAGE,
    error_headers,
    render_error,
    retry_after_seconds,
    scrub,
    upstream_message,
)
from app.core.errors import MAX_RETRY_AFTER_S, ErrorKind, GatewayError, Refusal, UpstreamProblem
from app.core.wire_format import WireFormat
from tests.support.growth import assert_grows_linearly

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, ErrorKind)}


def test_an_openai_error_has_the_shape_of_that_format() -> None:
    error = Refusal(errors.UNKNOWN_MODEL, "no such model", param="model")
    assert json.loads(render_error(error, WireFormat.OPENAI, "r1")) == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_anthropic_error_has_the_shape_of_that_format() -> None:
    error = Refusal(errors.UNKNOWN_MODEL, "no such model", param="model")
    assert json.loads(render_error(error, WireFormat.ANTHROPIC, "r1")) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such model"},
        "request_id": "r1",
    }


@pytest.mark.parametrize("wire_format", WireFormat)
def test_a_refusal_for_lack_of_credit_tells_the_balance(wire_format: WireFormat) -> None:
    error = Refusal(errors.NO_CREDIT, "no credit", extra={"balance": -0.25})
    told = json.loads(render_error(error, wire_format, "r1"))["error"]
    assert told["balance"] == -0.25
    if wire_format is WireFormat.OPENAI:
        assert (told["type"], told["code"]) == ("insufficient_quota", "insufficient_credits")
    else:
        assert told["type"] == "billing_error"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(WireFormat))
def test_any_message_makes_a_valid_body(message: str, wire_format: WireFormat) -> None:
    body = render_error(Refusal(errors.INVALID_BODY, message), wire_format, "r1")
    assert json.loads(body)["error"]["message"] == message


def headers_of(error: GatewayError) -> dict[str, str]:
    return dict(error_headers(error))


def test_an_error_is_json_and_leaves_retrying_to_the_client() -> None:
    assert headers_of(Refusal(errors.INVALID_BODY, "x")) == {"Content-Type": "application/json"}


@pytest.mark.parametrize("kind", [errors.NO_CREDIT, errors.UPSTREAM_ACCOUNT, errors.NO_UPSTREAM_KEY])
def test_retrying_is_discouraged_where_it_cannot_help(kind: ErrorKind) -> None:
    assert headers_of(Refusal(kind, "x"))["x-should-retry"] == "false"


@pytest.mark.wire(48)
@pytest.mark.parametrize(("asked", "sent"), [(0, "1"), (-3, "1"), (7, "7"), (60, "60"), (3600, "60")])
def test_the_wait_told_is_capped(asked: int, sent: str) -> None:
    error = UpstreamProblem(errors.RATE_LIMITED, "x", retry_after_s=asked)
    assert headers_of(error)["Retry-After"] == sent


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Incorrect API key provided: sk-proj-abc***xyz. See https://platform.openai.com/a?x=1 please",
            "Incorrect API key provided: [key] See [url] please",
        ),
        ("connect to api.ohmygpt.com:443/v1/chat failed", "connect to [host] failed"),
        ("apic1.ohmycdn.com timed out", "[host] timed out"),
        ("dial tcp 10.0.0.12:8080: refused", "dial tcp [host]: refused"),
        ("http://localhost:9000/v1 is down, localhost too", "[url] is down, [host] too"),
        ("OhMyGPT, oh-my-gpt, Oh My GPT and OhMyCDN", "upstream, upstream, upstream and upstream"),
        ("header 'Authorization: Bearer abcdef.ghijkl'", "header 'Authorization: [key]'"),
        ("key a1b2c3d4e5 is disabled", "key [key] is disabled"),
    ],
)
def test_upstream_identity_and_keys_are_taken_out(message: str, expected: str) -> None:
    assert scrub(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        "messages.0.content.1.text: Input should be a valid string",
        "max_tokens: 4097 > 4096, which is the maximum for gpt-5.6-mini",
        "the key parameter is missing",
        "tools.0.input_schema: JSON schema is invalid",
        "temperature 1.5 and top_p 0.9 cannot both be set",
        "Überlang: 消息太长",
    ],
)
def test_what_helps_the_client_stays(message: str) -> None:
    assert scrub(message) == message


def test_the_secret_in_use_is_taken_out_whatever_it_looks_like() -> None:
    assert scrub("bad token 'häßlich'!", ("häßlich", "")) == "bad token '[key]'!"


def test_a_secret_is_taken_out_even_across_the_place_where_a_text_is_cut() -> None:
    secret = "zz yy " * 10
    for before in range(4 * MAX_MESSAGE - 70, 4 * MAX_MESSAGE + 5):
        assert "zz yy" not in scrub("https://" + "x" * before + " " + secret, (secret,))


@given(st.text(), st.text(min_size=1, max_size=10).map(lambda text: f"sk-{text}-0123456789"))
def test_a_secret_never_comes_through_and_the_text_is_bounded(text: str, secret: str) -> None:
    scrubbed = scrub(f"{text}{secret}{text}", (secret,))
    assert secret not in scrubbed
    assert len(scrubbed) <= MAX_MESSAGE


@pytest.mark.parametrize(
    "part", ["a.", "a-", "a", "h://", "1.", "sk-", "key ", "Bearer ", "oh", "a+", "a.com"]
)
def test_scrubbing_is_quick_whatever_an_upstream_sends(part: str) -> None:
    assert_grows_linearly(lambda size: scrub(part * (size // len(part))), 16_384)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"error":{"message":"no such model","type":"x"}}', "application/json", "no such model"),
        (b'{"type":"error","error":{"type":"x","message":"Overloaded"}}', "application/json", "Overloaded"),
        (
            b'{"statusCode":402,"message":"balance too low","data":null}',
            "application/json",
            "balance too low",
        ),
        (b'{"error":"plain"}', "application/json", "plain"),
        (b'{"error":{"message":5},"message":"outer"}', "", "outer"),
        (b'{"error":null}', "application/json", None),
        (b'{"detail":"x"}', "application/json", None),
        (b'{"error":{"message":"x"}}', "text/HTML; charset=utf-8", None),
        (b"<html>502</html>", "application/json", None),
        (b"", "application/json", None),
        (b"[1]", "application/json", None),
        (b'{"error":{"message":"\xff"}}', "application/json", None),
        (b"[" * 100_000, "application/json", None),
    ],
)
def test_the_message_is_found_in_every_known_envelope(
    body: bytes, content_type: str, expected: str | None
) -> None:
    assert upstream_message(body, content_type) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("Retry-After", "")], None),
        ([("Retry-After", "7")], 7),
        ([("retry-after", " 7 ")], 7),
        ([("Retry-After", "0")], 0),
        ([("Retry-After", "1.2")], 2),
        ([("Retry-After", "3600")], MAX_RETRY_AFTER_S),
        ([("Retry-After", "9" * 30)], MAX_RETRY_AFTER_S),
        ([("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], MAX_RETRY_AFTER_S),
        ([("Retry-After-Ms", "1500"), ("Retry-After", "30")], 2),
        ([("retry-after-ms", "20")], 1),
        ([("retry-after-ms", "soon"), ("retry-after", "30")], 30),
        ([("retry-after-ms", "999999999999")], MAX_RETRY_AFTER_S),
    ],
)
def test_every_form_of_retry_after_is_read(headers: list[tuple[str, str]], expected: int | None) -> None:
    assert retry_after_seconds(headers) == expected
