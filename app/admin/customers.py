"""What the pages of users and client keys read: who there is, and what they spend, a page at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self, TypeVar

from flask import Response, current_app, request, url_for

from app.admin.asking import ask, asked_question
from app.admin.customer_view import SPARK_DAYS, Deed, Pages, Sort, Trend
from app.admin.new_keys import NewKeys
from app.admin.question import FILTERS
from app.common.cursor import FilterError
from app.exchange.ports import Clock
from app.management.administration import Administration
from app.management.reading import RequestLogStore, StatsStore
from app.statistics.figures import Totals
from app.statistics.periods import MONTH, Period, UnknownPeriodError, midnight
from app.statistics.timeseries import DAY
from app.statistics.timeseries import MONTH as MONTHLY
from app.statistics.usage import Grouping

DEFAULT_PERIOD = "30d"
"""The range these pages are asked for where the address has none."""

PAGE = 50
MONTHS = 12
_DEEDS = 10
_DAY = timedelta(days=1)

Found = TypeVar("Found")

Download = Callable[[Iterator[str], str], Response]
"""Lines of CSV as a file of a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerSources:
    """What the pages read, change, and lead to."""

    administration: Administration
    stats: StatsStore
    logs: RequestLogStore
    new_keys: NewKeys
    download: Download
    clock: Clock
    tz: tzinfo


