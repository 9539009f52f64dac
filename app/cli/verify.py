"""`flask verify`: one-command reconciliation of everything that is stored."""

from collections.abc import Iterator
from datetime import datetime

import click
from pymongo.errors import PyMongoError

from app.adapters.clock import now_ms
from app.adapters.embedded_mongo import EmbeddedMongoError
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.reconciliation import Reconciliation
from app.cli.base import current_settings, fail, json_option
from app.cli.output import print_json, print_table, shown
from app.cli.store import open_store
from app.core.display import iso_utc
from app.core.log_filter import FilterError, parse_moment
from app.core.ports import StoreUnavailable
from app.core.reconcile import CheckResult, Difference, State, report_json
from app.settings import SettingsError

_SIGNS = {State.OK: "✓", State.DIFFERS: "✗", State.PENDING: "…", State.NOT_CHECKED: "–"}
_COLOURS = {State.OK: "green", State.DIFFERS: "red", State.PENDING: "yellow", State.NOT_CHECKED: None}


@click.command("verify")
@click.option("--since", help="Only records from then on: 2026-11-23, 2026-11-23T10:00:00Z, or 24h, 7d ago.")
@json_option
@click.pass_context
def command(ctx: click.Context, since: str | None, as_json: bool) -> None:
    """Check that journal, records, hourly sums, credits and counters all say the same.

    Works beside running proxies. Exit status 1 if something differs; what is not booked yet is pending,
    which is no difference. docs/verify.md says what is compared and what to do.
    """
    at = now_ms()
    try:
        start = parse_moment("--since", since, at) if since else None
    except FilterError as error:
        raise click.UsageError(str(error)) from None
    done = []
    for result in _results(at, start):
        done.append(result)
        if not as_json:
            _print(result)
    report = report_json(done)
    if as_json:
        print_json({"checkedAt": iso_utc(at), **report})
    else:
        _print_details(done)
    if not report["consistent"]:
        ctx.exit(1)


def _results(at: datetime, since: datetime | None) -> Iterator[CheckResult]:
    """The checks as they come out; what keeps them from being made ends the command with one line."""
    settings = current_settings()
    try:
        with open_store(settings) as db:
            yield from Reconciliation(
                db, retention_s=settings.log_retention_s, journal_root=str(settings.data_dir / "journal")
            ).run(at, since)
    except (SettingsError, StoreUnavailable, EmbeddedMongoError) as error:
        fail(str(error))
    except PyMongoError as error:
        fail(f"MongoDB: {store_problem(error)}")
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # the reader of a pipe has gone: click ends quietly
        fail(str(error))


def _print(result: CheckResult) -> None:
    sign = click.style(_SIGNS[result.state], fg=_COLOURS[result.state], bold=True)
    counts = [f"{result.compared} {result.unit}"]
    if result.difference_count:
        counts.append(f"{result.difference_count} differ")
    if result.pending_count:
        counts.append(f"{result.pending_count} pending")
    click.echo(f"{sign} {result.title}: {', '.join(counts)}")
    for note in result.notes:
        click.echo(f"    {shown(note)}")


def _print_details(results: list[CheckResult]) -> None:
    for heading, rows, count in (
        (
            "Differences",
            [(result, found) for result in results for found in result.differences],
            sum(result.difference_count for result in results),
        ),
        (
            "Pending",
            [(result, found) for result in results for found in result.pending],
            sum(result.pending_count for result in results),
        ),
    ):
        if rows:
            click.echo(f"\n{heading} ({count}):")
            _print_rows(rows)
    if not any(result.difference_count for result in results):
        click.echo("Everything agrees.")


def _print_rows(rows: list[tuple[CheckResult, Difference]]) -> None:
    print_table(
        ("CHECK", "WHAT", "WHERE", "EXPECTED>", "FOUND>", "HINT"),
        (
            (result.name, found.what, found.where, found.expected, found.found, found.hint)
            for result, found in rows
        ),
        "",
    )
