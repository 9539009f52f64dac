"""The steps in their order, and the turn to take them: one migration of a database at a time."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.migration.client_keys import ClientKeys, KeyNames
from app.migration.expiry import Expiry
from app.migration.indexes import Indexes
from app.migration.records import EarlierRecords
from app.migration.step import STATE, Document, MigrationError, Step
from app.migration.stored_secrets import StoredSecrets
from app.store.key_cipher import KeyCipher

# In this order: indexes make the others fast, records are summed up under the hashes of their keys, and
# nothing expires before it is summed up.
STEP_NAMES = tuple(
    step.name for step in (Indexes, ClientKeys, StoredSecrets, EarlierRecords, KeyNames, Expiry)
)

_TURN = "turn"
_TURN_S = 600


def steps(
    db: Database[Document], cipher: KeyCipher, retention_s: int, now: datetime, tz: tzinfo = UTC
) -> list[Step]:
    """Make all steps, in the order of `STEP_NAMES`. Days begin at midnight in `tz`."""
    records = EarlierRecords(db, now, tz)
    return [
        Indexes(db),
        ClientKeys(db, now),
        StoredSecrets(db, cipher, now),
        records,
        KeyNames(db, records.due()),
        Expiry(db, retention_s, now),
    ]


def left_alone(db: Database[Document]) -> list[str]:
    """Say what there is of earlier software that no step touches."""
    users = db["usersNew"]
    found = (
        (
            users.count_documents({"apiKey": {"$type": "string", "$ne": ""}}),
            "users with an account key, which works",
        ),
        (
            users.count_documents({"creditsNew": {"$gt": 0}}),
            "users with a balance in creditsNew, which Weir does not spend",
        ),
        (db["friend_keys"].estimated_document_count(), "friend keys, which Weir does not know"),
    )
    return [f"{count} {what}" for count, what in found if count]


class MigrationLock:
    """The right to migrate, kept by being renewed."""

    def __init__(self, db: Database[Document]) -> None:
        self._state = db[STATE]
        self._owner = {"host": socket.gethostname(), "pid": os.getpid()}

    def renew(self) -> None:
        """Keep the turn for another ten minutes; raises `MigrationError` when another has it by now."""
        kept = self._state.update_one({"_id": _TURN, "owner": self._owner}, {"$set": {"until": _until()}})
        if not kept.matched_count:
            raise MigrationError("another weir migrate apply has taken over")

    def take(self) -> None:
        """Take the turn, also from a process that has died; raises `MigrationError` when another has it."""
        holder = self._state.find_one({"_id": _TURN}) or {}
        free: Document = {
            "_id": _TURN,
            "$or": [{"until": {"$lt": datetime.now(UTC)}}, {"owner": self._owner}],
        }
        if self._is_gone(holder.get("owner", {})):
            free["$or"].append({"owner": holder["owner"]})
        try:
            self._state.find_one_and_update(
                free,
                {"$set": {"owner": self._owner, "until": _until()}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            owner = holder.get("owner", {})
            raise MigrationError(
                "another weir migrate apply is at work "
                f"(process {owner.get('pid')} on {owner.get('host')}): if it has died there, its turn "
                "ends ten minutes after its last progress"
            ) from None

    def give_back(self) -> None:
        """Let the next process begin."""
        self._state.delete_one({"_id": _TURN, "owner": self._owner})

    def _is_gone(self, owner: Document) -> bool:
        if owner.get("host") != self._owner["host"]:
            return False
        try:
            os.kill(int(owner["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


@contextmanager
def turn(db: Database[Document]) -> Iterator[MigrationLock]:
    """Hold the turn for as long as the block runs."""
    taken = MigrationLock(db)
    taken.take()
    try:
        yield taken
    finally:
        taken.give_back()


def _until() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=_TURN_S)
