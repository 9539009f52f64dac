"""A MongoDB of a test's own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo

from app.store.embedded_mongo import EmbeddedMongo


@contextmanager
def temporary_mongo(parent: Path | None = None) -> Iterator[str]:
    """Run a server on a new directory under `parent` (default: the system's), thrown away at the end.

    Yields its URI. It deletes nothing by itself: once a minute, documents that a test has made of a day long
    past would go in the middle of it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="weir-mongodb-", dir=parent) as directory,
        EmbeddedMongo(Path(directory)) as server,
    ):
        client: pymongo.MongoClient[dict[str, Any]]
        with pymongo.MongoClient(server.uri) as client:
            client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
        yield server.uri
