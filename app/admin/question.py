"""The question that all pages are asked: a range of time, and filters. It is in the address, on every link.

`dashboard_app` puts it on whatever `url_for` makes, so that a link keeps it by saying nothing, replaces a
part by naming it (`url_for("requests.table", user="ann")`), and drops a part by naming it with None. Names
are those of the admin API.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Self

from app.statistics.periods import ADMIN_PERIODS, ROLLING_PERIODS, Period, month_days

RANGE: tuple[str, ...] = ("period", "from", "to")

FILTERS: Mapping[str, str] = {
    "view": "View",
    "user": "User",
    "key": "Client key",
    "model": "Model",
    "factoryKey": "Upstream key",
    "outcome": "Outcome",
    "status": "Status",
    "apiFormat": "Format",
    # Not `endpoint`, as the admin API has it: that is an argument of `url_for` itself.
    "api": "Endpoint",
    "endUser": "End user",
    "session": "Session",
    "client": "Client program",
    "tag": "Tag",
    "user~": "User contains",
    "model~": "Model contains",
    "minCostUsd": "Cost in USD, from",
    "minLatencyMs": "Latency in ms, from",
    "minAttempts": "Attempts, from",
    "q": "Search",
}
"""What requests can be filtered by, and what it is called."""

NAMES: tuple[str, ...] = (*RANGE, *FILTERS)

_MAX_TEXT = 200
_MONTHS_SHOWN = 12
_UNITS = {"h": "hours", "d": "days"}
_TITLES = {
    "1h": "Last hour",
    "all": "Ever",
    "today": "Today",
    "yesterday": "Yesterday",
    "week": "This week",
    "month": "This month",
    "last_month": "Last month",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter as it is shown: its name in the address, what it is called, and its value."""

    name: str
    title: str
    value: str


@dataclass(frozen=True, slots=True)
class Question:
    """What an address asks for: its parameters of `NAMES` that are not empty, in that order."""

    given: Mapping[str, str]

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Self:
        """Read an address. Two times go before a period that has a name, as a form sends both."""
        given = {name: text[:_MAX_TEXT] for name in NAMES if (text := parameters.get(name, "").strip())}
        if "from" in given or "to" in given:
            given.pop("period", None)
        return cls(given)

    @property
    def filters(self) -> dict[str, str]:
        """The filters alone, without the range."""
        return {name: value for name, value in self.given.items() if name in FILTERS}

    @property
    def has_range(self) -> bool:
        """Whether a range is asked for; without one a page takes its own."""
        return any(name in self.given for name in RANGE)

    def link(self, **changes: str | None) -> dict[str, str | None]:
        """Return the parameters of a link that asks the same but for the changes; None takes one away.

        A period takes the place of two times, and they of it. To be handed to `url_for` whole: what is not
        asked for is in it as None.
        """
        found: dict[str, str | None] = dict.fromkeys(NAMES)
        found.update(self.given)
        if "period" in changes:
            found.update({"from": None, "to": None})
        if "from" in changes or "to" in changes:
            found["period"] = None
        return {**found, **changes}

    def without(self, name: str) -> dict[str, str | None]:
        """Return the parameters of a link that asks the same without one filter."""
        return self.link(**{name: None})

    def chips(self) -> Iterator[Chip]:
        """Yield the filters as they are shown."""
        for name, value in self.filters.items():
            yield Chip(name, FILTERS[name], value)

    def period(self, now: datetime, tz: tzinfo, default: str) -> Period:
        """Return the range of time; raises `UnknownPeriodError` or `FilterError`."""
        name, begin, end = (self.given.get(name) for name in RANGE)
        return Period.asked_for(name, begin, end, now, tz, default)

    def range_title(self, default: str) -> str:
        """Say the range in words, as far as it is asked for."""
        begin, end = self.given.get("from"), self.given.get("to")
        if begin or end:
            return f"{begin or 'The beginning'} to {end or 'now'}"
        return period_title(self.given.get("period", default))


def period_title(name: str) -> str:
    """Say a period's name in words: `7d` is `Last 7 days`, `2026-11` is `November 2026`."""
    if name in _TITLES:
        return _TITLES[name]
    if name in ROLLING_PERIODS:
        return f"Last {name[:-1]} {_UNITS[name[-1]]}"
    days = month_days(name)
    return days[0].strftime("%B %Y") if days else name


def presets() -> Sequence[tuple[str, str]]:
    """Return the periods that have a name, with what they are called."""
    return [(name, period_title(name)) for name in ADMIN_PERIODS]


def last_months(now: datetime, tz: tzinfo) -> Sequence[tuple[str, str]]:
    """Return the last twelve months, the newest first, with what they are called."""
    first = now.astimezone(tz).date().replace(day=1)
    found = []
    for _ in range(_MONTHS_SHOWN):
        found.append((first.strftime("%Y-%m"), first.strftime("%b %Y")))
        first = (first - timedelta(days=1)).replace(day=1)
    return found
