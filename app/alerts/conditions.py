"""Which conditions hold: what each means, what to do about it, and the period it is told once in. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from app.common.money import NANO
from app.keys.key_account import KeyAccount
from app.pricing.ledger_findings import BOOKS, DRIFT, MARGIN, Finding

SPENT_PERCENT: Final = (100, 90, 80)
"""Of what is there: a user's credit, what OhMyGPT lets a key use. The highest that is reached is told."""
EXPIRES_SOON: Final = timedelta(days=7)
LATE_S: Final = 300.0
LOOKED_BACK: Final = timedelta(minutes=5)
MIN_REQUESTS: Final = 20
REFUSED_SHARE: Final = 0.5
"""The upstream refuses: so many requests within `LOOKED_BACK` at least, and such a part of them failed."""
MAX_NAMED: Final = 10
"""How many names one alert gives at most."""

_ISO_DAY, _ISO_HOUR = "%Y-%m-%d", "%Y-%m-%dT%H"
_LONGEST_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to tell, once in `period`: what is so (`title`), what it means, what to do."""

    kind: str
    subject: str
    period: str
    title: str
    meaning: str
    advice: str

    @property
    def alert_id(self) -> str:
        """The same for the same condition of the same subject in the same period."""
        return f"{self.kind}:{self.subject}:{self.period}"

    @property
    def text(self) -> str:
        """What is sent below the title."""
        return f"{self.meaning}\n\nWhat to do: {self.advice}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What operators may set: of `least_usable` keys or proxies left, of more, they are told.

    And of a balance below `least_balance`, in OhMyGPT's units.
    """

    least_usable: int = 1
    least_balance: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Spending:
    """How much of what there is has been spent, in nano-dollars or any other unit, below 2**63."""

    name: str
    spent: int
    granted: int

    def percent(self) -> int | None:
        """Return the highest of `SPENT_PERCENT` that is reached."""
        if self.granted <= 0:
            return None
        return next((step for step in SPENT_PERCENT if self.spent * 100 >= self.granted * step), None)


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What is spent of a budget of a user, or of one of their keys, in the period that `since` names."""

    user_id: str
    key_id: str | None
    per: str
    name: str
    since: int
    spending: Spending


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What one worker knows of itself, and of the pool. `name` tells it from others for as long as it runs.

    `keys`, `proxies`: whether each is usable. `balance` is OhMyGPT's as it was last read, in its units.
    """

    name: str
    keys: tuple[bool, ...] = ()
    proxies: tuple[bool, ...] = ()
    lost: int = 0
    late_s: float = 0.0
    fees: tuple[Spending, ...] = ()
    balance: Decimal | None = None


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What the database tells: of the requests of the last minutes, of users and their keys.

    `findings` are what was wrong on `day` between what the upstream charged and what was charged for it.
    """

    requests: int = 0
    refused: int = 0
    unpriced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    credits: tuple[Spending, ...] = ()
    budgets: tuple[BudgetUse, ...] = ()
    expiring: tuple[tuple[str, str, datetime], ...] = ()
    month: str | None = None
    day: str = ""
    findings: tuple[Finding, ...] = ()


def of_worker(facts: WorkerFacts, now: datetime, bounds: Bounds) -> Iterator[Alert]:
    """Tell what a worker sees."""
    yield from _too_few("keys", "upstream keys", facts.keys, now, bounds.least_usable)
    yield from _too_few("proxies", "outbound proxies", facts.proxies, now, bounds.least_usable)
    if facts.lost:
        yield Alert(
            "lost", facts.name, f"{facts.lost}",
            f"{facts.lost} records are lost",
            "Their requests were answered, and what they cost is in no book.",
            "look for the first error in the log of this host (its disk or journal), then run weir verify.",
        )  # fmt: skip
    if facts.late_s > LATE_S:
        yield late(now, facts.late_s)
    for spending in facts.fees:
        if (step := spending.percent()) is not None:
            yield Alert(
                "key-fee", _name(spending.name), f"{step}% of {spending.granted}",
                f"Upstream key {_name(spending.name)} has used {step} % of what it may",
                "OhMyGPT refuses a key that has used all; requests then go to the others.",
                "raise the key's limit at OhMyGPT, or add another with weir keys add.",
            )  # fmt: skip
    if facts.balance is not None:
        yield from _low_balance(facts.balance, now, bounds.least_balance)


def of_store(facts: StoreFacts, now: datetime) -> Iterator[Alert]:
    """Tell what the database shows."""
    if facts.requests >= MIN_REQUESTS and facts.refused > facts.requests * REFUSED_SHARE:
        yield Alert(
            "refused", "upstream", now.strftime(_ISO_HOUR),
            f"The upstream failed {facts.refused} of {facts.requests} requests",
            "That was within five minutes; clients get errors.",
            "weir logs tail --outcome upstream_error says why; weir doctor asks the upstream itself.",
        )  # fmt: skip
    for model, units in sorted(facts.unpriced.items())[:MAX_NAMED]:
        yield Alert(
            "unpriced", _name(model), now.strftime(_ISO_DAY),
            f"{_name(model)} is used without a price",
            f"Not charged, since the table has no price for it: {_named(units)}.",
            "add the price to the model table, then reload (weir prices show MODEL says what there is).",
        )  # fmt: skip
    for user in facts.credits:
        if (step := user.percent()) is not None:
            consequence = "requests are refused" if step == 100 else "at 100 % requests are refused"
            yield Alert(
                "credit", _name(user.name), f"{step}% of {user.granted}",
                f"{_name(user.name)} has used {step} % of their credit",
                f"All credit they were ever given counts; {consequence}.",
                f"weir users credit {_name(user.name)} +AMOUNT adds some.",
            )  # fmt: skip
    for budget in facts.budgets:
        if (step := budget.spending.percent()) is not None:
            whose = (
                f"Key {budget.key_id} of {_name(budget.user_id)}" if budget.key_id else _name(budget.user_id)
            )
            yield Alert(
                "budget", f"{_name(budget.user_id)}/{budget.name}", f"{step}% since {budget.since}",
                f"{whose} has spent {step} % of a budget ({budget.per})",
                f"It is {budget.spending.granted / NANO:g} USD; once it is spent, requests are refused.",
                "nothing, if that is what it is for; else raise it (docs/limits.md).",
            )  # fmt: skip
    for user_id, key_id, expires_at in facts.expiring:
        yield Alert(
            "expires", key_id, expires_at.isoformat(timespec="minutes"),
            f"A client key of {_name(user_id)} expires at {expires_at:%Y-%m-%d %H:%M} UTC",
            f"From {expires_at:%Y-%m-%d %H:%M} UTC on requests with key {key_id} are refused.",
            f"weir client-keys add {_name(user_id)} makes another one.",
        )  # fmt: skip

    for finding in facts.findings[:MAX_NAMED]:
        kind, _, subject = finding.name.partition(":")
        title, advice = _LEDGER[kind]
        yield Alert(
            kind, _name(subject), facts.day, title.format(_name(subject)), finding.text, advice
        )  # fmt: skip
    if facts.month is not None:
        yield Alert(
            "month", facts.month, facts.month,
            f"{facts.month} is over and can be closed",
            "What each user had, used and has left is kept as it is at the closing, and never changes again.",
            f"weir verify, then weir statements close {facts.month}.",
        )  # fmt: skip


_LEDGER: Final = {
    MARGIN: (
        "{} costs more than it brings",
        "raise its price, multiplier or a user's price factor; weir stats models shows both sides.",
    ),
    DRIFT: (
        "The price of {} is not what the upstream takes",
        "compare prices (weir prices show, weir prices diff), then change the table and reload.",
    ),
    BOOKS: (
        "OhMyGPT's books differ for key {}",
        "weir verify --upstream --period yesterday shows both; is the key used elsewhere, too?",
    ),
}


def fees_of(accounts: Mapping[str, KeyAccount]) -> tuple[Spending, ...]:
    """Return what keys have used of what OhMyGPT lets them, in millionths of its unit."""
    return tuple(
        Spending(key_id, int(told.used_fee * 10**6), int(told.max_fee * 10**6))
        for key_id, told in accounts.items()
        if told.used_fee is not None and told.max_fee is not None
    )


def late(now: datetime, late_s: float) -> Alert:
    """Tell that records wait for the database."""
    return Alert(
        "late", "records", now.strftime(_ISO_HOUR),
        f"Records are {late_s / 60:.0f} minutes late",
        "Requests are answered, and records wait on disk; credit and statistics lag behind.",
        "see whether MongoDB answers (weir doctor); once it does, all are booked by themselves.",
    )  # fmt: skip


def trial(now: datetime) -> Alert:
    """Build what `weir alerts test` sends."""
    return Alert(
        "test", "alerts", now.isoformat(timespec="seconds"), "Weir: a test",
        "Somebody has run weir alerts test.", "nothing: alerts arrive here."
    )  # fmt: skip


def _too_few(
    kind: str, what: str, usable: Iterable[bool], now: datetime, least_usable: int
) -> Iterator[Alert]:
    known = list(usable)
    left = sum(known)
    if left == len(known) or left > least_usable:
        return
    consequence = "requests are refused" if kind == "keys" and not left else "what is left has to do for all"
    yield Alert(
        kind, "pool", f"{left} {now.strftime(_ISO_DAY)}",
        f"{left} of {len(known)} {what} are left",
        f"The others do not work for now; {consequence}.",
        f"weir {kind} list says why; weir {kind} add adds one.",
    )  # fmt: skip


def _low_balance(balance: Decimal, now: datetime, least: Decimal) -> Iterator[Alert]:
    if balance <= 0:
        step, title = "used up", "OhMyGPT's balance is used up"
        meaning = "OhMyGPT refuses every key of the account, so clients get errors."
    elif balance < least:
        step, title = "low", f"OhMyGPT's balance is low: {balance:f}"
        meaning = f"It is below {least:f}, in OhMyGPT's units; once it is used up, every key is refused."
    else:
        return
    yield Alert(
        "upstream-balance", "ohmygpt", f"{step} {now.strftime(_ISO_DAY)}", title, meaning,
        "top up the account at OhMyGPT; weir keys account shows the balance.",
    )  # fmt: skip


def _named(names: Iterable[str]) -> str:
    found = sorted(map(_name, names))
    more = len(found) - MAX_NAMED
    return ", ".join(found[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _name(text: str) -> str:
    """Shorten a name from outside, and have it on one line."""
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_NAME])
