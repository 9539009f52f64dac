"""Grants and withdrawals of credit, each with its line in the ledger (`credit_ledger`).

The balance and the line change in one atomic update: the line is first kept in the user's own document
(`ledgerPending`), with the balances that very update saw, and then moved to the ledger. Whoever died in
between left it there, and the next look moves it. What requests cost is in their records, not in here.

A change may carry a key (`idempotencyKey`), so that it can be asked for again when nobody knows whether it
was made. The key stands in the line and, for the last `_RECENT_KEYS` changes, in the user's document, where
the very update that would make the change a second time sees it, however late a first attempt comes through.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from bson import ObjectId
from bson.int64 import Int64
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.users import GRANTED, User
from app.common.cursor import PageCursor
from app.common.money import NANO
from app.store.fields import exact_double, nano, nano_dollars, number
from app.store.paging import Page, newest_first

Document = dict[str, Any]

COLLECTION = "credit_ledger"
RESETS = "creditsResetLogs"
PENDING = "ledgerPending"

KEY = "idempotencyKey"
KEYS = "ledgerKeys"
_RECENT_KEYS = 100

CREDITS = "credits"
REF_CREDITS = "refCredits"

_VALIDITY_MS = 7 * 86_400_000
"""How long credit is valid where that is limited and nothing says how long it was, as in earlier software."""


@dataclass(frozen=True, slots=True)
class LedgerNote:
    """Who changes a balance, and why; `via` is `api`, `cli` or `dashboard`."""

    at: datetime
    by: str
    via: str
    reason: str | None = None
    request_id: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Credited:
    """A user after a change, and the changed balance before and after it, in nano-dollars."""

    user: User
    before_nano: int
    after_nano: int


class InsufficientCreditError(Exception):
    """More was to be taken away than is left; `left_nano` is that."""

    def __init__(self, left_nano: int) -> None:
        super().__init__("more than is left cannot be taken away")
        self.left_nano = left_nano


class KeyReusedError(Exception):
    """The idempotency key stands for another change of this user."""


class CreditLedger:
    """Changes balances of users, exactly to the nano-dollar, and keeps the ledger of it."""

    def __init__(self, db: Database[Document]) -> None:
        self._users = db["usersNew"]
        self._ledger = db[COLLECTION]
        self._resets = db[RESETS]

    def ensure_indexes(self) -> None:
        """Make the ledger's index, and those of the resets as earlier software had them."""
        self._ledger.create_index([("username", 1), ("at", -1), ("_id", -1)])
        keyed = {KEY: {"$exists": True}}
        self._ledger.create_index([("username", 1), (KEY, 1)], partialFilterExpression=keyed)
        self._resets.create_index([("username", 1), ("resetAt", -1)])

    def add(
        self,
        username: str,
        amount: Decimal,
        note: LedgerNote,
        *,
        purse: str = CREDITS,
        renews: bool = False,
    ) -> Credited | None:
        """Add USD, or with a negative amount take away; return None when there is no such user.

        The sum is made by the server and rounded to the nano-dollar there, so that concurrent changes all
        count and no rest of binary arithmetic ever builds up. Raises ValueError for an amount that is not
        exact, `InsufficientCreditError` when less is left than is to be taken.
        """
        exact = exact_double(amount)
        if (before := self._made_before(username, purse, "add", amount, note)) is not None:
            return before
        selector: Document = {"_id": username}
        if amount < 0:
            left = {"$add": [nano(f"${purse}"), nano_dollars(amount)]}
            selector["$expr"] = {"$gte": [left, 0]}
        total = {"$round": [{"$add": [number(f"${purse}"), exact]}, 9]}
        done = self._change(selector, purse, total, "add", note, renews=renews)
        if done is None:  # a first attempt may have come through meanwhile
            done = self._made_before(username, purse, "add", amount, note)
        if done is None and amount < 0:
            user = self._users.find_one({"_id": username})
            if user is not None:
                found = User.from_document(user)
                raise InsufficientCreditError(
                    found.credits_nano if purse == CREDITS else found.ref_credits_nano
                )
        return done

    def set(
        self, username: str, amount: Decimal, note: LedgerNote, *, purse: str = CREDITS, renews: bool = False
    ) -> Credited | None:
        """Make the balance this many USD; return None when there is no such user. Raises ValueError."""
        exact = exact_double(amount)
        if amount < 0:
            raise ValueError("takes an amount of 0 or more")
        return (
            self._made_before(username, purse, "set", amount, note)
            or self._change({"_id": username}, purse, exact, "set", note, renews=renews)
            or self._made_before(username, purse, "set", amount, note)
        )

    def opening(self, amount: Decimal, note: LedgerNote) -> list[Document]:
        """Return what a user's document begins with under `PENDING`; nothing for no credit."""
        if not amount:
            return []
        after = nano_dollars(amount)
        amounts = {
            "amountNanoUsd": after,
            "balanceBeforeNanoUsd": Int64(0),
            "balanceAfterNanoUsd": after,
        }
        return [{**_line(CREDITS, "opening", note), **amounts}]

    def page(self, username: str, limit: int, cursor: PageCursor | None = None) -> Page:
        """Return a page of the user's lines, newest first."""
        self.settle(username)
        return newest_first(self._ledger, {"username": username}, "at", limit, cursor)

    def settle(self, username: str) -> None:
        """Move pending lines to the ledger. May be repeated, and done by anybody."""
        user = self._users.find_one({"_id": username, f"{PENDING}._id": {"$exists": True}}, {PENDING: True})
        if user is None:
            return
        for line in user[PENDING]:
            _insert_once(self._ledger, {**line, "username": username})
            if line.get("change") == "set" and line.get("purse") == CREDITS:
                _insert_once(self._resets, _reset_log(username, line))
        ids = [line["_id"] for line in user[PENDING]]
        self._users.update_one({"_id": username}, {"$pull": {PENDING: {"_id": {"$in": ids}}}})

    def _change(
        self, selector: Document, purse: str, total: Any, change: str, note: LedgerNote, *, renews: bool
    ) -> Credited | None:
        line = _line(purse, change, note)
        if note.key is not None:
            selector = {**selector, KEYS: {"$ne": note.key}}
        document = self._users.find_one_and_update(
            selector,
            _changing(purse, total, line, note.at, renews=renews),
            return_document=ReturnDocument.AFTER,
        )
        if document is None:
            return None
        mine = next(found for found in document[PENDING] if found["_id"] == line["_id"])
        self.settle(str(document["_id"]))
        return _credited(document, mine)

    def _made_before(
        self, username: str, purse: str, change: str, amount: Decimal, note: LedgerNote
    ) -> Credited | None:
        """Return the change that was made under this key; None when there is none.

        Raises `KeyReusedError` if that was a different change.
        """
        if note.key is None:
            return None
        self.settle(username)
        line = self._ledger.find_one({"username": username, KEY: note.key})
        if line is None:
            return None
        given = line["amountNanoUsd" if change == "add" else "balanceAfterNanoUsd"]
        if (line["purse"], line["change"], given) != (purse, change, nano_dollars(amount)):
            raise KeyReusedError
        # What an election could still take back must not be confirmed: a write waits for all before it.
        done = {"$pull": {PENDING: {"_id": line["_id"]}}}
        user = self._users.find_one_and_update({"_id": username}, done, return_document=ReturnDocument.AFTER)
        return _credited(user, line) if user is not None else None


