"""Restoring a backup into an empty database, and completing it: every sum gets the records that it lacks.

What was copied is one moment of each writer, once this is done: all records up to the highest number that any
copied sum has of it, and every sum with just these in it. Records with higher numbers were booked while they
were copied, and are left out: nobody knows whether others that came before them were missed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure

from app.backup.copying import LEFT_OUT, RECORDS, USERS
from app.backup.format import BackupFileError, BackupReader, Section
from app.credit.credit_holds import FIELD as HOLDS
from app.keys.key_rotation import BACKUPS, FROM_BACKUP
from app.persistence import writers
from app.persistence.booking import Booking
from app.persistence.record_writes import SEQ, WRITER
from app.records.records import SequencedRecord
from app.statistics import rollups, summaries
from app.store import deployment, incomplete_restore
from app.store.driver import DUPLICATE_KEY, store_problem
from app.store.key_cipher import KeyCipher, KeyCipherError

Document = dict[str, Any]
Progress = Callable[[str, int], object]
"""Told how many more documents of a collection are done."""

_BATCH = 2_000
# At most this many records are booked at once (LOG_BATCH_SIZE).
_LARGEST_BATCH = 10_000

_BY_NUMBER = "weir_restore_by_number"


class RestoreRefused(Exception):
    """The backup cannot be restored here, and nothing was written; the text is one line for an operator."""


@dataclass(slots=True)
class Restored:
    """What a restore did: documents by collection, records that were booked, or left out, and remarks."""

    counts: dict[str, int]
    booked: int
    left_out: int
    remarks: list[str]


def check_secret(header: Mapping[str, Any], cipher: KeyCipher) -> None:
    """Raise `RestoreRefused` if the stored keys were encrypted with another SECRET_KEY."""
    sample = header.get("secretSample")
    if sample is None:
        return
    try:
        cipher.decrypt(str(sample))
    except KeyCipherError:
        raise RestoreRefused(
            "the keys in the backup were encrypted with another SECRET_KEY: set that one, or put the file "
            "secret-key of the DATA_DIR it was made with into this DATA_DIR"
        ) from None


def check_empty(db: Database[Any]) -> None:
    """Raise `RestoreRefused` if there is a document in the database beside what `weir init` makes."""
    names = sorted(name for name in db.list_collection_names() if not _stays(name))
    counts = {name: db[name].estimated_document_count() for name in names if db[name].find_one() is not None}
    if counts:
        found = ", ".join(f"{count:,} {name}" for name, count in list(counts.items())[:5])
        more = f" and {len(counts) - 5} more collections" if len(counts) > 5 else ""
        raise RestoreRefused(
            f"database {db.name} is not empty ({found}{more}): restore into another one (MONGODB_DB_NAME, or "
            "another DATA_DIR), with no proxy running on it"
        )


def discard_incomplete(db: Database[Any]) -> None:
    """Drop what an interrupted restore left; a database without its marker is left alone."""
    if db[incomplete_restore.COLLECTION].find_one() is None:
        return
    for name in db.list_collection_names():
        if not _stays(name) and name != incomplete_restore.COLLECTION:
            db.drop_collection(name)
    incomplete_restore.unmark(db)


def _stays(name: str) -> bool:
    """Tell whether a restore leaves a collection alone: which SECRET_KEY there is, and MongoDB's own."""
    return name == deployment.COLLECTION or name.startswith("system.")


def restore_database(
    db: Database[Any],
    reader: BackupReader,
    now: datetime,
    by: str,
    progress: Progress,
    *,
    tz: tzinfo = UTC,
) -> Restored:
    """Put a verified backup into an empty database. Days begin at midnight in `tz`.

    Raises `RestoreRefused` when it is not empty, and `PyMongoError`, `StoreUnavailable` or `BackupFileError`
    when something fails half-way: then the database is marked as incomplete.
    """
    check_empty(db)
    incomplete_restore.mark(db, now, by)
    for name in db.list_collection_names():
        # Their indexes may be other ones, or let records expire before they have been compared.
        if not _stays(name) and name != incomplete_restore.COLLECTION:
            db.drop_collection(name)
    header, sections = reader.open()
    indexes: dict[str, list[Document]] = {}
    for section in sections:
        if section.collection not in indexes:
            indexes[section.collection] = section.indexes
            _create(db, section)
        _insert(db, section, progress)
    booked, left_out = _complete(db, dict(header), progress, tz)
    _mend(db)
    remarks = [
        remark for name, found in indexes.items() for remark in _make_indexes(db, name, found, progress)
    ]
    incomplete_restore.unmark(db)
    return Restored(reader.counts, booked, left_out, remarks)


def _create(db: Database[Any], section: Section) -> None:
    if section.collection in LEFT_OUT:
        raise BackupFileError(f"the file holds {section.collection}, which no backup contains")
    db.command("create", section.collection, **section.options)


