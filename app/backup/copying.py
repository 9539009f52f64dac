"""Copying a database that is being written to, without holding anybody up or leaving traces in it.

A single MongoDB server has no snapshots over several collections. What makes the copy consistent instead is
the order. A writer books a batch of records in this order: the records, all of them acknowledged; then the
sums in users, keys and hourly sums, each with a mark, the highest number of this writer that is in it. So:

- All sums are copied before the records. Every record that is in a copied sum is then among the copied
  records; a sum may lack some of them, and its mark tells which. `app.backup.restoring` books those.
- Which records have to be looked at for that, the header says: `bookedAtStart` are the marks of the hourly
  sums, which are booked last, from before the first document is copied.
- Claims on what went on in the background come last, and what is settled before the records: every record
  that is in the copy has its claim in it, and so has each that made something settled there.
- A user and their lines in the credit ledger are read together, again until no line came in between.
- What refers to something is copied before it (a client key before its user), so that what is made meanwhile
  leaves no reference that leads nowhere; a backup key is copied before the pool it may be moved to.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from bson.int64 import Int64
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from app.accounts import rate_limiter
from app.backup.format import BackupWriter, count_documents
from app.common.errors import StoreUnavailable
from app.credit import credit_ledger
from app.keys import key_share_store as key_shares
from app.persistence import settlements
from app.persistence.record_writes import DEAD_COLLECTION, SEQ
from app.pricing import price_versions
from app.statistics import rollups, summaries
from app.store import deployment, incomplete_restore
from app.store.key_cipher import PREFIX
from app.store.stored_secrets import PLACES

Document = dict[str, Any]
Progress = Callable[[str, int], object]
"""Told how many more documents of a collection are done; with 0, that the collection is begun."""

RECORDS = "request_logs"
USERS = "usersNew"

LEFT_OUT = frozenset(
    # Made anew from the hourly sums.
    {summaries.COLLECTION}
    # About processes that run now.
    | {key_shares.COLLECTION, key_shares.WORKERS, rate_limiter.COLLECTION}
    # What `weir init` has made where a backup is restored.
    | {deployment.COLLECTION}
    | {incomplete_restore.COLLECTION, "doctor_scratch"}
)
"""What no backup contains."""

_WITH_USERS = (credit_ledger.COLLECTION, credit_ledger.RESETS)
_FIRST = (
    *("user_keys", USERS, *_WITH_USERS),
    *("ohmygpt_backup_keys", "ohmygpt_keys", "upstream_key_states", "ohmygpt_bindings", "proxies"),
)
_LAST = (*(rollups.COLLECTION, RECORDS, DEAD_COLLECTION, settlements.COLLECTION, price_versions.COLLECTION),)

# A request that is booked while the backup is made may have lasted this long.
_MAY_BE_UNDER_WAY = timedelta(minutes=10)

_BATCH = 1000
_USERS_AT_ONCE = 100
_MOST_BATCHES_HELD = 20
_MOST_TRIES = 1000


def copy_database(
    db: Database[Any], writer: BackupWriter, header: Document, now: Callable[[], datetime], progress: Progress
) -> None:
    """Write everything that belongs into a backup; `header` is what its header says beside the marks.

    Raises `PyMongoError`, `StoreUnavailable`, and whatever `writer` raises.
    """
    # Nothing that a change of primary could take back.
    db = db.with_options(read_concern=ReadConcern("majority"))
    started_at, marks = now(), rollups.highest_marks(db)
    writer.begin(
        {
            **header,
            "database": db.name,
            "startedAt": started_at,
            "secretSample": _secret_sample(db),
            "bookedAtStart": {writer_id: Int64(mark) for writer_id, mark in marks.items()},
        }
    )
    copy = _Copy(db, writer, progress)
    for name in collections_in_order(db):
        if name == USERS:
            copy.users_with_their_lines()
        elif name in _WITH_USERS:
            copy.lines_without_users(name)
        else:
            copy.whole(name)
    _refuse_unnumbered(db, started_at, marks)
    writer.finish(now())


def collections_in_order(db: Database[Any]) -> list[str]:
    """Return what is copied, in the order in which it is; views are not."""
    names = {str(found["name"]) for found in db.list_collections() if found.get("type") == "collection"}
    names = {name for name in names if name not in LEFT_OUT and not name.startswith("system.")}
    others = sorted(names.difference(_FIRST, _LAST))
    return [name for name in (*_FIRST, *others, *_LAST) if name in names]


class _Copy:
    """The copy in the making."""

    def __init__(self, db: Database[Any], writer: BackupWriter, progress: Progress) -> None:
        self._db = db
        self._writer = writer
        self._progress = progress
        self._described: set[str] = set()

    def whole(self, name: str) -> None:
        """Copy a collection as it is, in the order of insertion."""
        self._section(name, self._read(name, {}))

    def users_with_their_lines(self) -> None:
        """Copy the users and, with each batch of them, their lines in the ledger."""
        self._section(USERS, ())
        ids = (user["_id"] for user in self._db[USERS].find({}, {"_id": True}))
        for batch in _in_batches(ids, _USERS_AT_ONCE):
            self._some_users(batch)

    def lines_without_users(self, name: str) -> None:
        """Copy the lines of names that no user has: `users_with_their_lines` did not come to them."""
        self._section(name, ())
        groups = self._db[name].aggregate([{"$group": {"_id": "$username"}}])
        for names in _in_batches((group["_id"] for group in groups), _BATCH):
            known = {user["_id"] for user in self._db[USERS].find({"_id": {"$in": names}}, {"_id": True})}
            missing = [username for username in names if username not in known]
            if missing:
                self._section(name, self._read(name, {"username": {"$in": missing}}))

    def _some_users(self, ids: list[Any]) -> None:
        """Copy these users and their lines, in as many pieces as it takes to find each unchanged."""
        if self._copied_together(ids):
            return
        if len(ids) > 1:
            middle = len(ids) // 2
            self._some_users(ids[:middle])
            self._some_users(ids[middle:])
        elif not any(self._copied_together(ids) for _ in range(_MOST_TRIES)):
            raise StoreUnavailable(f"the credit of user {ids[0]} kept changing: try again later")

    def _copied_together(self, ids: list[Any]) -> bool:
        """Copy these users and their lines as of one moment; False when they changed, or are too many.

        The balance and a line pending in the user's document change in one update; then the line is inserted
        into the ledger, and then it is pending no more. So while no line comes into the ledger, the balance
        is that of the lines there and of those pending, whichever of them are the same.
        """
        lines = {name: self._lines(name, ids) for name in _WITH_USERS}
        users = list(self._read(USERS, {"_id": {"$in": ids}}))
        for name, found in lines.items():
            if found is None or sum(map(count_documents, found)) != self._count(name, ids):
                return False
        self._section(USERS, users)
        for name, found in lines.items():
            if found:
                self._section(name, found)
        return True

    def _lines(self, name: str, ids: list[Any]) -> list[bytes] | None:
        """Return the lines of these users; None if those of several users are too many to be held."""
        found: list[bytes] = []
        for raw in self._read(name, {"username": {"$in": ids}}):
            found.append(raw)
            if len(found) > _MOST_BATCHES_HELD and len(ids) > 1:
                return None
        return found

    def _count(self, name: str, ids: list[Any]) -> int:
        return self._db[name].count_documents({"username": {"$in": ids}})

    def _read(self, name: str, query: Document) -> Iterator[bytes]:
        found: Iterator[bytes] = self._db[name].find_raw_batches(query, batch_size=_BATCH)
        return found

    def _section(self, name: str, batches: Iterable[bytes]) -> None:
        options, indexes = self._description(name)
        self._writer.begin_section(name, options, indexes)
        self._progress(name, 0)
        for raw in batches:
            self._progress(name, self._writer.documents(raw))
        self._writer.end_section()

    def _description(self, name: str) -> tuple[Document, list[Document]]:
        """Return a collection's options and indexes, the first time that they are asked for."""
        if name in self._described:
            return {}, []
        self._described.add(name)
        return dict(self._db[name].options()), [dict(index) for index in self._db[name].list_indexes()]


def _secret_sample(db: Database[Any]) -> str | None:
    """Return some encrypted secret, by which the right SECRET_KEY can be told; None if there is none."""
    for name, field in PLACES:
        found = db[name].find_one({field: {"$regex": f"^{PREFIX}"}}, {field: True})
        if found is not None:
            return str(found[field])
    return None


def _refuse_unnumbered(db: Database[Any], started_at: datetime, marks: dict[str, int]) -> None:
    """Raise `StoreUnavailable` if workers of version 0.1 booked meanwhile: their records bear no numbers."""
    by_them = {
        "createdAt": {"$gte": started_at - _MAY_BE_UNDER_WAY},
        "outcome": {"$ne": None},
        SEQ: {"$exists": False},
    }
    if db[RECORDS].find_one(by_them, {"_id": True}) is not None and rollups.highest_marks(db) != marks:
        raise StoreUnavailable(
            "workers of version 0.1 recorded requests within the last ten minutes, of which no consistent "
            "backup can be made: stop or upgrade them, wait ten minutes, and try again"
        )


def _in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
