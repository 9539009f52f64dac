"""`weir client-keys …`: the keys that users' programs authenticate with."""

from collections.abc import Callable
from typing import Any

import click

from app.accounts.client_keys import NewClientKey
from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.limit_options import given_limits, limit_lines, limit_options, wrong_option
from app.cli.output import print_json, print_table
from app.cli.store import open_administration, open_store
from app.management.audit import AuditLog
from app.management.client_keys import MAX_OVERLAP_HOURS, ClientKeyAdmin
from app.management.errors import Unusable
from app.management.users import UserAdmin
from app.management.views.keys import (
    client_key_view,
    client_keys_view,
    new_client_key_view,
    revoked_key_view,
    rotated_key_view,
)


def _key_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--name", "keyName", help="What the key is called.")(command)
    command = click.option(
        "--active/--paused",
        "isActive",
        default=None,
        help="Whether it is accepted; a revoked one stays revoked.",
    )(command)
    command = click.option("--allowed-ips", "allowedIps", help="Only from these: 10.0.0.0/8,::1; none: all.")(
        command
    )
    return limit_options(command)


@click.group("client-keys", cls=Group)
def command() -> None:
    """Manage the keys that users' programs authenticate with."""


@command.command("add")
@click.argument("name")
@click.option("--notes", help="What the key is for.")
@_key_options
@json_option
def add_key(name: str, notes: str | None, as_json: bool, **options: Any) -> None:
    """Make another client key for user NAME; it is printed once."""
    more = given_limits(options)
    with open_administration(current_settings()) as administration:
        try:
            key = administration.client_keys.add(shell_actor(), name, notes=notes, more=more)
        except Unusable as error:
            if error.field == "name":
                raise
            raise wrong_option(error) from None
    if as_json:
        print_json(new_client_key_view(key))
    else:
        print_key_once(key)


@command.command("limit")
@click.argument("key_id", metavar="KEYID")
@click.option("--notes", help="What the key is for.")
@_key_options
@json_option
def limit_key(key_id: str, notes: str | None, as_json: bool, **options: Any) -> None:
    """Change the limits of the client key KEYID; what is not given stays. Without options, show them."""
    given = given_limits({**options, "notes": notes})
    with open_administration(current_settings()) as administration:
        keys = administration.client_keys
        try:
            key = keys.change(shell_actor(), key_id, given) if given else keys.get(key_id)
        except Unusable as error:
            raise wrong_option(error) from None
        left = list(keys.budgets_left(key))
    if as_json:
        print_json(client_key_view(key, left))
        return
    click.echo(
        f"{key.hint} of {key.username}: {'the usual' if key.rpm is None else key.rpm} requests per minute"
        + ("" if key.is_active else ", not accepted")
    )
    for line in limit_lines(key.limits, left):
        click.echo(f"  {line}")


@command.command("rotate")
@click.argument("key_id", metavar="KEYID")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(0, MAX_OVERLAP_HOURS),
    default=24,
    show_default=True,
    help="How long the secret of now goes on being accepted.",
)
@json_option
def rotate_key(key_id: str, overlap_hours: float, as_json: bool) -> None:
    """Give the client key KEYID another secret, which is printed once; its id and limits stay."""
    with open_administration(current_settings()) as administration:
        key = administration.client_keys.rotate(shell_actor(), key_id, overlap_hours)
    if as_json:
        print_json(rotated_key_view(key, overlap_hours))
        return
    print_key_once(key)
    click.echo(f"The secret before is accepted for {overlap_hours:g} hours more.")


@command.command("list")
@click.argument("name", required=False)
@json_option
def list_keys(name: str | None, as_json: bool) -> None:
    """List the client keys of user NAME, or of all users."""
    with open_store(current_settings(), reads_only=True) as db:
        if name is not None:
            UserAdmin(db, AuditLog(db)).get(name)
        keys = ClientKeyAdmin(db, AuditLog(db)).list(name)
    if as_json:
        print_json(client_keys_view(keys))
        return
    print_table(
        ("KEY ID", "USER", "KEY", "ACTIVE", "REQUESTS>", "TOKENS>", "MADE", "LAST USED"),
        (
            (
                key.key_id,
                key.username,
                key.hint,
                key.is_active,
                key.requests_count,
                key.tokens_used,
                key.created_at,
                key.last_used_at,
            )
            for key in keys
        ),
        "No client keys yet: weir client-keys add NAME",
    )


@command.command("revoke")
@click.argument("key_id", metavar="KEYID")
@json_option
def revoke_key(key_id: str, as_json: bool) -> None:
    """Stop accepting the client key KEYID, for good."""
    with open_administration(current_settings()) as administration:
        key = administration.client_keys.revoke(shell_actor(), key_id)
    if as_json:
        print_json(revoked_key_view(key))
    else:
        click.echo(f"{key.hint} of {key.username} is revoked; running workers follow within seconds.")


def print_key_once(key: NewClientKey) -> None:
    """Show a new key to a person; there is no way to see it again."""
    click.echo(f"Client key (shown only now): {key.secret}")
    click.echo(f"Its id, for logs and for revoking it: {key.key_id}")
