"""Statements as CSV, and as a page that prints well."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from html import escape

from app.billing.statement import ROW_NAMES, Month, Statement, by_model
from app.common.csv_text import csv_lines
from app.common.money import NANO

_LINE_COLUMNS = (
    *("month", "user", "kind", "day", "model", "key", "requestCount", "inputTokens", "outputTokens"),
    *("cacheWriteTokens", "cacheHitTokens", "amountNanoUsd", "amountUsd", "note"),
)


def rows_csv(month: Month, statements: Iterable[Statement]) -> Iterator[str]:
    """Write a line per user (the caller ends the lines)."""
    rows = ([month.name, *statement.row().values()] for statement in statements)
    return csv_lines(("month", *ROW_NAMES), rows)


def statement_csv(month: Month, statement: Statement) -> Iterator[str]:
    """Write the whole statement: amounts are signed, all before the closing balance add up to it."""
    return csv_lines(_LINE_COLUMNS, _lines(month, statement))


def _lines(month: Month, statement: Statement) -> Iterator[list[object]]:
    def line(
        kind: str, nano: int, *, day: str = "", about: Iterable[object] = ("",) * 7, note: str = ""
    ) -> list[object]:
        return [month.name, statement.user, kind, day, *about, nano, usd(nano), note]

    if statement.opening_nano is not None:
        yield line("opening", statement.opening_nano)
    for entry in statement.ledger:
        day = f"{entry.at.astimezone(month.tz):%Y-%m-%d}"
        yield line("credit" if entry.nano > 0 else "debit", entry.nano, day=day, note=entry.reason or "")
    for charge in statement.charges:
        shown = charge.to_json()
        about = [shown[name] for name in ("model", "key", *_LINE_COLUMNS[6:11])]
        yield line("charge", -charge.nano, day=charge.day, about=about)
    if statement.late_nano:
        yield line("late", -statement.late_nano, note="booked into closed months after they were closed")
    if statement.closing_nano is not None:
        yield line("closing", statement.closing_nano)


def statement_html(month: Month, statement: Statement, *, status: str, at: datetime) -> str:
    """Return a page of its own, without any script, which prints on A4 or letter."""
    head = [
        ("Opening balance", statement.opening_nano),
        ("Credits", statement.credits_nano),
        ("Debits", -statement.debits_nano),
        ("Charges", -statement.charges_nano),
        ("Booked late into earlier months", -statement.late_nano or None),
        ("Closing balance", statement.closing_nano),
        ("Not explained by the books", statement.unexplained_nano or None),
    ]
    tables = [
        _table("Summary", ("", "USD"), ((name, usd(nano)) for name, nano in head if nano is not None)),
        _table(
            "Charges by model",
            ("Model", "Requests", "USD"),
            (
                (model or "no known model", f"{requests:,}", usd(nano))
                for model, requests, nano in by_model(statement.charges)
            ),
        ),
        _table(
            "Credits and debits",
            ("Day", "Note", "USD"),
            (
                (f"{line.at.astimezone(month.tz):%Y-%m-%d}", line.reason or line.change, usd(line.nano))
                for line in statement.ledger
            ),
        ),
        _table(
            "Charges by day, model and key",
            ("Day", "Model", "Key", "Requests", "Input", "Output", "USD"),
            (
                (
                    charge.day,
                    charge.model or "no known model",
                    charge.to_json()["key"],
                    f"{charge.requests:,}",
                    f"{charge.input_tokens:,}",
                    f"{charge.output_tokens:,}",
                    usd(charge.nano),
                )
                for charge in statement.charges
            ),
        ),
    ]
    title = f"Statement {month.name}: {escape(statement.user)}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p>{escape(status)}, {escape(str(month.tz))}, made {at.astimezone(month.tz):%Y-%m-%d %H:%M}. "
        f"All amounts in USD.</p>{''.join(tables)}</body></html>"
    )


def usd(nano: int) -> str:
    """Write an amount exactly, with all nine decimals, so that columns line up."""
    return f"{Decimal(nano) / NANO:.9f}"


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111;"
    "background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin:1.5rem 0 .5rem}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{text-align:left;padding:.2rem .5rem;border-bottom:1px solid #ccc;overflow-wrap:anywhere}"
    "th:last-child,td:last-child{text-align:right}thead{display:table-header-group}"
    "tr{break-inside:avoid}h2{break-after:avoid}@page{margin:15mm}@media print{body{margin:0;max-width:none}}"
)