def _credited(user: Document, line: Document) -> Credited:
    before, after = int(line["balanceBeforeNanoUsd"]), int(line["balanceAfterNanoUsd"])
    return Credited(User.from_document(user), before, after)


def _changing(purse: str, total: Any, line: Document, now: datetime, *, renews: bool) -> list[Document]:
    """Build the update that makes a change together with its pending line.

    The running total of what was granted is kept up only where it was kept from the beginning: what other
    users began with, nobody knows.
    """
    field = f"${purse}"
    after = {"$toLong": nano(field)}
    gain = {"$subtract": [after, "$_before"]}
    is_kept = {"$in": [{"$type": f"${GRANTED}"}, ["int", "long"]]}
    pending = {"$cond": [{"$isArray": f"${PENDING}"}, f"${PENDING}", []]}
    entry = {
        **{name: {"$literal": value} for name, value in line.items()},
        "amountNanoUsd": gain,
        "balanceBeforeNanoUsd": "$_before",
        "balanceAfterNanoUsd": after,
    }
    if purse == CREDITS:
        entry["expiresAt"] = "$expiresAt"
    return [
        {"$set": {"_before": {"$toLong": nano(field)}}},
        {"$set": {purse: total, **(_renewed(now) if renews else {})}},
        {
            "$set": {
                GRANTED: {"$cond": [is_kept, {"$add": [f"${GRANTED}", gain]}, f"${GRANTED}"]},
                PENDING: {"$concatArrays": [pending, [entry]]},
                **({KEYS: _with_key(line[KEY])} if KEY in line else {}),
            }
        },
        {"$unset": "_before"},
    ]


def _with_key(key: str) -> Document:
    keys = {"$cond": [{"$isArray": f"${KEYS}"}, f"${KEYS}", []]}
    return {"$slice": [{"$concatArrays": [keys, [{"$literal": key}]]}, -_RECENT_KEYS]}


def _renewed(now: datetime) -> Document:
    """Build the fields of a validity that begins anew, as long as it was; no expiry, nothing to renew."""
    is_limited = {"$eq": [{"$type": "$expiresAt"}, "date"]}
    has_begun = {
        "$and": [{"$eq": [{"$type": "$purchasedAt"}, "date"]}, {"$gt": ["$expiresAt", "$purchasedAt"]}]
    }
    span = {"$cond": [has_begun, {"$subtract": ["$expiresAt", "$purchasedAt"]}, Int64(_VALIDITY_MS)]}
    return {
        "purchasedAt": {"$cond": [is_limited, now, "$purchasedAt"]},
        "expiresAt": {"$cond": [is_limited, {"$add": [now, span]}, "$expiresAt"]},
    }


def _line(purse: str, change: str, note: LedgerNote) -> Document:
    line: Document = {"_id": ObjectId(), "at": note.at, "purse": purse, "change": change, "by": note.by}
    line["via"] = note.via
    optional = {"reason": note.reason, "requestId": note.request_id, KEY: note.key}
    return line | {name: value for name, value in optional.items() if value}


def _reset_log(username: str, line: Document) -> Document:
    found = {
        "_id": line["_id"],
        "username": username,
        "creditsBefore": int(line["balanceBeforeNanoUsd"]) / NANO,
        "expiresAt": line.get("expiresAt"),
        "resetAt": line["at"],
        "resetBy": "admin",
        "note": line.get("reason"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _insert_once(collection: Any, document: Document) -> None:
    try:
        collection.insert_one(document)
    except DuplicateKeyError:
        return  # somebody else moved it
