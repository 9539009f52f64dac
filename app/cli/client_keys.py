"""`flask client-keys …`: the keys that users' programs authenticate with."""

from typing import Any

import click

from app.adapters.mongo.client_keys import ClientKey, ClientKeyStore, NewClientKey
from app.adapters.mongo.users import UserStore
from app.cli.base import Group, current_settings, fail, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.store import open_administration, open_store


@click.group("client-keys", cls=Group)
def command() -> None:
    """The keys that users' programs authenticate with."""


@command.command("add")
@click.argument("name")
@click.option("--rpm", type=click.IntRange(min=0), help="Requests per minute; 0: no limit.")
@click.option("--notes", help="What the key is for.")
@json_option
def add_key(name: str, rpm: int | None, notes: str | None, as_json: bool) -> None:
    """Make another client key for user NAME; it is printed once."""
    with open_administration(current_settings()) as administration:
        key = administration.client_keys.add(shell_actor(), name, rpm=rpm, notes=notes)
    if as_json:
        print_json({"username": name, "apiKey": key.secret, "keyId": key.key_id})
    else:
        print_key_once(key)


@command.command("list")
@click.argument("name", required=False)
@json_option
def list_keys(name: str | None, as_json: bool) -> None:
    """List the client keys of user NAME, or of all users."""
    with open_store(current_settings()) as db:
        if name is not None and UserStore(db).get(name) is None:
            fail(f"there is no user {name}")
        keys = list(ClientKeyStore(db).list(name))
    if as_json:
        print_json({"keys": [key_row(key) for key in keys]})
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
        "No client keys yet: flask client-keys add NAME",
    )


@command.command("revoke")
@click.argument("key_id", metavar="KEYID")
@json_option
def revoke_key(key_id: str, as_json: bool) -> None:
    """Stop accepting the client key KEYID, for good."""
    with open_administration(current_settings()) as administration:
        key = administration.client_keys.revoke(shell_actor(), key_id)
    if as_json:
        print_json({"keyId": key.key_id, "username": key.username, "isActive": False})
    else:
        click.echo(f"{key.hint} of {key.username} is revoked; running workers follow within seconds.")


def print_key_once(key: NewClientKey) -> None:
    """Show a new key to a person; there is no way to see it again."""
    click.echo(f"Client key (shown only now): {key.secret}")
    click.echo(f"Its id, for logs and for revoking it: {key.key_id}")


def key_row(key: ClientKey) -> dict[str, Any]:
    """A key for programs; an older deployment's key is given by a derived id, never by itself."""
    return {
        "keyId": key.key_id,
        "username": key.username,
        "hint": key.hint,
        "isActive": key.is_active,
        "rpm": key.rpm,
        "requestsCount": key.requests_count,
        "tokensUsed": key.tokens_used,
        "notes": key.notes,
        "expiresAt": key.expires_at,
        "createdAt": key.created_at,
        "lastUsedAt": key.last_used_at,
    }
