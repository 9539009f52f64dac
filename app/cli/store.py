"""The database as commands use it: the configured one, else the embedded one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database

from app.adapters.embedded_mongo import acquire
from app.adapters.mongo.connection import connect
from app.cli.base import cipher_of
from app.management.administration import Administration, build_administration
from app.settings import Settings


@contextmanager
def open_store(settings: Settings) -> Iterator[Database[dict[str, Any]]]:
    """The database, for as long as the command runs.

    Without `MONGODB_URI` this attaches to the embedded MongoDB of a running proxy, or runs one for the while.
    """
    if settings.mongodb_uri is not None:
        with _connected(settings.mongodb_uri.get_secret_value(), settings) as db:
            yield db
        return
    with acquire(settings.data_dir, settings.mongod_bin) as handle, _connected(handle.uri, settings) as db:
        yield db


@contextmanager
def open_administration(settings: Settings) -> Iterator[Administration]:
    """The actions of administrators over that database."""
    with open_store(settings) as db:
        yield build_administration(settings, db, cipher_of(settings))


@contextmanager
def _connected(uri: str, settings: Settings) -> Iterator[Database[dict[str, Any]]]:
    db = connect(uri, settings.mongodb_db_name, app_name="weir-cli")
    try:
        yield db
    finally:
        db.client.close()
