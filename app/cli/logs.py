"""`flask logs …`: the record of every request."""

import sys
from collections.abc import Callable, Iterable, Iterator
from time import sleep

import click
from pymongo.errors import PyMongoError

from app.adapters.clock import now_ms
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.request_logs import RequestLogStore
from app.cli.base import Group, current_settings
from app.cli.log_follower import Document, LogFollower
from app.cli.log_lines import person_line
from app.cli.store import open_store
from app.core.log_export import FORMATS, csv_lines, jsonl_lines
from app.core.log_filter import MAX_LIMIT, FilterError, LogFilter, parse_moment
from app.core.records import Outcome

_POLL_S = 1.0


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose records."""
    command = click.option("--outcome", type=click.Choice([str(outcome) for outcome in Outcome]))(command)
    command = click.option("--user", help="Only this user's requests.")(command)
    return click.option("--model", help="Only requests for this model (its canonical id).")(command)


@click.group("logs", cls=Group)
def command() -> None:
    """The record of every request."""


@command.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, MAX_LIMIT), default=20, show_default=True)
@filter_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
def tail(
    follow: bool, lines: int, model: str | None, user: str | None, outcome: str | None, as_json: bool
) -> None:
    """Show the newest records, oldest of them first."""
    wanted = LogFilter(model=model, user=user, outcome=outcome)
    with open_store(current_settings()) as db:
        # Made before the first records are read, so that none falls between the two.
        follower = LogFollower(db) if follow else None
        newest = RequestLogStore(db).tail(wanted, lines) if lines else []
        _print(newest, as_json)
        if follower is not None:
            follower.skip(newest)
            _print(_followed(follower, wanted), as_json)


@command.command("export")
@click.option("--since", help="From when: 2026-11-23, 2026-11-23T10:00:00Z, or how long ago: 24h, 7d.")
@click.option("--until", help="Until when (exclusive), in the same forms.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@filter_options
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
def export(
    since: str | None,
    until: str | None,
    form: str,
    model: str | None,
    user: str | None,
    outcome: str | None,
    as_json: bool,
) -> None:
    """Write records to standard output, oldest first, however many there are."""
    try:
        wanted = LogFilter(
            model=model,
            user=user,
            outcome=outcome,
            start=parse_moment("--since", since, now_ms()) if since else None,
            end=parse_moment("--until", until, now_ms()) if until else None,
        )
    except FilterError as error:
        raise click.UsageError(str(error)) from None
    as_lines: Callable[[Iterable[Document]], Iterator[str]] = jsonl_lines
    if form == "csv" and not as_json:
        as_lines = csv_lines
    with open_store(current_settings()) as db:
        # Not by click.echo, which would flush after every line.
        sys.stdout.writelines(f"{line}\n" for line in as_lines(RequestLogStore(db).export(wanted)))


def _print(records: Iterable[Document], as_json: bool) -> None:
    if as_json:
        for line in jsonl_lines(records):
            click.echo(line)
    else:
        for record in records:
            click.echo(person_line(record))


def _followed(follower: LogFollower, wanted: LogFilter) -> Iterator[Document]:
    """Records as they come, until Ctrl-C; a database that is away is waited for."""
    is_down = False
    try:
        while True:
            sleep(_POLL_S)
            try:
                fresh = follower.poll()
                is_down = False
            except PyMongoError as error:
                if not is_down:
                    click.echo(f"MongoDB: {store_problem(error)}; waiting for it", err=True)
                is_down = True
                continue
            yield from (record for record in fresh if _matches(wanted, record))
    except KeyboardInterrupt:
        return


def _matches(wanted: LogFilter, record: Document) -> bool:
    pairs = ((wanted.model, "model"), (wanted.user, "userId"), (wanted.outcome, "outcome"))
    return all(value is None or record.get(name) == value for value, name in pairs)
