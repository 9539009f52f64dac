"""Pages of users in several orders, by keyset, and what may be seen of their documents."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymongo.database import Database

from app.common.cursor import PageCursor
from app.store.driver import yielding
from app.store.fields import number
from app.store.paging import BRIEF_MS, beginning_with

Document = dict[str, Any]

_NUMBERS = {"spend": "creditsUsed", "credits": "credits"}
_DATES = {"created": "createdAt", "activity": "lastUsedAt"}
BY_NAME = "name"
ORDERS = (BY_NAME, *_NUMBERS, *_DATES)
"""By name from the first, by everything else from the most or the newest."""

_BALANCE: Document = {"$add": [number("$credits"), number("$refCredits")]}
SORTS: Mapping[str, Any] = {
    "name": "$_id",
    "balance": _BALANCE,
    "spent": number("$creditsUsed"),
    "activity": "$lastUsedAt",
    "created": "$createdAt",
}
"""What a numbered page can be sorted by; with a `-` before it the largest, or the newest, come first."""

STATES: Mapping[str, Document] = {
    "active": {"isActive": {"$ne": False}},
    "disabled": {"isActive": False},
    "empty": {"$expr": {"$lte": [_BALANCE, 0]}},
}
"""Some of the users: who may spend, who may not, and who has nothing left to spend."""

VISIBLE = (
    *("_id", "role", "isActive", "createdAt", "lastLoginAt", "lastUsedAt", "apiKey", "apiKeyCreatedAt"),
    *("credits", "creditsUsed", "refCredits", "creditsNew", "creditsNewUsed", "overdraftNanoUsd"),
    *("tokensUserNew", "totalInputTokens", "totalOutputTokens", "purchasedAt", "expiresAt"),
    *("purchasedAtNew", "expiresAtNew", "referralCode", "referredBy", "referralBonusAwarded", "discordId"),
    *("migration", "rpm", "tpm", "maxParallel", "models", "budgets", "onClientAbort"),
    *("priceFactor", "group"),
)
"""Fields that may leave the store; passwords, holds and the writers' marks are none of anybody's business."""


class UserPages:
    """Reads users as documents."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]

    def counts(self) -> tuple[int, int]:
        """Count all users, and the active ones."""
        return self._users.estimated_document_count(), self._users.count_documents(
            {"isActive": {"$ne": False}}
        )

    def get(self, username: str) -> Document | None:
        """Return the visible fields of one user, and whether there is a password; None: no such user."""
        return self._users.find_one({"_id": username}, _PROJECTION)

    def beginning(self, text: str, limit: int) -> list[str]:
        """Return the first names that begin with a text."""
        found = self._users.find({"$or": beginning_with("_id", text)}, {"_id": 1}).sort("_id", 1)
        return [str(user["_id"]) for user in found.limit(limit).max_time_ms(BRIEF_MS)]

    def all(self) -> Iterator[Document]:
        """Read all users, by name."""
        yield from self._users.find({}, _PROJECTION).sort("_id", 1)

    def numbered(
        self, *, search: str, state: str, sort: str, skip: int, limit: int
    ) -> tuple[list[Document], int]:
        """Read the users after the first `skip` ones, with what is spent of budgets, and how many there are.

        `sort` is one of `SORTS`, `state` one of `STATES` (else: all).
        """
        query = _query(search, state)
        name = sort.removeprefix("-")
        direction = -1 if sort.startswith("-") else 1
        ordered: list[Document] = [
            {"$addFields": {"_key": SORTS[name]}},
            {"$sort": {"_key": direction, "_id": 1}},
        ]
        if name == BY_NAME:
            ordered = [{"$sort": {"_id": direction}}]
        stages: list[Document] = [
            {"$match": query},
            *ordered,
            {"$skip": skip},
            {"$limit": limit},
            {"$project": _WITH_BUDGETS},
        ]
        return list(self._users.aggregate(stages)), self._users.count_documents(query)

    def some(self, names: Sequence[str]) -> list[Document]:
        """Read the users of these names, as `numbered` does, in no order."""
        return list(self._users.find({"_id": {"$in": list(names)}}, _WITH_BUDGETS))

    def balances(self, *, search: str, state: str) -> Iterator[Document]:
        """Read what users have left to spend: `_id` and `credits`, `refCredits`."""
        yield from yielding(self._users.find(_query(search, state), {"credits": 1, "refCredits": 1}))

    def page(
        self, *, search: str | None, order: str, limit: int, cursor: PageCursor | None
    ) -> tuple[list[Document], str | None]:
        """Read a page, and the cursor of the next; `cursor` is one of this order."""
        pipeline: list[Document] = []
        if search:
            pipeline.append({"$match": {"_id": {"$regex": re.escape(search), "$options": "i"}}})
        pipeline.append({"$addFields": {"_key": _key(order)}})
        if cursor is not None:
            beyond: list[Document] = [{"_key": cursor.key, "_id": {"$gt": cursor.entry_id}}]
            if order != BY_NAME:
                beyond.append({"_key": {"$lt": cursor.key}})
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
            next_cursor = PageCursor(last["_key"], str(last["_id"]), order=order).encode()
        for user in found:
            del user["_key"]
        return found[:limit], next_cursor


def _query(search: str, state: str) -> Document:
    named: Document = {"_id": {"$regex": re.escape(search), "$options": "i"}} if search else {}
    return {**named, **STATES.get(state, {})}


_PROJECTION: Document = {
    **dict.fromkeys(VISIBLE, True),
    "hasPassword": {"$gt": [{"$ifNull": ["$passwordHash", ""]}, ""]},
}
_WITH_BUDGETS: Document = {**_PROJECTION, "budgetSpent": True}


def _key(order: str) -> Any:
    if order in _NUMBERS:
        field = f"${_NUMBERS[order]}"
        return {"$cond": [{"$isNumber": field}, {"$toDouble": field}, 0.0]}
    if order in _DATES:
        field = f"${_DATES[order]}"
        return {"$cond": [{"$eq": [{"$type": field}, "date"]}, {"$toDouble": {"$toLong": field}}, 0.0]}
    return {"$literal": 0.0}