@dataclass(frozen=True, slots=True)
class Asked:
    """The range a page is asked for, and what is wrong with how it is (then it is the default)."""

    period: Period
    problem: Exception | None

    @classmethod
    def now(cls, sources: CustomerSources) -> "Asked":
        """Read the address."""
        now, tz = sources.clock.utcnow(), sources.tz
        try:
            return cls(asked_question(DEFAULT_PERIOD).period(now, tz, DEFAULT_PERIOD), None)
        except (UnknownPeriodError, FilterError) as error:
            return cls(Period.of(DEFAULT_PERIOD, now, tz), error)

    @property
    def is_this_month(self) -> bool:
        """Whether it is the month that is running, which pages tell of anyway."""
        return self.period.name in (MONTH, f"{self.period.now.astimezone(self.period.tz):%Y-%m}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is asked for: a text, one of its states (empty: all), its order, and the range."""

    search: str
    state: str
    sort: Sort
    asked: Asked

    @classmethod
    def now(
        cls, sources: CustomerSources, states: Collection[str], sorts: Collection[str], default: str
    ) -> Self:
        """Read the address; what is not known in it counts as not given."""
        state = text_asked("state")
        sort = Sort.parse(text_asked("sort"), sorts, default)
        return cls(text_asked("search"), state if state in states else "", sort, Asked.now(sources))

    @property
    def shown(self) -> Mapping[str, Any]:
        """What every list tells its template of this."""
        return {
            "search": self.search,
            "state": self.state,
            "sort": self.sort,
            "asked_for": self.asked,
            "problem": self.asked.problem,
            "default_period": DEFAULT_PERIOD,
            "address": address,
        }


def page_asked() -> Pages:
    """Return which page of a list is asked for."""
    return Pages.parse(request.args.get("page"), PAGE)


def numbered_page(read: Callable[[int], tuple[Sequence[Found], int]]) -> tuple[Sequence[Found], Pages]:
    """Read the page asked for, the last one for one beyond it.

    `read` returns the rows after so many, and how many there are.
    """
    pages = page_asked()
    found, count = read(pages.skip)
    here = pages.of(count)
    if here.number != pages.number:
        found, count = read(here.skip)
    return found, here.of(count)


@dataclass(frozen=True, slots=True)
class Spending:
    """What some users, or keys, spend: in the range, each day lately, and in the month that is running."""

    within: Mapping[str, Totals]
    trends: Mapping[str, Trend]
    month: datetime

    @property
    def amounts(self) -> Sequence[int]:
        """All that is shown of it beside each other, in nano-dollars."""
        months = (trend.since(self.month) for trend in self.trends.values())
        return [*(sums.cost_nano_usd for sums in self.within.values()), *months]

    def of(self, name: str) -> tuple[Totals, Trend, int]:
        """Return what one used in the range, its days, and what it spent this month."""
        trend = self.trends.get(name, _NOTHING)
        return self.within.get(name, Totals()), trend, trend.since(self.month)


_NOTHING = Trend((), ())
_NOBODY = Spending({}, {}, datetime.max.replace(tzinfo=UTC))


def spending(sources: CustomerSources, by: str, names: Sequence[str], period: Period) -> Spending | None:
    """Read what these spend, all of them at once; `by` is `user` or `key`. None while the store is away."""
    now, tz, stats = period.now, sources.tz, sources.stats.for_one_answer()
    today = now.astimezone(tz).date()
    days = Period(None, midnight(today - SPARK_DAYS * _DAY, tz), None, now, tz)

    def read() -> Spending:
        grouping = Grouping((by,))
        within = stats.usage_of(grouping, period, [(name,) for name in names])
        found = stats.series_of(names, days, by=by, bucket=DAY)
        starts = [bucket.start.astimezone(tz) for bucket in found.buckets]
        trends = {
            name: Trend(starts, [bucket.parts.get(name, Totals()).cost_nano_usd for bucket in found.buckets])
            for name in names
        }
        return Spending(
            {str(key): sums for (key,), sums in within.items()}, trends, midnight(today.replace(day=1), tz)
        )

    return ask(read) if names else _NOBODY


@dataclass(frozen=True, slots=True)
class MonthSpent:
    """A month of a user or key: its name, what was used in it, and its share of the largest one."""

    name: str
    totals: Totals
    share: float


def months_of(sources: CustomerSources, by: str, name: str) -> Sequence[MonthSpent]:
    """Read what a user, or key, used in each of the last months, newest first; none before the first use."""
    now, tz = sources.clock.utcnow(), sources.tz
    first = now.astimezone(tz).date().replace(day=1)
    for _ in range(MONTHS - 1):
        first = (first - _DAY).replace(day=1)
    period = Period(None, midnight(first, tz), None, now, tz)
    found = ask(lambda: sources.stats.series_of([name], period, by=by, bucket=MONTHLY))
    buckets = found.buckets if found is not None else ()
    used = [(bucket.start, bucket.parts.get(name, Totals())) for bucket in buckets]
    while len(used) > 1 and not used[0][1].requests:
        used.pop(0)
    most = max((totals.cost_nano_usd for _, totals in used), default=0)
    return [
        MonthSpent(f"{start.astimezone(tz):%Y-%m}", totals, totals.cost_nano_usd / most if most else 0.0)
        for start, totals in reversed(used)
    ]


def costs_by(sources: CustomerSources, by: str, period: Period) -> dict[str, int]:
    """Read what every user, or key, spent in a period, in nano-dollars."""
    found = sources.stats.costs(Grouping((by,)), period)
    return {key: nano for (key,), nano in found.items() if key is not None}


def deeds_about(sources: CustomerSources, target: str) -> Sequence[tuple[Mapping[str, Any], Deed]]:
    """Read what administrators did to a user, or key, lately."""
    found = ask(lambda: sources.administration.audit.page({"target": target}, _DEEDS))
    return [(entry, Deed.of(entry)) for entry in (found or ([], None))[0]]


def address(endpoint: str, **values: Any) -> str | None:
    """Return where a page is, asked for this and nothing else but its range; None: there is no such page."""
    if endpoint not in current_app.view_functions:
        return None
    if "period" in values:
        values = {"from": None, "to": None, **values}
    return url_for(endpoint, **{**dict.fromkeys(FILTERS), **values})


def text_asked(name: str, most: int = 100) -> str:
    """Return a parameter of the address without blanks around it, empty where it is not there."""
    return request.args.get(name, "").strip()[:most]
