"""`weir backup-keys …`: backup OhMyGPT keys."""

from typing import IO

import click

from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.secret_input import read_secret, read_text
from app.cli.store import open_administration
from app.common.display import counted
from app.management.views.keys import backup_key_view, backup_keys_view


@click.group("backup-keys", cls=Group)
def command() -> None:
    """Manage backup OhMyGPT keys."""


@command.command("add")
@click.argument("key_id", metavar="ID")
@click.option("--api-key-stdin", is_flag=True, help="Read the key from standard input.")
@json_option
def add_key(key_id: str, api_key_stdin: bool, as_json: bool) -> None:
    """Add a backup key under ID; it is asked for, or read from standard input."""
    settings = current_settings()
    secret = read_secret("key", "--api-key-stdin", from_stdin=api_key_stdin)
    with open_administration(settings) as administration:
        key = administration.backup_keys.add(shell_actor(), key_id, secret.strip())
    if as_json:
        print_json(backup_key_view(key))
    else:
        click.echo(f"{key.key_id} ({key.masked}) is a backup key now.")


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
        click.echo(f"{counted(len(ids), 'backup keys were', one='backup key was')} added.")


@command.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the backup keys."""
    with open_administration(current_settings()) as administration:
        keys = administration.backup_keys.list()
    if as_json:
        print_json(backup_keys_view(keys))
        return
    print_table(
        ("ID", "KEY", "USED", "FOR", "WHEN", "MADE"),
        ((key.key_id, key.masked, key.is_used, key.used_for, key.used_at, key.created_at) for key in keys),
        "No backup keys: weir backup-keys add ID",
    )


@command.command("restore")
@click.argument("key_id", metavar="ID")
@json_option
def restore_key(key_id: str, as_json: bool) -> None:
    """Make backup key ID available again."""
    with open_administration(current_settings()) as administration:
        key = administration.backup_keys.restore(shell_actor(), key_id)
    if as_json:
        print_json(backup_key_view(key))
    else:
        click.echo(f"{key_id} is available again.")


@command.command("delete")
@click.argument("key_id", metavar="ID")
@json_option
def delete_key(key_id: str, as_json: bool) -> None:
    """Remove backup key ID."""
    with open_administration(current_settings()) as administration:
        administration.backup_keys.delete(shell_actor(), key_id)
    if as_json:
        print_json({"id": key_id, "deleted": True})
    else:
        click.echo(f"{key_id} is deleted.")
