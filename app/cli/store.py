"""The database as commands use it: the configured one, else the embedded one. Only `init` makes one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from pymongo.database import Database

from app.cli.base import cipher_of
from app.cli.which_database import look_for_embedded, never_used, written_to
from app.common.errors import SettingsError
from app.management.administration import Administration, build_administration
from app.settings import Settings, existing_secret, existing_secret_key
from app.store.connection import connect
from app.store.deployment import SecretKeyState, WrongSecretKeyError, is_used, require_secret_key
from app.store.embedded_mongo import acquire
from app.store.incomplete_restore import refuse_incomplete
from app.store.write_watch import WriteWatch

Store = Database[dict[str, Any]]

STAGED = "secret-key.new"
"""In DATA_DIR, while a rotation to it is under way."""


@contextmanager
def open_store(
    settings: Settings, *, reads_only: bool = False, any_secret_key: bool = False, whole: bool = True
) -> Iterator[Store]:
    """Open the database there is, for as long as the command runs; raises `SettingsError` if there is none.

    Without `MONGODB_URI` this attaches to the embedded MongoDB of a running proxy, or runs one for the while.
    Another SECRET_KEY than the database's is refused; to a command that only reads it is worth a warning, and
    one that changes it (`any_secret_key`) sees for itself. What an interrupted restore has left is refused
    (`IncompleteRestore`), unless `whole` is False. A command that has written something says where, on
    standard error.
    """
    if settings.mongodb_uri is None:
        look_for_embedded(settings)
    watch = WriteWatch()
    with open_any_store(settings, watch) as db:
        if settings.mongodb_uri is not None and not is_used(db):
            raise never_used(settings)
        if whole:
            refuse_incomplete(db)
        if reads_only:
            _warn_of_other_secret_key(db, settings)
        elif not any_secret_key:
            _require_settled_secret_key(db, settings)
        yield db
        if watch.has_written and not reads_only:  # one that failed says why instead
            click.echo(written_to(settings), err=True)


@contextmanager
def open_administration(settings: Settings) -> Iterator[Administration]:
    """Open the actions of administrators over that database."""
    with open_store(settings) as db:
        yield build_administration(settings, db, cipher_of(settings))


@contextmanager
def open_any_store(settings: Settings, *listeners: WriteWatch) -> Iterator[Store]:
    """Open the database, made if there is none yet, whatever SECRET_KEY it has: for `init` and its like."""
    if settings.mongodb_uri is not None:
        with _connected(settings.mongodb_uri.get_secret_value(), settings, listeners) as db:
            yield db
        return
    with (
        acquire(settings.data_dir, settings.mongod_bin) as handle,
        _connected(handle.uri, settings, listeners) as db,
    ):
        yield db


@contextmanager
def _connected(uri: str, settings: Settings, listeners: tuple[WriteWatch, ...]) -> Iterator[Store]:
    db = connect(uri, settings.mongodb_db_name, app_name="weir-cli", event_listeners=listeners)
    try:
        yield db
    finally:
        db.client.close()


def _require_settled_secret_key(db: Store, settings: Settings) -> None:
    try:
        state = require_secret_key(db, existing_secret_key(settings))
    except WrongSecretKeyError:
        if not (settings.data_dir / STAGED).exists():
            raise
        state = SecretKeyState.ROTATING  # killed before the new one was put in the old one's place
    if state is SecretKeyState.ROTATING:
        raise SettingsError(
            "SECRET_KEY is being rotated: wait until that is done; if it was interrupted, "
            "run `weir secret-key rotate` again"
        )


def _warn_of_other_secret_key(db: Store, settings: Settings) -> None:
    secret = existing_secret(settings.data_dir, "secret-key", settings.secret_key)
    if secret is None:
        return
    try:
        require_secret_key(db, secret)
    except WrongSecretKeyError as error:
        click.echo(f"weir: warning: {error}", err=True)
