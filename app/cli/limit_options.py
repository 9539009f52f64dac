"""Options that limit users and client keys."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import click

from app.accounts.limits import MAX_NUMBER, LimitError, budget_text, parse_budget
from app.accounts.limits import Limits as LimitsOf
from app.cli.output import usd
from app.management.errors import Unusable
from app.management.limits import BudgetLeft

NONE = "none"
"""What takes a limit away."""

_NUMBER = click.IntRange(0, MAX_NUMBER)
_OPTIONS = {
    "rpm": "--rpm",
    "tpm": "--tpm",
    "maxParallel": "--max-parallel",
    "models": "--models",
    "allowedIps": "--allowed-ips",
    "budgets": "--budget",
    "expiresAt": "--expires",
    "keyName": "--name",
    "priceFactor": "--price-factor",
    "group": "--group",
}


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that limit a user or a key."""
    for option in (
        click.option("--rpm", type=_NUMBER, help="Requests per minute; 0: no limit."),
        click.option("--tpm", type=_NUMBER, help="Tokens per minute; 0: no limit."),
        click.option("--max-parallel", "maxParallel", type=_NUMBER, help="Requests at once; 0: no limit."),
        click.option("--models", help="Only these models: claude-*,gpt-5.2; none: all."),
        click.option(
            "--budget",
            "budgets",
            multiple=True,
            help="10/month, 2.5/day:claude-*, 1/5h, …/week, …/total; several times for several; none: none.",
        ),
        click.option(
            "--expires", "expiresAt", help="Until when: 2027-01-31, in STATS_TIMEZONE; none: for good."
        ),
    ):
        command = option(command)
    return command


def price_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a user pays."""
    for option in (
        click.option(
            "--price-factor", "priceFactor", help="What prices are multiplied by: 0.8; none: the group's."
        ),
        click.option("--group", help="Whose factor counts, of the model table's [groups]; none: no group's."),
    ):
        command = option(command)
    return command


def given_limits(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that were given, as `app.management` takes them; raises `click.UsageError`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or value == ():
            continue
        if value in (NONE, (NONE,)):
            found[name] = None
        elif name == "budgets":
            found[name] = [_budget(text) for text in value]
        else:
            found[name] = _moment(value) if name == "expiresAt" else value
    return found


def wrong_option(error: Unusable) -> click.UsageError:
    """Say which option has a value that cannot be used."""
    return click.UsageError(f"{_OPTIONS.get(error.field, error.field)} {error}")


def limit_lines(limits: LimitsOf | None, left: list[BudgetLeft]) -> list[str]:
    """Write limits for people, a line each."""
    if limits is None:
        return []
    lines = [
        f"{limits.tpm} tokens per minute" if limits.tpm else "",
        f"{limits.max_parallel} requests at once" if limits.max_parallel else "",
        f"only models {', '.join(limits.models) or 'none'}" if limits.models is not None else "",
        f"only from {', '.join(map(str, limits.allowed_ips))}" if limits.allowed_ips is not None else "",
    ]
    for item in left:
        again = f", begins anew at {item.begins_anew:%Y-%m-%dT%H:%M:%SZ}" if item.begins_anew else ""
        lines.append(f"budget {budget_text(item.budget)}: {usd(item.left_nano)} left{again}")
    return [line for line in lines if line]


def _budget(text: str) -> dict[str, str]:
    try:
        return parse_budget(text)
    except LimitError as error:
        raise click.UsageError(f"--budget {error}") from None


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError("--expires takes a time such as 2027-01-31T00:00:00Z") from None
