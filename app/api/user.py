"""`/api/user`: what users see of themselves, with one of their own client keys."""

from datetime import datetime, tzinfo
from typing import Annotated, Any, NotRequired

from flask import Blueprint, Response, g, jsonify, request
from pydantic import Field
from typing_extensions import TypedDict

from app.accounts.credentials import CredentialProblem, extract_credential, shown_key_id
from app.accounts.login_tries import LoginGuard
from app.accounts.principal import Principal
from app.accounts.rate_window import RateLimiter
from app.api.answers import ExpiredView, error_answer, expired_note, handle_errors, slow_down
from app.api.operation import USER, ApiSection, Query
from app.api.parameters import AdminPeriod, ComparedQuery, PeriodQuery, PeriodView
from app.common.display import json_ready
from app.exchange.ports import Clock, Directory
from app.management.reading import RequestLogStore, StatsStore
from app.management.users import User, UserAdmin
from app.management.views.records import own_record
from app.records.log_filter import LogFilter, parse_moment
from app.statistics.figures import Totals, usd
from app.statistics.periods import USER_PERIODS, Period, with_previous

Document = dict[str, Any]

_own = ApiSection("User", access=USER)
_MAX_PAGE_SIZE = 100
# A minute: what is asked for here makes the database read, beside which requests are served.
REQUESTS_PER_KEY = 120

# How far back pages by number go: what is older is found by its time.
_REACH = 10_000

_HINTS = {
    CredentialProblem.MISSING: "send your client key: `Authorization: Bearer KEY`, or `x-api-key: KEY`",
    CredentialProblem.CONFLICT: "send one key: Authorization and x-api-key differ",
}


class UsageQuery(ComparedQuery):
    """Which time, and whether beside the one before."""

    period: AdminPeriod = "24h"


Page = Annotated[int, Field(ge=1, le=_REACH)]


class LogsQuery(PeriodQuery):
    """Which time, and which page."""

    period: AdminPeriod = "24h"
    page: Page = 1
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE_SIZE)] = 50


class HistoryQuery(Query):
    """Which page of which time."""

    page: Page = 1
    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE_SIZE)] = 20
    from_: str | None = Field(None, alias="from", description="A date or time, or how long ago: `24h`.")
    to: str | None = Field(None, description="The same; before this.")


class MeView(TypedDict):
    """The user and the key that was sent. Amounts are in USD."""

    username: str
    role: str
    keyId: str
    credits: float
    refCredits: float
    creditsUsed: float
    creditsNanoUsd: int
    refCreditsNanoUsd: int
    creditsUsedNanoUsd: int
    totalInputTokens: int
    totalOutputTokens: int
    createdAt: str | None
    expiresAt: Annotated[str | None, Field(description="When the credit ends; null: never.")]
    rateLimitRpm: Annotated[int | None, Field(description="The key's own limit; null: the usual one.")]


class DetailedUsageView(PeriodView):
    """The user's sums of a period; `creditsBurned` in USD, `costNanoUsd` the same exactly."""

    inputTokens: int
    outputTokens: int
    cacheWriteTokens: int
    cacheHitTokens: int
    creditsBurned: float
    costNanoUsd: int
    requestCount: int
    successCount: int
    previous: NotRequired["DetailedUsageView | None"]


class OwnRecordView(TypedDict):
    """A request of the user. `upstream` is always null: it stays with the operator.

    `errorMessage` is what the client was told of a request that failed. `count` is there where it stands for
    that many refused requests.
    """

    id: str
    model: str | None
    upstream: None
    inputTokens: int | None
    outputTokens: int | None
    cacheWriteTokens: int | None
    cacheHitTokens: int | None
    creditsCost: float | None
    costNanoUsd: NotRequired[int | None]
    latencyMs: int | None
    isSuccess: bool | None
    createdAt: str | None
    errorMessage: NotRequired[str]
    endUser: NotRequired[str]
    sessionId: NotRequired[str]
    clientName: NotRequired[str]
    tags: NotRequired[list[str]]
    count: NotRequired[int]


class OwnPageView(ExpiredView):
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
    last1hNanoUsd: int
    last24hNanoUsd: int
    last7dNanoUsd: int
    last30dNanoUsd: int


