"""The error table, held against what the SDKs make of it."""

import pytest

from app.keys.upstream_outcome import PASSED_THROUGH, client_kind
from app.records.records import Outcome
from app.wires import errors
from app.wires.errors import ErrorKind, GatewayError, Refusal, UpstreamProblem, invalid_body

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, ErrorKind)} | {
    f"passed_{status}": kind for status, kind in PASSED_THROUGH.items()
}

ANTHROPIC_TYPES = {
    400: {"invalid_request_error"},
    401: {"authentication_error"},
    402: {"billing_error"},
    403: {"permission_error"},
    404: {"not_found_error"},
    405: {"invalid_request_error"},
    408: {"timeout_error"},
    409: {"conflict_error"},
    410: {"not_found_error"},
    413: {"request_too_large"},
    415: {"invalid_request_error"},
    422: {"invalid_request_error"},
    424: {"invalid_request_error"},
    451: {"permission_error"},
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
    assert {400, 403, 404, 408, 409, 413, 415, 422, 429, 529} <= set(PASSED_THROUGH)
    assert client_kind(418).status == 418
    assert all(status == kind.status for status, kind in PASSED_THROUGH.items())


def test_no_error_tells_a_client_that_the_operators_key_is_bad() -> None:
    upstream = [kind for name, kind in KINDS.items() if "UPSTREAM" in name or name.startswith("passed_")]
    assert not {kind.status for kind in upstream} & {401, 402, 407}


def test_retrying_is_only_ever_discouraged_never_urged() -> None:
    assert {kind.should_retry for kind in KINDS.values()} == {None, False}


def test_what_stays_wrong_is_not_to_be_sent_again_and_what_passes_may_be() -> None:
    passing = {408, 409, 429}
    for kind in KINDS.values():
        if 400 <= kind.status < 500 and kind.status not in passing:
            assert kind.should_retry is False
    assert errors.RATE_LIMITED.should_retry is None
    assert errors.REQUEST_TIMEOUT.should_retry is None


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (errors.NO_CREDIT, (429, "insufficient_quota", "insufficient_quota")),
        (errors.CREDITS_EXPIRED, (429, "insufficient_quota", "insufficient_quota")),
        (errors.UPSTREAM_ACCOUNT, (429, "upstream_error", "upstream_account")),
        (errors.NO_UPSTREAM_KEY, (429, "server_error", "no_upstream_key")),
        (errors.UPSTREAM_TIMEOUT, (429, "upstream_error", "upstream_timeout")),
        (errors.UPSTREAM_KEYS_BUSY, (503, "server_error", "upstream_keys_busy")),
        (errors.UNKNOWN_MODEL, (404, "invalid_request_error", "model_not_found")),
        (errors.INVALID_BODY, (400, "invalid_request_error", "invalid_request_error")),
    ],
)
def test_what_no_retry_helps_has_another_status_for_those_who_go_by_it(
    kind: ErrorKind, told: tuple[int, str, str]
) -> None:
    error = Refusal(kind, "no")
    found = error.told_as(429).kind
    assert (found.status, found.openai_type, found.openai_code) == told
    assert error.told_as(None) is error
    assert error.kind is kind


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
