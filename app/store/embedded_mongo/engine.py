"""The record of which engine wrote a database: it is never switched silently."""

import json
from pathlib import Path

from app.store.embedded_mongo.binary import Mongod
from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.layout import write_private

_ENGINE = "mongod"


def recorded_series(file: Path) -> str | None:
    """Return the series (such as 6.0) of the mongod that wrote this database; None if there is none yet.

    Raises EmbeddedMongoError if another engine wrote it, or the record cannot be read.
    """
    try:
        record = json.loads(file.read_text())
        engine, version = record["engine"], record["version"]
        series = ".".join(version.split(".")[:2])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EmbeddedMongoError(
            f"{file} is damaged: restore it as "
            f'{{"engine": "mongod", "version": "6.0.5"}} with the version that wrote {file.parent}'
        ) from error
    if engine != _ENGINE:
        raise EmbeddedMongoError(
            f"the database in {file.parent} was written by {engine}, which this version cannot run: "
            "dump it there and restore it here, or use another DATA_DIR"
        )
    return str(series)


def record_engine(file: Path, mongod: Mongod) -> None:
    """Write down that `mongod` has opened the database."""
    write_private(file, json.dumps({"engine": _ENGINE, "version": mongod.version}) + "\n")
