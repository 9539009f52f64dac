"""The first page: is the proxy well, who spends what on which model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Protocol

from flask import Blueprint, abort, render_template, request

from app.admin.asking import ask
from app.admin.charts import Chart, draw
from app.admin.condition import KeyView, findings
from app.core.histogram import percentile_ms
from app.core.periods import ADMIN_PERIODS, UnknownPeriodError, parse_period, period_start
from app.core.ports import Clock
from app.core.stats import Totals, mean
from app.core.timeseries import Series

DEFAULT_PERIOD = "24h"
REFRESH_S = 10
TOP_USERS = 10

_PERCENTILES = (50, 95, 99)


class StatsReader(Protocol):
    """Where sums are made; raises `StoreUnavailable`."""

    def sums(
        self, start: datetime | None, *, by: str | None, with_latency: bool = False
    ) -> dict[str | None, Totals]:
        """Sums since `start` (None: ever) per value of the field `by` (None: all together, under None)."""

    def series(
        self, period: str, now: datetime, tz: tzinfo, *, by: str, rank_by: str, with_latency: bool
    ) -> Series:
        """The period over time."""


Offload = Callable[[Callable[[], list[Chart]]], list[Chart]]
"""Runs something that takes long off the event loop, and waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruments:
    """What is known of the running proxy without asking the store, and the number of backup keys."""

    health: Callable[[], Mapping[str, Any]]
    keys: Callable[[], Sequence[KeyView]]
    spare_keys: Callable[[], int | None]
    offload: Offload = lambda work: work()


@dataclass(frozen=True, slots=True)
class Row:
    """What one model or user used. `share` of the cost is in per cent."""

    name: str | None
    totals: Totals
    share: float
    percentiles: tuple[int | None, ...]
    ttft_ms: float | None


def overview_pages(stats: StatsReader, instruments: Instruments, clock: Clock, tz: tzinfo) -> Blueprint:
    """`/`."""
    routes = Blueprint("overview", __name__)

    @routes.get("/")
    def overview() -> str:
        now = clock.utcnow()
        try:
            period = parse_period(request.args.get("period"), default=DEFAULT_PERIOD)
        except UnknownPeriodError:
            abort(404)
        start = period_start(period, now, tz)
        models = ask(lambda: stats.sums(start, by="model", with_latency=True))
        users = ask(lambda: stats.sums(start, by="userId"))
        total = None if models is None else _all_together(models)
        hour = ask(lambda: stats.sums(period_start("1h", now, tz), by=None).get(None, Totals()))
        over_time = ask(lambda: stats.series(period, now, tz, by="model", rank_by="cost", with_latency=True))
        keys = sorted(instruments.keys(), key=lambda key: (key.available, key.key_id))
        health, spare = instruments.health(), ask(instruments.spare_keys)
        return render_template(
            "overview.html",
            period=period,
            periods=ADMIN_PERIODS,
            refresh_s=REFRESH_S,
            total=None if total is None else _row(None, total, total),
            charts=[] if over_time is None else instruments.offload(lambda: draw(over_time, tz)),
            models=_rows(models),
            users=_rows(users)[:TOP_USERS],
            user_count=len(users or {}),
            findings=findings(health, keys, spare, hour),
            keys=keys,
            spare_keys=spare,
            health=health,
        )

    return routes


def _all_together(parts: Mapping[str | None, Totals]) -> Totals:
    whole = Totals()
    for part in parts.values():
        whole.merge(part)
    return whole


def _rows(parts: Mapping[str | None, Totals] | None) -> list[Row]:
    """The most expensive first."""
    if parts is None:
        return []
    whole = _all_together(parts)
    rows = [_row(name, totals, whole) for name, totals in parts.items()]
    return sorted(rows, key=lambda row: (-row.totals.cost_nano_usd, -row.totals.requests, row.name or ""))


def _row(name: str | None, totals: Totals, whole: Totals) -> Row:
    share = 100 * totals.cost_nano_usd / whole.cost_nano_usd if whole.cost_nano_usd else 0.0
    percentiles = tuple(percentile_ms(totals.latency, percent) for percent in _PERCENTILES)
    return Row(name, totals, share, percentiles, mean(totals.ttft_sum_ms, totals.ttft_count))
