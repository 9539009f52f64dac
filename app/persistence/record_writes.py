"""Inserting records, and what to do with those that MongoDB will never take.

Such a record must not hold up the others. Its full content goes, as text, into `request_logs_dead` with the
reason; into `request_logs` goes what is left of it when everything free-form is removed, so that the
request still has its one record.
"""

import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import bson
from bson.errors import BSONError
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure

from app.common.isolation import isolate
from app.records.bson_safe import bson_safe
from app.records.records import SequencedRecord
from app.statistics.figures import Figures
from app.store.driver import DUPLICATE_KEY, yielding

DEAD_COLLECTION = "request_logs_dead"

_MAX_TEXT = 100_000

# What pymongo raises for a document it cannot encode; the whole batch is refused for its sake.
_CLIENT_FAULTS = (BSONError, OverflowError, UnicodeError, RecursionError, TypeError)

_WHOLE_BATCH_CODES = frozenset({2, 9, 15, 22, 10334, 17419, 17420})
"""Server errors that refuse a whole batch for one document: bad value, too deep, invalid BSON, too large."""

_TRANSIENT_CODES = frozenset(
    # Not primary, stepping down, shutting down, time-outs, interruptions, conflicts, disk full, locks,
    # authentication: all of these pass, or are put right by the operator, and the document is innocent.
    {6, 7, 13, 18, 24, 46, 50, 63, 64, 79, 89, 91, 112, 133, 134, 189, 202, 212, 234, 262, 290, 314, 317}
    | {358, 384, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031}
)

_FREE_FORM = (
    *("usageRaw", "attempts", "usageFlags", "unpriced", "costItems", "upstreamModel"),
    *("requestedModel", "upstreamRequestId", "errorMessage", "toldMessage"),
)


WRITER, SEQ = "writerId", "seq"
"""The fields of a record that say who booked it under which number. They tell which sums it is in."""

_LENGTH = struct.Struct("<i")
_NUMBER = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that could not be booked: which record, at which step, why, and its content as text."""

    request_id: str
    writer_id: str
    seq: int
    stage: str
    reason: str
    content: str

    @classmethod
    def of(cls, record: SequencedRecord, writer_id: str, stage: str, reason: str) -> "DeadLetter":
        """Make a letter for a record as it came."""
        request_id = _clean(str(record.document.get("_id", "")))
        return cls(request_id, writer_id, record.seq, stage, _clean(reason), _as_text(record.document))

    @classmethod
    def of_figures(cls, row: Figures, writer_id: str, stage: str, reason: str) -> "DeadLetter":
        """Make a letter for the sums of a record that a document refused; `stage` is its collection."""
        return cls(row.request_id, writer_id, row.seq, stage, _clean(reason), _as_text(row._asdict()))

    def to_document(self) -> dict[str, Any]:
        """Make the letter's document; its `_id` makes burying it twice harmless."""
        return {
            "_id": f"{self.writer_id}:{self.seq}:{self.stage}",
            "requestId": self.request_id,
            "writerId": self.writer_id,
            "seq": Int64(self.seq),
            "stage": self.stage,
            "reason": self.reason,
            "content": self.content,
            "createdAt": datetime.now(UTC),
        }


@dataclass(frozen=True, slots=True)
class _Refusal:
    index: int
    reason: str


def bury(db: Database[Any], letters: Iterable[DeadLetter]) -> None:
    """Keep dead letters; letters already there stay as they are."""
    documents = [letter.to_document() for letter in letters]
    if documents:
        _insert(db[DEAD_COLLECTION], documents)


def insert_records(
    collection: Collection[Any], records: Sequence[SequencedRecord], writer_id: str
) -> list[DeadLetter]:
    """Insert the records, counting those already there as inserted; return a letter for each refused one.

    Raises `PyMongoError` when the store failed and all of the batch has to be tried again.
    """
    members = _writer_members(writer_id)
    refused = _insert(collection, [_to_insert(item, writer_id, members) for item in yielding(records)])
    if refused:
        _insert(collection, [_reduced(_numbered(records[item.index], writer_id)) for item in refused])
    return [DeadLetter.of(records[item.index], writer_id, "record", item.reason) for item in refused]


