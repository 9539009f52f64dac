"""What OhMyGPT says keys have used, beside what Weir has booked for them: over any time, key by key. Pure.

OhMyGPT tells only what a key has used so far. So snapshots of it are kept, each with what Weir has booked for
the key so far: the difference of two is what each side has for the time between them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from app.common.money import NANO
from app.pricing.told_cost import drift_of, is_beyond


class Verdict(StrEnum):
    """What there is to say about a key."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNCONVERTED = "unconverted"  # what a unit of OhMyGPT is worth is not set
    UNKNOWN = "unknown"  # OhMyGPT does not say what it has used, or did not at the beginning
    RESET = "reset"  # it has used less than before


class KeyBook(NamedTuple):
    """What a key had used by the time of a snapshot: by OhMyGPT, in its units, and by Weir, in nano-dollars.

    `key_id` is what records call the key; it may be another key's at another time.
    """

    key_id: str
    used_fee: Decimal | None
    own_nano: int


class Snapshot(NamedTuple):
    """The books of all keys of the pool at a moment, by the ids under which keys are stored."""

    at: datetime
    keys: Mapping[str, KeyBook]


@dataclass(frozen=True, slots=True)
class KeyFees:
    """A key over some time: what OhMyGPT charged, in its units and in nano-dollars, and what Weir booked.

    `drift` is the difference as a share of the larger of the two, from -1 (only Weir has something) to 1
    (only OhMyGPT has); None where they cannot be compared.
    """

    key_id: str
    verdict: Verdict
    own_nano: int
    used_fee: Decimal | None = None
    upstream_nano: int | None = None
    drift: float | None = None


@dataclass(frozen=True, slots=True)
class Fees:
    """All keys between two snapshots, and those together that can be compared."""

    start: datetime
    end: datetime
    keys: tuple[KeyFees, ...]
    total: KeyFees | None

    @property
    def agree(self) -> bool:
        """Whether both sides agree, for each key that could be compared; one at least."""
        return self.total is not None and all(key.verdict is not Verdict.DIFFERS for key in self.keys)


def compare(first: Snapshot, last: Snapshot, units_per_usd: Decimal | None, most: Decimal) -> Fees:
    """Compare both sides between two snapshots; they differ beyond a drift of `most`, a share.

    `units_per_usd` is what a dollar is in OhMyGPT's units, None where nobody has said so.
    """
    keys = tuple(
        _key(first.keys.get(store_id), book, units_per_usd, most)
        for store_id, book in sorted(last.keys.items(), key=lambda item: item[1].key_id)
    )
    compared = [key for key in keys if key.upstream_nano is not None]
    total = None
    if compared and units_per_usd is not None:
        fee = sum((key.used_fee for key in compared if key.used_fee is not None), Decimal(0))
        total = _judged("", fee, sum(key.own_nano for key in compared), units_per_usd, most)
    return Fees(first.at, last.at, keys, total)


def _key(before: KeyBook | None, now: KeyBook, units_per_usd: Decimal | None, most: Decimal) -> KeyFees:
    if before is None or before.key_id != now.key_id:
        return KeyFees(now.key_id, Verdict.UNKNOWN, 0)
    own = now.own_nano - before.own_nano
    if before.used_fee is None or now.used_fee is None:
        return KeyFees(now.key_id, Verdict.UNKNOWN, own)
    fee = now.used_fee - before.used_fee
    if fee < 0 or own < 0:
        return KeyFees(now.key_id, Verdict.RESET, max(0, own))
    if units_per_usd is None:
        return KeyFees(now.key_id, Verdict.UNCONVERTED, own, fee)
    return _judged(now.key_id, fee, own, units_per_usd, most)


def _judged(key_id: str, fee: Decimal, own: int, units_per_usd: Decimal, most: Decimal) -> KeyFees:
    upstream = int((fee * NANO / units_per_usd).to_integral_value(ROUND_HALF_UP))
    drift = drift_of(upstream, own)
    verdict = Verdict.DIFFERS if is_beyond(upstream, own, most) else Verdict.AGREES
    return KeyFees(key_id, verdict, own, fee, upstream, drift)


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """Make what is stored of a snapshot. Amounts of OhMyGPT are texts: exact, and of any unit."""
    return {
        "at": snapshot.at,
        "keys": [
            {
                "id": store_id,
                "keyId": book.key_id,
                "usedFee": None if book.used_fee is None else f"{book.used_fee:f}",
                "ownNanoUsd": book.own_nano,
            }
            for store_id, book in snapshot.keys.items()
        ],
    }


def read_snapshot(document: Mapping[str, Any]) -> Snapshot:
    """Read a stored snapshot."""
    entries: Iterable[Mapping[str, Any]] = document["keys"]
    return Snapshot(document["at"], {str(entry["id"]): _book(entry) for entry in entries})


def _book(entry: Mapping[str, Any]) -> KeyBook:
    fee = entry["usedFee"]
    return KeyBook(str(entry["keyId"]), None if fee is None else Decimal(fee), int(entry["ownNanoUsd"]))
