"""Reading error bodies and `Retry-After` in every form they come in."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.upstream_errors import MAX_BODY, NO_ERROR, read_error, retry_after
from tests.support.growth import assert_grows_linearly

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WHY = "This cannot be had"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": WHY, "type": "x"}}, WHY),
        ({"type": "error", "error": {"type": "x", "message": WHY}}, WHY),
        ({"statusCode": 402, "message": WHY, "errorType": "x", "data": None}, WHY),
        ({"error": WHY}, WHY),
        ({"error": "invalid_request", "error_description": WHY}, WHY),
        ({"error": {"message": 5}, "message": WHY}, WHY),
        ({"error": {"code": 400, "error": {"message": WHY}}}, WHY),
        ([{"error": {"code": 400, "message": WHY, "status": "INVALID_ARGUMENT"}}], WHY),
        ({"detail": WHY}, WHY),
        ({"detail": {"error": {"message": WHY}}}, WHY),
        ({"detail": [{"type": "missing", "loc": ["body", "n"], "msg": WHY}]}, f"body.n: {WHY}"),
        (
            {"object": "error", "message": {"detail": [{"loc": ["body", "tools", 0], "msg": WHY}]}},
            f"body.tools.0: {WHY}",
        ),
        ({"errors": [{"message": WHY, "code": 5006}, {"message": "b"}]}, f"{WHY}; b"),
        ({"code": 1210, "msg": WHY}, WHY),
        ({"title": "Bad Request", "status": 400, "detail": WHY}, WHY),
        ({"title": WHY, "status": 400}, WHY),
        (
            {"error": {"message": "Provider returned error", "metadata": {"provider_name": "P", "raw": WHY}}},
            f"Provider returned error: {WHY}",
        ),
        (
            {
                "error": {
                    "message": "Provider returned error",
                    "metadata": {"raw": json.dumps({"detail": WHY})},
                }
            },
            f"Provider returned error: {WHY}",
        ),
        ({"error": {"message": json.dumps({"error": {"message": WHY}})}}, WHY),
        ({"error": {"message": "Bad request.", "innererror": {"message": WHY}}}, f"Bad request: {WHY}"),
        ({"error": {"message": "Bad request."}}, "Bad request."),
        ({"error": None}, ""),
        ({"error": {}}, ""),
        ([], ""),
        (17, ""),
        (WHY, WHY),
    ],
)
def test_the_reason_is_found_in_every_envelope(body: object, expected: str) -> None:
    assert read_error(json.dumps(body).encode(), "application/json").message == expected


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (WHY.encode(), "text/plain", WHY),
        (b"\xef\xbb\xbf" + json.dumps({"error": {"message": WHY}}).encode(), "application/json", WHY),
        (b'event: error\ndata: {"error": {"message": "late"}}\n\n', "text/event-stream", "late"),
        (b'{"error":{"message":"\xff"}}', "application/json", "\ufffd"),
        (b'{"error":{"message":"cut', "application/json", ""),
        (b"[" * 100_000, "application/json", ""),
        (b"", "application/json", ""),
        (b'{"error":{"message":"x"}}', "text/HTML; charset=utf-8", ""),
        (b" <html>502</html>", "application/json", ""),
    ],
)
def test_other_bodies_are_read_as_far_as_they_can_be(body: bytes, content_type: str, expected: str) -> None:
    error = read_error(body, content_type)
    assert error.message == expected
    assert error.is_page == ("html" in content_type.lower() or b"html" in body)


def test_codes_are_told_from_those_that_may_be_a_clients_own() -> None:
    body = {
        "error": {"type": "A b", "code": "ResponsibleAIPolicy", "details": {"error_code": "inside"}},
        "detail": [{"loc": ["body"], "msg": "x", "type": "deep", "input": {"code": "account_deactivated"}}],
        "echo": {"code": "far"},
    }
    error = read_error(json.dumps(body).encode())
    assert error.codes == {"a_b", "responsible_aipolicy", "inside"}
    assert error.nested_codes == {"deep", "far"}
    assert "account_deactivated" not in error.codes | error.nested_codes


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "x"]), inner),
    )
)
def test_any_json_is_read(value: object) -> None:
    error = read_error(json.dumps(value).encode())
    assert len(error.message) <= MAX_BODY


def test_reading_is_quick_whatever_an_upstream_sends() -> None:
    pieces = ('{"error":', '[{"a":', '"a":{"b":1},', "data: {", "key ")
    assert_grows_linearly(
        lambda size: [read_error((piece * size)[:size].encode()) for piece in pieces], 8_000
    )
    wide = json.dumps({f"n{number}": {"code": "c" * 50} for number in range(900)}).encode()
    assert len(read_error(wide).nested_codes) == 1
    assert read_error(b"x" * 10_000_000).message == "x" * MAX_BODY
    assert read_error(b"") == NO_ERROR


def date_in(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("Retry-After", "")], None),
        ([("Retry-After", "in a minute")], None),
        ([("Retry-After", "7")], 7),
        ([("retry-after", " 7 ")], 7),
        ([("Retry-After", "0")], 0),
        ([("Retry-After", "-5")], 0),
        ([("Retry-After", "1.25")], 1.25),
        ([("Retry-After", "9" * 30)], inf),
        ([("Retry-After", date_in(90))], 90),
        ([("Retry-After", "Mon, 23 Nov 2026 12:00:30")], 30),
        ([("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")], 0),
        ([("Retry-After", "7"), ("Retry-After", "9")], 9),
        ([("Retry-After", "7, 7")], 7),
        ([("Retry-After", f"{date_in(20)}, {date_in(40)}")], 40),
        ([("Retry-After", f"soon, {date_in(20)}")], None),
        ([("Retry-After-Ms", "1500"), ("Retry-After", "30")], 1.5),
        ([("retry-after-ms", "soon"), ("retry-after", "30")], 30),
        ([("retry-after-ms", "-20")], 0),
    ],
)
def test_every_form_of_retry_after_is_read(headers: list[tuple[str, str]], expected: float | None) -> None:
    assert retry_after(headers, NOW) == expected


@given(st.text(max_size=60), st.sampled_from(["retry-after", "retry-after-ms"]))
def test_any_retry_after_is_a_wait_or_nothing(value: str, name: str) -> None:
    wait = retry_after([(name, value)], NOW)
    assert wait is None or wait >= 0
