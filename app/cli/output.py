"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from app.cli.streams import fit_json
from app.common.money import NANO

# Wide enough for any table of ours: output into a file or a pipe is not cut to a terminal's width.
_UNLIMITED = 400
_NANO_DIGITS = 9
_CENT_DIGITS = 2


def print_json(value: Any) -> None:
    """Print one JSON document, indented."""
    click.echo(fit_json(json.dumps(value, indent=2, ensure_ascii=False, default=_plain)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table; columns named with a trailing `>` are aligned right. Says `empty` if there is no row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(shown(cell) for cell in row))
    if not table.rows:
        click.echo(empty)
        return
    width = None if sys.stdout.isatty() else _UNLIMITED
    Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False).print(table)


def shown(value: object) -> str:
    """Return a cell's text. Control characters are replaced: some of what is shown was sent by strangers."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return "".join(character if character.isprintable() else "�" for character in str(value))


def usd(nano_usd: int) -> str:
    """Write an amount for people: at least two decimals, and as many as it has."""
    text = f"{Decimal(nano_usd) / NANO:.{_NANO_DIGITS}f}"
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(_CENT_DIGITS, '0')}".replace("$-", "-$")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)
