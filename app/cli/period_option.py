"""The options of commands that say which period."""

from collections.abc import Callable
from typing import Any

import click

from app.cli.base import current_settings
from app.common.clock import now_ms
from app.common.cursor import FilterError
from app.statistics.periods import ALL, Period, UnknownPeriodError


def period_options(default: str = ALL) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--period`, `--from` and `--to`, to be read by `period_of`."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--to", help="Before this; left out: up to now."),
            click.option(
                "--from",
                "from_",
                help="In place of --period: 2026-11-23, 2026-11-23T10:00, or how long ago: 7d.",
            ),
            click.option(
                "--period",
                help="1h, 24h, 7d, …, all, today, yesterday, week, month, last_month, 2026-11 or 2026-11-23; "
                f"days begin at midnight in STATS_TIMEZONE.  [default: {default}]",
            ),
        ):
            command = option(command)
        return command

    return add


def period_of(period: str | None, from_: str | None, to: str | None, default: str = ALL) -> Period:
    """Return the period that the options say; ends the command with exit status 2 if they say none."""
    try:
        return Period.asked_for(period, from_, to, now_ms(), current_settings().tz, default)
    except UnknownPeriodError as error:
        raise click.UsageError(f"--period: {error}") from None
    except FilterError as error:
        raise click.UsageError(f"--{error}") from None
