"""`flask backup-keys …`: spare OhMyGPT keys."""

from typing import IO, Any

import click

from app.adapters.mongo.backup_keys import BackupKey
from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.secret_input import read_secret, read_text
from app.cli.store import open_administration


@click.group("backup-keys", cls=Group)
def command() -> None:
    """Spare OhMyGPT keys."""


@command.command("add")
@click.argument("key_id", metavar="ID")
@click.option("--api-key-stdin", is_flag=True, help="Read the key from standard input.")
@json_option
def add_key(key_id: str, api_key_stdin: bool, as_json: bool) -> None:
    """Add a spare key under ID; it is asked for, or read from standard input."""
    settings = current_settings()
    secret = read_secret("key", "--api-key-stdin", from_stdin=api_key_stdin)
    with open_administration(settings) as administration:
        key = administration.backup_keys.add(shell_actor(), key_id, secret.strip())
    if as_json:
        print_json(_row(key))
    else:
        click.echo(f"{key.key_id} ({key.masked}) is a spare key now.")


@command.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@json_option
def import_keys(file: IO[str], as_json: bool) -> None:
    """Add the keys in FILE (`id|key` lines; - is standard input): all of them, or none."""
    settings = current_settings()
    text = read_text(file)
    with open_administration(settings) as administration:
        ids = administration.backup_keys.import_lines(shell_actor(), text)
    if as_json:
        print_json({"imported": len(ids), "ids": ids})
    else:
        click.echo(f"{len(ids)} spare keys were added.")


@command.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the spare keys."""
    with open_administration(current_settings()) as administration:
        keys = administration.backup_keys.list()
    used = sum(key.is_used for key in keys)
    if as_json:
        rows = [_row(key) for key in keys]
        print_json({"keys": rows, "total": len(keys), "available": len(keys) - used, "used": used})
        return
    print_table(
        ("ID", "KEY", "USED", "FOR", "WHEN", "MADE"),
        ((key.key_id, key.masked, key.is_used, key.used_for, key.used_at, key.created_at) for key in keys),
        "No spare keys: flask backup-keys add ID",
    )


@command.command("restore")
@click.argument("key_id", metavar="ID")
@json_option
def restore_key(key_id: str, as_json: bool) -> None:
    """Make spare key ID available again."""
    with open_administration(current_settings()) as administration:
        key = administration.backup_keys.restore(shell_actor(), key_id)
    if as_json:
        print_json(_row(key))
    else:
        click.echo(f"{key_id} is available again.")


@command.command("delete")
@click.argument("key_id", metavar="ID")
@json_option
def delete_key(key_id: str, as_json: bool) -> None:
    """Remove spare key ID."""
    with open_administration(current_settings()) as administration:
        administration.backup_keys.delete(shell_actor(), key_id)
    if as_json:
        print_json({"id": key_id, "deleted": True})
    else:
        click.echo(f"{key_id} is deleted.")


def _row(key: BackupKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "maskedApiKey": key.masked,
        "isUsed": key.is_used,
        "activated": key.activated,
        "usedFor": key.used_for,
        "usedAt": key.used_at,
        "createdAt": key.created_at,
    }
