"""`/api/user`: what users see of themselves, with one of their own client keys."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Annotated, Any, Protocol

from flask import Blueprint, Response, g, jsonify, request
from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import error_answer, handle_errors
from app.api.operation import USER, Query, Section
from app.api.parameters import UserPeriod
from app.core.credentials import CredentialProblem, extract_credential
from app.core.display import json_ready, shown_key_id
from app.core.log_filter import LogFilter, parse_moment
from app.core.periods import USER_PERIODS, period_start
from app.core.ports import Clock, Directory
from app.core.principal import Principal
from app.core.stats import Totals, usd

Document = dict[str, Any]

_own = Section("User", access=USER)
_MAX_PAGE_SIZE = 100
_REACH = 10_000
"""So far back pages go: what is older is found by its time."""

_HINTS = {
    CredentialProblem.MISSING: "send your client key: `Authorization: Bearer KEY`, or `x-api-key: KEY`",
    CredentialProblem.CONFLICT: "send one key: Authorization and x-api-key differ",
}
_SHOWN = (
    *("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "creditsCost", "latencyMs"),
    *("isSuccess", "createdAt"),
)
_SHOWN_TOO = ("apiFormat", "stream", "statusCode", "outcome", "ttftMs", "reasoningTokens", "costNanoUsd")


class Accounts(Protocol):
    """Where users are read; raises `StoreUnavailable`."""

    def profile(self, username: str) -> Document | None:
        """What users may see of themselves, as it is stored now."""


class OwnStats(Protocol):
    """Where a user's sums are made; raises `StoreUnavailable`."""

    def total(self, start: datetime | None, *, user: str | None = None) -> Totals:
        """The sums of everything of a user since `start`."""


class OwnLogs(Protocol):
    """Where a user's records are read; raises `StoreUnavailable`."""

    def numbered_page(
        self, wanted: LogFilter, page: int, limit: int, reach: int
    ) -> tuple[list[Document], int]:
        """A page by its number, newest first, and how many records there are, counted up to `reach`."""


class UsageQuery(Query):
    """How far back."""

    period: UserPeriod = "24h"


Page = Annotated[int, Field(ge=1, le=_REACH)]


class LogsQuery(UsageQuery):
    """How far back, and which page."""

    page: Page = 1
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE_SIZE)] = 50


class HistoryQuery(Query):
    """Which page of which time."""

    page: Page = 1
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE_SIZE)] = 20
    from_: str | None = Field(None, alias="from", description="An ISO 8601 time, or how long ago: `24h`.")
    to: str | None = Field(None, description="The same; before this.")


class MeView(TypedDict):
    """The user and the key that was sent. Amounts are in USD."""

    username: str
    role: str
    keyId: str
    credits: float
    refCredits: float
    creditsUsed: float
    totalInputTokens: int
    totalOutputTokens: int
    createdAt: str | None
    expiresAt: Annotated[str | None, Field(description="When the credit ends; null: never.")]
    rateLimitRpm: Annotated[int | None, Field(description="The key's own limit; null: the usual one.")]


class DetailedUsageView(TypedDict):
    """The user's sums of a period; `creditsBurned` in USD."""

    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    creditsBurned: float
    requestCount: int
    successCount: int
    period: str


class OwnRecordView(TypedDict):
    """A request of the user. `upstream` is always null: it stays with the operator."""

    id: str
    model: str | None
    upstream: None
    inputTokens: int | None
    outputTokens: int | None
    cacheWriteTokens: int | None
    cacheHitTokens: int | None
    creditsCost: float | None
    latencyMs: int | None
    isSuccess: bool | None
    createdAt: str | None


class OwnPageView(TypedDict):
    """A page, newest first. `total` is counted up to 10,000; then `totalIsMore` is true."""

    requests: list[OwnRecordView]
    total: int
    totalIsMore: bool
    page: int
    limit: int
    totalPages: int


class CreditsUsageView(TypedDict):
    """What the user's requests cost within the last so many hours and days, in USD."""

    last1h: float
    last24h: float
    last7d: float
    last30d: float