def raise_if_transient(error: BulkWriteError) -> None:
    """Raise the error again if it may pass: then nothing in it says anything about a document."""
    if error.details.get("writeConcernErrors"):
        raise error
    if any(problem["code"] in _TRANSIENT_CODES for problem in error.details["writeErrors"]):
        raise error


def _to_insert(record: SequencedRecord, writer_id: str, members: bytes) -> Mapping[str, Any]:
    """Return the record as it is inserted: the bytes of the journal, if they are fit, and the numbers.

    `members` are the encoded members that `_writer_members` returns.
    """
    encoded = record.encoded
    if encoded and type(record.document.get("costNanoUsd")) is Int64:
        # A document is its length (4 bytes, all of it), its members one after the other, and a zero.
        length = _LENGTH.pack(len(encoded) + len(members) + _NUMBER.size)
        return RawBSONDocument(b"".join((length, encoded[4:-1], members, _NUMBER.pack(record.seq), b"\0")))
    return _numbered(record, writer_id)


def _writer_members(writer_id: str) -> bytes:
    """Encode the two members that are added to each record, up to the number itself."""
    whole = bson.encode({WRITER: writer_id, SEQ: Int64(0)})
    return whole[4 : -1 - _NUMBER.size]


def _numbered(record: SequencedRecord, writer_id: str) -> dict[str, Any]:
    """Return the document with its numbers, and its cost 64 bits wide: pymongo makes small ones 32 bits."""
    document = record.document
    cost = Int64(document.get("costNanoUsd", 0))
    return {**document, "costNanoUsd": cost, WRITER: writer_id, SEQ: Int64(record.seq)}


def _insert(collection: Collection[Any], documents: Sequence[Mapping[str, Any]]) -> list[_Refusal]:
    """Insert what can be inserted; return what was refused."""
    refused: list[_Refusal] = []

    def insert(indexes: Sequence[int]) -> None:
        try:
            collection.insert_many([documents[index] for index in indexes], ordered=False)
        except BulkWriteError as error:
            raise_if_transient(error)
            refused.extend(
                _Refusal(indexes[problem["index"]], problem["errmsg"])
                for problem in error.details["writeErrors"]
                if not _is_same_record(problem)
            )

    def set_aside(index: int, error: Exception) -> None:
        refused.append(_Refusal(index, f"{type(error).__name__}: {error}"))

    if documents:
        isolate(deque([range(len(documents))]), insert, _refuses_whole_batch, set_aside)
    return refused


def _refuses_whole_batch(error: Exception) -> bool:
    """Return whether a batch was refused for the sake of one of its documents."""
    if isinstance(error, OperationFailure):
        return error.code in _WHOLE_BATCH_CODES
    return isinstance(error, _CLIENT_FAULTS)


def _is_same_record(problem: dict[str, Any]) -> bool:
    """Return whether the problem is a duplicate of the `_id`: the same record, written before.

    A duplicate of anything else is a refusal.
    """
    return problem["code"] == DUPLICATE_KEY and set(problem.get("keyPattern", {"_id": 1})) == {"_id"}


def _reduced(document: dict[str, Any]) -> dict[str, Any]:
    """Strip the record of anything free-form; its figures have been checked to be storable."""
    kept = {name: value for name, value in document.items() if name not in _FREE_FORM}
    texts = bson_safe({name: value for name, value in kept.items() if isinstance(value, str)}) or {}
    plain = {name: value for name, value in kept.items() if _is_plain(value)}
    return {**plain, **texts, "isReduced": True}


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, float | datetime)


def _as_text(content: dict[str, Any]) -> str:
    try:
        text = repr(content)
    except (RecursionError, ValueError) as error:
        text = f"<not printable: {type(error).__name__}>"
    return _clean(text)


def _clean(text: str) -> str:
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
