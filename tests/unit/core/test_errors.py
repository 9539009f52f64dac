"""The error table, held against what the SDKs make of it."""

import pytest

from app.core import errors
from app.core.errors import PASSED_THROUGH, ErrorKind, GatewayError, Refusal, UpstreamProblem, invalid_body
from app.core.records import Outcome

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, ErrorKind)} | {
    f"passed_{status}": kind for status, kind in PASSED_THROUGH.items()
}

ANTHROPIC_TYPES = {
    400: {"invalid_request_error"},
    401: {"authentication_error"},
    402: {"billing_error"},
    404: {"not_found_error"},
    405: {"invalid_request_error"},
    408: {"timeout_error"},
    409: {"conflict_error"},
    413: {"request_too_large"},
    415: {"invalid_request_error"},
    422: {"invalid_request_error"},
    429: {"rate_limit_error"},
    500: {"api_error"},
    502: {"api_error"},
    503: {"api_error"},
    504: {"timeout_error"},
    529: {"overloaded_error"},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_type_fits_the_status(name: str) -> None:
    kind = KINDS[name]
    assert kind.anthropic_type in ANTHROPIC_TYPES[kind.status]
    assert kind.openai_type
    assert kind.openai_code


def test_statuses_that_pass_through_keep_their_number() -> None:
    assert set(PASSED_THROUGH) == {400, 404, 408, 409, 413, 415, 422, 429, 529}
    assert all(status == kind.status for status, kind in PASSED_THROUGH.items())


def test_no_error_tells_a_client_that_the_operators_key_is_bad() -> None:
    upstream = [kind for name, kind in KINDS.items() if "UPSTREAM" in name or name.startswith("passed_")]
    assert not {kind.status for kind in upstream} & {401, 402, 403}


def test_retrying_is_only_ever_discouraged_never_urged() -> None:
    assert {kind.should_retry for kind in KINDS.values()} == {None, False}


def test_an_error_is_an_exception_with_status_and_short_name() -> None:
    error = invalid_body("broken", "messages")
    assert isinstance(error, Refusal | GatewayError | Exception)
    assert (str(error), error.status, error.param) == ("broken", 400, "messages")
    assert error.error_type == "invalid_request_error"
    assert error.outcome is Outcome.REJECTED
    problem = UpstreamProblem(errors.UPSTREAM_TIMEOUT, "late", Outcome.UPSTREAM_TIMEOUT)
    assert (problem.status, problem.error_type) == (504, "upstream_timeout")


def test_an_error_without_a_code_is_named_by_its_type() -> None:
    assert Refusal(ErrorKind(400, "a_type", None, "x"), "m").error_type == "a_type"
