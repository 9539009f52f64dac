"""Inserting records, and what to do with those that MongoDB will never take.

Such a record must not hold up the others. Its full content goes, as text, into `request_logs_dead` with the
reason; into `request_logs` goes what is left of it when everything free-form is removed, so that the
request still has its one record.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import gevent
from bson.errors import BSONError
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure

from app.core.bson_safe import bson_safe
from app.core.records import SequencedRecord
from app.core.stats import Figures

DEAD_COLLECTION = "request_logs_dead"
DUPLICATE_KEY = 11000

_MAX_TEXT = 100_000

_CLIENT_FAULTS = (BSONError, OverflowError, UnicodeError, RecursionError, TypeError)
"""What pymongo raises for a document it cannot encode; the whole batch is refused for its sake."""

_WHOLE_BATCH_CODES = frozenset({2, 9, 15, 22, 10334, 17419, 17420})
"""Server errors that refuse a whole batch for one document: bad value, too deep, invalid BSON, too large."""

_TRANSIENT_CODES = frozenset(
    # Not primary, stepping down, shutting down, time-outs, interruptions, conflicts, disk full, locks,
    # authentication: all of these pass, or are put right by the operator, and the document is innocent.
    {6, 7, 13, 18, 24, 46, 50, 63, 64, 79, 89, 91, 112, 133, 134, 189, 202, 212, 234, 262, 290, 314, 317}
    | {358, 384, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 14031}
)

_FREE_FORM = ("usageRaw", "attempts", "usageFlags", "upstreamModel", "requestedModel", "upstreamRequestId")


_STRIDE = 50
"""After so many records or documents (about a millisecond) the writer lets waiting requests go first."""

Item = TypeVar("Item")


def paced(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with other greenlets let through now and then: answers being relayed must not wait."""
    for count, item in enumerate(items, start=1):
        yield item
        if count % _STRIDE == 0:
            gevent.sleep(0)


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
        """For a record as it came."""
        request_id = _clean(str(record.document.get("_id", "")))
        return cls(request_id, writer_id, record.seq, stage, _clean(reason), _as_text(record.document))

    @classmethod
    def of_figures(cls, row: Figures, writer_id: str, stage: str, reason: str) -> "DeadLetter":
        """For the sums of a record that a document refused; `stage` is that document's collection."""
        return cls(row.request_id, writer_id, row.seq, stage, _clean(reason), _as_text(row._asdict()))

    def to_document(self) -> dict[str, Any]:
        """Its `_id` makes burying it twice harmless."""
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
    """Keep dead letters; those already there stay as they are."""
    documents = [letter.to_document() for letter in letters]
    if documents:
        _insert(db[DEAD_COLLECTION], documents)


def insert_records(
    collection: Collection[Any], records: Sequence[SequencedRecord], writer_id: str
) -> list[DeadLetter]:
    """Insert the records, those already there counting as inserted; returns a letter for each refused one.

    Raises `PyMongoError` when the store failed and all of it has to be tried again.
    """
    refused = _insert(collection, [_to_insert(item) for item in paced(records)])
    if refused:
        _insert(collection, [_reduced(_with_wide_cost(records[item.index].document)) for item in refused])
    return [DeadLetter.of(records[item.index], writer_id, "record", item.reason) for item in refused]


def raise_if_transient(error: BulkWriteError) -> None:
    """Raise the error again if it may pass: then nothing in it says anything about a document."""
    if error.details.get("writeConcernErrors"):
        raise error
    if any(problem["code"] in _TRANSIENT_CODES for problem in error.details["writeErrors"]):
        raise error


def _to_insert(record: SequencedRecord) -> Mapping[str, Any]:
    """The record as it is inserted: the very bytes of the journal, if they are as they have to be stored."""
    if record.encoded and type(record.document.get("costNanoUsd")) is Int64:
        return RawBSONDocument(record.encoded)
    return _with_wide_cost(record.document)


def _with_wide_cost(document: dict[str, Any]) -> dict[str, Any]:
    """The cost has to be stored 64 bits wide: pymongo makes small integers 32 bits."""
    return {**document, "costNanoUsd": Int64(document.get("costNanoUsd", 0))}


def _insert(collection: Collection[Any], documents: Sequence[Mapping[str, Any]]) -> list[_Refusal]:
    if not documents:
        return []
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        raise_if_transient(error)
        return [
            _Refusal(problem["index"], problem["errmsg"])
            for problem in error.details["writeErrors"]
            if not _is_same_record(problem)
        ]
    except OperationFailure as error:
        if error.code not in _WHOLE_BATCH_CODES:
            raise
        return _insert_halves(collection, documents, error)
    except _CLIENT_FAULTS as error:
        return _insert_halves(collection, documents, error)
    return []


def _insert_halves(
    collection: Collection[Any], documents: Sequence[Mapping[str, Any]], error: Exception
) -> list[_Refusal]:
    """Find out which documents are to blame, and insert the others."""
    if len(documents) == 1:
        return [_Refusal(0, f"{type(error).__name__}: {error}")]
    middle = len(documents) // 2
    right = _insert(collection, documents[middle:])
    return _insert(collection, documents[:middle]) + [
        _Refusal(middle + item.index, item.reason) for item in right
    ]


def _is_same_record(problem: dict[str, Any]) -> bool:
    """A duplicate of the `_id` is the same record written before; of anything else it is a refusal."""
    return problem["code"] == DUPLICATE_KEY and set(problem.get("keyPattern", {"_id": 1})) == {"_id"}


def _reduced(document: dict[str, Any]) -> dict[str, Any]:
    """The record without anything free-form; its figures have been checked to be storable."""
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
