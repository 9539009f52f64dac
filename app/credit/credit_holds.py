"""Holds on users' credit, kept in the user's own document so that one atomic update sees all of it.

    usersNew.holds = {requestId: {nano: long, at: date}, "pending-" + requestId: …}

A hold is placed before its request starts, by the update that finds out whether there is credit for it, and
removed by the update that books the request's charge (`app.persistence.booking`). At any moment a
request thus counts as its hold or as its charge: never as both, never as neither. The server's clock dates
the holds, so that hosts need not agree on the time.

A placing that was not acknowledged may still come through, even after the request's record was booked (a
paused server reads what was sent to it long ago). So holds are leases: their owner renews them (`tend`), and
one that nobody renews ends by itself.

What goes on in the background after its request has a hold of another name, placed by the update that books
the request, and removed by the one that books its cost. Nobody renews it: it is dated ahead.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pymongo
from bson.int64 import Int64
from pymongo import ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.common.errors import StoreUnavailable
from app.credit.budgets import FIELD as BUDGET_SPENT
from app.credit.budgets import Claim, bucket_name, spent_nano
from app.credit.credit_policy import CROWD_SHARE, HOLD_TTL_S, LONE_SHARE, MAX_HELD
from app.store.driver import store_problem
from app.store.fields import nano, nano_usd, number, optional_int

Document = dict[str, Any]

FIELD = "holds"
CLAIMED = "b"
"""The part of a hold that says which budgets it is on, and to which bucket of each its charge will go."""

_TEND_TIMEOUT_S = 5.0

_SEEN = {"credits": True, "refCredits": True, FIELD: True}


@dataclass(frozen=True, slots=True)
class Tending:
    """What one process knows of a user's holds: those to renew, and those that are to be gone."""

    renewed: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Holding:
    """What became of an attempt to place a hold.

    `nano` is what is held for the request, 0 when there was no credit; `balance_nano` the booked credit;
    `live` the requests that have a hold now. `is_crowded`: there are as many as there may be. `short` is the
    budget that lacked what the request needs at least, and how much of it was left.
    """

    nano: int
    balance_nano: int
    live: frozenset[str]
    is_crowded: bool = False
    short: tuple[Claim, int] | None = None


