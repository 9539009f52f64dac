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
from app.adapters.mongo.record_writes import paced
from app.core.log_filter import MAX_LIMIT, LogFilter, PageCursor
from app.core.ports import StoreUnavailable

log = logging.getLogger(__name__)

Document = dict[str, Any]

COLLECTION = "request_logs"

_NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

_FILTERED_FIELDS = ("userId", "model", "userKeyId", "factoryKeyId", "outcome", "apiFormat")

_FAILED = 400
"""Statuses from here on are indexed. The others are nearly everything, and found without as quickly."""

INDEXES = (
    IndexModel(_NEWEST_FIRST),
    *(IndexModel([(name, DESCENDING), *_NEWEST_FIRST]) for name in _FILTERED_FIELDS),
    IndexModel(
        [("statusCode", DESCENDING), *_NEWEST_FIRST],
        partialFilterExpression={"statusCode": {"$gte": _FAILED}},
    ),
)
"""They select and also give the order, so that a page costs what it shows, not what is stored."""

LOOKED_THROUGH = 1000
"""So many records are looked through for a page, at most, when no index selects by all that is asked for."""

LOOKED_THROUGH_BY_TIME = 5000
"""The same, when they lie one beside the other: that is quicker than looking up each."""

_RAREST_FIRST = ("userKeyId", "userId", "statusCode", "factoryKeyId", "outcome", "model", "apiFormat")
"""Which index to go by, where several would do and none of them selects few."""

_MOST_KEYS = 150

_INDEX_CONFLICTS = (85, 86)

_SEARCHED_FIELDS = ("_id", "userId", "model", "errorType", "upstreamRequestId")

_EXPORT_BATCH = 100
"""So many are read at once: some milliseconds, then requests go first."""

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
        """One page, and the cursor of the next one (None: this was the last).

        No page costs more than looking through `LOOKED_THROUGH` (or `…_BY_TIME`) records. Where that was not
        enough to fill it, it has fewer records than `limit` (maybe none), and the cursor goes on from there.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        with store_errors():
            selected, rest = self._selection(wanted)
            if cursor is None and wanted.text is not None:
                named = self._logs.find_one({"$and": [_is_id(wanted.text), *_each(selected), *_each(rest)]})
                if named is not None:
                    return [named], None
            if wanted.text is not None:
                rest.update(_containing(wanted.text))
            by = self._index_for(selected, _within(wanted, cursor))
            rest.update((name, condition) for name, condition in selected.items() if name != by)
            chosen: Document = {} if by is None else {by: selected[by]}
            query = {"$and": [chosen, *_within(wanted, cursor)]}
            # One more than shown tells whether there is a next page.
            if not rest:
                found = list(self._logs.find(query).sort(_NEWEST_FIRST).limit(limit + 1))
            else:
                most = LOOKED_THROUGH_BY_TIME if by is None else LOOKED_THROUGH
                found = self._look_through(query, rest, limit + 1, most)
            if len(found) > limit:
                return found[:limit], _cursor_after(found[limit - 1])
            return found, self._end_of_search(query, most) if rest else None

    def _look_through(self, query: Document, rest: Document, limit: int, most: int) -> list[Document]:
        """What fits `rest` among the first `most` records of `query`."""
        fitting: list[Document] = [
            {"$match": query},
            {"$sort": dict(_NEWEST_FIRST)},
            {"$limit": most},
            {"$match": rest},
            {"$limit": limit},
            {"$project": {"_id": 1}},
        ]
        ids = [found["_id"] for found in self._logs.aggregate(fitting)]
        return list(self._logs.find({"_id": {"$in": ids}}).sort(_NEWEST_FIRST)) if ids else []

    def _end_of_search(self, query: Document, most: int) -> str | None:
        """The cursor of the last record that was looked at; None when it was the last there is."""
        ends = self._logs.find(query, {"createdAt": 1}).sort(_NEWEST_FIRST).skip(most - 1).limit(2)
        last = list(ends)
        return _cursor_after(last[0]) if len(last) > 1 else None

    def _selection(self, wanted: LogFilter) -> tuple[Document, Document]:
        """The conditions on fields that are indexed, and the others."""
        conditions = query_of(wanted)
        rest: Document = {}
        if wanted.key is not None:
            conditions["userKeyId"] = self._key_condition(wanted.key)
        if wanted.status is not None and wanted.status[0] < _FAILED:
            rest["statusCode"] = conditions.pop("statusCode")
        return {name: conditions[name] for name in _RAREST_FIRST if name in conditions}, rest

    def _key_condition(self, key: str) -> Any:
        """A key's id, or those whose masked form this is: all a reader has of keys that are secrets."""
        masked = _MASKED_KEY.fullmatch(key)
        if masked is None:
            return key
        head, tail = masked.groups()
        # A range, not a pattern: then the index is walked from key to key.
        among = {"$gte": head, "$lt": head[:-1] + chr(ord(head[-1]) + 1)}
        ids = self._logs.distinct("userKeyId", {"userKeyId": among})
        return {"$in": [found for found in ids if found.endswith(tail)][:_MOST_KEYS]}

    def _index_for(self, selected: Document, within: list[Document]) -> str | None:
        """The field to go by: the first one that selects few, or else the first."""
        if len(selected) > 1:
            for name, condition in selected.items():
                query = {"$and": [{name: condition}, *within]}
                if self._logs.count_documents(query, limit=LOOKED_THROUGH + 1) <= LOOKED_THROUGH:
                    return name
        return next(iter(selected), None)

    def get(self, request_id: str) -> Document | None:
        """One record; None when there is none (any more)."""
        with store_errors():
            return self._logs.find_one(_is_id(request_id))

    def numbered_page(
        self, wanted: LogFilter, page: int, limit: int, reach: int
    ) -> tuple[list[Document], int]:
        """A page by its number, from 1 on, newest first, and how many records there are, up to `reach`.

        Costs what is skipped: for filters an index selects by, and pages that are not too far back.
        """
        query = query_of(wanted)
        with store_errors():
            found = self._logs.find(query).sort(_NEWEST_FIRST).skip((page - 1) * limit).limit(limit)
            return list(found), self._logs.count_documents(query, limit=reach)

    def tail(self, wanted: LogFilter, limit: int = 20) -> list[Document]:
        """The newest records, oldest of them first, as a log is read."""
        found, cursor = self.find(wanted, limit)
        while cursor is not None and len(found) < limit:
            more, cursor = self.find(wanted, limit - len(found), PageCursor.decode(cursor))
            found += more
        return found[::-1]

    def export(self, wanted: LogFilter) -> Iterator[Document]:
        """Every record, oldest first, in constant memory however many there are."""
        with store_errors():
            order = [(name, -way) for name, way in _NEWEST_FIRST]
            with self._logs.find(query_of(wanted), batch_size=_EXPORT_BATCH).sort(order) as found:
                yield from paced(found)


