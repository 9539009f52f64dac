"""What the page of requests can show beside its rows: columns, orders and views."""

from collections.abc import Iterable, Mapping

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


def chosen_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of these names in their order; those shown by default where there is none."""
    known = set(names)
    return [name for name in COLUMNS if name in known] or list(DEFAULT_COLUMNS)
