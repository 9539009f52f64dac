"""`weir prices versions|explain|preview`: what the model table was, and what another would have charged."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.cli.base import current_settings, fail, json_option
from app.cli.output import print_json, print_table, shown, usd
from app.cli.store import Store, open_store
from app.common.clock import now_ms
from app.common.cursor import FilterError
from app.common.display import counted
from app.management.price_history import PriceHistory
from app.management.views.price_history import (
    ComparedRow,
    ComparedView,
    ExplainedLineView,
    ExplanationView,
    PreviewView,
    explanation_view,
    preview_view,
    version_view,
)
from app.pricing.model_file import load_models, read_text
from app.records.log_filter import parse_moment
from app.records.request_logs import RequestLogStore
from app.settings import Settings

_SHOWN_ROWS = 50


def _history(db: Store, settings: Settings) -> PriceHistory:
    table = load_models(settings.models_file)
    return PriceHistory(db, lambda: table)


@click.command("versions")
@json_option
def versions(as_json: bool) -> None:
    """List every text that the model table has had, and on which hosts it is the table now."""
    settings = current_settings()
    with open_store(settings, reads_only=True) as db:
        found = [version_view(version) for version in _history(db, settings).versions()]
    if as_json:
        print_json({"versions": found})
        return
    print_table(
        ("VERSION", "FIRST AT", "BY", "HOST", "IN FORCE ON"),
        (
            (
                version["version"],
                version["firstAt"],
                version.get("actor") or version["by"],
                version["host"],
                ", ".join(f"{host['host']} since {host['since']}" for host in version["hosts"]),
            )
            for version in found
        ),
        "No version is stored: no worker of Weir 0.2 has run on this database.",
    )


@click.command("explain")
@click.argument("request_id")
@json_option
@click.pass_context
def explain(ctx: click.Context, request_id: str, as_json: bool) -> None:
    """Work out what a request cost, line by line, from the table it was charged by.

    Exits with status 1 where that is not what was booked, or cannot be worked out.
    """
    settings = current_settings()
    with open_store(settings, reads_only=True) as db:
        record = RequestLogStore(db).get(request_id)
        if record is None:
            fail(f"there is no record of a request {request_id[:80]} (any more)")
        found = explanation_view(_history(db, settings).explain(record))
    if as_json:
        print_json({"requestId": str(record["_id"]), **found})
    else:
        _print_explanation(record, found)
    if not found["agrees"]:
        ctx.exit(1)


def _print_explanation(record: dict[str, Any], found: ExplanationView) -> None:
    said = (record.get("outcome"), record.get("userId"), record.get("model"), record.get("createdAt"))
    click.echo(f"{shown(record['_id'])}: {', '.join(map(shown, said))}")
    if found["priceVersion"] is not None:
        click.echo(f"Charged by version {shown(found['priceVersion'])} of the model table.")
    if (limit := found["aboveInputTokens"]) is not None:
        click.echo(f"Its input is larger than {limit:,} tokens: these are the prices beyond that.")
    if found["tiers"]:
        click.echo(f"Answered in {', '.join(map(shown, found['tiers']))}.")
    if found["priceFactor"] is not None:
        click.echo(f"The user's price factor is {found['priceFactor']}: it is in the prices below.")
    for note in found["notes"]:
        click.echo(shown(note))
    if found["lines"]:
        print_table(
            ("UNIT", "MODEL", "QUANTITY>", "NANO-USD FOR ONE>", "EXACT>", "NANO-USD>", "BOOKED>"),
            (_line(line) for line in found["lines"]),
            "",
        )
    booked = found["bookedNanoUsd"]
    if found["workedOutNanoUsd"] is None:
        click.echo(f"Booked: {booked:,} nano-dollars, {usd(booked)}. It cannot be worked out anew.")
        return
    total = found["workedOutNanoUsd"]
    exact = "" if found["exact"] is None else f"{found['exact']} nano-dollars, rounded half up: "
    click.echo(f"Sum: {exact}{total:,} nano-dollars, {usd(total)}.")
    if found["agrees"]:
        click.echo(f"Booked: {booked:,} nano-dollars. It agrees.")
    else:
        click.echo(f"Booked: {booked:,} nano-dollars. IT DOES NOT AGREE: {booked - total:+,} nano-dollars.")


def _line(line: ExplainedLineView) -> tuple[object, ...]:
    unit = line["unit"] if line["hasPrice"] else f"{line['unit']} (no price of its own)"
    quantity = f"{line['quantity']:,}"
    return unit, line["model"], quantity, line["price"], line["exact"], line["nanoUsd"], line["bookedNanoUsd"]


@click.command("preview")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--since", required=True, help="From when: 2026-11-01, 2026-11-23T10:00:00Z, or how long ago: 7d."
)
@click.option("--until", help="Until when (exclusive), in the same forms. Default: now.")
@json_option
def preview(file: Path, since: str, until: str | None, as_json: bool) -> None:
    """Say what the model table in FILE would have charged over a past period, by model and by user.

    Nothing is changed. Whole hours are compared: from records while they are kept, which is exact, else from
    the hourly sums.
    """
    settings = current_settings()
    now = now_ms()
    try:
        start = parse_moment("--since", since, now, settings.tz)
        end = parse_moment("--until", until, now, settings.tz) if until else now
    except FilterError as error:
        raise click.UsageError(str(error)) from None
    if start >= end:
        raise click.UsageError("--since: takes a time before --until")
    text = read_text(file, "FILE")
    with open_store(settings, reads_only=True) as db, _progress() as progress:
        found = preview_view(_history(db, settings).preview(text, start, end, progress=progress))
    if as_json:
        print_json(found)
    else:
        _print_preview(found)


@contextmanager
def _progress() -> Iterator[Callable[[float], object]]:
    columns = (TextColumn("comparing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("comparing", total=1.0)
        yield lambda done: bar.update(task, completed=done)


def _print_preview(found: PreviewView) -> None:
    for heading, rows, rest in (
        ("MODEL", found["models"], found["otherModels"]),
        ("USER", found["users"], found["otherUsers"]),
    ):
        if rows:
            print_table(
                (heading, "REQUESTS>", "OLD>", "NEW>", "DIFFERENCE>", "%>"),
                _compared(rows, rest),
                "",
            )
    total = found["total"]
    click.echo(
        f"{counted(total['requests'], 'requests')}: {usd(total['oldNanoUsd'])} were charged, "
        f"it would have been {usd(total['newNanoUsd'])} ({_signed(total['differenceNanoUsd'])})."
    )
    for part in found["parts"]:
        click.echo(f"{part['from']} to {part['to']}, from {part['source']}: {part['exactness']}")
    if found["missingModels"]:
        click.echo(
            f"Not in that table, so at 0: {', '.join(map(shown, found['missingModels'][:_SHOWN_ROWS]))}."
        )


def _compared(rows: list[ComparedRow], rest: ComparedView) -> Iterator[tuple[object, ...]]:
    others: list[ComparedView] = [*rows[_SHOWN_ROWS:], rest]
    count = len(rows) - _SHOWN_ROWS
    for row in rows[:_SHOWN_ROWS]:
        yield row["name"], *_figures(row)
    if count > 0:
        together = ComparedView(
            requests=sum(other["requests"] for other in others),
            oldNanoUsd=sum(other["oldNanoUsd"] for other in others),
            newNanoUsd=sum(other["newNanoUsd"] for other in others),
            differenceNanoUsd=sum(other["differenceNanoUsd"] for other in others),
        )
        yield "(others)", *_figures(together)


def _figures(row: ComparedView) -> tuple[object, ...]:
    old, difference = row["oldNanoUsd"], row["differenceNanoUsd"]
    share = f"{100 * Decimal(difference) / old:+.2f}" if old else None
    return row["requests"], usd(old), usd(row["newNanoUsd"]), _signed(difference), share


def _signed(nano_usd: int) -> str:
    return f"{'-' if nano_usd < 0 else '+'}{usd(abs(nano_usd))}"
