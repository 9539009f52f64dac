"""Pages of small collections that are read newest first, by keyset so that new entries move nothing."""

from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from app.core.log_filter import FilterError, PageCursor

Document = dict[str, Any]
Page = tuple[list[Document], str | None]
"""The entries, and the cursor of the next page (None: this was the last)."""


def newest_first(
    collection: Collection[Document],
    query: Document,
    moment: str,
    limit: int,
    cursor: PageCursor | None = None,
) -> Page:
    """A page by the date field `moment` and the id, which has to be MongoDB's own. Raises `FilterError`."""
    if cursor is not None:
        if not cursor.is_native_id:
            raise FilterError("cursor", "is one of another list")
        at = datetime.fromtimestamp(cursor.created_ms / 1000, UTC)
        beyond = [{moment: {"$lt": at}}, {moment: at, "_id": {"$lt": ObjectId(cursor.record_id)}}]
        query = {"$and": [query, {"$or": beyond}]}
    found = list(collection.find(query).sort([(moment, -1), ("_id", -1)]).limit(limit + 1))
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], PageCursor(_epoch_ms(last[moment]), str(last["_id"]), is_native_id=True).encode()


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
