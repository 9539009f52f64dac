"""The chart of a run: requests and chunks a second of every proxy, as SVG."""

from pathlib import Path

import pygal
from pygal.style import CleanStyle

from bench.report import Document

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
        path.write_bytes(chart.render())
    return is_drawn


def _bar(rate: float | None, least: float) -> dict[str, object] | None:
    if rate is None:
        return None
    return {"value": rate / least, "label": f"{rate:,.0f}/s", "formatter": lambda value: f"{value:.1f} x"}
