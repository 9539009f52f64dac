"""Charts over time: what the browser draws (`static/js/chart.js`), and the same as a table.

A chart is JSON in its page. Colours are names of the style sheet: those of outcomes are fixed, those of
models, users and keys follow from the name, so that it has the same one on every page.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any
from urllib.parse import parse_qsl, urlencode
from zlib import crc32

from app.admin.formats import milliseconds, number, percent, usd
from app.admin.question import RANGE
from app.common.display import iso_utc
from app.records.breakdown import ENDINGS, FAILED, LEFT, OK, REFUSED, Bar
from app.statistics.figures import Totals
from app.statistics.histogram import percentile_ms
from app.statistics.periods import Period
from app.statistics.timeseries import DAY, MONTH, Bucket, Series, Timeline

COUNT, USD, MS, PERCENT = "count", "usd", "ms", "percent"
OTHERS = "others"

_ENDINGS: Mapping[str, str] = {OK: "ok", REFUSED: "refused", LEFT: "client left", FAILED: "failed"}

_COLOURS = 10
_OTHER = "series-other"
_FIXED = {
    "ok": "ending-ok",
    "failed": "ending-failed",
    "refused": "ending-refused",
    "client left": "ending-left",
    "p50": "series-2",
    "p95": "series-0",
    "p99": "series-1",
    OTHERS: _OTHER,
}
_WRITTEN: Mapping[str, Callable[[Any], str]] = {
    COUNT: number,
    USD: usd,
    MS: milliseconds,
    PERCENT: percent,
}

Value = int | float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """Something that is drawn: what it is called, its unit, and its value of some sums.

    `adds_up`: parts are stacked, and all together is their sum.
    """

    name: str
    title: str
    unit: str
    value: Callable[[Totals], Value]
    adds_up: bool = True


def _share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _hit_share(totals: Totals) -> float | None:
    share = totals.cache_hit_share
    return None if share is None else 100 * share


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cost", "Cost", USD, lambda sums: sums.cost_nano_usd),
        Metric("requests", "Requests", COUNT, lambda sums: sums.requests),
        Metric("tokens", "Tokens, fresh", COUNT, lambda sums: sums.input_tokens + sums.output_tokens),
        Metric("output", "Tokens, output", COUNT, lambda sums: sums.output_tokens),
        Metric("failures", "Failures", COUNT, lambda sums: sums.errors - sums.rejected),
        Metric("refusals", "Refusals", COUNT, lambda sums: sums.rejected),
        Metric(
            "success", "Success", PERCENT, lambda sums: _share(sums.success, sums.requests), adds_up=False
        ),
        Metric("latency", "Latency, p95", MS, lambda sums: percentile_ms(sums.latency, 95), adds_up=False),
        Metric("cache", "Cache hits, share", PERCENT, _hit_share, adds_up=False),
    )
}


@dataclass(frozen=True, slots=True)
class Line:
    """What there is of one name, a value for each bucket."""

    name: str
    colour: str
    values: Sequence[Value]
    key: str | None = None
    """What the name is asked by in the address; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart: buckets of time, and what there is in each."""

    name: str
    title: str
    summary: str
    unit: str
    adds_up: bool
    starts: Sequence[datetime]
    end: datetime
    labels: Sequence[str]
    ticks: Sequence[str]
    running: bool
    lines: Sequence[Line]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for line in self.lines for value in line.values)

    def written(self, value: Value) -> str:
        """Write a value with its unit."""
        return _WRITTEN[self.unit](value)

    def rows(self, requests: str) -> Iterator[tuple[str, str, list[str]]]:
        """Yield the chart as a table: each bucket, its requests' address, what there is of each name.

        The newest comes first. `requests` is the address of all of them.
        """
        path, _, query = requests.partition("?")
        kept = [(name, value) for name, value in parse_qsl(query) if name not in RANGE]
        address = f"{path}?{urlencode(kept)}{'&' * bool(kept)}"
        end = self.end
        for index in reversed(range(len(self.starts))):
            start = self.starts[index]
            cells = [self.written(line.values[index]) for line in self.lines]
            yield self.labels[index], f"{address}from={iso_utc(start)}&to={iso_utc(end)}", cells
            end = start

    def to_json(self, here: str, requests: str) -> dict[str, Any]:
        """Return what the browser draws; `here` and `requests` are the addresses it leads to."""
        return {
            "kind": "bars" if self.adds_up else "lines",
            "unit": self.unit,
            "starts": [int(start.timestamp()) for start in self.starts],
            "end": int(self.end.timestamp()),
            "labels": self.labels,
            "ticks": self.ticks,
            "running": self.running,
            "here": here,
            "requests": requests,
            "series": [
                {"name": line.name, "colour": line.colour, "values": line.values} for line in self.lines
            ],
        }


def colours(names: Iterable[str]) -> dict[str, str]:
    """Give each name its colour: the same everywhere, but where two of one chart would share it."""
    found: dict[str, str] = {}
    for name in names:
        if name in _FIXED:
            found[name] = _FIXED[name]
            continue
        own = crc32(name.encode("utf-8", "surrogatepass")) % _COLOURS
        free = (f"series-{(own + step) % _COLOURS}" for step in range(_COLOURS))
        found[name] = next((colour for colour in free if colour not in found.values()), f"series-{own}")
    return found


def home_charts(series: Series, period: Period, tz: tzinfo) -> list[Chart]:
    """Return the charts of a period; `series` is by model, ranked by cost, with histograms."""
    buckets = series.buckets
    total = _together(buckets)
    worst = percentile_ms(total.latency, 99)
    endings = {
        "ok": [bucket.total.success for bucket in buckets],
        "failed": [bucket.total.errors - bucket.total.rejected for bucket in buckets],
        "refused": [bucket.total.rejected for bucket in buckets],
    }
    latency = {
        f"p{part}": [percentile_ms(bucket.total.latency, part) for bucket in buckets] for part in (50, 95, 99)
    }
    frame = _frame(series, period, tz)
    return [
        Chart(
            name="requests", title="Requests", unit=COUNT, adds_up=True, lines=_lines(endings),
            summary=f"{number(total.requests)} in all, {number(total.errors - total.rejected)} failed",
            **frame,
        ),
        metric_chart(METRICS["cost"], series, period, tz),
        Chart(
            name="latency", title="Latency", unit=MS, adds_up=False, lines=_lines(latency),
            summary=f"99 of 100 within {milliseconds(worst)}", **frame,
        ),
    ]  # fmt: skip


def endings_chart(bars: Sequence[Bar], now: datetime, tz: tzinfo) -> Chart:
    """Return how requests ended, in bars of any length."""
    values = {_ENDINGS[ending]: [bar.counts[ending] for bar in bars] for ending in ENDINGS}
    local = [(bar.start.astimezone(tz), bar.end.astimezone(tz)) for bar in bars]
    step = bars[0].end - bars[0].start
    within_a_day = local[-1][1] - local[0][0] <= timedelta(days=1)
    if step >= timedelta(days=1):
        tick, label = "%m-%d", "%Y-%m-%d"
    else:
        clock = "%H:%M" if step >= timedelta(minutes=1) else "%H:%M:%S"
        tick, label = clock if within_a_day else f"%m-%d {clock}", f"%Y-%m-%d {clock} %Z"
    return Chart(
        name="endings", title="Requests over time", summary="", unit=COUNT, adds_up=True,
        lines=_lines(values), starts=[bar.start for bar in bars], end=bars[-1].end,
        running=bars[-1].end > now, labels=[start.strftime(label) for start, _ in local],
        ticks=[start.strftime(tick) for start, _ in local],
    )  # fmt: skip


def metric_chart(
    metric: Metric, series: Series, period: Period, tz: tzinfo, name_of: Callable[[str], str] = str
) -> Chart:
    """Return the chart of a metric: a line for each key of the series, and one of all others that add up.

    `name_of` says what may be seen of a key.
    """
    total = _together(series.buckets)
    nothing = Totals()
    lines = []
    shown = colours(map(name_of, series.keys))
    for key in series.keys:
        name, values = (
            name_of(key),
            [metric.value(bucket.parts.get(key, nothing)) for bucket in series.buckets],
        )
        lines.append(Line(name, shown[name], values, name))
    rest = [metric.value(bucket.other if series.keys else bucket.total) for bucket in series.buckets]
    if not series.keys:
        lines.append(Line("all", "series-0", rest))
    elif metric.adds_up and any(rest):
        lines.append(Line(OTHERS, _OTHER, rest))
    whole = _WRITTEN[metric.unit](metric.value(total))
    return Chart(
        name=metric.name, title=metric.title, summary=f"{whole} in all" if metric.adds_up else whole,
        unit=metric.unit, adds_up=metric.adds_up, lines=lines, **_frame(series, period, tz),
    )  # fmt: skip


def _lines(values: Mapping[str, Sequence[Value]]) -> list[Line]:
    shown = colours(values)
    return [Line(name, shown[name], row) for name, row in values.items()]


def _together(buckets: Iterable[Bucket]) -> Totals:
    total = Totals()
    for bucket in buckets:
        total.merge(bucket.total)
    return total


def _frame(series: Series, period: Period, tz: tzinfo) -> dict[str, Any]:
    """Return what all charts of a series have alike: its buckets, and what they are called."""
    starts = [bucket.start for bucket in series.buckets]
    last = starts[-1] if starts else period.now
    end = Timeline(series.size, last, last, tz).next_after(last)
    local = [start.astimezone(tz) for start in starts]
    within_a_day = len({start.date() for start in local}) <= 2
    return {
        "starts": starts,
        "end": end,
        "running": bool(starts) and end > period.now,
        "labels": [_full(start, series.size) for start in local],
        "ticks": [_short(start, series.size, within_a_day=within_a_day) for start in local],
    }


def _full(start: datetime, size: str) -> str:
    if size == MONTH:
        return start.strftime("%B %Y")
    # The hour that clocks turn back to comes twice a year, so the offset belongs to it.
    return start.strftime("%Y-%m-%d" if size == DAY else "%Y-%m-%d %H:%M %Z")


def _short(start: datetime, size: str, *, within_a_day: bool) -> str:
    if size == MONTH:
        return start.strftime("%Y-%m")
    if size == DAY:
        return start.strftime("%m-%d")
    return start.strftime("%H:%M" if within_a_day else "%m-%d %H:%M")
