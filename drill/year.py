"""A year of a product whose days begin in one zone: what happens in it, and whether every book of it agrees.

Requests are admitted, priced, journaled, booked and billed by the product's own parts, against a real
MongoDB, with the time as an argument. Two processes serve. One books within hours; the other is away at some
ends of months, so that what it served is booked into months that are closed. Beside the product's books
`drill.year_tally` keeps its own, with prices by `simulator.bill`.
"""

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from pymongo.database import Database
from pymongo.errors import AutoReconnect

from app.accounts.client_keys import ClientKeyStore
from app.accounts.directory import CachedDirectory
from app.accounts.limits import Budget
from app.accounts.principal import Principal
from app.accounts.users import UserStore
from app.billing.statements import Statements
from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.credit.budgets import claims_of
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import CreditHolds, Holding, Tending
from app.credit.credit_ledger import CreditLedger, InsufficientCreditError, LedgerNote
from app.credit.credit_policy import AMPLE_FACTOR
from app.credit.reservation import CreditExhausted, Reservation
from app.journal import Journal, JournaledQueue, JournalPolicy, acquire_slot
from app.journal.journal_format import OpenRequest
from app.persistence.booking import Booking
from app.pricing.charge import Charge, charge
from app.pricing.model_table import ModelTable
from app.pricing.price_versions import START, PriceVersions, PutInForce
from app.pricing.rate_card import Terms, factor_of
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, UsageSource
from app.statistics.summaries import SummaryMaker
from app.verify.reconciliation import Reconciliation
from app.wires.orders import answered_tiers
from app.wires.usage import Usage
from drill.year_tally import Limit, Line, Spent, YearTally
from simulator.bill import PriceList

Document = dict[str, Any]

ZONES: Final = ("America/New_York", "Europe/Berlin", "Australia/Adelaide")
"""Each changes its clocks on days of its own; the last one's hours begin at half past."""

