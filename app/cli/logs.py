"""`weir logs …`: the record of every request."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from time import sleep

import click
from pymongo.errors import PyMongoError

from app.cli.base import Group, current_settings
from app.cli.log_follower import Document, LogFollower
from app.cli.log_lines import person_line
from app.cli.output import shown
from app.cli.store import open_store
from app.cli.streams import fit_json
from app.common.clock import now_ms
from app.common.cursor import FilterError
from app.records.log_export import FORMATS, csv_lines, jsonl_lines
from app.records.log_filter import MAX_LIMIT, LogFilter, parse_moment
from app.records.request_logs import RequestLogStore
from app.store.driver import store_problem

_POLL_S = 1.0


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose records."""
    for name, field, told in reversed(_FILTERS):
        command = click.option(name, field, help=told)(command)
    return command


_FILTERS = (
    ("--model", "model", "Only requests for this model: its id, or as clients call it."),
    ("--model-like", "model_part", "Only models with this in their name, in any case."),
    ("--user", "user", "Only this user's requests."),
    ("--user-like", "user_part", "Only users with this in their name, in any case."),
    ("--key", "key", "Only requests with this client key: its id, or what is shown of it."),
    ("--factory-key", "factoryKey", "Only what this upstream key served."),
    ("--outcome", "outcome", "One or several, with commas between; failed: all but ok."),
    ("--status", "status", "Only this status, 429, or class, 4xx."),
    ("--api-format", "apiFormat", "Only openai, or anthropic."),
    ("--end-user", "endUser", "Only requests for this user of the client."),
    ("--session", "session", "Only the requests of this session."),
    ("--client", "client", "Only this client program's requests: curl/8.5.0."),
    ("--tag", "tag", "Only requests with this tag (X-Weir-Tags)."),
    ("--min-cost", "minCostUsd", "Only what cost at least so much, in USD."),
    ("--min-latency", "minLatencyMs", "Only what took at least so long, in milliseconds."),
    ("--min-attempts", "minAttempts", "Only what was tried at least so often."),
    ("--view", "view", "Only failed, refused, slow, expensive or retried requests."),
    ("--search", "q", "Only what has this in its request id, user, model or error, in any case."),
)
"""Options, the parameters of the API that they are, and what they say of themselves."""
_PARTS = {"user_part": "user~", "model_part": "model~"}
"""The parameters whose names no option can have."""


@click.group("logs", cls=Group)
def command() -> None:
    """Read the record of every request."""


@command.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, MAX_LIMIT), default=20, show_default=True)
@filter_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
def tail(follow: bool, lines: int, as_json: bool, **conditions: str | None) -> None:
    """Show the newest records, oldest of them first."""
    wanted = _filter(conditions)
    with open_store(current_settings(), reads_only=True) as db:
        # Made before the first records are read, so that none falls between the two.
        follower = LogFollower(db) if follow else None
        logs = RequestLogStore(db)
        newest = logs.tail(wanted, lines) if lines else []
        _print(newest, as_json)
        if follower is not None:
            follower.skip(newest)
            _print(_followed(follower, logs, wanted), as_json)


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
    as_json: bool,
    **conditions: str | None,
) -> None:
    """Write records to standard output, oldest first, however many there are."""
    now, tz = now_ms(), current_settings().tz
    try:
        wanted = replace(
            _filter(conditions),
            start=parse_moment("--since", since, now, tz) if since else None,
            end=parse_moment("--until", until, now, tz) if until else None,
        )
    except FilterError as error:
        raise click.UsageError(str(error)) from None
    with open_store(current_settings(), reads_only=True) as db:
        logs = RequestLogStore(db)
        if (expired_before := logs.expired_before(wanted, now)) is not None:
            click.echo(
                f"Records before {shown(expired_before)} have expired: see `weir stats usage`.", err=True
            )
        found = logs.export(wanted)
        is_csv = form == "csv" and not as_json
        lines = csv_lines(found) if is_csv else map(fit_json, jsonl_lines(found))
        # Not by click.echo, which would flush after every line.
        sys.stdout.writelines(f"{line}\n" for line in lines)


def _filter(conditions: Mapping[str, str | None]) -> LogFilter:
    try:
        return LogFilter.parse(
            {_PARTS.get(name, name): value for name, value in conditions.items() if value},
            now_ms(),
            current_settings().tz,
        )
    except FilterError as error:
        raise click.UsageError(str(error)) from None


def _print(records: Iterable[Document], as_json: bool) -> None:
    if as_json:
        for line in jsonl_lines(records):
            click.echo(fit_json(line))
    else:
        for record in records:
            click.echo(person_line(record))


def _followed(follower: LogFollower, logs: RequestLogStore, wanted: LogFilter) -> Iterator[Document]:
    """Yield records as they come, until Ctrl-C; a database that is away is waited for."""
    is_down = False
    try:
        while True:
            sleep(_POLL_S)
            try:
                fresh = logs.among(wanted, follower.poll())
                is_down = False
            except PyMongoError as error:
                if not is_down:
                    click.echo(f"MongoDB: {store_problem(error)}; waiting for it", err=True)
                is_down = True
                continue
            yield from fresh
    except KeyboardInterrupt:
        return
