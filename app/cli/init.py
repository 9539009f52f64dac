"""`weir init`: makes what a new installation needs, and what an older one lacks."""

from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import SecretStr

from app.cli.base import Command, current_settings, json_option
from app.cli.output import print_json, print_table
from app.cli.store import Store, open_any_store
from app.cli.which_database import written_to
from app.common.clock import now_ms
from app.database_place import DatabasePlace, note_place
from app.management.installation import index_makers
from app.settings import Settings, existing_secret_key, generated_secret
from app.store.deployment import adopt, deployment, is_used
from app.store.embedded_mongo import has_database
from app.store.stored_secrets import stored_secrets
from app.store.write_watch import WriteWatch


@dataclass(frozen=True, slots=True)
class Part:
    """One thing an installation has: where it is, and whether it was made just now."""

    name: str
    where: str
    is_made: bool


@click.command("init", cls=Command)
@json_option
def command(as_json: bool) -> None:
    """Make DATA_DIR, the secrets that are not set, and the database; whatever is there stays as it is."""
    parts = _make(current_settings())
    if as_json:
        print_json({part.name: {"at": part.where, "made": part.is_made} for part in parts})
        return
    print_table(
        ("", "WHERE", ""),
        ((part.name, part.where, "made" if part.is_made else "there already") for part in parts),
        "",
    )
    if any(part.is_made for part in parts):
        click.echo("Next: weir keys add ID, weir users add NAME --credits 5, weir run")


def _make(settings: Settings) -> list[Part]:
    place, watch = DatabasePlace.of(settings), WriteWatch()
    data_dir = Part("dataDir", str(settings.data_dir), not settings.data_dir.exists())
    is_new = settings.mongodb_uri is None and not has_database(settings.data_dir)
    note_place(settings)
    with open_any_store(settings, watch) as db:
        is_new = is_new or not is_used(db)
        secret_key = _secret_key(db, settings)
        adopt(db, existing_secret_key(settings), now_ms())
        for make in index_makers(db, settings.log_retention_s):
            make()
    if watch.has_written:
        click.echo(written_to(settings), err=True)
    return [data_dir, secret_key, _admin_token(settings), Part("database", str(place), is_new)]


def _secret_key(db: Store, settings: Settings) -> Part:
    """Make the SECRET_KEY, unless the database has secrets of another one already."""
    if deployment(db) is not None or any(True for _ in stored_secrets(db)):
        existing_secret_key(settings)
    return _secret("secretKey", settings, "secret-key", settings.secret_key)


def _admin_token(settings: Settings) -> Part:
    return _secret("adminToken", settings, "admin-token", settings.admin_token)


def _secret(name: str, settings: Settings, file: str, configured: SecretStr | None) -> Part:
    path: Path = settings.data_dir / file
    if configured is not None:
        return Part(name, "the environment", is_made=False)
    is_new = not path.exists()
    generated_secret(settings.data_dir, file, None)
    return Part(name, str(path), is_new)
