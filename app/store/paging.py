"""Pages that are read newest first, by keyset so that new entries move nothing."""

from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from app.common.cursor import FilterError, PageCursor

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
    """Read a page by the date field `moment` and the id, which has to be MongoDB's. Raises `FilterError`.

    For small collections; the request log has filters that no index meets together.
    """
    if cursor is not None:
        if not cursor.is_native_id:
            raise FilterError("cursor", "is one of another list")
        query = {"$and": [query, *after(cursor, moment)]}
    found = list(collection.find(query).sort([(moment, -1), ("_id", -1)]).limit(limit + 1))
    if len(found) <= limit:
        return found, None
    return found[:limit], cursor_at(found[limit - 1], moment)


def cursor_at(document: Document, moment: str) -> str | None:
    """Return the cursor of a page that ends with this document; None for one without a time."""
    at = document.get(moment)
    if not isinstance(at, datetime):
        return None
    aware = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    entry_id = document["_id"]
    return PageCursor(round(aware.timestamp() * 1000), str(entry_id), isinstance(entry_id, ObjectId)).encode()


def after(cursor: PageCursor, moment: str) -> list[Document]:
    """Return the conditions on what sorts after the cursor.

    Comparisons see only values of one type, hence the clause for texts.
    """
    at = cursor.moment
    if cursor.is_native_id:
        same_time: list[Document] = [
            {"_id": {"$lt": ObjectId(cursor.entry_id)}},
            {"_id": {"$type": "string"}},
        ]
    else:
        same_time = [{"_id": {"$lt": cursor.entry_id}}]
    either = {"$or": [{moment: {"$lt": at}}, *({moment: at, **condition} for condition in same_time)]}
    # The first says nothing new, but in a form that the index is entered by.
    return [{moment: {"$lte": at}}, either]


BRIEF_MS = 500
"""How long the server may look for what somebody is typing."""

_LAST_CHARACTER = "\U0010ffff"


def beginning_with(field: str, text: str) -> list[Document]:
    """Build conditions, one of which holds for values that begin with a text: an index finds them.

    The text as it is, in lower or upper case, or with a capital letter.
    """
    spellings = dict.fromkeys((text, text.lower(), text.upper(), text.capitalize()))
    return [{field: {"$gte": start, "$lt": start + _LAST_CHARACTER}} for start in spellings]
