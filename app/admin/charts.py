"""Charts over time, as SVG to be put into a page.

pygal draws them; its own style sheets and scripts are taken out again, since the page's
Content-Security-Policy allows neither inside a page. Colours come from `weir.css`, so that a chart follows
light and dark by itself.
What a point says when it is pointed at is in its `<title>`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any
from xml.etree import ElementTree

import pygal
from markupsafe import Markup

from app.admin.formats import milliseconds, number, usd
from app.core.histogram import percentile_ms
from app.core.stats import Totals
from app.core.timeseries import DAY, MONTH, Bucket, Series

# pygal leaves a hook of a kind that Python has given up in the import system. It is for maps.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

_WIDTH, _HEIGHT = 640, 240
_LABELS_SHOWN = 6
_NO_KEY = "others"
_OPTIONS: Mapping[str, Any] = {
    "width": _WIDTH,
    "height": _HEIGHT,
    "margin": 6,
    "js": (),
    "no_prefix": True,
    "disable_xml_declaration": True,
    "legend_at_bottom": True,
    "legend_box_size": 10,
    "truncate_label": -1,
    "truncate_legend": 26,
    "show_minor_x_labels": False,
    "min_scale": 3,
    "max_scale": 5,
}

_Values = list[int | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart: what it shows, what it comes to in words, and the picture (None: nothing to draw)."""

    name: str
    title: str
    summary: str
    svg: Markup | None


def draw(series: Series, tz: tzinfo) -> list[Chart]:
    """The charts of a period. Takes tens of milliseconds of CPU: keep it off the event loop.

    `series` is by model, ranked by cost, with histograms.
    """
    buckets = series.buckets
    total = Totals()
    for bucket in buckets:
        total.merge(bucket.total)
    labels = _labels(series, tz)
    worst = percentile_ms(total.latency, 99)
    return [
        _bars(
            "requests", "Requests", f"{number(total.requests)} in all", labels, _by_ending(buckets), number
        ),
        _bars(
            "cost",
            "Cost",
            f"{usd(total.cost_nano_usd)} in all",
            labels,
            _by_model(series, lambda totals: totals.cost_nano_usd),
            usd,
        ),
        _bars(
            "errors",
            "Errors",
            f"{number(total.errors)} requests that did not end well",
            labels,
            _by_fault(buckets),
            number,
        ),
        _lines(
            "latency",
            "Latency",
            f"99 of 100 within {milliseconds(worst)}",
            labels,
            _percentiles(buckets),
        ),
    ]


def _by_ending(buckets: Sequence[Bucket]) -> dict[str, _Values]:
    return {
        "ok": [bucket.total.success for bucket in buckets],
        "not ok": [bucket.total.errors for bucket in buckets],
    }


def _by_fault(buckets: Sequence[Bucket]) -> dict[str, _Values]:
    return {
        "failed": [bucket.total.errors - bucket.total.rejected for bucket in buckets],
        "refused by the proxy": [bucket.total.rejected for bucket in buckets],
    }


def _by_model(series: Series, value: Callable[[Totals], int]) -> dict[str, _Values]:
    nothing = Totals()
    shown: dict[str, _Values] = {
        key: [value(bucket.parts.get(key, nothing)) for bucket in series.buckets] for key in series.keys
    }
    others: _Values = [value(bucket.other) for bucket in series.buckets]
    if any(others):
        shown[_NO_KEY] = others
    return shown


def _percentiles(buckets: Sequence[Bucket]) -> dict[str, _Values]:
    return {
        f"p{percent}": [percentile_ms(bucket.total.latency, percent) for bucket in buckets]
        for percent in (50, 95, 99)
    }


def _labels(series: Series, tz: tzinfo) -> dict[str, str]:
    """What names each bucket in full, and what the axis says of it."""
    starts = [bucket.start.astimezone(tz) for bucket in series.buckets]
    within_a_day = len({start.date() for start in starts}) <= 2
    return {
        _full(start, series.size): _short(start, series.size, within_a_day=within_a_day) for start in starts
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


def _bars(
    name: str,
    title: str,
    summary: str,
    labels: Mapping[str, str],
    values: Mapping[str, _Values],
    written: Callable[[Any], str],
) -> Chart:
    used = {key: row for key, row in values.items() if any(row)}
    if not used:
        return Chart(name, title, summary, None)
    chart = pygal.StackedBar(**_OPTIONS, value_formatter=written)
    return Chart(name, title, summary, _drawn(chart, f"{title}: {summary}", labels, used))


def _lines(
    name: str, title: str, summary: str, labels: Mapping[str, str], values: Mapping[str, _Values]
) -> Chart:
    highest = max((value for row in values.values() for value in row if value is not None), default=None)
    if highest is None:
        return Chart(name, title, "no request reached the upstream", None)
    chart = pygal.Line(
        **_OPTIONS,
        value_formatter=milliseconds,
        range=(0, max(1, highest)),
        dots_size=2.5,
        allow_interruptions=True,
    )
    return Chart(name, title, summary, _drawn(chart, f"{title}: {summary}", labels, values))


def _drawn(chart: Any, label: str, labels: Mapping[str, str], values: Mapping[str, _Values]) -> Markup:
    chart.x_labels = list(labels)
    chart.legend_at_bottom_columns = len(values)
    chart.x_labels_major_every = max(1, -(-len(labels) // _LABELS_SHOWN))
    for key, row in values.items():
        chart.add(key, row)
    root = chart.render_tree()
    _shorten_axis(root, labels)
    _tell_points(root, list(values))
    _clean(root)
    root.set("role", "img")
    root.set("aria-label", label)
    # Everything in it has been escaped by the serialiser.
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _shorten_axis(root: ElementTree.Element, labels: Mapping[str, str]) -> None:
    for text in root.iter("text"):
        text.text = labels.get(text.text or "", text.text)


def _tell_points(root: ElementTree.Element, names: Sequence[str]) -> None:
    """Say in words what each bar and dot stands for."""
    for series in _with_class(root, "series"):
        index = next(
            int(word.removeprefix("serie-")) for word in series.get("class", "").split() if "serie-" in word
        )
        for point in list(series.iter("g")):
            told = {desc.get("class"): desc.text for desc in point.findall("desc")}
            if "value" in told:
                title = ElementTree.Element("title")
                title.text = f"{told.get('x_label', '')}: {told['value']} – {names[index]}"
                point.insert(0, title)


def _clean(root: ElementTree.Element) -> None:
    """Take out what a page must not hold (styles, scripts, ids that repeat) or does not need."""
    unwanted = ("style", "script", "desc")
    for parent in list(root.iter()):
        parent.attrib.pop("style", None)
        parent.attrib.pop("id", None)
        for child in list(parent):
            is_empty = child.get("class") in ("plot text-overlay", "plot tooltip-overlay")
            if child.tag in unwanted or not isinstance(child.tag, str) or is_empty:
                parent.remove(child)
    for title in root.findall("title"):
        root.remove(title)


def _with_class(root: ElementTree.Element, name: str) -> Iterable[ElementTree.Element]:
    return (element for element in root.iter("g") if name in element.get("class", "").split())
