"""Holds on users' credit, kept in the user's own document so that one atomic update sees all of it.

    usersNew.holds = {requestId: {nano: long, at: date}}

A hold is placed before its request starts, by the update that finds out whether there is credit for it, and
removed by the update that books the request's charge (`app.adapters.mongo.settlement`). At any moment a
request thus counts as its hold or as its charge: never as both, never as neither. The server's clock dates
the holds, so that hosts need not agree on the time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pymongo
from bson.int64 import Int64
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.users import nano_usd
from app.core.credit_policy import HOLD_TTL_S
from app.core.ports import StoreUnavailable
from app.core.records import NANO

Document = dict[str, Any]

FIELD = "holds"

# How long a request may wait for its hold.
_TIMEOUT_S = 2.0

_SEEN = {"credits": True, "refCredits": True, FIELD: True}


@dataclass(frozen=True, slots=True)
class Holding:
    """What became of an attempt to place a hold.

    `nano` is what is held for the request, 0 when there was no credit; `balance_nano` the booked credit;
    `live` the requests that have a hold now.
    """

    nano: int
    balance_nano: int
    live: frozenset[str]


class CreditHolds:
    """Places holds in `usersNew`."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]

    def place(
        self, user_id: str, request_id: str, estimate_nano: int, *, committed_nano: int, own: Collection[str]
    ) -> Holding:
        """Hold `estimate_nano` for the request, or what is left if that is less; nothing if nothing is left.

        What is left is the credit, less all live holds but those of the requests in `own`, less
        `committed_nano`, in which the caller has counted these. Holds over age are removed on the way.
        Raises `StoreUnavailable`; then the hold may have been placed all the same.
        """
        update = _placing(request_id, estimate_nano, committed_nano, list(own))
        try:
            with pymongo.timeout(_TIMEOUT_S):
                user = self._users.find_one_and_update(
                    {"_id": user_id, "isActive": {"$ne": False}},
                    update,
                    projection=_SEEN,
                    return_document=ReturnDocument.AFTER,
                )
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        return _read(user or {}, request_id)


def without_holds(request_ids: Sequence[str]) -> Document:
    """The value of `holds` once these requests' are gone; no field at all when none is left.

    A name that no path could take, or a field a person has damaged, is no reason to fail: the update it is
    part of books money.
    """
    mine = {"$in": ["$$hold.k", {"$literal": list(request_ids)}]}
    left = {"$filter": {"input": _entries(), "as": "hold", "cond": {"$not": mine}}}
    return {"$let": {"vars": {"left": left}, "in": _as_field("$$left")}}


def number(field: str) -> Document:
    """The field, 0 where it is missing or no number: one damaged document must not stop the booking."""
    return {"$cond": [{"$isNumber": field}, field, 0]}


def nano(field: str) -> Document:
    """A balance in USD as whole nano-dollars."""
    return {"$round": [{"$multiply": [number(field), float(NANO)]}, 0]}


def _placing(request_id: str, estimate: int, committed: int, own: Sequence[str]) -> list[Document]:
    credit = {"$add": [nano("$credits"), nano("$refCredits")]}
    hold = {
        "k": {"$literal": request_id},
        "v": {"nano": {"$toLong": {"$min": [Int64(estimate), "$_holding.left"]}}, "at": "$$NOW"},
    }
    with_it = {"$concatArrays": ["$_holding.live", [hold]]}
    return [
        {"$set": {"_holding.live": _live(request_id)}},
        {"$set": {"_holding.left": {"$subtract": [credit, {"$add": [_held(own), Int64(committed)]}]}}},
        {"$set": {FIELD: _as_field({"$cond": [{"$gt": ["$_holding.left", 0]}, with_it, "$_holding.live"]})}},
        {"$unset": "_holding"},
    ]


def _live(request_id: str) -> Document:
    """The holds that count: not over age, and not an earlier attempt at this one."""
    since = {"$subtract": ["$$NOW", HOLD_TTL_S * 1000]}
    counts = [
        {"$eq": [{"$type": "$$hold.v.at"}, "date"]},
        {"$gt": ["$$hold.v.at", since]},
        {"$ne": ["$$hold.k", {"$literal": request_id}]},
    ]
    return {"$filter": {"input": _entries(), "as": "hold", "cond": {"$and": counts}}}


def _held(own: Sequence[str]) -> Document:
    others = {"$not": {"$in": ["$$hold.k", {"$literal": list(own)}]}}
    amount = {"$cond": [others, number("$$hold.v.nano"), 0]}
    return {"$sum": {"$map": {"input": "$_holding.live", "as": "hold", "in": amount}}}


def _entries() -> Document:
    """The holds as key and value; none where the field is missing or no object."""
    field = f"${FIELD}"
    return {"$objectToArray": {"$cond": [{"$eq": [{"$type": field}, "object"]}, field, {}]}}


def _as_field(entries: Any) -> Document:
    return {"$cond": [{"$eq": [entries, []]}, "$$REMOVE", {"$arrayToObject": entries}]}


def _read(user: Document, request_id: str) -> Holding:
    holds = user.get(FIELD) or {}
    mine = holds.get(request_id)
    return Holding(
        nano=int(mine["nano"]) if mine else 0,
        balance_nano=nano_usd(user.get("credits")) + nano_usd(user.get("refCredits")),
        live=frozenset(holds),
    )
