"""The marker of a restore that has not come to its end: nobody may take such a database for a whole one."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.common.display import iso_utc
from app.common.errors import StoreUnavailable

COLLECTION = "restore_in_progress"

_ID = "restore"


class IncompleteRestore(StoreUnavailable):
    """The database holds a part of a backup; the text is one line fit for an operator."""


def mark(db: Database[Any], started_at: datetime, by: str) -> None:
    """Say that a restore begins; raises `IncompleteRestore` when another restore has begun."""
    try:
        db[COLLECTION].insert_one({"_id": _ID, "startedAt": started_at, "by": by})
    except DuplicateKeyError:
        refuse_incomplete(db)
        raise


def unmark(db: Database[Any]) -> None:
    """Say that the restore is complete."""
    db[COLLECTION].drop()


def refuse_incomplete(db: Database[Any]) -> None:
    """Raise `IncompleteRestore` if a restore into the database has begun and not ended."""
    found: Mapping[str, Any] | None = db[COLLECTION].find_one({"_id": _ID})
    if found is None:
        return
    at = found.get("startedAt")
    began = iso_utc(at) if isinstance(at, datetime) else "at an unknown time"
    raise IncompleteRestore(
        f"database {db.name} is not whole: the restore that {found.get('by')} began {began} has not ended. "
        "If it was interrupted, repeat it: weir restore --discard-incomplete FILE"
    )
