"""`weir keys …`: the pool of OhMyGPT keys."""

from typing import IO, Any

import click

from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.limit_options import NONE
from app.cli.output import print_json, print_table
from app.cli.secret_input import read_secret, read_text
from app.cli.store import open_administration
from app.common.display import counted
from app.keys.provider_keys import StoredProviderKey
from app.management.upstream_keys import LEAST, MAX_NUMBER
from app.management.views.keys import (
    key_event_view,
    upstream_account_view,
    upstream_key_view,
    upstream_keys_view,
)


class _Limit(click.IntRange):
    """A whole number, or the word that takes a limit away."""

    def __init__(self, least: int) -> None:
        super().__init__(least, MAX_NUMBER)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == NONE else super().convert(value, param, ctx)


@click.group("keys", cls=Group)
def command() -> None:
    """Manage the pool of OhMyGPT keys."""


@command.command("add")
@click.argument("key_id", metavar="ID")
@click.option("--api-key-stdin", is_flag=True, help="Read the key from standard input.")
@json_option
def add_key(key_id: str, api_key_stdin: bool, as_json: bool) -> None:
    """Add a key to the pool under ID; it is asked for, or read from standard input."""
    settings = current_settings()
    secret = read_secret("key", "--api-key-stdin", from_stdin=api_key_stdin)
    with open_administration(settings) as administration:
        key = administration.keys.add(shell_actor(), key_id, secret.strip())
    if as_json:
        print_json(upstream_key_view(key))
    else:
        click.echo(f"{key.key_id} ({key.masked}) is in the pool; running workers use it within seconds.")


@command.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@json_option
def import_keys(file: IO[str], as_json: bool) -> None:
    """Add the keys in FILE (`id|key` lines; - is standard input): all of them, or none."""
    settings = current_settings()
    text = read_text(file)
    with open_administration(settings) as administration:
        ids = administration.keys.import_lines(shell_actor(), text)
    if as_json:
        print_json({"imported": len(ids), "ids": ids})
    else:
        are = counted(len(ids), "keys are", one="key is")
        click.echo(f"{are} in the pool now; running workers use what is there within seconds.")


@command.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the pool, with OHMYGPT_API_KEYS first."""
    with open_administration(current_settings()) as administration:
        keys = administration.keys.list()
    if as_json:
        print_json(upstream_keys_view(keys))
        return
    print_table(
        (
            "ID",
            "KEY",
            "STATUS",
            "USED>",
            "COOLING UNTIL",
            "REQUESTS>",
            "TOKENS>",
            "LAST USED",
            "LAST ERROR",
        ),
        (
            (
                key.key_id,
                key.masked,
                _shown_status(key),
                _shown_fees(key),
                key.cooldown_until,
                key.requests_count,
                key.tokens_used,
                key.last_used_at,
                key.last_error,
            )
            for key in keys
        ),
        "No keys yet: weir keys add ID, or OHMYGPT_API_KEYS",
    )


@command.command("account")
@json_option
def show_account(as_json: bool) -> None:
    """Show the balance behind the keys, as a running worker read it with OHMYGPT_MANAGEMENT_KEY."""
    with open_administration(current_settings()) as administration:
        found = upstream_account_view(administration.keys.account())
    if as_json:
        print_json(found)
        return
    print_table(
        ("BALANCE>", "OF IT FREE>", "READ", "KEYS NOT IN THE POOL>", "PROBLEM"),
        [(found["balance"], found["freeBalance"], found["readAt"], found["unmatchedKeys"], found["problem"])],
        "Nothing is known",
    )


@command.command("reset")
@click.argument("key_id", metavar="ID")
@json_option
def reset_key(key_id: str, as_json: bool) -> None:
    """Make key ID healthy again, on all workers and hosts, whatever they know of it."""
    with open_administration(current_settings()) as administration:
        key = administration.keys.reset(shell_actor(), key_id)
    if as_json:
        print_json(upstream_key_view(key))
    else:
        click.echo(f"{key_id} is {key.status}.")


@command.command("limit")
@click.argument("key_id", metavar="ID")
@click.option("--weight", type=_Limit(LEAST["weight"]), help="Its share of the load; none: 1.")
@click.option("--rpm", type=_Limit(LEAST["rpm"]), help="Requests in any 60 seconds; none: no limit.")
@click.option(
    "--max-in-flight", "maxInFlight", type=_Limit(LEAST["maxInFlight"]), help="At a time; 0: it pauses."
)
@json_option
def limit_key(key_id: str, as_json: bool, **options: int | str | None) -> None:
    """Change weight and limits of key ID; what is not given stays. Without options, show them."""
    changes = {
        name: None if value == NONE else int(value) for name, value in options.items() if value is not None
    }
    with open_administration(current_settings()) as administration:
        keys = administration.keys
        key = keys.limit(shell_actor(), key_id, changes) if changes else keys.get(key_id)
    if as_json:
        print_json(upstream_key_view(key))
        return
    limits = key.limits
    click.echo(
        f"{key_id}: weight {limits.weight}, {_or_any(limits.rpm)} requests a minute, "
        f"{_or_any(limits.max_in_flight)} at a time"
    )


@command.command("events")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many.")
@json_option
def list_events(key_id: str | None, limit: int, as_json: bool) -> None:
    """List what happened to key ID, or to all, newest first: when, from which status to which, and why."""
    with open_administration(current_settings()) as administration:
        events, _ = administration.keys.events(key_id, limit)
    if as_json:
        print_json({"events": [key_event_view(event) for event in events]})
        return
    print_table(
        ("WHEN", "KEY", "FROM", "TO", "WHY", "REQUEST"),
        ((e.at, e.key_id, e.from_status, e.to_status, e.why, e.request_id) for e in events),
        "Nothing has happened yet",
    )


@command.command("delete")
@click.argument("key_id", metavar="ID")
@json_option
def delete_key(key_id: str, as_json: bool) -> None:
    """Remove key ID from the pool."""
    with open_administration(current_settings()) as administration:
        administration.keys.delete(shell_actor(), key_id)
    if as_json:
        print_json({"id": key_id, "deleted": True})
    else:
        click.echo(f"{key_id} is deleted; running workers drop it within seconds.")


def _shown_fees(key: StoredProviderKey) -> str | None:
    if (account := key.account) is None:
        return None
    used = "?" if account.used_fee is None else f"{account.used_fee:f}"
    return f"{used} of {'any' if account.max_fee is None else f'{account.max_fee:f}'}"


def _or_any(limit: int | None) -> str:
    return "any" if limit is None else str(limit)


def _shown_status(key: StoredProviderKey) -> str:
    if key.replaced_by is not None:
        return f"{key.status}, replaced by {key.replaced_by}"
    return f"{key.status}, suspected" if key.state.suspected_by else key.status
