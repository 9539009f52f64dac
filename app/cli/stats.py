"""`weir stats …`: statistics."""

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import zip_longest
from typing import Any

import click

from app.cli.base import Group, current_settings, json_option
from app.cli.output import print_json, print_table, shown, usd
from app.cli.period_option import period_of, period_options
from app.cli.store import open_store
from app.common.cursor import FilterError
from app.common.money import NANO
from app.statistics.figures import Totals, model_csv
from app.statistics.periods import Period, with_previous
from app.statistics.stats_store import StatsStore
from app.statistics.timeseries import UnknownChoiceError
from app.statistics.usage import DEFAULT_LIMIT, MAX_LIMIT, Grouping, usage_csv

_DAY = "24h"

compare_option = click.option(
    "--compare",
    type=click.Choice(["previous"]),
    help="Show the whole period before as well.",
)
csv_option = click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets: every row.")


@click.group("stats", cls=Group)
def command() -> None:
    """Show statistics."""


@command.command("models")
@period_options(_DAY)
@compare_option
@csv_option
@json_option
def model_stats(
    period: str | None, from_: str | None, to: str | None, compare: str | None, as_csv: bool, as_json: bool
) -> None:
    """Show requests, tokens, cost and latency by model; "–": requests of no known model.

    UPSTREAM is what the upstream says it charged, as far as it does, and MARGIN what was left of that.
    """
    asked = period_of(period, from_, to, _DAY)
    with open_store(current_settings(), reads_only=True) as db:
        stats = StatsStore(db)
        found = with_previous(stats.model_table, asked) if compare else stats.model_table(asked)
    rows = found["models"]
    if as_csv:
        earlier = (found.get("previous") or {}).get("models", []) if compare else None
        _write(model_csv(rows, before=earlier))
        return
    if as_json:
        print_json(found)
        return
    before = {row["model"]: row for row in (found.get("previous") or {}).get("models", ())}
    print_table(
        (
            *("MODEL", "REQUESTS>", "FAILED>", "INPUT>", "OUTPUT>"),
            *("CACHE WRITE>", "CACHE HIT>", "HIT %>", "COST>", "UPSTREAM>", "MARGIN>"),
            *("AVG MS>", "P50>", "P95>", "P99>", "TTFT MS>"),
            *(_BEFORE if compare else ()),
        ),
        (
            (
                row["model"],
                row["requestCount"],
                row["errorCount"],
                row["inputTokens"],
                row["outputTokens"],
                row["cacheWriteTokens"],
                row["cacheHitTokens"],
                _per_cent(row["cacheHitShare"]),
                f"${row['creditsBurned']:.6f}",
                _usd(row["upstreamCostNanoUsd"]),
                _usd(row["marginNanoUsd"]),
                row["avgLatencyMs"],
                row["p50LatencyMs"],
                row["p95LatencyMs"],
                row["p99LatencyMs"],
                row["avgTtftMs"],
                *(_cells_before(before.get(row["model"], _NOTHING)) if compare else ()),
            )
            for row in rows
        ),
        f"No requests in this period ({asked}).",
    )
    _print_period_before(asked, compare)


_BEFORE = ("REQUESTS BEFORE>", "COST BEFORE>")
_NOTHING = {"requestCount": 0, "costNanoUsd": 0}


def _say_expired(expired_before: datetime | None) -> None:
    """Say, beside what is asked for, that records of the time have expired."""
    if expired_before is not None:
        words = "user, key, model, factoryKey and endpoint"
        click.echo(
            f"Counted from records, and those before {shown(expired_before)} have expired: "
            f"by {words} any time is summed up.",
            err=True,
        )


def _cells_before(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["requestCount"], usd(row["costNanoUsd"])


def _print_period_before(asked: Period, compare: str | None) -> None:
    if compare:
        before = asked.previous()
        click.echo("There is no period before." if before is None else f"Before: {before}.")


def _usd(nano_usd: int | None) -> str:
    return "–" if nano_usd is None else f"{'-' if nano_usd < 0 else ''}${abs(nano_usd) / NANO:.6f}"


@command.command("usage")
@period_options()
@click.option(
    "--by",
    default="user",
    show_default=True,
    help="One or two of user, key, model, factoryKey, endpoint, endUser, session, client, tag, day, month.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LIMIT),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="So many rows; --csv has all.",
)
@compare_option
@csv_option
@json_option
def usage(
    period: str | None,
    from_: str | None,
    to: str | None,
    by: str,
    limit: int,
    compare: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show who used how much, those that cost most first, days and months in their order."""
    asked = period_of(period, from_, to)
    try:
        grouping = Grouping.parse(by)
    except (UnknownChoiceError, FilterError) as error:
        raise click.UsageError(f"--{error}") from None
    with open_store(current_settings(), reads_only=True) as db:
        stats = StatsStore(db)
        _say_expired(stats.expired_before(grouping, asked))
        if as_csv:
            earlier = stats.used_before(grouping, asked) if compare else None
            _write(usage_csv(grouping, stats.usage_rows(grouping, asked), earlier))
            return
        page = stats.usage(grouping, asked, limit=limit)
        before = stats.usage_before(page, asked) if compare else None
    found = page.to_json(before)
    if as_json:
        print_json({**asked.to_json(), **found})
        return
    rows = [_cells(grouping.shown(key).values(), sums) for key, sums in page.rows]
    if page.other_count:
        nothing = [""] * (len(grouping.words) - 1)
        rows.append(_cells((f"({page.other_count} others)", *nothing), page.other))
    if compare:
        previous = [_cells_before(row.get("previous", _NOTHING)) for row in found["rows"]]
        rows = [(*row, *cells) for row, cells in zip_longest(rows, previous, fillvalue=("", ""))]
    print_table(
        (*(word.upper() for word in grouping.words), *_USAGE_COLUMNS, *(_BEFORE if compare else ())),
        rows,
        f"No requests in this period ({asked}).",
    )
    if rows:
        total = page.total
        click.echo(f"All together ({asked}): {total.requests:,} requests, {usd(total.cost_nano_usd)}.")
    if before is not None and before.period is not None:
        total = before.total
        click.echo(f"Before ({before.period}): {total.requests:,} requests, {usd(total.cost_nano_usd)}.")
    else:
        _print_period_before(asked, compare)


_USAGE_COLUMNS = (
    *("REQUESTS>", "FAILED>", "INPUT>", "OUTPUT>"),
    *("CACHE WRITE>", "CACHE HIT>", "COST>"),
)


def _cells(names: Iterable[str | None], sums: Totals) -> tuple[object, ...]:
    return (
        *names,
        sums.requests,
        sums.errors,
        sums.input_tokens,
        sums.output_tokens,
        sums.cache_write_tokens,
        sums.cache_hit_tokens,
        usd(sums.cost_nano_usd),
    )


def _write(lines: Iterable[str]) -> None:
    # Not by click.echo, which would flush after every line.
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