def _insert(db: Database[Any], section: Section, progress: Progress) -> None:
    collection = db[section.collection]
    # Documents may be older than a validator is.
    bypass = True if "validator" in section.options else None
    for batch in section.batches:
        documents = [RawBSONDocument(document) for document in batch]
        try:
            collection.insert_many(documents, ordered=False, bypass_document_validation=bypass)
        except BulkWriteError as error:
            # The same document twice: it was moved within the source while that was read.
            problems = error.details["writeErrors"]
            if error.details.get("writeConcernErrors") or any(p["code"] != DUPLICATE_KEY for p in problems):
                raise
        progress(section.collection, len(batch))


def _complete(db: Database[Any], header: Document, progress: Progress, tz: tzinfo) -> tuple[int, int]:
    """Give every sum what it lacks; return how many records were looked at, and how many left out."""
    logs = db[RECORDS]
    by_number = [(WRITER, ASCENDING), (SEQ, ASCENDING)]
    logs.create_index(by_number, name=_BY_NUMBER, partialFilterExpression={SEQ: {"$exists": True}})
    last = _last_booked(db)
    at_start: Document = header.get("bookedAtStart", {})
    started_at: datetime = header["startedAt"]
    booked = left_out = 0
    for writer_id in _writers(db):
        left_out += logs.delete_many(_numbers(writer_id, above=last.get(writer_id, -1))).deleted_count
        booking = Booking(db, writer_id, now=lambda: started_at, announces=False, tz=tz)
        for batch in _to_book(db, writer_id, at_start.get(writer_id), started_at):
            booking.apply(batch)
            booked += len(batch)
            progress("booking", len(batch))
    logs.drop_index(_BY_NUMBER)
    return booked, left_out


def _writers(db: Database[Any]) -> list[str]:
    groups = db[RECORDS].aggregate(
        [{"$match": {SEQ: {"$exists": True}}}, {"$group": {"_id": f"${WRITER}"}}], hint=_BY_NUMBER
    )
    return [str(group["_id"]) for group in groups]


def _last_booked(db: Database[Any]) -> dict[str, float]:
    """Return, for each writer, the highest number that any sum has: all up to it have been copied."""
    highest: dict[str, float] = {}
    found: list[Mapping[str, float]] = [writers.highest_marks(db, name) for name in writers.MARKED]
    for marks in (rollups.highest_marks(db), *found):
        for writer_id, mark in marks.items():
            highest[writer_id] = max(mark, highest.get(writer_id, mark))
    return highest


def _numbers(writer_id: str, *, above: float) -> Document:
    return {WRITER: writer_id, SEQ: {"$gt": above}}


def _to_book(
    db: Database[Any], writer_id: str, mark: int | None, started_at: datetime
) -> Iterator[list[SequencedRecord]]:
    """Yield the records that some sum may lack, in the order of their numbers.

    A mark was set by a batch that may not have been booked to its end. So what is as far below it as a batch
    is large counts as booked, and nothing above that.
    """
    logs = db[RECORDS]
    first = -1
    if mark is not None:
        below = logs.find({WRITER: writer_id, SEQ: {"$lte": mark}}, {SEQ: True}, hint=_BY_NUMBER)
        found = next(below.sort(SEQ, -1).skip(_LARGEST_BATCH).limit(1), None)
        first = -1 if found is None else int(found[SEQ])
    batch: list[SequencedRecord] = []
    for document in logs.find(_numbers(writer_id, above=first), hint=_BY_NUMBER).sort(SEQ, 1):
        # What was too old to be booked then has been put aside then.
        if writers.is_bookable(document["createdAt"], started_at):
            batch.append(SequencedRecord(int(document[SEQ]), document))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _mend(db: Database[Any]) -> None:
    """Take away what was true of running processes only, and finish what was under way."""
    db[USERS].update_many({HOLDS: {"$exists": True}}, {"$unset": {HOLDS: ""}})
    for key in db["ohmygpt_keys"].find({FROM_BACKUP: {"$exists": True}}):
        used = {
            "isUsed": True,
            "activated": True,
            "usedFor": key.get("replacedKey"),
            "usedAt": key.get("claimedAt"),
        }
        db[BACKUPS].update_one({"_id": key[FROM_BACKUP], "isUsed": {"$ne": True}}, {"$set": used})
    db[summaries.COLLECTION].drop()


def _make_indexes(db: Database[Any], name: str, indexes: list[Document], progress: Progress) -> Iterator[str]:
    """Make a collection's indexes; yield a remark for each that the server refuses.

    Records must not expire before anybody has looked: how long they are kept is set by the workers when they
    start, according to their LOG_RETENTION_DAYS.
    """
    progress(f"indexes of {name}", 0)
    for index in indexes:
        if index.get("name") == "_id_":
            continue
        made = {key: value for key, value in index.items() if key not in ("v", "ns")}
        if name == RECORDS:
            made.pop("expireAfterSeconds", None)
        try:
            db.command("createIndexes", name, indexes=[made])
        except OperationFailure as error:
            yield f"index {index.get('name')} of {name} was not made: {store_problem(error)}"
