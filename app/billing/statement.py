"""A user's statement of a month, in nano-dollars, and whether it adds up.

    opening balance + credits - debits - charges - late charges = closing balance

Charges come from the hourly sums, so that they are right after records have expired. A month begins and ends
at midnight in `STATS_TIMEZONE`; credits and debits of the ledger are those of the same time.

The month before may have been closed, and something booked into it later: then the opening balance is still
what it was closed with, and what came late is charged (or, with the other sign, credited) here as such.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple, Self

from app.common.cursor import FilterError
from app.common.display import iso_utc
from app.statistics.periods import Period, midnight, month_days


@dataclass(frozen=True, slots=True)
class Month:
    """A month in `tz`: `start` inclusive, `end` exclusive."""

    name: str
    start: datetime
    end: datetime
    tz: tzinfo

    @classmethod
    def parse(cls, text: str, tz: tzinfo) -> Self:
        """Read `YYYY-MM`; raises `FilterError`."""
        days = month_days(text)
        if days is None:
            raise FilterError("month", f"takes one such as 2026-11, not {text[:40]!r}")
        start, end = (midnight(day, tz) for day in days)
        return cls(text, start, end, tz)

    def has_begun(self, now: datetime) -> bool:
        """Whether anything can have happened in it."""
        return self.start <= now

    def is_over(self, now: datetime) -> bool:
        """Whether nothing new can happen in it."""
        return self.end <= now

    def period(self, now: datetime) -> Period:
        """Return it as a period of statistics."""
        return Period(self.name, self.start, self.end, now, self.tz)

    def before(self, now: datetime) -> Period:
        """Return everything before it."""
        return Period(None, None, self.start, now, self.tz)

    @property
    def previous(self) -> str:
        """The name of the month before."""
        first = self.start.astimezone(self.tz).replace(day=1) - timedelta(days=1)
        return f"{first:%Y-%m}"

    def to_json(self) -> dict[str, Any]:
        """Return which time it is."""
        return {
            "month": self.name,
            "from": iso_utc(self.start),
            "to": iso_utc(self.end),
            "timezone": str(self.tz),
        }


class Charge(NamedTuple):
    """What one model cost with one client key, by what may be seen of it, on one day."""

    day: str
    model: str | None
    key: str
    requests: int
    input_tokens: int
    output_tokens: int
    cache_write_tokens: int
    cache_hit_tokens: int
    nano: int

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return {
            "day": self.day,
            "model": self.model,
            "key": self.key,
            "requestCount": self.requests,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "cacheWriteTokens": self.cache_write_tokens,
            "cacheHitTokens": self.cache_hit_tokens,
            "costNanoUsd": self.nano,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        return cls(*(line[name] for name in _CHARGE_NAMES))


_CHARGE_NAMES = (
    *("day", "model", "key", "requestCount", "inputTokens", "outputTokens", "cacheWriteTokens"),
    *("cacheHitTokens", "costNanoUsd"),
)


class LedgerLine(NamedTuple):
    """A change of the credit: positive is given, negative taken away."""

    at: datetime
    nano: int
    change: str
    purse: str
    by: str
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return {
            "at": iso_utc(self.at),
            "amountNanoUsd": self.nano,
            "change": self.change,
            "purse": self.purse,
            "by": self.by,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        at = datetime.fromisoformat(line["at"]).astimezone(UTC)
        return cls(at, line["amountNanoUsd"], line["change"], line["purse"], line["by"], line["reason"])


@dataclass(frozen=True, slots=True)
class Statement:
    """One user's month. `opening_nano` None: nobody with a balance, such as the fixed client key.

    `spent_before_nano` are all charges of earlier months. `late_nano` was booked late into months that were
    closed by then. `unexplained_nano` is what the user's
    balance differs by from all that was given and charged: 0, unless something is wrong.
    """

    user: str
    opening_nano: int | None
    charges: tuple[Charge, ...] = ()
    ledger: tuple[LedgerLine, ...] = ()
    spent_before_nano: int = 0
    late_nano: int = 0
    unexplained_nano: int = 0

    @property
    def charges_nano(self) -> int:
        """All charges of the month."""
        return sum(charge.nano for charge in self.charges)

    @property
    def credits_nano(self) -> int:
        """All that was given."""
        return sum(line.nano for line in self.ledger if line.nano > 0)

    @property
    def debits_nano(self) -> int:
        """All that was taken away, as a positive number."""
        return -sum(line.nano for line in self.ledger if line.nano < 0)

    @property
    def closing_nano(self) -> int | None:
        """The balance at the end of the month."""
        if self.opening_nano is None:
            return None
        given = self.credits_nano - self.debits_nano
        return self.opening_nano + given - self.charges_nano - self.late_nano

    @property
    def spent_nano(self) -> int:
        """All charges up to the end of the month."""
        return self.spent_before_nano + self.charges_nano

    def continuing(self, closed: Mapping[str, Any]) -> "Statement":
        """Return the statement after a month that was closed with this row: what differs came late."""
        opening = closed["closingNanoUsd"]
        if self.opening_nano is None or opening is None:
            return replace(self, late_nano=self.spent_before_nano - closed["spentNanoUsd"])
        return replace(self, opening_nano=opening, late_nano=opening - self.opening_nano)

    def row(self) -> dict[str, Any]:
        """Return the sums."""
        return {
            "user": self.user,
            "openingNanoUsd": self.opening_nano,
            "creditsNanoUsd": self.credits_nano,
            "debitsNanoUsd": self.debits_nano,
            "chargesNanoUsd": self.charges_nano,
            "lateNanoUsd": self.late_nano,
            "closingNanoUsd": self.closing_nano,
            "unexplainedNanoUsd": self.unexplained_nano,
            "spentNanoUsd": self.spent_nano,
            "requestCount": sum(charge.requests for charge in self.charges),
            "inputTokens": sum(charge.input_tokens for charge in self.charges),
            "outputTokens": sum(charge.output_tokens for charge in self.charges),
            "cacheWriteTokens": sum(charge.cache_write_tokens for charge in self.charges),
            "cacheHitTokens": sum(charge.cache_hit_tokens for charge in self.charges),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the sums and what they are made of."""
        return {
            **self.row(),
            "ledger": [line.to_json() for line in self.ledger],
            "charges": [charge.to_json() for charge in self.charges],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        return cls(
            user=value["user"],
            opening_nano=value["openingNanoUsd"],
            charges=tuple(Charge.from_json(line) for line in value["charges"]),
            ledger=tuple(LedgerLine.from_json(line) for line in value["ledger"]),
            spent_before_nano=value["spentNanoUsd"] - value["chargesNanoUsd"],
            late_nano=value["lateNanoUsd"],
            unexplained_nano=value["unexplainedNanoUsd"],
        )


ROW_NAMES = tuple(Statement("", None).row())
AMOUNTS = tuple(name for name in ROW_NAMES if name != "user")


@dataclass(slots=True)
class MonthTotals:
    """The sums over all statements of a month, and the hash of everything in them, in the order of users."""

    users: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(AMOUNTS, 0))
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, statement: Statement) -> None:
        """Add one more statement."""
        self.users += 1
        row = statement.row()
        for name in AMOUNTS:
            self.sums[name] += row[name] or 0
        self._hash.update(canonical(statement.to_json()))

    @property
    def sha256(self) -> str:
        """The hash, in hexadecimal."""
        digest: str = self._hash.hexdigest()
        return digest


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one way to write a statement that its hash is made of: JSON, names sorted, a line."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def by_model(charges: Iterable[Charge]) -> list[tuple[str | None, int, int]]:
    """Return model, requests and cost, dearest first."""
    sums: dict[str | None, list[int]] = {}
    for charge in charges:
        found = sums.setdefault(charge.model, [0, 0])
        found[0] += charge.requests
        found[1] += charge.nano
    rows = [(model, requests, nano) for model, (requests, nano) in sums.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0] or ""))


def months_between(first: datetime, last: datetime, tz: tzinfo) -> Iterator[str]:
    """Yield the names of the months from one moment to another, newest first."""
    day = last.astimezone(tz).date().replace(day=1)
    begin = first.astimezone(tz).date().replace(day=1)
    while day >= begin:
        yield f"{day:%Y-%m}"
        day = (day - timedelta(days=1)).replace(day=1)


def parts_of(statement: Statement, lines: int) -> Sequence[dict[str, Any]]:
    """Cut a statement into parts of so many lines each, the first with the sums."""
    whole = statement.to_json()
    charges, ledger = whole.pop("charges"), whole.pop("ledger")
    count = max(len(charges), len(ledger), 1)
    cut = [
        {"charges": charges[at : at + lines], "ledger": ledger[at : at + lines]}
        for at in range(0, count, lines)
    ]
    return [whole | cut[0], *cut[1:]]