YEAR: Final = 2024
"""A leap year; and past, since MongoDB's clock says when holds were placed."""
_DAY: Final = timedelta(days=1)
_KEPT: Final = 30 * _DAY
_CLOSED_AFTER: Final = timedelta(days=2, hours=5)
_BOOKED_EVERY: Final = timedelta(hours=9)
_LEGACY, _ENV = "earlier", "env"
_LEGACY_USD: Final = (7.5, 0.25)
_LEAST_OUTPUT: Final = 16
_MONTH: Final = timedelta(days=30)
_NOT_VERIFIED: Final = {"consistent": True, "differenceCount": 0, "pendingCount": 0}
_AT_EDGES: Final = 0.25
_SERVED_AWAY: Final = 0.2
"""Parts of the requests: near the end of a month, and served by the process that may be away."""
_MODELS: Final = ("gpt-year", "claude-year")
_GROUP: Final = "friends"
_FACTORS: Final = (None, "0.83", None, "1.21", _GROUP)
_BUDGETS: Final[tuple[tuple[Limit, ...], ...]] = (
    (),
    (Limit(NANO, "day"), Limit(12 * NANO, "month")),
    (Limit(3 * NANO, "week"), Limit(NANO // 2, "5h")),
    (Limit(NANO // 2, "day", "claude-year"), Limit(60 * NANO, "total")),
    (Limit(9 * NANO, "month", "gpt-year"),),
)
"""What users are given by turns; those of the third one hold for their first client key."""


class YearWrong(Exception):
    """The books and the tally do not agree; the text says where."""


class PatientHolds(CreditHolds):
    """Never give up on a slow machine: budgets and credit are bounded where MongoDB answers in time."""

    def place(self, *args: Any, timeout_s: float, **options: Any) -> Holding:
        """Place a hold, however long it takes."""
        return super().place(*args, timeout_s=max(60.0, timeout_s), **options)


class _Broken:
    """A database of which one collection cannot be reached: what is booked stays half-way."""

    def __init__(self, db: Database[Document], name: str) -> None:
        self._db, self._name = db, name

    def __getitem__(self, name: str) -> Any:
        return _Unreachable() if name == self._name else self._db[name]


class _Unreachable:
    def __getattr__(self, _name: str) -> Any:
        raise AutoReconnect("it cannot be reached just now")


def price_lists(number: int) -> dict[str, PriceList]:
    """Return the prices of a version of the table: odd ones, so that rounding matters; some change."""
    dear = ((20_000, {"input": f"6.0{number}7", "output": "21.9101"}),)
    change = datetime(YEAR, 3 * number + 1, 11, 7, 30, tzinfo=UTC) if number < 4 else None
    changes = () if change is None else ((change, {"output": f"13.{number}003"}),)
    gpt = {"input": f"1.3{number}7", "output": "11.1301", "cache_hit": "0.137", "cache_write": "1.71"}
    claude = {"input": "3.0107", "output": f"15.0{number}7", "cache_hit": "0.30079", "cache_write": "3.7603"}
    return {
        _MODELS[0]: PriceList(gpt, tiers=dear, service_tiers={"flex": "0.5"}, changes=changes),
        _MODELS[1]: PriceList(claude, tiers=dear, multiplier=f"1.{number}", changes=changes),
    }


@dataclass(slots=True)
class _Version:
    """A text of the model table that is in force."""

    prices: dict[str, PriceList]
    group_factor: str
    table: ModelTable

    @classmethod
    def of(cls, number: int) -> "_Version":
        prices, factor = price_lists(number), f"0.9{number}7"
        group = f'[groups.{_GROUP}]\nprice_factor = "{factor}"\n'
        text = "\n".join((*(found.toml(model) for model, found in prices.items()), group))
        return cls(prices, factor, ModelTable.from_toml(text))


@dataclass(slots=True)
class _Running:
    """A request that has not ended yet."""

    request_id: str
    spent: Spent
    reservation: Reservation | None
    record: ExchangeRecord
    tokens: dict[str, int]
    is_noted: bool


class _Process:
    """A worker: its caches, its gate, its slot of the journal. `now` is the time of the year."""

    def __init__(
        self, name: str, db: Database[Document], root: str, now: Callable[[], datetime], tz: ZoneInfo
    ) -> None:
        self.name, self._db, self._now = name, db, now
        users, keys = UserStore(db), ClientKeyStore(db)
        self.directory = CachedDirectory(users, keys, clock=self._seconds, spawn=lambda task: task(), now=now)
        self.gate = MongoCreditGate(
            self.directory, PatientHolds(db), clock=self._seconds, pause=lambda _seconds: None
        )
        self._queue = JournaledQueue(100_000, refusals_per_minute=10**9)
        self._slot = acquire_slot(root)
        self._queue.attach(Journal(self._slot, JournalPolicy(), run_blocking=lambda work, *args: work(*args)))
        self._tz = tz
        self._booking = Booking(db, self._slot.writer_id, now=now, tz=tz)
        self.running: dict[str, _Running] = {}

    def _seconds(self) -> float:
        return self._now().timestamp()

    def open(self, running: _Running) -> None:
        """Note that a request is forwarded, and maybe what its record will be."""
        record = running.record
        self._queue.open(
            OpenRequest(
                running.request_id,
                record.user_id,
                record.user_key_id,
                record.created_at,
                record.api_format,
                "chat",
                model=record.model,
            )
        )
        if running.is_noted:
            self._queue.checkpoint(record)
        self.running[running.request_id] = running

    def put(self, record: ExchangeRecord, reservation: Reservation | None) -> None:
        """Let a request end."""
        self._queue.put(record)
        self.running.pop(record.request_id, None)
        if reservation is not None:
            self.directory.note_charge(record.user_id, record.cost_nano_usd)
            self.gate.release(reservation)

    def book(self, *, stops_at: str | None = None) -> list[str]:
        """Book all there is, and return whose requests; with `stops_at`, stop half-way at a collection."""
        booking = self._booking
        if stops_at is not None:
            booking = Booking(_Broken(self._db, stops_at), self._slot.writer_id, now=self._now, tz=self._tz)  # type: ignore[arg-type]
        done: list[str] = []
        while batch := self._queue.take(500, 0):
            try:
                booked = booking.apply(batch)
            except StoreUnavailable:
                self._queue.abandon()
                raise
            if booked.dead:
                raise YearWrong(f"put aside: {booked.dead[:3]}")
            self._queue.acked(batch[-1].seq)
            for user, nano in booked.charges.items():
                self.directory.charges_booked(user, nano)
            done += [item.document["_id"] for item in batch]
        return done

    def end(self) -> None:
        """Let go of the slot: what is open, or not booked, is for whoever takes it next."""
        self.running.clear()
        self._queue.abandon()
        self._queue.release()


@dataclass(slots=True)
class YearPlan:
    """How much happens: users, requests of each in a month, restarts, outages.

    Hours that are over are summed up `summed` times a month at least, and of so many months one is verified
    when it is closed, as the end of the year is.
    """

    users: int
    requests: int
    restarts: int
    outages: int
    summed: int = 30
    verified: int = 1


@dataclass(slots=True)
class YearOutcome:
    """What came of it."""

    figures: Counter[str] = field(default_factory=Counter)
    hashes: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Year:
    """One instance's year; `run` lets it pass."""

    def __init__(
        self,
        db: Database[Document],
        directory: Path,
        zone: str,
        plan: YearPlan,
        random: Random,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._db, self._root, self._plan, self._random, self._say = db, str(directory), plan, random, say
        self._tz = ZoneInfo(zone)
        self.now = self._midnight(1) - timedelta(days=1)
        self.outcome = YearOutcome()
        self._users = [f"user-{number:02}" for number in range(plan.users)]
        self._keys: dict[str, list[str]] = {}
        self._statements = Statements(db, self._tz)
        self._ledger = CreditLedger(db)
        self._closed: dict[str, tuple[Document, list[Document]]] = {}
        self._version = _Version.of(0)
        self._number = 0
        self._spent: dict[str, Spent] = {}
        self._recorded: Counter[str] = Counter()
        self._held: defaultdict[str, set[str]] = defaultdict(set)
        self._generation = 0
        self._is_away = False
        self._broken_until = self._last_closed = self._summed_at = self.now
        self._priced_at: list[datetime] = []
        self._at_edges = self._edges()
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._set_up(zone)

    # The world

    def _set_up(self, zone: str) -> None:
        self._statements.ensure_indexes()
        self._ledger.ensure_indexes()
        users, keys = UserStore(self._db), ClientKeyStore(self._db)
        limits: dict[str, list[Limit]] = {}
        for number, user in enumerate(self._users):
            users.add(user, now=self.now)
            self._keys[user] = [keys.add(user, now=self.now).key_id for _ in range(2)]
            factor = _FACTORS[number % len(_FACTORS)]
            terms: Document = {"group" if factor == _GROUP else "priceFactor": factor}
            given = [
                replace(limit, nano=limit.nano * self._plan.requests // 100)
                for limit in _BUDGETS[number // 2 % len(_BUDGETS)]
            ]
            of_key = number // 2 % len(_BUDGETS) == 2
            stored = [Budget(limit.nano, limit.per, limit.model).to_document() for limit in given]
            if of_key:
                keys.set_fields(self._keys[user][0], {"budgets": stored})
            elif stored:
                terms["budgets"] = stored
            users.set_fields(user, terms)
            key = self._keys[user][0] if of_key else None
            limits[user] = [replace(limit, key=key) for limit in given]
        credits, ref_credits = _LEGACY_USD
        legacy = {"credits": credits, "refCredits": ref_credits, "creditsUsed": 99.0, "isActive": True}
        self._db["usersNew"].insert_one({"_id": _LEGACY, **legacy})
        self._keys[_LEGACY], self._keys[_ENV] = [keys.add(_LEGACY, now=self.now).key_id], [_ENV]
        self.tally = YearTally(zone, limits)
        self._limits = limits
        self.tally.began = dict.fromkeys(self._users, 0)
        self.tally.began |= {_LEGACY: round((credits + ref_credits) * NANO), _ENV: None}
        self._processes = [self._process(name) for name in ("near", "away")]
        self._price(0)

    def _process(self, name: str) -> _Process:
        self._generation += 1
        return _Process(f"{name}-{self._generation}", self._db, self._root, lambda: self.now, self._tz)

    def _midnight(self, month: int, day: int = 1) -> datetime:
        years, number = divmod(month - 1, 12)
        return datetime(YEAR + years, number + 1, day, tzinfo=self._tz).astimezone(UTC)

    def _name(self, month: int) -> str:
        years, number = divmod(month - 1, 12)
        return f"{YEAR + years}-{number + 1:02}"

    # The plan of the year

    def _at(self, moment: datetime, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, event))

    def _plan_year(self) -> None:
        begin, end = self._midnight(1), self._midnight(13)
        random, everybody = self._random, [*self._users, _LEGACY, _ENV]
        for user in everybody:
            for _ in range(12 * self._plan.requests):
                self._at(self._some_moment(begin, end), partial(self._ask, user))
        moment = begin
        while moment < end + 15 * _DAY:
            moment += _BOOKED_EVERY
            self._at(moment, self._book)
        for month in range(1, 13):
            first, following = self._midnight(month), self._midnight(month + 1)
            for user in everybody[:-1]:
                self._at(first + timedelta(minutes=random.randrange(90)), partial(self._give, user))
                self._at(self._some_moment(first, following), partial(self._refund, user))
            self._at(following + _CLOSED_AFTER, partial(self._close, month))
        for number in range(1, 4):
            self._at(self._midnight(3 * number + 1, 5) + timedelta(hours=7), partial(self._price, number))
        for month in range(1, 13, 2):  # September's journal comes back after October was closed, too
            back = self._midnight(month + 2, 6) if month == 9 else self._midnight(month + 1, 9)
            self._at(self._midnight(month, 25), partial(self._go_away, True))
            self._at(back, partial(self._go_away, False))
        for _ in range(self._plan.restarts):
            self._at(self._some_moment(begin, end), partial(self._restart, random.randrange(2)))
        for number in range(self._plan.outages):
            month_end = self._midnight(random.randrange(2, 14))
            broken = month_end - timedelta(hours=random.randrange(2, 30))
            self._at(
                broken, partial(self._break, month_end + timedelta(hours=random.randrange(2, 30)), number)
            )
        for month in (3, 8):
            self._at(self._midnight(month, 17), self._rotate)

    def _edges(self) -> list[datetime]:
        """Return midnights with which months begin, and the moments at which clocks change."""
        months = [self._midnight(month) for month in range(1, 14)]
        hours = (months[0] + timedelta(hours=hour) for hour in range(24 * 366))
        changes = [
            hour
            for hour in hours
            if hour.astimezone(self._tz).utcoffset()
            != (hour - timedelta(hours=1)).astimezone(self._tz).utcoffset()
        ]
        return months + changes

    def _some_moment(self, begin: datetime, end: datetime) -> datetime:
        """Return a moment; one of four is near the end of a month, or a change of clocks."""
        random = self._random
        moment = begin + (end - begin) * random.random()
        if random.random() < _AT_EDGES:
            moment = random.choice(self._at_edges) + timedelta(seconds=random.randrange(-5400, 5400))
        if not begin <= moment < end:
            return self._some_moment(begin, end)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

    def run(self) -> YearOutcome:
        """Let the year pass, and some days more; return what came of it."""
        self._plan_year()
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self._check_the_end()
        for process in self._processes:
            process.end()
        return self.outcome

    def _expect(self, condition: object, text: str) -> None:
        if not condition:
            self.outcome.problems.append(f"{self._tz}, {self.now}: {text}")

    # What happens

    def _ask(self, user: str) -> None:
        """Let a user make a request: admitted or refused, priced twice, and on its way."""
        random, figures = self._random, self.outcome.figures
        process = self._processes[random.random() < _SERVED_AWAY]
        spent = Spent(
            user, random.choice(self._keys[user]), random.choice(_MODELS), self.now, process.name, 0
        )
        self._number += 1
        request_id = f"{self._tz}-{self._number:08}"
        self._spent[request_id] = spent
        figures["requests"] += 1
        tokens = {
            "fresh": random.randrange(50, 25_000),
            "cache_read": random.choice((0, 0, random.randrange(9000))),
            "cache_write_5m": random.choice((0, 0, random.randrange(3000))),
            "output": random.randrange(_LEAST_OUTPUT, 3000),
        }
        tier = "flex" if spent.model == _MODELS[0] and random.random() < 0.2 else ""
        principal = process.directory.caller(user, spent.key)
        claims = claims_of(principal, spent.model, self.now, self._tz)
        cost = partial(self._cost, spent, tokens, tier)
        reservation = None
        if user != _ENV:
            least = cost(_LEAST_OUTPUT)
            try:
                reservation = process.gate.reserve(user, request_id, cost(3000), cost(1000), least, claims)
            except CreditExhausted as error:
                self._refused(process, request_id, spent, error, least)
                return
            while cost(tokens["output"]) > reservation.nano:
                tokens["output"] = max(_LEAST_OUTPUT, tokens["output"] * 3 // 4)
            spent.taken = reservation.nano
        charged = self._charge(spent, tokens, tier, principal)
        record = self._record(request_id, spent, Outcome.OK, 200, charged)
        self._expect(
            record.cost_nano_usd == cost(tokens["output"]),
            f"{request_id} costs {cost(tokens['output'])}, not {record.cost_nano_usd}",
        )
        if reservation is not None:
            record.hold_nano_usd = reservation.hold_nano
            if reservation.hold_nano:
                self._held[user].add(request_id)
                figures["requests with a hold"] += 1
        record.budgets = tuple(claim.to_document() for claim in claims)
        figures["requests paid from budgets"] += bool(claims)
        running = _Running(request_id, spent, reservation, record, tokens, random.random() < 0.5)
        process.open(running)
        self.tally.ask(spent)
        ends = self.now + timedelta(seconds=random.choice((3, 20, 90, random.randrange(3000))))
        self._at(ends, partial(self._end, process, running))

    def _refused(
        self, process: _Process, request_id: str, spent: Spent, error: CreditExhausted, least: int
    ) -> None:
        """Note a refusal, which must be one: less was left than the request needs."""
        figures, left = self.outcome.figures, None
        if error.is_crowded:
            figures["refused: too many at once"] += 1
        elif error.claim is None:
            left = self.tally.left(spent.user)
            figures["refused: credit"] += 1
        else:
            budget = error.claim.budget
            [limit] = [
                limit
                for limit in self._limits[spent.user]
                if (limit.per, limit.model) == (budget.per, budget.models)
            ]
            left = self.tally.left_of(spent.user, limit, self.now)
            figures[f"refused: budget per {limit.per}"] += 1
        self._expect(
            left is None or left < least, f"{request_id} was refused, and {left} of {least} was left"
        )
        process.put(self._record(request_id, spent, Outcome.REJECTED, 402, None), None)
        self.tally.ask(spent)

    def _end(self, process: _Process, running: _Running) -> None:
        if process.running.get(running.request_id) is not running:
            return  # it died with its process
        process.put(running.record, running.reservation)
        self._charged(running)

    def _charged(self, running: _Running) -> None:
        spent = running.spent
        spent.cost, spent.tokens = running.record.cost_nano_usd, running.tokens
        for limit in self._limits.get(spent.user, ()):
            if limit.covers(spent):
                passed, processes = self.tally.passed_by(spent.user, limit, spent.moment)
                bound = processes * limit.nano // AMPLE_FACTOR
                self._expect(
                    passed <= bound, f"{spent.user} has passed {limit} by {passed}, more than {bound}"
                )
                self.outcome.figures["budgets used up"] += passed >= 0

    def _cost(self, spent: Spent, tokens: Mapping[str, int], tier: str, output: int) -> int:
        """Return what a request costs by the price list."""
        version = self._version
        number = self._users.index(spent.user) if spent.user in self._users else 0
        factor = _FACTORS[number % len(_FACTORS)] or "1"
        factor = version.group_factor if factor == _GROUP else factor
        prices = version.prices[spent.model]
        return prices.cost_nano(
            {**tokens, "output": output}, {}, began=spent.moment, tier=tier, factor=factor
        )

    def _charge(self, spent: Spent, tokens: Mapping[str, int], tier: str, principal: Principal) -> Charge:
        """Price a request as the product does."""
        table = self._version.table
        model = table.named(spent.model)
        assert model is not None  # noqa: S101  it is in every version
        usage = Usage(
            input_tokens=tokens["fresh"],
            cache_read_input_tokens=tokens["cache_read"],
            cache_creation_5m_input_tokens=tokens["cache_write_5m"],
            output_tokens=tokens["output"],
        )
        own, group = principal.price_factor, principal.group
        factor = factor_of(own) if own is not None else table.groups.get(group or "")
        tiers = answered_tiers({}, tier or None)
        return charge(table, model, usage, terms=Terms(spent.moment, tiers, factor))

    def _record(
        self, request_id: str, spent: Spent, outcome: Outcome, status: int, charged: Charge | None
    ) -> ExchangeRecord:
        record = ExchangeRecord(
            request_id,
            spent.user,
            spent.key,
            spent.moment,
            "openai" if spent.model == _MODELS[0] else "anthropic",
            outcome,
            status,
            model=spent.model,
        )
        if charged is not None:
            usage = charged.usage
            record.factory_key_id, record.attempts = "env-1", (AttemptRecord("env-1", 200, 900),)
            record.input_tokens, record.output_tokens = usage.input_tokens, usage.output_tokens
            record.cache_write_tokens = usage.cache_creation_input_tokens
            record.cache_hit_tokens = usage.cache_read_input_tokens
            record.usage_source, record.latency_ms = UsageSource.UPSTREAM, 900
            record.cost_nano_usd, record.costs = sum(charged.costs), charged.costs
            record.cost_items, record.price_version = charged.items, self._version.table.version
        return record

    def _give(self, user: str) -> None:
        most = self._plan.requests * NANO // 10
        self._change(user, self._random.randrange(1, most), "paid")

    def _refund(self, user: str) -> None:
        """Give back what some request had cost, or take something away."""
        if self._random.random() < 0.4:
            self._change(user, -self._random.randrange(1, self._plan.requests * NANO // 50), "debit")
            return
        earlier = [spent.cost for spent in self._spent.values() if spent.user == user and spent.cost]
        if earlier:
            self._change(user, self._random.choice(earlier), "refund")

    def _change(self, user: str, nano: int, reason: str) -> None:
        note = LedgerNote(self.now, "root", "api", reason)
        try:
            self._ledger.add(user, Decimal(nano).scaleb(-9), note)
        except InsufficientCreditError:
            self.outcome.figures["debits refused"] += 1
            return
        self.tally.give(user, self.now, nano)
        self.outcome.figures[f"ledger: {reason}"] += 1

    def _price(self, number: int) -> None:
        """Put another table in force."""
        self._version = _Version.of(number)
        versions, table = PriceVersions(self._db), self._version.table
        put = PutInForce(self.now, START, "year")
        versions.keep(table.version, table.text, put)
        versions.put_in_force(table.version, put)
        self._priced_at.append(self.now)

    def _rotate(self) -> None:
        """Give each user's first key another secret, and replace the second by another key."""
        keys = ClientKeyStore(self._db)
        for user in self._users:
            first, second = self._keys[user]
            stored = keys.get(first)
            assert stored is not None  # noqa: S101  it was made with the user
            rotated = keys.rotate(stored, now=self.now, until=self.now + _DAY)
            self._expect(rotated, f"{first} was not rotated")
            keys.revoke(second, now=self.now)
            self._keys[user] = [first, keys.add(user, now=self.now).key_id]
            self.outcome.figures["keys rotated or replaced"] += 2

    def _go_away(self, is_away: bool) -> None:
        self._is_away = is_away

    def _break(self, until: datetime, number: int) -> None:
        """Let the database fail in the middle of a booking: who was at it dies, and another waits."""
        self._broken_until = max(self._broken_until, until)
        self.outcome.figures["outages"] += 1
        stops_at = ("usersNew", "user_keys", "request_rollups")[number % 3]
        self._restart(0, partial(self._processes[0].book, stops_at=stops_at))

    def _restart(self, which: int, first: Callable[[], object] = lambda: None) -> None:
        """Let a process die, after it has begun something, and another take its slot over."""
        process = self._processes[which]
        try:
            first()
        except StoreUnavailable:
            self.outcome.figures["batches booked half-way"] += 1
        for running in list(process.running.values()):
            self.outcome.figures["requests interrupted"] += 1
            if running.is_noted:
                self._charged(running)
        process.end()
        self._processes[which] = self._process(process.name.partition("-")[0])
        self.outcome.figures["restarts"] += 1

    def _book(self) -> None:
        """Book what can be, renew what is held, and sum up the hours that are over."""
        # Their owners would do so all the time; by MongoDB's clock the year lasts some minutes.
        held = {user: Tending(frozenset(ids), frozenset()) for user, ids in self._held.items() if ids}
        if held:
            CreditHolds(self._db).tend(held)
        if self.now >= self._broken_until:
            for process in self._processes[: 1 if self._is_away else 2]:
                for request_id in process.book():
                    spent = self._spent[request_id]
                    spent.booked = self.now
                    self._held[spent.user].discard(request_id)
                    self.outcome.figures["booked late"] += spent.moment < self._last_closed
        if self.now - self._summed_at >= _MONTH / self._plan.summed:
            self._sum_up()

    def _sum_up(self) -> None:
        """Sum up the hours that are over."""
        self._summed_at = self.now
        maker = SummaryMaker(self._db, self._tz)
        while maker.step(self.now):
            pass

    # What has to come of it

    def _close(self, month: int) -> None:
        """Close a month, when everything that can be booked is; compare it with the tally."""
        if self.now < self._broken_until:
            self._at(self._broken_until + timedelta(hours=1), partial(self._close, month))
            return
        self._book()
        self._sum_up()
        self._expire()
        name, tally = self._name(month), self.tally
        of = self._statements.month(name)
        before = self._compare(name)
        verify = self._verified if month % self._plan.verified == 0 else lambda: _NOT_VERIFIED
        head = self._statements.close(of, "root", self.now, lambda: self.now, verify)
        tally.close(name, self.now)
        self._last_closed = of.end
        after = self._compare(name)
        self._expect(before == after, f"{name} changed when it was closed")
        self._closed[name] = head, after
        lines = (json.dumps(found, sort_keys=True, separators=(",", ":")) + "\n" for found in after)
        sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        self._expect(head["sha256"] == sha256, f"{name} has the hash {head['sha256']}, not {sha256}")
        self._expect(head["requests"] == tally.requests_of(name), f"{name}: {head['requests']} requests")
        known = sum(at < of.end for at in self._priced_at)
        self._expect(len(head["priceVersions"]) == known, f"{name} knows {len(head['priceVersions'])} tables")
        charges = sum(found["chargesNanoUsd"] for found in after)
        self._expect(head["sums"]["chargesNanoUsd"] == charges, f"{name} does not add up to its sums")
        self.outcome.hashes[name] = sha256
        self.outcome.figures["statements closed"] += len(after)
        self.outcome.figures["with something late"] += sum(bool(found["lateNanoUsd"]) for found in after)
        self._say(
            f"{self._tz}: {name} closed, {len(after)} statements, {self.outcome.figures['requests']} requests"
        )

    def _compare(self, name: str) -> list[Document]:
        """Compare all statements of a month with the tally; return them."""
        of = self._statements.month(name)
        users = self._statements.users(of, self.now)
        self._expect(set(users) == self.tally.users_of(name), f"{name} has other users: {users}")
        found = []
        for statement in self._statements.statements(of, users, self.now):
            row, user = statement.row(), statement.user
            for what, nano in self.tally.statement(user, name).items():
                self._expect(row[what] == nano, f"{name}, {user}: {what} is {row[what]}, and not {nano}")
            lines = Counter[Line]()
            for line in statement.charges:
                lines[line.day, line.model, line.key] += line.nano
            told = self.tally.lines(user, name)
            self._expect(lines == told, f"{name}, {user}: {lines - told} too much, {told - lines} missing")
            found.append(statement.to_json())
        return found

    def _verified(self) -> Document:
        made = Reconciliation(
            self._db,
            retention_s=int(_KEPT.total_seconds()),
            journal_root=self._root,
            tz=self._tz,
            pause=lambda _seconds: None,
        )
        report = made.report(self.now)
        for check in report["checks"]:
            for found in check["differences"]:
                self._expect(False, f"verify: {check['name']}: {found}")
        return report

    def _expire(self, kept: timedelta = _KEPT) -> None:
        """Remove the records that have expired, once what they say is noted."""
        logs, old = self._db["request_logs"], {"createdAt": {"$lt": self.now - kept}}
        for found in logs.aggregate(
            [
                {"$match": old},
                {"$group": {"_id": "$userId", "nano": {"$sum": "$costNanoUsd"}, "n": {"$sum": 1}}},
            ]
        ):
            self._recorded[found["_id"]] += found["nano"]
            self.outcome.figures["records"] += found["n"]
        logs.delete_many(old)

    def _check_the_end(self) -> None:
        """Compare everything once more: months, ledger, records, sums, balances, and what was closed."""
        self._book()
        self._sum_up()
        report = self._verified()
        self._expect(report["pendingCount"] == 0, f"{report['pendingCount']} are pending at the end")
        rest = self._name(13)
        open_rows = {row["user"]: row for row in self._compare(rest)}
        self._expire(timedelta(0))
        stored = {document["_id"]: document for document in self._db["usersNew"].find()}
        summed = Counter[str]()
        for sums in self._db["request_rollups"].find({}, {"userId": 1, "costNanoUsd": 1}):
            summed[sums["userId"]] += sums.get("costNanoUsd", 0)
        lines = Counter[str]()
        for line in self._db["credit_ledger"].find():
            lines[line["username"]] += line["amountNanoUsd"]
        for user in (*self._users, _LEGACY, _ENV):
            charged, given = self.tally.charged(user), self.tally.given(user)
            of_months = sum(
                row["chargesNanoUsd"] + row["lateNanoUsd"]
                for _, rows in self._closed.values()
                for row in rows
                if row["user"] == user
            )
            if user in open_rows:
                of_months += open_rows[user]["chargesNanoUsd"] + open_rows[user]["lateNanoUsd"]
            books = {"months": of_months, "records": self._recorded[user], "sums": summed[user]}
            if user != _ENV:
                document = stored[user]
                used = round(document["creditsUsed"] * NANO) - (99 * NANO if user == _LEGACY else 0)
                left = round((document["credits"] + document.get("refCredits", 0)) * NANO)
                left -= document.get("overdraftNanoUsd", 0)
                books["charged to the user"] = used
                books["taken from the balance"] = (self.tally.began[user] or 0) + given - left
                self._expect(
                    lines[user] == given, f"{user}: the ledger says {lines[user]}, given was {given}"
                )
            for name, nano in books.items():
                self._expect(nano == charged, f"{user}: {name} say {nano}, and not {charged}")
        for name, (head, rows) in self._closed.items():
            of = self._statements.month(name)
            self._expect(self._statements.check(name) == [], f"{name} is not as it was closed")
            self._expect(self._statements.head(of, self.now) == head, f"{name} has changed")
            now = [
                found.to_json()
                for found in self._statements.statements(of, [row["user"] for row in rows], self.now)
            ]
            self._expect(now == rows, f"a statement of {name} has changed")
            opening = {row["user"]: row["openingNanoUsd"] for row in self._following(name, open_rows)}
            for row in rows:
                follows = opening.get(row["user"], row["closingNanoUsd"])
                self._expect(follows == row["closingNanoUsd"], f"{row['user']}: {name} and the month after")
        self.outcome.figures["charged, nano-dollars"] = self.tally.charged()
        self.outcome.figures["given, nano-dollars"] = self.tally.given()

    def _following(self, name: str, open_rows: Mapping[str, Document]) -> Iterable[Document]:
        names = sorted(self._closed)
        at = names.index(name) + 1
        return self._closed[names[at]][1] if at < len(names) else open_rows.values()
