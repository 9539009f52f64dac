"""What pages of customers say of money over time, of budgets, and of what was done: pure, and in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

RATE_DAYS = 7
"""Over how many days, beside the one that is running, the rate of spending is taken."""

SPARK_DAYS = 30
"""How many days, beside the one that is running, small lines show: so many that a month is in them."""

_DAY = timedelta(days=1)
_LEAST_DAY = 0.25
_YEAR = 365
_FEW = 10


@dataclass(frozen=True, slots=True)
class Trend:
    """What was spent each day, in nano-dollars; `starts` says when each begins, the last one is running."""

    starts: Sequence[datetime]
    nano: Sequence[int]

    def since(self, moment: datetime) -> int:
        """Return what was spent in the days that began then or later."""
        return sum(nano for start, nano in zip(self.starts, self.nano, strict=True) if start >= moment)

    def rate(self, now: datetime, made: datetime | None = None) -> float:
        """Return nano-dollars a day, of the last `RATE_DAYS` days and the one that is running.

        Of who was made later than that, since they were made, unless something was spent on a day before, as
        by users taken over; a first morning does not count as a whole day.
        """
        if not self.starts:
            return 0.0
        first = self.starts[-min(len(self.starts), RATE_DAYS + 1)]
        began = max(first, made) if made is not None else first
        days = zip(self.starts, self.starts[1:], self.nano, strict=False)
        if any(nano and start >= first and following <= began for start, following, nano in days):
            began = first
        return self.since(first) / max(_LEAST_DAY, (now - began) / _DAY)

    @property
    def summary(self) -> str:
        """The same in words, for who does not see the line."""
        if not any(self.nano):
            return "nothing spent in these days"
        top = max(range(len(self.nano)), key=lambda place: self.nano[place])
        return f"most on {self.starts[top]:%-d %B}"


def days_left(balance_nano: int, rate: float) -> float | None:
    """Return for how many days the balance lasts at this rate; None: nothing is being spent."""
    if balance_nano <= 0:
        return 0.0
    return balance_nano / rate if rate > 0 else None


def days_text(days: float | None) -> str:
    """Say how long a balance lasts: `12 days`, `2.5 days`, `over a year`."""
    if days is None:
        return "–"
    if days <= 0:
        return "none"
    if days > _YEAR:
        return "over a year"
    if days < 1:
        return "under a day"
    shown = f"{days:.1f}".removesuffix(".0") if days < _FEW else f"{days:.0f}"
    return f"{shown} day{'' if shown == '1' else 's'}"


@dataclass(frozen=True, slots=True)
class Pages:
    """Which page of how many a list shows; from 1 on."""

    number: int
    size: int
    count: int

    @classmethod
    def parse(cls, text: str | None, size: int) -> "Pages":
        """Read the number of a page; what is none is the first. How many rows there are is not known yet."""
        digits = (text or "").strip()
        is_number = digits.isascii() and digits.isdigit() and len(digits) < _FEW
        return cls(max(1, int(digits)) if is_number else 1, size, 0)

    def of(self, count: int) -> "Pages":
        """Return the page of a list of so many rows: the last one, where it would be beyond."""
        return Pages(min(self.number, max(1, -(-count // self.size))), self.size, count)

    @property
    def skip(self) -> int:
        """How many rows are on the pages before."""
        return (self.number - 1) * self.size

    @property
    def last(self) -> int:
        """The number of the last page."""
        return max(1, -(-self.count // self.size))

    @property
    def before(self) -> int | None:
        """The number of the page before."""
        return self.number - 1 if self.number > 1 else None

    @property
    def after(self) -> int | None:
        """The number of the next page."""
        return self.number + 1 if self.number < self.last else None


@dataclass(frozen=True, slots=True)
class Sort:
    """What a list is sorted by; `is_falling`: the largest, or the newest, come first."""

    name: str
    is_falling: bool

    @classmethod
    def parse(cls, text: str | None, known: Iterable[str], default: str) -> "Sort":
        """Read `balance`, or `-balance`; what is not known is the default."""
        given = text or default
        name = given.removeprefix("-")
        if name not in known:
            return cls.parse(default, (default.removeprefix("-"),), default)
        return cls(name, given.startswith("-"))

    def __str__(self) -> str:
        """Write it as it is asked for."""
        return f"-{self.name}" if self.is_falling else self.name


def budget_words(per: str, models: str | None) -> str:
    """Say what a budget is for: `a month`, `a day, claude-*`."""
    period = {"5h": "within 5 hours", "total": "in all"}.get(per, f"a {per}")
    return f"{period}, {models}" if models else period


_DEEDS: Mapping[str, str] = {
    "users.add": "User created",
    "users.change": "Settings changed",
    "users.enable": "User enabled",
    "users.disable": "User disabled",
    "users.password": "Password replaced",
    "users.credits.set": "Credit set",
    "users.refCredits.add": "Referral credit changed",
    "users.refCredits.set": "Referral credit set",
    "client-keys.add": "Client key created",
    "client-keys.change": "Client key changed",
    "client-keys.revoke": "Client key revoked",
    "client-keys.rotate": "Client key given another secret",
    "client-keys.delete": "Client key deleted",
    "client-keys.reset": "Counters of the client key set to 0",
}
_DETAILS: Mapping[str, str] = {
    "amount": "amount",
    "reason": "reason",
    "credits": "credit",
    "role": "role",
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "maxParallel": "requests at once",
    "models": "models",
    "budgets": "budgets",
    "priceFactor": "price factor",
    "group": "group",
    "expiresAt": "until",
    "onClientAbort": "when a client leaves",
    "keyName": "name",
    "notes": "purpose",
    "allowedIps": "only from",
    "overlapHours": "hours the old secret stays",
    "idempotencyKey": "idempotency key",
}
_ENDINGS: Mapping[str, tuple[str, str]] = {
    "done": ("done", "ok"),
    "refused": ("refused", "warn"),
    "failed": ("failed", "bad"),
    "begun": ("under way", "off"),
    "unknown": ("nobody knows", "warn"),
}


@dataclass(frozen=True, slots=True)
class Deed:
    """An entry of the audit log in words: what was done, its details, and how it ended, with a state."""

    what: str
    details: Sequence[str]
    ending: str
    state: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Deed":
        """Read an entry; what this version does not know is said as it is."""
        action = str(entry.get("action") or "")
        given = entry.get("details")
        details: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        what = _DEEDS.get(action, action)
        if action == "users.credits.add":
            what = "Credit taken" if str(details.get("amount")).startswith("-") else "Credit given"
        if action == "client-keys.change" and set(details) == {"isActive"}:
            what = "Client key accepted again" if details["isActive"] == "True" else "Client key paused"
            details = {}
        outcome = str(entry.get("outcome") or "")
        told = [
            f"{_DETAILS.get(name, name)}: {value}" for name, value in details.items() if value is not None
        ]
        return cls(what, told, *_ENDINGS.get(outcome, (outcome, "off")))


_LEDGER: Mapping[str, str] = {"opening": "Opening balance", "set": "Credit set"}


def ledger_words(line: Mapping[str, Any]) -> str:
    """Say what a line of the ledger is: `Credit given`, `Opening balance`."""
    change, amount = str(line.get("change") or ""), line.get("amountNanoUsd")
    what = _LEDGER.get(change, change)
    if change == "add":
        what = "Credit taken" if isinstance(amount, int) and amount < 0 else "Credit given"
    return f"{what} (referral)" if line.get("purse") == "refCredits" else what
