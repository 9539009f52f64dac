"""A MongoDB of a test's own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.store.embedded_mongo import EmbeddedMongo


@contextmanager
def temporary_mongo(parent: Path | None = None) -> Iterator[str]:
    """Run a server on a new directory under `parent` (default: the system's), thrown away at the end.

    Yields its URI.
    """
    with (
        tempfile.TemporaryDirectory(prefix="weir-mongodb-", dir=parent) as directory,
        EmbeddedMongo(Path(directory)) as server,
    ):
        yield server.uri