def user_blueprint(
    *,
    directory: Directory,
    accounts: UserAdmin,
    stats: StatsStore,
    logs: RequestLogStore,
    clock: Clock,
    tz: tzinfo,
    guard: LoginGuard,
    limiter: RateLimiter,
) -> Blueprint:
    """Make `/api/user/…` over these readers; nobody sees anything of anybody else."""
    routes = Blueprint("user_api", __name__, url_prefix="/api/user")
    handle_errors(routes)

    @routes.before_request
    def authenticate() -> Response | None:
        given = extract_credential(request.headers.get("Authorization"), request.headers.get("x-api-key"))
        if isinstance(given, CredentialProblem):
            return _unauthorized("this needs your client key", _HINTS[given])
        principal = directory.find(given)
        if principal is None:
            guard.count_unknown_key(request.remote_addr)
            return _unauthorized("this client key is not valid", "it may have been revoked: ask the operator")
        decision = limiter.hit(f"user-api:{principal.user_key_id}", REQUESTS_PER_KEY)
        if not decision.allowed:
            wait_s = decision.retry_after_s
            return slow_down(f"too many requests with this key: wait {wait_s} s", wait_s)
        g.principal = principal
        return _refusal(principal)

    @routes.get("/me")
    @_own("Who you are, and your credit", answers=MeView)
    def me() -> Response:
        """Show the balance as it is booked: requests of the last second may not be in it yet."""
        principal = _principal()
        user = accounts.find(principal.user_id)
        if user is None:
            return _unauthorized("this user is no more", "ask the operator")
        return jsonify(_me_view(user, principal))

    @routes.get("/detailed-usage")
    @_own("Your tokens and cost of a period", answers=DetailedUsageView)
    def detailed_usage(query: UsageQuery) -> Response:
        """Sum up your requests of a period."""
        user_id = _principal().user_id

        def figures(period: Period) -> Document:
            return _used(stats.total(period, user=user_id)) | period.to_json()

        period = query.at(clock.utcnow(), tz)
        return jsonify(with_previous(figures, period) if query.is_compared else figures(period))

    @routes.get("/request-logs")
    @_own("Your requests of a period", answers=OwnPageView)
    def own_request_logs(query: LogsQuery) -> Response:
        """List records, newest first."""
        period = query.at(clock.utcnow(), tz)
        wanted = LogFilter(user=_principal().user_id, start=period.start, end=period.end)
        return page_of(wanted, query.page, query.limit, period.now)

    @routes.get("/request-history")
    @_own("Your requests", answers=OwnPageView)
    def request_history(query: HistoryQuery) -> Response:
        """List records, newest first, as far back as they are kept."""
        now = clock.utcnow()
        wanted = LogFilter(
            user=_principal().user_id,
            start=parse_moment("from", query.from_, now, tz) if query.from_ else None,
            end=parse_moment("to", query.to, now, tz) if query.to else None,
        )
        return page_of(wanted, query.page, query.limit, now)

    @routes.get("/credits-usage")
    @_own("Your cost of the last hour, day, week and month", answers=CreditsUsageView)
    def credits_usage() -> Response:
        """Show the cost in USD."""
        return jsonify(_costs(stats, _principal().user_id, clock.utcnow(), tz))

    def page_of(wanted: LogFilter, page: int, limit: int, now: datetime) -> Response:
        if page * limit > _REACH:
            hint = "narrow the time instead: `period`, or `from` and `to` of request-history"
            return error_answer(
                400, f"page: pages go back {_REACH} requests at most", hint=hint, parameter="page"
            )
        found, total = logs.numbered_page(wanted, page, limit, _REACH + 1)
        sums = "the sums of any time are in detailed-usage, and months in statements"
        return jsonify(
            **expired_note(logs.expired_before(wanted, now), sums),
            requests=[own_record(document) for document in found],
            total=min(total, _REACH),
            totalIsMore=total > _REACH,
            page=page,
            limit=limit,
            totalPages=-(-min(total, _REACH) // limit),
        )

    return routes


def _used(sums: Totals) -> Document:
    return {
        "inputTokens": sums.input_tokens,
        "outputTokens": sums.output_tokens,
        "cacheWriteTokens": sums.cache_write_tokens,
        "cacheHitTokens": sums.cache_hit_tokens,
        "creditsBurned": usd(sums.cost_nano_usd),
        "costNanoUsd": sums.cost_nano_usd,
        "requestCount": sums.requests,
        "successCount": sums.success,
    }


def _costs(stats: StatsStore, user: str, now: datetime, tz: tzinfo) -> Document:
    costs: Document = {}
    for name in USER_PERIODS:
        cost_nano = stats.total(Period.of(name, now, tz), user=user).cost_nano_usd
        costs |= {f"last{name}": usd(cost_nano), f"last{name}NanoUsd": cost_nano}
    return costs


def _me_view(user: User, principal: Principal) -> MeView:
    return MeView(
        username=user.username,
        role=user.role,
        keyId=shown_key_id(principal.user_key_id),
        credits=usd(user.credits_nano),
        refCredits=usd(user.ref_credits_nano),
        creditsUsed=usd(user.credits_used_nano),
        creditsNanoUsd=user.credits_nano,
        refCreditsNanoUsd=user.ref_credits_nano,
        creditsUsedNanoUsd=user.credits_used_nano,
        totalInputTokens=user.input_tokens,
        totalOutputTokens=user.output_tokens,
        createdAt=json_ready(user.created_at),
        expiresAt=json_ready(user.expires_at),
        rateLimitRpm=principal.rpm,
    )


def _principal() -> Principal:
    principal: Principal = g.principal
    return principal


def _refusal(principal: Principal) -> Response | None:
    """Refuse keys that are bound to other addresses, or that belong to nobody."""
    limits = principal.key_limits
    if limits is not None and not limits.allows_address(request.remote_addr):
        return error_answer(403, "this key is not accepted from where the request came")
    if not principal.is_metered:
        return error_answer(403, "this key belongs to no user", hint="use a client key of your own")
    return None


def _unauthorized(message: str, hint: str) -> Response:
    response = error_answer(401, message, hint=hint)
    response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    return response
