"""What the page of requests shows beside its rows: columns, the histogram, and times as people type them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from app.common.display import iso_utc
from app.records.breakdown import ENDINGS, Bar
from app.records.log_filter import VIEWS

COLUMNS: Mapping[str, str] = {
    "outcome": "Outcome",
    "cost": "Cost",
    "latency": "Latency",
    "model": "Model",
    "user": "User",
    "key": "Client key",
    "factoryKey": "Upstream key",
    "status": "Status",
    "endpoint": "Endpoint",
    "client": "Client program",
    "session": "Session",
    "endUser": "End user",
    "input": "Fresh input",
    "cached": "Cached",
    "output": "Output",
    "ttft": "First token",
    "attempts": "Attempts",
}
"""The columns there are beside the time, in their order, and what they are called.

Names, however long, stand behind the figures that nobody is to scroll for.
"""

DEFAULT_COLUMNS = ("outcome", "cost", "latency", "model", "user", "key")

FIGURES = frozenset({"status", "input", "cached", "output", "cost", "latency", "ttft", "attempts"})
"""Columns that line up on the right."""

SORTED_BY = {"cost": "-cost", "latency": "-latency"}
"""Columns that the table can be in the order of, and what the address calls it."""

VIEW_TITLES: Mapping[str, str] = {name: name.capitalize() for name in VIEWS}

VIEW_ORDERS = {"slow": "-latency", "expensive": "-cost"}
"""Views that show the largest first."""

HEIGHT, _BAR_WIDTH, _GAP = 96, 16, 2
_LEAST_HEIGHT = 2.0


def chosen_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of these names in their order; those shown by default where there is none."""
    known = set(names)
    return [name for name in COLUMNS if name in known] or list(DEFAULT_COLUMNS)


def as_typed(moment: datetime, tz: tzinfo) -> str:
    """Write a time as people type it, in the zone of the page; so that it is read as the same again."""
    local = moment.astimezone(tz).replace(microsecond=0)
    text = local.strftime("%Y-%m-%d %H:%M:%S")
    for rest in (" 00:00:00", ":00"):
        if text.endswith(rest):
            text = text.removesuffix(rest)
            break
    # Where clocks are put back, an hour of the day is there twice.
    same = datetime.fromisoformat(text).replace(tzinfo=tz).astimezone(UTC)
    return text if same == local.astimezone(UTC) else iso_utc(moment)


@dataclass(frozen=True, slots=True)
class DrawnBar:
    """A bar of the histogram: where it is, its parts from below (kind, top, height), its times as typed."""

    bar: Bar
    x: int
    width: int
    parts: Sequence[tuple[str, float, float]]
    begin: str
    end: str

    @property
    def words(self) -> str:
        """What it stands for, in words."""
        counts = ", ".join(f"{number:,} {kind}" for kind, number in self.bar.counts.items() if number)
        return f"{self.begin} to {self.end}: {counts or 'none'}"


def histogram(bars: Sequence[Bar], tz: tzinfo) -> list[DrawnBar]:
    """Draw bars, the highest of which is `HEIGHT`; what there is a little of can still be seen."""
    most = max((bar.requests for bar in bars), default=0) or 1
    return [
        DrawnBar(
            bar,
            place * _BAR_WIDTH,
            _BAR_WIDTH - _GAP,
            list(_parts(bar, most)),
            as_typed(bar.start, tz),
            as_typed(bar.end, tz),
        )
        for place, bar in enumerate(bars)
    ]


def histogram_width(bars: Sequence[Bar]) -> int:
    """Return how wide a histogram is drawn."""
    return max(len(bars), 1) * _BAR_WIDTH


def _parts(bar: Bar, most: int) -> Iterator[tuple[str, float, float]]:
    heights = {
        kind: max(bar.counts[kind] * HEIGHT / most, _LEAST_HEIGHT) for kind in ENDINGS if bar.counts[kind]
    }
    # What was made larger to be seen is taken from the largest part.
    if (over := sum(heights.values()) - HEIGHT) > 0:
        heights[max(heights, key=heights.__getitem__)] -= over
    top = float(HEIGHT)
    for kind, height in heights.items():
        top -= height
        yield kind, round(top, 2), round(height, 2)