class CreditHolds:
    """Places holds in `usersNew`."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]

    def place(  # noqa: PLR0913  (a request's need, and what it is paid from)
        self,
        user_id: str,
        request_id: str,
        most_nano: int,
        *,
        committed_nano: int,
        own: Collection[str],
        timeout_s: float,
        usual_nano: int | None = None,
        least_nano: int = 1,
        claims: Sequence[Claim] = (),
    ) -> Holding:
        """Hold the request's share (`credit_policy.share`) of what is left; nothing if too little is left.

        `usual_nano` is as much as `most_nano` if it is not given.

        What is left is the credit, less all live holds but those of the requests in `own`, less
        `committed_nano`, in which the caller has counted these; and no more than is left of any budget in
        `claims`, less all live holds on it. Holds over age are removed on the way.
        Raises `StoreUnavailable`; then the hold may have been placed all the same.
        """
        usual = most_nano if usual_nano is None else usual_nano
        update = _placing(request_id, (most_nano, usual, least_nano), committed_nano, list(own), claims)
        seen = {**_SEEN, BUDGET_SPENT: True} if claims else _SEEN
        try:
            with pymongo.timeout(timeout_s):
                user = self._users.find_one_and_update(
                    {"_id": user_id, "isActive": {"$ne": False}},
                    update,
                    projection=seen,
                    return_document=ReturnDocument.AFTER,
                )
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        return _read(user or {}, request_id, own, claims, max(1, least_nano))

    def tend(self, tendings: Mapping[str, Tending]) -> dict[str, frozenset[str]]:
        """Renew and remove holds, by user; return the requests that had one before. Make no hold anew.

        Raises `StoreUnavailable`.
        """
        try:
            with pymongo.timeout(_TEND_TIMEOUT_S):
                found = self._users.find(
                    {"_id": {"$in": list(tendings)}, FIELD: {"$exists": True}}, {FIELD: True}
                )
                live = {user["_id"]: _names(user) for user in found}
                updates = [
                    UpdateOne({"_id": user_id}, _tending(tending))
                    for user_id, tending in tendings.items()
                    if (tending.renewed | tending.removed) & live.get(user_id, frozenset())
                ]
                if updates:
                    self._users.bulk_write(updates, ordered=False)
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        return live

    def remove_orphans(self) -> int:
        """Remove the holds that are orphaned (`orphans` says which); return how many there were.

        Raises `PyMongoError`.
        """
        removed = 0
        for user in self._users.find({FIELD: {"$type": "object"}}, {FIELD: True}):
            left = self._users.find_one_and_update(
                {"_id": user["_id"]},
                [{"$set": {FIELD: _as_field(_live())}}],
                projection={FIELD: True},
                return_document=ReturnDocument.AFTER,
            )
            removed += len(_names(user) - _names(left or {}))
        return removed


def orphans(holds: object, now: datetime) -> dict[str, datetime]:
    """Return a user's holds that no process owns any more: by request, when each was last renewed.

    A living owner renews its holds several times within `HOLD_TTL_S`, so an older hold has no owner: the
    process died, or never knew that the hold was placed. It counts no more, and goes with the user's next
    hold.
    """
    moments = {
        request_id: hold.get("at") if isinstance(hold, Mapping) else None
        for request_id, hold in (holds.items() if isinstance(holds, Mapping) else ())
    }
    return {
        request_id: at
        for request_id, at in moments.items()
        if isinstance(at, datetime) and now - at > timedelta(seconds=HOLD_TTL_S)
    }


def changed_holds(
    request_ids: Sequence[str], pending: Mapping[str, tuple[int, datetime, Mapping[str, int]]]
) -> Document:
    """Build the value of `holds` without the holds of these names, and with those of `pending`.

    `pending` has, by name, how much is held, until when, and the bucket of each budget that it is on: nobody
    renews such a hold, and it counts until then.
    """
    added = [
        {"k": {"$literal": name}, "v": {"nano": Int64(nano_usd), "at": until, **_claimed(buckets)}}
        for name, (nano_usd, until, buckets) in pending.items()
        if name not in request_ids
    ]
    gone = [*request_ids, *pending]
    return _as_field({"$concatArrays": [_without(gone), added]}) if added else without_holds(request_ids)


def _claimed(buckets: Mapping[str, int]) -> Document:
    return {CLAIMED: {name: Int64(at) for name, at in buckets.items()}} if buckets else {}


def without_holds(request_ids: Sequence[str]) -> Document:
    """Build the value of `holds` without these requests' holds; no field at all when none is left.

    A name that no path could take, or a field a person has damaged, is no reason to fail: the update it is
    part of books money.
    """
    return {"$let": {"vars": {"left": _without(request_ids)}, "in": _as_field("$$left")}}


def _placing(
    request_id: str,
    need: tuple[int, int, int],
    committed: int,
    own: Sequence[str],
    claims: Sequence[Claim],
) -> list[Document]:
    most, usual, least = need
    credit = {"$add": [nano("$credits"), nano("$refCredits")]}
    others = {"$filter": {"input": "$_holding.live", "as": "hold", "cond": {"$not": _is_in("$$hold.k", own)}}}
    amounts = {"$map": {"input": "$_holding.others", "as": "hold", "in": number("$$hold.v.nano")}}
    running = {"$size": "$_holding.others"}
    divisor = {"$cond": [{"$eq": [running, 0]}, LONE_SHARE, CROWD_SHARE]}
    part = {"$floor": {"$divide": ["$_holding.left", divisor]}}
    share = {"$min": [Int64(most), "$_holding.left", {"$max": [Int64(usual), part]}]}
    claimed = _claimed({claim.name: claim.bucket for claim in claims})
    held = {"nano": {"$toLong": share}, "at": "$$NOW", **claimed}
    hold = {"k": {"$literal": request_id}, "v": held}
    credit_left = {"$subtract": [credit, {"$add": [{"$sum": amounts}, Int64(committed)]}]}
    left = {"$min": [credit_left, *map(_left_of, claims)]} if claims else credit_left
    with_it = {"$concatArrays": ["$_holding.live", [hold]]}
    may_be_placed = {"$and": [{"$gte": ["$_holding.left", max(1, least)]}, {"$lt": [running, MAX_HELD]}]}
    return [
        {"$set": {"_holding.live": _live(request_id)}},
        {"$set": {"_holding.others": others}},
        {"$set": {"_holding.left": left}},
        {"$set": {FIELD: _as_field({"$cond": [may_be_placed, with_it, "$_holding.live"]})}},
        {"$unset": "_holding"},
    ]


def _left_of(claim: Claim) -> Document:
    """Build what is left of a budget: less what is spent, and less all live holds on it."""
    spent = f"${BUDGET_SPENT}.{claim.name}"
    buckets = {"$objectToArray": {"$cond": [{"$eq": [{"$type": spent}, "object"]}, spent, {}]}}
    counted = {"$gte": ["$$bucket.k", bucket_name(claim.since)]}
    on_it = {"$gte": [f"$$hold.v.{CLAIMED}.{claim.name}", Int64(claim.since)]}
    return {
        "$subtract": [
            Int64(claim.nano_usd),
            {
                "$add": [
                    _sum_of(buckets, "bucket", counted, "$$bucket.v"),
                    _sum_of("$_holding.live", "hold", on_it, "$$hold.v.nano"),
                ]
            },
        ]
    }


def _sum_of(entries: Any, name: str, condition: Document, amount: str) -> Document:
    found = {"$filter": {"input": entries, "as": name, "cond": condition}}
    return {"$sum": {"$map": {"input": found, "as": name, "in": number(amount)}}}


def _tending(tending: Tending) -> list[Document]:
    is_whole = {"$eq": [{"$type": "$$hold.v"}, "object"]}
    is_renewed = {"$and": [_is_in("$$hold.k", tending.renewed), is_whole]}
    renewed = {"k": "$$hold.k", "v": {"$mergeObjects": ["$$hold.v", {"at": "$$NOW"}]}}
    holds = {
        "$map": {
            "input": _without(tending.removed),
            "as": "hold",
            "in": {"$cond": [is_renewed, renewed, "$$hold"]},
        }
    }
    return [{"$set": {FIELD: _as_field(holds)}}]


def _live(request_id: str | None = None) -> Document:
    """Build the list of holds that count: not over age, and not an earlier attempt at this request."""
    since = {"$subtract": ["$$NOW", HOLD_TTL_S * 1000]}
    counts = [
        {"$eq": [{"$type": "$$hold.v.at"}, "date"]},
        {"$gt": ["$$hold.v.at", since]},
        {"$ne": ["$$hold.k", {"$literal": request_id}]},
    ]
    return {"$filter": {"input": _entries(), "as": "hold", "cond": {"$and": counts}}}


def _entries() -> Document:
    """Build the list of holds as key and value; empty where the field is missing or no object."""
    field = f"${FIELD}"
    return {"$objectToArray": {"$cond": [{"$eq": [{"$type": field}, "object"]}, field, {}]}}


def _names(user: Document) -> frozenset[str]:
    holds = user.get(FIELD)
    return frozenset(holds) if isinstance(holds, Mapping) else frozenset()


def _without(request_ids: Collection[str]) -> Document:
    """Build the list of all other requests' holds, as key and value."""
    others = {"$not": _is_in("$$hold.k", request_ids)}
    return {"$filter": {"input": _entries(), "as": "hold", "cond": others}}


