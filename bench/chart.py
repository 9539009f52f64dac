"""The chart of a run: requests and chunks a second of every proxy, as SVG."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pygal
from pygal.style import CleanStyle

from bench.long_run import Curve, points
from bench.report import Document

# As in `app.admin.charts`: pygal leaves a hook in the import system that Python has given up.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

_PANELS = (("plain", "requests_per_s", "plain requests/s"), ("burst", "chunks_per_s", "streamed chunks/s"))
_FONT = "sans-serif"


def draw(document: Document, path: Path) -> bool:
    """Write the chart; False if the run has no figures for it. Each rate is shown as a multiple of LiteLLM's.

    (Of the slowest target's, where LiteLLM was not measured: the two rates share an axis only as ratios.)
    """
    chart = pygal.HorizontalBar(
        title="One worker on one core, as a multiple of the slowest",
        style=CleanStyle(font_family=_FONT),
        logarithmic=True,
        print_values=True,
        legend_at_bottom=True,
        js=[],
        height=420,
    )
    names = [name for name in document["figures"].get("plain", {}) if name not in ("direct", "weir-off")]
    chart.x_labels = names
    is_drawn = False
    for figure, key, label in _PANELS:
        rows = document["figures"].get(figure, {})
        rates = {name: rows[name][key] for name in names if rows.get(name, {}).get(key)}
        if not rates:
            continue
        least = rates.get("litellm") or min(rates.values())
        chart.add(label, [_bar(rates.get(name), least) for name in names])
        is_drawn = True
    if is_drawn:
        path.write_text(_without_scripts(chart.render(is_unicode=True)) + "\n")
    return is_drawn


def draw_memory(curves: Mapping[str, Curve], path: Path) -> None:
    """Write the chart of a long run: what each process held to itself, by the requests answered so far."""
    chart = pygal.XY(
        title="Memory of one's own, MiB, by thousands of requests",
        style=CleanStyle(font_family=_FONT),
        legend_at_bottom=True,
        show_dots=False,
        range=(0, 1.2 * max(size for curve in curves.values() for _, size in points(curve))),
        js=[],
        height=380,
    )
    for name, curve in curves.items():
        chart.add(name, points(curve))
    path.write_text(_without_scripts(chart.render(is_unicode=True)) + "\n")


def _without_scripts(svg: str) -> str:
    """Remove the scripts: pygal leaves one even where it was told to use none."""
    return re.sub(r"<script.*?</script>", "", svg, flags=re.DOTALL)


def _bar(rate: float | None, least: float) -> dict[str, object] | None:
    if rate is None:
        return None
    return {"value": rate / least, "label": f"{rate:,.0f}/s", "formatter": lambda value: f"{value:.1f} x"}
