"""Pages of users in several orders, by keyset, and what may be seen of their documents."""

import base64
import binascii
import json
import math
import re
from typing import Any

from pymongo.database import Database

from app.core.log_filter import FilterError

Document = dict[str, Any]

_NUMBERS = {"spend": "creditsUsed", "credits": "credits"}
_DATES = {"created": "createdAt", "activity": "lastUsedAt"}
BY_NAME = "name"
ORDERS = (BY_NAME, *_NUMBERS, *_DATES)
"""By name from the first, by everything else from the most or the newest."""

VISIBLE = (
    *("_id", "role", "isActive", "createdAt", "lastLoginAt", "lastUsedAt", "apiKey", "apiKeyCreatedAt"),
    *("credits", "creditsUsed", "refCredits", "creditsNew", "creditsNewUsed", "overdraftNanoUsd"),
    *("tokensUserNew", "totalInputTokens", "totalOutputTokens", "purchasedAt", "expiresAt"),
    *("purchasedAtNew", "expiresAtNew", "referralCode", "referredBy", "referralBonusAwarded", "discordId"),
    *("migration", "rpm", "onClientAbort"),
)
"""Fields that may leave the store; passwords, holds and the writers' marks are none of anybody's business."""


class UserPages:
    """Reads users as documents."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]

    def counts(self) -> tuple[int, int]:
        """All users, and those who are active."""
        return self._users.estimated_document_count(), self._users.count_documents(
            {"isActive": {"$ne": False}}
        )

    def get(self, username: str) -> Document | None:
        """The visible fields of one user, and whether there is a password."""
        return self._users.find_one({"_id": username}, _PROJECTION)

    def page(
        self, *, search: str | None, order: str, limit: int, cursor: str | None
    ) -> tuple[list[Document], str | None]:
        """A page, and the cursor of the next. Raises `FilterError` for a cursor of something else."""
        pipeline: list[Document] = []
        if search:
            pipeline.append({"$match": {"_id": {"$regex": re.escape(search), "$options": "i"}}})
        pipeline.append({"$addFields": {"_key": _key(order)}})
        if cursor is not None:
            key, name = _decode(order, cursor)
            beyond: list[Document] = [{"_key": key, "_id": {"$gt": name}}]
            if order != BY_NAME:
                beyond.append({"_key": {"$lt": key}})
            pipeline.append({"$match": {"$or": beyond}})
        pipeline += [
            {"$sort": {"_key": -1, "_id": 1}},
            {"$limit": limit + 1},
            {"$project": {**_PROJECTION, "_key": True}},
        ]
        found = list(self._users.aggregate(pipeline))
        next_cursor = None
        if len(found) > limit:
            last = found[limit - 1]
            next_cursor = _encode(order, last["_key"], str(last["_id"]))
        for user in found:
            del user["_key"]
        return found[:limit], next_cursor


_PROJECTION: Document = {
    **dict.fromkeys(VISIBLE, True),
    "hasPassword": {"$gt": [{"$ifNull": ["$passwordHash", ""]}, ""]},
}


def _key(order: str) -> Any:
    if order in _NUMBERS:
        field = f"${_NUMBERS[order]}"
        return {"$cond": [{"$isNumber": field}, {"$toDouble": field}, 0.0]}
    if order in _DATES:
        field = f"${_DATES[order]}"
        return {"$cond": [{"$eq": [{"$type": field}, "date"]}, {"$toDouble": {"$toLong": field}}, 0.0]}
    return {"$literal": 0.0}


def _encode(order: str, key: float, name: str) -> str:
    content = json.dumps([order, key, name], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def _decode(order: str, text: str) -> tuple[float, str]:
    problem = FilterError("cursor", "is not one that was handed out as nextCursor of this list")
    try:
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        made_for, key, name = content
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise problem from None
    is_number = isinstance(key, float | int) and not isinstance(key, bool) and math.isfinite(key)
    if made_for != order or not is_number or not isinstance(name, str):
        raise problem
    return float(key), name
