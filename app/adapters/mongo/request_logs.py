"""Reading `request_logs`: pages, single records, the newest few, and exports of any size."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo import DESCENDING, IndexModel
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from app.adapters.mongo.connection import store_problem
from app.core.log_filter import MAX_LIMIT, LogFilter, PageCursor
from app.core.ports import StoreUnavailable

log = logging.getLogger(__name__)

Document = dict[str, Any]

COLLECTION = "request_logs"

_NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

_FILTERED_FIELDS = ("userId", "model", "userKeyId", "factoryKeyId", "outcome")

INDEXES = (
    IndexModel(_NEWEST_FIRST),
    *(IndexModel([(name, DESCENDING), *_NEWEST_FIRST]) for name in _FILTERED_FIELDS),
    # Successes are nearly everything, and found without an index as quickly.
    IndexModel(
        [("statusCode", DESCENDING), *_NEWEST_FIRST], partialFilterExpression={"statusCode": {"$gte": 400}}
    ),
)
"""They select and also give the order, so that a page costs what it shows, not what is stored."""

_INDEX_CONFLICTS = (85, 86)

_SEARCHED_FIELDS = ("_id", "userId", "model", "errorType", "upstreamRequestId")

_EXPORT_BATCH = 500

_MASKED_KEY = re.compile(r"(.{1,8})\.\.\.(.{1,4})")


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn the driver's errors into `StoreUnavailable`, with a reason in one line."""
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(store_problem(error)) from error


def make_indexes(collection: Collection[Any], indexes: Iterable[IndexModel]) -> None:
    """Make the indexes that are missing. One the operator has made in another way is left as it is."""
    for index in indexes:
        try:
            collection.create_indexes([index])
        except OperationFailure as error:
            if error.code not in _INDEX_CONFLICTS:
                raise
            log.warning("an index on %s was not made: %s", collection.name, store_problem(error))


class RequestLogStore:
    """The records of all requests, newest first unless a method says otherwise.

    Every method raises `StoreUnavailable` when the store cannot answer.
    """

    def __init__(self, db: Database[Any]) -> None:
        self._logs = db[COLLECTION]

    def ensure_indexes(self) -> None:
        """The indexes paging needs. The older ones, and expiry, are made with the connection's."""
        with store_errors():
            make_indexes(self._logs, INDEXES)

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """One page, and the cursor of the next one (None: this was the last)."""
        limit = max(1, min(limit, MAX_LIMIT))
        query = query_of(wanted)
        if cursor is not None:
            query = {"$and": [query, _beyond(cursor)]}
        with store_errors():
            # One more than shown tells whether there is a next page.
            found = list(self._logs.find(query).sort(_NEWEST_FIRST).limit(limit + 1))
        page = found[:limit]
        return page, _cursor_after(page[-1]) if len(found) > limit else None

    def get(self, request_id: str) -> Document | None:
        """One record; None when there is none (any more)."""
        ids: list[Any] = [request_id]
        if ObjectId.is_valid(request_id):
            ids.append(ObjectId(request_id))
        with store_errors():
            return self._logs.find_one({"_id": {"$in": ids}})

    def tail(self, wanted: LogFilter, limit: int = 20) -> list[Document]:
        """The newest records, oldest of them first, as a log is read."""
        return self.find(wanted, limit)[0][::-1]

    def export(self, wanted: LogFilter) -> Iterator[Document]:
        """Every record, oldest first, in constant memory however many there are."""
        with store_errors():
            order = [(name, -way) for name, way in _NEWEST_FIRST]
            yield from self._logs.find(query_of(wanted), batch_size=_EXPORT_BATCH).sort(order)


def query_of(wanted: LogFilter) -> Document:
    """The MongoDB query of a filter."""
    query: Document = {}
    for field, value in (
        ("model", wanted.model),
        ("userId", wanted.user),
        ("userKeyId", None if wanted.key is None else _key_condition(wanted.key)),
        ("factoryKeyId", wanted.factory_key),
        ("outcome", wanted.outcome),
        ("apiFormat", wanted.api_format),
    ):
        if value is not None:
            query[field] = value
    if wanted.status is not None:
        low, high = wanted.status
        query["statusCode"] = low if low == high else {"$gte": low, "$lte": high}
    if wanted.start is not None:
        query.setdefault("createdAt", {})["$gte"] = wanted.start
    if wanted.end is not None:
        query.setdefault("createdAt", {})["$lt"] = wanted.end
    if wanted.text is not None:
        contains = {"$regex": re.escape(wanted.text), "$options": "i"}
        query["$or"] = [{field: contains} for field in _SEARCHED_FIELDS]
    return query


def _key_condition(key: str) -> Any:
    """A key's id, or its masked form as shown, which is all a reader has of keys that are secrets."""
    masked = _MASKED_KEY.fullmatch(key)
    if masked is None:
        return key
    return {"$regex": f"^{re.escape(masked[1])}.*{re.escape(masked[2])}$", "$options": "s"}


def _cursor_after(document: Document) -> str | None:
    created_at = document.get("createdAt")
    if not isinstance(created_at, datetime):
        return None
    moment = created_at.replace(tzinfo=UTC) if created_at.tzinfo is None else created_at
    record_id = document["_id"]
    created_ms = round(moment.timestamp() * 1000)
    return PageCursor(created_ms, str(record_id), isinstance(record_id, ObjectId)).encode()


def _beyond(cursor: PageCursor) -> Document:
    """What sorts after the cursor. Comparisons see only values of one type, hence the clause for texts."""
    created_at = datetime.fromtimestamp(cursor.created_ms / 1000, UTC)
    earlier: list[Document] = [{"createdAt": {"$lt": created_at}}]
    if cursor.is_native_id:
        same_time: list[Document] = [
            {"_id": {"$lt": ObjectId(cursor.record_id)}},
            {"_id": {"$type": "string"}},
        ]
    else:
        same_time = [{"_id": {"$lt": cursor.record_id}}]
    return {"$or": earlier + [{"createdAt": created_at, **condition} for condition in same_time]}
