"""The first page: is the proxy well, who spends what on which model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.admin.asking import ask, asked_question, is_redrawn
from app.admin.charts import home_charts
from app.admin.checklist import Step, first_steps
from app.admin.condition import findings
from app.admin.live import live
from app.common.cursor import FilterError
from app.exchange.ports import Clock
from app.management.first_steps import FirstSteps
from app.management.proxies import StoredProxy
from app.management.reading import KeyView, StatsStore
from app.pricing.ledger_findings import Finding
from app.statistics.figures import Totals, mean
from app.statistics.histogram import percentile_ms
from app.statistics.periods import Period, UnknownPeriodError

DEFAULT_PERIOD = "24h"
TOP_USERS = 10
CHECKLIST_COOKIE = "weir_first_steps"

_A_YEAR_S = 365 * 86_400
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSources:
    """What is known of the running proxy, without asking the store as far as that goes.

    `models` counts those that have a price.
    """

    health: Callable[[], Mapping[str, Any]]
    keys: Callable[[], Sequence[KeyView]]
    spare_keys: Callable[[], int | None]
    ledger: Callable[[datetime], Sequence[Finding]] = lambda now: ()
    proxies: Callable[[], Sequence[StoredProxy]] = lambda: ()
    first_steps: Callable[[], FirstSteps] = lambda: FirstSteps(True, True, True)
    models: Callable[[], int] = lambda: 0

    def checklist(self, keys: Sequence[KeyView]) -> Sequence[Step]:
        """Return the first steps; nothing once they were taken, but for windows that looked on."""
        found = ask(self.first_steps)
        if found is None or (found.has_answered and not is_redrawn()):
            return ()
        return first_steps(found, sum(key.available for key in keys), self.models())


@dataclass(frozen=True, slots=True)
class Row:
    """What one model or user used. `share` of the cost is in per cent."""

    name: str | None
    totals: Totals
    share: float
    percentiles: tuple[int | None, ...]
    ttft_ms: float | None


def home_pages(stats: StatsStore, sources: DashboardSources, clock: Clock, tz: tzinfo) -> Blueprint:
    """Make the page `/`."""
    routes = Blueprint("home", __name__)

    @routes.get("/")
    @live
    def home() -> AnyResponse:
        now = clock.utcnow()
        problem: Exception | None = None
        try:
            period = asked_question(DEFAULT_PERIOD).period(now, tz, DEFAULT_PERIOD)
        except (UnknownPeriodError, FilterError) as error:
            problem, period = error, Period.of(DEFAULT_PERIOD, now, tz)
        asked = stats.for_one_answer()
        models = ask(lambda: asked.sums(period, by="model", with_latency=True))
        users = ask(lambda: asked.sums(period, by="userId"))
        served = ask(lambda: asked.sums(period, by="factoryKeyId")) or {}
        total = None if models is None else _all_together(models)
        hour = ask(lambda: asked.sums(Period.of("1h", now, tz), by=None).get(None, Totals()))
        over_time = ask(lambda: asked.series(period, by="model", rank_by="cost", with_latency=True))
        keys = sorted(sources.keys(), key=lambda key: (key.available, key.key_id))
        health, spare = sources.health(), ask(sources.spare_keys)
        steps = () if CHECKLIST_COOKIE in request.cookies else sources.checklist(keys)
        page = render_template(
            "home.html",
            default_period=DEFAULT_PERIOD,
            problem=problem,
            total=None if total is None else _row(None, total, total),
            charts=[] if over_time is None else home_charts(over_time, period, tz),
            models=_rows(models),
            users=_rows(users)[:TOP_USERS],
            user_count=len(users or {}),
            findings=findings(
                health, keys, spare, hour, ask(lambda: sources.ledger(now)) or (), ask(sources.proxies) or ()
            ),
            checklist=steps,
            next_step=next((place for place, step in enumerate(steps) if not step.is_done), None),
            keys=[(key, served.get(key.key_id, Totals())) for key in keys],
            spare_keys=spare,
            health=health,
        )
        return make_response(page, 200 if problem is None else 400)

    @routes.post("/first-steps/hide")
    def hide_first_steps() -> AnyResponse:
        """Hide the first steps in this browser."""
        response = redirect(url_for("home.home"), code=303)
        response.set_cookie(
            CHECKLIST_COOKIE, "hidden", max_age=_A_YEAR_S, path="/admin", secure=request.is_secure,
            httponly=True, samesite="Lax",
        )  # fmt: skip
        return response

    return routes


def _all_together(parts: Mapping[str | None, Totals]) -> Totals:
    whole = Totals()
    for part in parts.values():
        whole.merge(part)
    return whole


def _rows(parts: Mapping[str | None, Totals] | None) -> list[Row]:
    """Return the rows, the most expensive first."""
    if parts is None:
        return []
    whole = _all_together(parts)
    rows = [_row(name, totals, whole) for name, totals in parts.items()]
    return sorted(rows, key=lambda row: (-row.totals.cost_nano_usd, -row.totals.requests, row.name or ""))


def _row(name: str | None, totals: Totals, whole: Totals) -> Row:
    share = 100 * totals.cost_nano_usd / whole.cost_nano_usd if whole.cost_nano_usd else 0.0
    percentiles = tuple(percentile_ms(totals.latency, percent) for percent in _PERCENTILES)
    return Row(name, totals, share, percentiles, mean(totals.ttft_sum_ms, totals.ttft_count))
