"""Reading `request_logs`: pages, single records, the newest few, and exports of any size."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from bson import ObjectId
from pymongo import DESCENDING, IndexModel
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import is_key_id
from app.common.cursor import PageCursor
from app.records.breakdown import Breakdown, Grid, pipeline, read
from app.records.log_filter import MAX_LIMIT, VIEWS, LogFilter
from app.store.connection import kept_since
from app.store.driver import make_indexes, store_errors, yielding
from app.store.paging import BRIEF_MS, after, beginning_with, cursor_at

log = logging.getLogger(__name__)

Document = dict[str, Any]

COLLECTION = "request_logs"

_NEWEST_FIRST = [("createdAt", DESCENDING), ("_id", DESCENDING)]

_FILTERED_FIELDS = ("userId", "model", "userKeyId", "factoryKeyId", "outcome", "apiFormat")

# Statuses from here on are indexed. The others are nearly everything, and found without as quickly.
_FAILED = 400

# They select and also give the order, so that a page costs what it shows, not what is stored.
INDEXES = (
    IndexModel(_NEWEST_FIRST),
    *(IndexModel([(name, DESCENDING), *_NEWEST_FIRST]) for name in _FILTERED_FIELDS),
    IndexModel(
        [("requestedModel", DESCENDING), *_NEWEST_FIRST],
        partialFilterExpression={"requestedModel": {"$exists": True}},
    ),
    # What only some requests say: then no other pays for it. Programs are few, and found without.
    *(
        IndexModel([(name, DESCENDING), *_NEWEST_FIRST], partialFilterExpression={name: {"$exists": True}})
        for name in ("endUser", "sessionId", "tags")
    ),
    IndexModel(
        [("statusCode", DESCENDING), *_NEWEST_FIRST],
        partialFilterExpression={"statusCode": {"$gte": _FAILED}},
    ),
)

LOOKED_THROUGH = 1000
"""How many records are looked through for a page, at most, when no index selects by all that is asked for."""

LOOKED_THROUGH_BY_TIME = 5000
"""The same number where the records lie one beside the other: that is quicker than looking up each."""

_BY_MODEL = "$or"
"""The name that the condition on the model has in a query: its id, or what the client called it."""

_RAREST_FIRST = (
    "sessionId",
    "endUser",
    "tags",
    "userKeyId",
    "userId",
    "statusCode",
    "factoryKeyId",
    "outcome",
    _BY_MODEL,
    "apiFormat",
)
"""Which index to go by, where several would do and none of them selects few."""

_MOST_KEYS = 150

_UNINDEXED = ("costNanoUsd", "latencyMs", "endpoint", "clientName")

SORTS = {"-cost": "costNanoUsd", "-latency": "latencyMs"}
"""By what else than time records can be put in order, largest first."""

_RANK = "sortedBy"
_NO_NUMBER = -1
"""What those records count as that have no number there; none is below 0."""

_LONG_MS = 10_000
"""How long the server may look through a range for its largest records, or to sum it up."""

_BRIEF_MS = 2000
"""The same for what is shown beside every page of records."""

BROKEN_DOWN = 50_000
"""How many records are looked through for a breakdown, at most."""


_SEARCHED_FIELDS = (
    *("_id", "userId", "model", "requestedModel"),
    *("errorType", "errorMessage", "upstreamRequestId"),
)

# How many records are read at once: that takes some milliseconds, then requests go first.
_EXPORT_BATCH = 100

_MASKED_KEY = re.compile(r"(.{1,8})\.\.\.(.{1,4})")


class RequestLogStore:
    """The records of all requests, newest first unless a method says otherwise.

    Every method raises `StoreUnavailable` when the store cannot answer.
    """

    def __init__(self, db: Database[Any]) -> None:
        self._logs = db[COLLECTION]
        self._client_keys = ClientKeyStore(db)

    def ensure_indexes(self) -> None:
        """Make the indexes paging needs. The older ones, and expiry, are made with the connection's."""
        with store_errors():
            make_indexes(self._logs, INDEXES)

    def find(
        self, wanted: LogFilter, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """Find one page, and the cursor of the next one (None: this was the last).

        No page costs more than looking through `LOOKED_THROUGH` (or `…_BY_TIME`) records. Where that was not
        enough to fill the page, it has fewer records than `limit` (maybe none), and the cursor goes on from
        there.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        with store_errors():
            selected, rest = self._selection(wanted)
            if cursor is None and wanted.text is not None:
                named = self._logs.find_one({"$and": [_is_id(wanted.text), *_each(selected), *_each(rest)]})
                if named is not None:
                    return [named], None
            if wanted.text is not None:
                rest["$and"] = [*rest.get("$and", ()), _containing(wanted.text)]
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
                return found[:limit], cursor_at(found[limit - 1], "createdAt")
            return found, self._end_of_search(query, most) if rest else None

    def _look_through(self, query: Document, rest: Document, limit: int, most: int) -> list[Document]:
        """Find what fits `rest` among the first `most` records of `query`."""
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
        """Return the cursor of the last record that was looked at; None when it was the last there is."""
        ends = self._logs.find(query, {"createdAt": 1}).sort(_NEWEST_FIRST).skip(most - 1).limit(2)
        last = list(ends)
        return cursor_at(last[0], "createdAt") if len(last) > 1 else None

    def _selection(self, wanted: LogFilter) -> tuple[Document, Document]:
        """Divide the conditions into those on fields that are indexed, and the others."""
        conditions = query_of(wanted)
        rest: Document = {}
        if wanted.key is not None:
            conditions["userKeyId"] = self._key_condition(wanted.key)
        if wanted.status is not None and wanted.status[0] < _FAILED:
            rest["statusCode"] = conditions.pop("statusCode")
        rest.update((name, conditions[name]) for name in _UNINDEXED if name in conditions)
        if wanted.min_attempts is not None:
            rest.update(_attempts(wanted.min_attempts))
        if parts := list(_parts(wanted)):
            rest["$and"] = parts
        return {name: conditions[name] for name in _RAREST_FIRST if name in conditions}, rest

    def _key_condition(self, key: str | tuple[str, ...]) -> Any:
        """Match keys' ids, or the ids that `key` is the masked form of: all readers have of secret keys."""
        if isinstance(key, tuple):
            return {"$in": list(key)}
        masked = _MASKED_KEY.fullmatch(key)
        if masked is None:
            return key
        head, tail = masked.groups()
        # A range, not a pattern: then the index is walked from key to key.
        among = {"$gte": head, "$lt": head[:-1] + chr(ord(head[-1]) + 1)}
        ids = self._logs.distinct("userKeyId", {"userKeyId": among})
        return {"$in": [found for found in ids if found.endswith(tail)][:_MOST_KEYS]}

    def _index_for(self, selected: Document, within: list[Document]) -> str | None:
        """Choose the field whose index to go by: the first one that selects few, or else the first."""
        if len(selected) > 1:
            for name, condition in selected.items():
                query = {"$and": [{name: condition}, *within]}
                if self._logs.count_documents(query, limit=LOOKED_THROUGH + 1) <= LOOKED_THROUGH:
                    return name
        return next(iter(selected), None)

    def largest(
        self, wanted: LogFilter, by: str, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """Find one page by a field, one of `SORTS`, largest first, and the cursor of the next one.

        Those without a number come last. Each page costs looking through the filter's time, and no more than
        `_LONG_MS`: then it raises `StoreUnavailable`.
        """
        limit, field = max(1, min(limit, MAX_LIMIT)), f"${SORTS[by]}"
        pipeline: list[Document] = [
            {"$match": query_of(wanted)},
            {"$set": {_RANK: {"$cond": [{"$isNumber": field}, field, _NO_NUMBER]}}},
            *([] if cursor is None else [{"$match": _below(cursor)}]),
            {"$sort": {_RANK: DESCENDING, "_id": DESCENDING}},
            {"$limit": limit + 1},
        ]
        with store_errors():
            found = list(self._logs.aggregate(pipeline, maxTimeMS=_LONG_MS, allowDiskUse=True))
        ranks = [float(document.pop(_RANK)) for document in found]
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]["_id"]
        following = PageCursor(ranks[limit - 1], str(last), isinstance(last, ObjectId), by).encode()
        return found[:limit], following

    def totals(self, wanted: LogFilter) -> Document:
        """Sum up everything the filter selects: `requests`, `costNanoUsd` and the kinds of tokens."""
        tokens = ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens")
        sums: Document = {name: {"$sum": f"${name}"} for name in ("costNanoUsd", *tokens)}
        group = {"_id": None, "requests": {"$sum": {"$ifNull": ["$count", 1]}}, **sums}
        with store_errors():
            found = list(
                self._logs.aggregate([{"$match": query_of(wanted)}, {"$group": group}], maxTimeMS=_LONG_MS)
            )
        row = found[0] if found else {}
        return {name: int(row.get(name) or 0) for name in ("requests", *sums)}

    def with_known_keys(self, wanted: LogFilter) -> LogFilter:
        """Return the filter with the ids of the client keys that its `key` is the name or the hint of.

        What is no key's name, or a part of it, and not what is shown of one stays what it is: an id.
        """
        if not isinstance(wanted.key, str) or is_key_id(wanted.key):
            return wanted
        with store_errors():
            ids = self._client_keys.ids_called(wanted.key, _MOST_KEYS)
        return replace(wanted, key=tuple(ids)) if ids else wanted

    def key_names(self, stored_ids: Collection[str]) -> dict[str, str]:
        """Return what to call those of these client keys that there are, by id as records have it."""
        with store_errors():
            return self._client_keys.names(stored_ids)

    def neighbours(
        self, wanted: LogFilter, record: Document, sort: str = "-createdAt"
    ) -> tuple[str | None, str | None]:
        """Return the ids of the records before and after this one in a list; None where there is none.

        Or where finding it would take too long.
        """
        fields = [*((SORTS[sort],) if sort in SORTS else ()), "createdAt", "_id"]
        with store_errors():
            before, after = (self._next_to(wanted, record, fields, way) for way in (1, -1))
        return before, after

    def _next_to(self, wanted: LogFilter, record: Document, fields: list[str], way: int) -> str | None:
        beyond = "$gt" if way > 0 else "$lt"
        either = [
            {**{same: record.get(same) for same in fields[:place]}, name: {beyond: record.get(name)}}
            for place, name in enumerate(fields)
        ]
        # The first says nothing new, but in a form that an index is entered by.
        bound = {fields[0]: {f"{beyond}e": record.get(fields[0])}}
        found = self._logs.find({"$and": [query_of(wanted), bound, {"$or": either}]}, {"_id": 1})
        with suppress(ExecutionTimeout):
            for document in found.sort([(name, way) for name in fields]).limit(1).max_time_ms(_BRIEF_MS):
                return str(document["_id"])
        return None

    def breakdown(self, wanted: LogFilter, now: datetime, tz: tzinfo) -> Breakdown | None:
        """Count and sum up what the filter selects; None where even little of it takes too long.

        Looks through the newest `BROKEN_DOWN` records of which some index selects what is asked for, or a
        tenth of them if that takes too long: `Breakdown.since` says how far back that was.
        """
        with store_errors():
            for most in (BROKEN_DOWN, BROKEN_DOWN // 10):
                with suppress(ExecutionTimeout):
                    return self._breakdown(wanted, most, now, tz)
        return None

    def _breakdown(self, wanted: LogFilter, most: int, now: datetime, tz: tzinfo) -> Breakdown:
        selected, _ = self._selection(wanted)
        within = _within(wanted, None)
        by = self._index_for(selected, within)
        indexed = {"$and": [{} if by is None else {by: selected[by]}, *within]}
        order = [("createdAt", DESCENDING)]
        before = self._logs.find(indexed, {"_id": 0, "createdAt": 1}).sort(order).max_time_ms(_BRIEF_MS)
        beyond = next(before.skip(most).limit(1), None)
        since = None if beyond is None else beyond["createdAt"] + timedelta(milliseconds=1)
        start = since or wanted.start
        if start is None:
            oldest = self._logs.find(indexed, {"createdAt": 1}).sort("createdAt", 1).max_time_ms(_BRIEF_MS)
            start = next((found["createdAt"] for found in oldest.limit(1)), now)
        grid = Grid.of(start, wanted.end or now, tz)
        query = query_of(replace(wanted, start=start))
        answers = self._logs.aggregate(pipeline(query, grid, _view_queries()), maxTimeMS=_BRIEF_MS)
        return read(next(iter(answers)), grid, since)

    def kept_since(self, now: datetime) -> datetime | None:
        """Return the moment before which records have expired; None: none ever does."""
        with store_errors():
            return kept_since(self._logs.database, now)

    def expired_before(self, wanted: LogFilter, now: datetime) -> datetime | None:
        """Return the moment before which records have expired, where a filter asks for any of before."""
        since = self.kept_since(now)
        return since if wanted.reaches_before(since) else None

    def get(self, request_id: str) -> Document | None:
        """Return one record; None when there is none (any more)."""
        with store_errors():
            return self._logs.find_one(_is_id(request_id))

    def beginning(self, text: str, limit: int) -> list[Document]:
        """Return the newest records whose id begins with a text."""
        with store_errors():
            found = self._logs.find(beginning_with("_id", text)[0]).sort("_id", DESCENDING).limit(limit)
            return list(found.max_time_ms(BRIEF_MS))

    def numbered_page(
        self, wanted: LogFilter, page: int, limit: int, reach: int
    ) -> tuple[list[Document], int]:
        """Return a page by its number (from 1 on), newest first, and the number of records, up to `reach`.

        Costs what is skipped: for filters an index selects by, and pages that are not too far back.
        """
        query = query_of(wanted)
        with store_errors():
            found = self._logs.find(query).sort(_NEWEST_FIRST).skip((page - 1) * limit).limit(limit)
            return list(found), self._logs.count_documents(query, limit=reach)

    def tail(self, wanted: LogFilter, limit: int = 20) -> list[Document]:
        """Return the newest records, oldest of them first, as a log is read."""
        found, cursor = self.find(wanted, limit)
        while cursor is not None and len(found) < limit:
            more, cursor = self.find(wanted, limit - len(found), PageCursor.parse(cursor))
            found += more
        return found[::-1]

    def among(self, wanted: LogFilter, records: Iterable[Document]) -> list[Document]:
        """Return those of some records that the filter selects."""
        given = list(records)
        chosen = {"_id": {"$in": [record["_id"] for record in given]}}
        with store_errors():
            fitting = {
                found["_id"] for found in self._logs.find({"$and": [chosen, query_of(wanted)]}, {"_id": 1})
            }
        return [record for record in given if record["_id"] in fitting]

    def export(self, wanted: LogFilter) -> Iterator[Document]:
        """Iterate over every record, oldest first, in constant memory however many there are."""
        with store_errors():
            order = [(name, -way) for name, way in _NEWEST_FIRST]
            with self._logs.find(query_of(wanted), batch_size=_EXPORT_BATCH).sort(order) as found:
                yield from yielding(found)


def _view_queries() -> dict[str, Document]:
    now = datetime.now(UTC)  # which none of them asks for
    return {name: query_of(LogFilter.parse({"view": name}, now, UTC)) for name in VIEWS}


def query_of(wanted: LogFilter) -> Document:
    """Build the MongoDB query of a filter."""
    query: Document = {}
    for field, value in (
        (_BY_MODEL, wanted.model and [{"model": wanted.model}, {"requestedModel": wanted.model}]),
        ("userId", wanted.user),
        ("userKeyId", None if wanted.key is None else _key_pattern(wanted.key)),
        ("factoryKeyId", wanted.factory_key),
        ("outcome", {"$in": list(wanted.outcome)} if isinstance(wanted.outcome, tuple) else wanted.outcome),
        ("costNanoUsd", wanted.min_cost_nano and {"$gte": wanted.min_cost_nano}),
        ("latencyMs", wanted.min_latency_ms and {"$gte": wanted.min_latency_ms}),
        ("apiFormat", wanted.api_format),
        ("endUser", wanted.end_user),
        ("sessionId", wanted.session),
        ("clientName", wanted.client),
        ("endpoint", wanted.endpoint),
        ("tags", wanted.tag),
    ):
        if value is not None:
            query[field] = value
    if wanted.status is not None:
        low, high = wanted.status
        # Each of a class by itself: then the index gives the order too.
        query["statusCode"] = low if low == high else {"$in": list(range(low, high + 1))}
    if wanted.min_attempts is not None:
        query.update(_attempts(wanted.min_attempts))
    for time in _times(wanted):
        query.setdefault("createdAt", {}).update(time)
    parts = list(_parts(wanted))
    if wanted.text is not None:
        parts.append(_containing(wanted.text))
    if parts:
        query["$and"] = parts
    return query


def _attempts(least: int) -> Document:
    """Match records of at least so many attempts."""
    return {f"attempts.{least - 1}": {"$exists": True}}


def _times(wanted: LogFilter) -> Iterator[Document]:
    if wanted.start is not None:
        yield {"$gte": wanted.start}
    if wanted.end is not None:
        yield {"$lt": wanted.end}


def _within(wanted: LogFilter, cursor: PageCursor | None) -> list[Document]:
    """Build the conditions on time, and the condition that leaves out what was shown already."""
    conditions = [{"createdAt": time} for time in _times(wanted)]
    return conditions if cursor is None else [*conditions, *after(cursor, "createdAt")]


def _below(cursor: PageCursor) -> Document:
    """Build the condition on what comes after the cursor where the largest come first."""
    if cursor.is_native_id:
        ids: list[Document] = [{"_id": {"$lt": ObjectId(cursor.entry_id)}}, {"_id": {"$type": "string"}}]
    else:
        ids = [{"_id": {"$lt": cursor.entry_id}}]
    return {"$or": [{_RANK: {"$lt": cursor.key}}, *({_RANK: cursor.key, **same} for same in ids)]}


def _containing(text: str) -> Document:
    contains = {"$regex": re.escape(text), "$options": "i"}
    return {"$or": [{field: contains} for field in _SEARCHED_FIELDS]}


def _parts(wanted: LogFilter) -> Iterator[Document]:
    """Build the conditions on parts of names."""
    for part, fields in (
        (wanted.user_part, ("userId",)),
        (wanted.model_part, ("model", "requestedModel")),
    ):
        if part is not None:
            contains = {"$regex": re.escape(part), "$options": "i"}
            yield {"$or": [{field: contains} for field in fields]}


def _is_id(text: str) -> Document:
    """Match the record of this id: made here, or by MongoDB for earlier software."""
    return {"_id": {"$in": [text, ObjectId(text)] if ObjectId.is_valid(text) else [text]}}


def _each(conditions: Document) -> Iterator[Document]:
    for name, condition in conditions.items():
        yield {name: condition}


def _key_pattern(key: str | tuple[str, ...]) -> Any:
    """Match keys' ids, or ids whose masked form `key` is."""
    if isinstance(key, tuple):
        return {"$in": list(key)}
    masked = _MASKED_KEY.fullmatch(key)
    if masked is None:
        return key
    return {"$regex": f"^{re.escape(masked[1])}.*{re.escape(masked[2])}$", "$options": "s"}