def _is_in(field: str, request_ids: Collection[str]) -> Document:
    return {"$in": [field, {"$literal": sorted(request_ids)}]}


def _as_field(entries: Any) -> Document:
    return {"$cond": [{"$eq": [entries, []]}, "$$REMOVE", {"$arrayToObject": entries}]}


def _read(
    user: Document, request_id: str, own: Collection[str], claims: Sequence[Claim], least: int
) -> Holding:
    mine = (user.get(FIELD) or {}).get(request_id)
    live = _names(user)
    return Holding(
        nano=int(mine["nano"]) if mine else 0,
        balance_nano=nano_usd(user.get("credits")) + nano_usd(user.get("refCredits")),
        live=live,
        is_crowded=len(live.difference(own)) >= MAX_HELD,
        short=None if mine else _short(user, claims, least),
    )


def _short(user: Document, claims: Sequence[Claim], least: int) -> tuple[Claim, int] | None:
    """Return the budget of which less was left than the request needs at least, the emptiest of them."""
    spent, holds = user.get(BUDGET_SPENT) or {}, user.get(FIELD) or {}
    found = []
    for claim in claims:
        held = sum(
            optional_int(hold.get("nano")) or 0
            for hold in holds.values()
            if (hold.get(CLAIMED) or {}).get(claim.name, -1) >= claim.since
        )
        # What is booked may not be all there is to be: other requests give back what they do not need.
        booked = spent_nano(claim, spent)
        if claim.nano_usd - booked - held < least:
            found.append((claim, max(0, claim.nano_usd - booked)))
    return min(found, key=lambda item: item[1], default=None)