def query_of(wanted: LogFilter) -> Document:
    """The MongoDB query of a filter."""
    query: Document = {}
    for field, value in (
        ("model", wanted.model),
        ("userId", wanted.user),
        ("userKeyId", None if wanted.key is None else _key_pattern(wanted.key)),
        ("factoryKeyId", wanted.factory_key),
        ("outcome", wanted.outcome),
        ("apiFormat", wanted.api_format),
    ):
        if value is not None:
            query[field] = value
    if wanted.status is not None:
        low, high = wanted.status
        # Each of a class by itself: then the index gives the order too.
        query["statusCode"] = low if low == high else {"$in": list(range(low, high + 1))}
    for time in _times(wanted):
        query.setdefault("createdAt", {}).update(time)
    if wanted.text is not None:
        query.update(_containing(wanted.text))
    return query


def _times(wanted: LogFilter) -> Iterator[Document]:
    if wanted.start is not None:
        yield {"$gte": wanted.start}
    if wanted.end is not None:
        yield {"$lt": wanted.end}


def _within(wanted: LogFilter, cursor: PageCursor | None) -> list[Document]:
    """The conditions on time, and what was shown already left out."""
    conditions = [{"createdAt": time} for time in _times(wanted)]
    return conditions if cursor is None else [*conditions, *_beyond(cursor)]


def _containing(text: str) -> Document:
    contains = {"$regex": re.escape(text), "$options": "i"}
    return {"$or": [{field: contains} for field in _SEARCHED_FIELDS]}


def _is_id(text: str) -> Document:
    """The record of this id: made here, or by MongoDB for earlier software."""
    return {"_id": {"$in": [text, ObjectId(text)] if ObjectId.is_valid(text) else [text]}}


def _each(conditions: Document) -> Iterator[Document]:
    for name, condition in conditions.items():
        yield {name: condition}


def _key_pattern(key: str) -> Any:
    """Ids whose masked form this is; a key's own id otherwise."""
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


def _beyond(cursor: PageCursor) -> list[Document]:
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
    either = {"$or": earlier + [{"createdAt": created_at, **condition} for condition in same_time]}
    # The first says nothing new, but in a form that the index is entered by.
    return [{"createdAt": {"$lte": created_at}}, either]