def user_blueprint(
    *, directory: Directory, accounts: Accounts, stats: OwnStats, logs: OwnLogs, clock: Clock, tz: tzinfo
) -> Blueprint:
    """`/api/user/…` over these; nobody sees anything of anybody else."""
    routes = Blueprint("user_api", __name__, url_prefix="/api/user")
    handle_errors(routes)

    @routes.before_request
    def authenticate() -> Response | None:
        given = extract_credential(request.headers.get("Authorization"), request.headers.get("x-api-key"))
        if isinstance(given, CredentialProblem):
            return _unauthorized("this needs your client key", _HINTS[given])
        principal = directory.find(given)
        if principal is None:
            return _unauthorized("this client key is not valid", "it may have been revoked: ask the operator")
        if not principal.is_metered:
            return error_answer(403, "this key belongs to no user", hint="use a client key of your own")
        g.principal = principal
        return None

    @routes.get("/me")
    @_own("Who you are, and your credit", answers=MeView)
    def me() -> Response:
        """The balance as it is booked: requests of the last second may not be in it yet."""
        principal = _principal()
        profile = accounts.profile(principal.user_id)
        if profile is None:
            return _unauthorized("this user is no more", "ask the operator")
        key = {"keyId": shown_key_id(principal.user_key_id), "rateLimitRpm": principal.rpm}
        return jsonify(json_ready({**profile, **key}))

    @routes.get("/detailed-usage")
    @_own("Your tokens and cost of a period", answers=DetailedUsageView)
    def detailed_usage(query: UsageQuery) -> Response:
        """Rolling: `24h` is the last 24 hours."""
        start = period_start(query.period, clock.utcnow(), tz)
        sums = stats.total(start, user=_principal().user_id)
        return jsonify(
            inputTokens=sums.input_tokens,
            outputTokens=sums.output_tokens,
            cacheWriteTokens=sums.cache_write_tokens,
            cacheHitTokens=sums.cache_hit_tokens,
            creditsBurned=usd(sums.cost_nano_usd),
            requestCount=sums.requests,
            successCount=sums.success,
            period=query.period,
        )

    @routes.get("/request-logs")
    @_own("Your requests of a period", answers=OwnPageView)
    def own_request_logs(query: LogsQuery) -> Response:
        """Newest first."""
        start = period_start(query.period, clock.utcnow(), tz)
        return page_of(LogFilter(user=_principal().user_id, start=start), query.page, query.limit)

    @routes.get("/request-history")
    @_own("Your requests", answers=OwnPageView)
    def request_history(query: HistoryQuery) -> Response:
        """Newest first, as far back as records are kept."""
        now = clock.utcnow()
        wanted = LogFilter(
            user=_principal().user_id,
            start=parse_moment("from", query.from_, now) if query.from_ else None,
            end=parse_moment("to", query.to, now) if query.to else None,
        )
        return page_of(wanted, query.page, query.limit)

    @routes.get("/credits-usage")
    @_own("Your cost of the last hour, day, week and month", answers=CreditsUsageView)
    def credits_usage() -> Response:
        """In USD."""
        now, user = clock.utcnow(), _principal().user_id
        costs = {
            f"last{period}": usd(stats.total(period_start(period, now, tz), user=user).cost_nano_usd)
            for period in USER_PERIODS
        }
        return jsonify(costs)

    def page_of(wanted: LogFilter, page: int, limit: int) -> Response:
        if page * limit > _REACH:
            hint = "narrow the time instead: `period`, or `from` and `to` of request-history"
            return error_answer(
                400, f"page: pages go back {_REACH} requests at most", hint=hint, parameter="page"
            )
        found, total = logs.numbered_page(wanted, page, limit, _REACH + 1)
        return jsonify(
            requests=[own_record(document) for document in found],
            total=min(total, _REACH),
            totalIsMore=total > _REACH,
            page=page,
            limit=limit,
            totalPages=-(-min(total, _REACH) // limit),
        )

    return routes


def own_record(document: Mapping[str, Any]) -> Document:
    """What a user may see of a record: these fields and no others, since some are the operator's affair."""
    shown = {"id": str(document.get("_id")), "model": document.get("model"), "upstream": None}
    shown.update({name: document.get(name) for name in _SHOWN})
    shown.update({name: document[name] for name in _SHOWN_TOO if name in document})
    return {name: json_ready(value) for name, value in shown.items()}


def _principal() -> Principal:
    principal: Principal = g.principal
    return principal


def _unauthorized(message: str, hint: str) -> Response:
    response = error_answer(401, message, hint=hint)
    response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    return response
