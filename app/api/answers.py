"""Answers all JSON routes share: errors in one shape, and what every answer says about caching."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NotRequired

from flask import Blueprint, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict
from werkzeug.exceptions import HTTPException

from app.accounts.login_tries import TooManyTries
from app.api.operation import BadRequest, Problem
from app.common.cursor import FilterError
from app.common.display import iso_utc
from app.common.errors import StoreUnavailable
from app.management.errors import Conflict, Missing, Unusable
from app.statistics.periods import UnknownPeriodError


class ProblemView(TypedDict):
    """One thing wrong with a request."""

    parameter: str
    message: str


class ErrorView(TypedDict):
    """Any refusal or failure, in words."""

    error: str
    hint: NotRequired[str]
    parameter: NotRequired[str]
    details: NotRequired[list[ProblemView]]
    valid_periods: NotRequired[list[str]]


class ExpiredView(TypedDict):
    """What an answer says besides where it was asked for a time whose records have expired."""

    expiredBefore: NotRequired[
        Annotated[str, Field(description="There are no records from before this: they have expired.")]
    ]
    hint: NotRequired[str]


EXPIRED_HEADER = "X-Weir-Expired-Before"
"""Says the same of a file."""

SUMS_OF_ANY_TIME = (
    "the sums of any time are in usage and timeseries by user, key, model, factoryKey and endpoint"
)


def expired_note(expired_before: datetime | None, sums: str = SUMS_OF_ANY_TIME) -> dict[str, str]:
    """Say that what was asked for reaches into time whose records have expired, and where its sums are."""
    if expired_before is None:
        return {}
    hint = f"older records have expired (LOG_RETENTION_DAYS); {sums}"
    return {"expiredBefore": iso_utc(expired_before), "hint": hint}


def error_answer(status: int, message: str, **details: Any) -> Response:
    """Answer `{"error": message, …}` with this status."""
    response = jsonify({"error": message, **details})
    response.status_code = status
    return response


def http_error(error: HTTPException) -> Response:
    """Answer with the reason in JSON and the headers that belong to it, such as `Allow` to a 405."""
    response = error_answer(error.code or 500, error.description or error.name)
    response.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    return response


def slow_down(message: str, retry_after_s: int) -> Response:
    """Answer the 429 that says when to come back."""
    response = error_answer(429, message, retry_after=retry_after_s)
    response.headers["Retry-After"] = str(retry_after_s)
    return response


def handle_errors(routes: Blueprint) -> None:
    """Answer what views raise in the one shape, and let no answer be stored by caches."""

    @routes.errorhandler(BadRequest)
    def bad_request(error: BadRequest) -> Response:
        return _problems(error.problems, **error.extra)

    @routes.errorhandler(UnknownPeriodError)
    def unknown_period(error: UnknownPeriodError) -> Response:
        return error_answer(400, str(error), parameter="period", valid_periods=error.valid_periods)

    @routes.errorhandler(FilterError)
    def unusable_filter(error: FilterError) -> Response:
        return error_answer(400, str(error), parameter=error.field)

    @routes.errorhandler(Missing)
    def missing(error: Missing) -> Response:
        return error_answer(404, str(error))

    @routes.errorhandler(Conflict)
    def conflict(error: Conflict) -> Response:
        return error_answer(409, str(error))

    @routes.errorhandler(Unusable)
    def unusable(error: Unusable) -> Response:
        if not error.lines:
            return _problems((Problem(error.field, str(error)),))
        bad = [{"parameter": f"line {number}", "message": reason} for number, reason in error.lines]
        return error_answer(400, str(error), details=bad)

    @routes.errorhandler(TooManyTries)
    def too_many_tries(error: TooManyTries) -> Response:
        return slow_down(str(error), error.retry_after_s)

    @routes.errorhandler(StoreUnavailable)
    def store_down(error: StoreUnavailable) -> Response:
        response = error_answer(503, "the database cannot answer", hint=str(error))
        response.headers["Retry-After"] = "5"
        return response

    @routes.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return http_error(error)

    @routes.after_request
    def not_stored(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return response


def _problems(problems: Sequence[Problem], **extra: Any) -> Response:
    first = problems[0]
    named = {"parameter": first.parameter} if first.parameter else {}
    details = [{"parameter": problem.parameter, "message": problem.message} for problem in problems]
    return error_answer(400, str(first), **named, details=details, **extra)
