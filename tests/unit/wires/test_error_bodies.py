import json
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wires import errors
from app.wires.error_bodies import as_said, error_headers, render_error
from app.wires.errors import ErrorKind, GatewayError, Refusal, UpstreamProblem
from app.wires.scrubbing import scrub
from app.wires.upstream_errors import read_error
from app.wires.wire_format import WireFormat

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
    assert headers_of(Refusal(errors.INTERNAL, "x")) == {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "kind",
    [
        *(errors.MISSING_CREDENTIAL, errors.CONFLICTING_CREDENTIALS, errors.UNKNOWN_CREDENTIAL),
        *(errors.NO_CREDIT, errors.UNKNOWN_MODEL, errors.UNKNOWN_PATH, errors.WRONG_METHOD),
        *(errors.INVALID_BODY, errors.BODY_TOO_LARGE, errors.REQUEST_OVER_LIMIT),
        *(errors.UPSTREAM_ACCOUNT, errors.NO_UPSTREAM_KEY, errors.UPSTREAM_TIMEOUT, errors.UPSTREAM_GARBLED),
    ],
)
def test_retrying_is_discouraged_where_it_cannot_help(kind: ErrorKind) -> None:
    assert headers_of(Refusal(kind, "x"))["x-should-retry"] == "false"


@pytest.mark.wire(48)
@pytest.mark.parametrize(("asked", "sent"), [(0, "1"), (-3, "1"), (7, "7"), (60, "60"), (3600, "60")])
def test_the_wait_told_is_capped(asked: int, sent: str) -> None:
    error = UpstreamProblem(errors.RATE_LIMITED, "x", retry_after_s=asked)
    assert headers_of(error)["Retry-After"] == sent


def said(wire_format: WireFormat, **error: object) -> dict[str, object]:
    return as_said(
        read_error(json.dumps({"error": error}).encode()),
        wire_format,
        partial(scrub, secrets=("sk-secret-of-ours",)),
    )


def test_what_clients_act_on_is_as_the_upstream_said_it() -> None:
    error = {"message": "x", "type": "tokens", "code": "context_length_exceeded", "param": None}
    assert said(WireFormat.OPENAI, **error) == {name: error[name] for name in ("type", "code", "param")}
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
    assert said(WireFormat.OPENAI, innererror=inner) == {"innererror": inner}
    assert said(WireFormat.ANTHROPIC, type="not_found_error", details={"error_code": "x"}, code="c") == {
        "type": "not_found_error",
        "details": {"error_code": "x"},
    }
    metadata = {"provider_name": "Somebody", "reasons": ["violence"], "flagged_input": "it"}
    assert said(WireFormat.OPENAI, metadata=metadata) == {
        "metadata": {"reasons": ["violence"], "flagged_input": "it"}
    }


@pytest.mark.parametrize("wire_format", WireFormat)
@pytest.mark.parametrize("value", [7, True, ["x"], {"x": 1}, 1e999])
def test_a_member_of_the_wrong_type_is_left_out(wire_format: WireFormat, value: object) -> None:
    assert said(wire_format, type=value, code=value, param=value) == {}


def test_a_type_the_format_does_not_know_is_left_out_for_anthropics_clients() -> None:
    assert said(WireFormat.ANTHROPIC, type="new_api_error", details="text", innererror={"a": 1}) == {}


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(["type", "code", "param", "details", "innererror", "metadata", "reasons"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.just("sk-secret-of-ours"),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("sk-secret-of-ours"), inner),
        ),
    ),
    st.sampled_from(WireFormat),
)
def test_whatever_an_upstream_says_the_body_is_valid_and_holds_no_key(
    error: dict[str, object], wire_format: WireFormat
) -> None:
    problem = UpstreamProblem(errors.RATE_LIMITED, "x", extra=said(wire_format, **error))
    body = render_error(problem, wire_format, "r1")
    assert isinstance(json.loads(body)["error"]["type"], str)
    assert b"sk-secret-of-ours" not in body
    assert len(body) < 400_000


def test_an_empty_type_is_none() -> None:
    assert said(WireFormat.OPENAI, type="", code="") == {"code": None}


def test_long_wide_and_deep_members_are_cut() -> None:
    deep: object = "end"
    for _ in range(50):
        deep = {"d": deep}
    told = said(WireFormat.OPENAI, details=["x" * 9999] * 999, innererror=deep, code="c" * 9999)
    assert len(json.dumps(told)) < 12_000
    assert "end" not in str(told)
