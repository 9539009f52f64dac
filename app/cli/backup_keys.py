"""`flask backup-keys …`: spare OhMyGPT keys."""

from typing import IO, Any

import click

from app.adapters.mongo.backup_keys import BackupKey, BackupKeyStore
from app.cli.base import Group, cipher_of, current_settings, fail, json_option, now
from app.cli.output import print_json, print_table
from app.cli.secret_input import read_secret, read_text
from app.cli.store import open_store


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
    with open_store(settings) as db:
        try:
            key = BackupKeyStore(db, cipher_of(settings)).add(key_id, secret.strip(), now=now())
        except ValueError as error:
            fail(str(error))
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
    with open_store(settings) as db:
        ids = BackupKeyStore(db, cipher_of(settings)).import_lines(text, now=now())
    if as_json:
        print_json({"imported": len(ids), "ids": ids})
    else:
        click.echo(f"{len(ids)} spare keys were added.")


@command.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the spare keys."""
    settings = current_settings()
    with open_store(settings) as db:
        keys = list(BackupKeyStore(db, cipher_of(settings)).list())
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
    settings = current_settings()
    with open_store(settings) as db:
        try:
            key = BackupKeyStore(db, cipher_of(settings)).restore(key_id)
        except ValueError as error:
            fail(str(error))
    if key is None:
        fail(_unknown(key_id))
    if as_json:
        print_json(_row(key))
    else:
        click.echo(f"{key_id} is available again.")


@command.command("delete")
@click.argument("key_id", metavar="ID")
@json_option
def delete_key(key_id: str, as_json: bool) -> None:
    """Remove spare key ID."""
    settings = current_settings()
    with open_store(settings) as db:
        if not BackupKeyStore(db, cipher_of(settings)).delete(key_id):
            fail(_unknown(key_id))
    if as_json:
        print_json({"id": key_id, "deleted": True})
    else:
        click.echo(f"{key_id} is deleted.")


def _unknown(key_id: str) -> str:
    return f"there is no backup key {key_id}; flask backup-keys list shows the ids"


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
