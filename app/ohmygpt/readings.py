"""What one worker of all reads from OhMyGPT, kept in the database for all of them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.keys.key_account import KeyAccount
from app.ohmygpt.account import Balance

COLLECTION = "ohmygpt_account"
_LEASE = timedelta(minutes=1)
_BALANCE = ("balance", "freeBalance")


class Readings:
    """What was read from the upstream, one document each, and whose turn it is to read it anew."""

    def __init__(self, db: Database[dict[str, Any]]) -> None:
        self._readings = db[COLLECTION]

    def get(self, name: str) -> dict[str, Any]:
        """Return what was read last; nothing but its id at first."""
        return self._readings.find_one({"_id": name}) or {"_id": name}

    def claim(self, name: str, now: datetime, every: timedelta) -> bool:
        """Claim the next reading; True for one of all workers only, and not before it is due."""
        free = [{"claimedUntil": {"$not": {"$gt": now}}}, {"triedAt": {"$not": {"$gt": now - every}}}]
        claim = {"$set": {"claimedUntil": now + _LEASE, "triedAt": now}}
        try:
            done = self._readings.update_one({"_id": name, "$and": free}, claim, upsert=True)
        except DuplicateKeyError:  # it is there, and not free
            return False
        return bool(done.modified_count or done.upserted_id is not None)

    def put(self, name: str, found: dict[str, Any], now: datetime) -> None:
        """Keep a reading, and end the claim."""
        change = {"$set": {**found, "readAt": now}, "$unset": {"problem": "", "claimedUntil": ""}}
        self._readings.update_one({"_id": name}, change, upsert=True)

    def note_problem(self, name: str, problem: str) -> None:
        """Keep why there is no new reading; the last one stays."""
        change = {"$set": {"problem": problem[:300]}, "$unset": {"claimedUntil": ""}}
        self._readings.update_one({"_id": name}, change, upsert=True)


def accounts_of(stored: Mapping[str, Any]) -> dict[str, KeyAccount]:
    """Read what a stored reading of the account says about the keys, by the ids they are stored under."""
    keys = stored.get("keys")
    found = {}
    for entry in keys if isinstance(keys, list) else ():
        found[str(entry["id"])] = KeyAccount(
            used_fee=None if entry["usedFee"] is None else Decimal(entry["usedFee"]),
            max_fee=None if entry["maxFee"] is None else Decimal(entry["maxFee"]),
            expires_at=entry["expiresAt"],
            is_disabled=entry["isDisabled"],
        )
    return found


def balance_of(stored: Mapping[str, Any]) -> Balance:
    """Read the balance of a stored reading of the account."""
    return Balance(*(None if (text := stored.get(name)) is None else Decimal(text) for name in _BALANCE))


def account_document(balance: Balance, keys: Mapping[str, KeyAccount], unmatched: int) -> dict[str, Any]:
    """Make what is stored of a reading. Amounts are texts: exact, and of any unit."""
    return {
        **dict(zip(_BALANCE, map(_text, (balance.balance, balance.free_balance)), strict=True)),
        "unmatchedKeys": unmatched,
        "keys": [
            {
                "id": store_id,
                "usedFee": _text(account.used_fee),
                "maxFee": _text(account.max_fee),
                "expiresAt": account.expires_at,
                "isDisabled": account.is_disabled,
            }
            for store_id, account in keys.items()
        ],
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
