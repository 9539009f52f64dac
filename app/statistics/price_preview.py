"""What another model table would have charged over a past period: from records, else from the hourly sums.

Records say all that decides a price, so that part is exact. Where they have expired, or there is no time to
read them all, the hourly sums have tokens of text alone, by user and model: what was charged is changed by
what those tokens cost more, or less, at the standard prices of the two tables.

A user's price factor is the one of the record, but where the two tables have different ones for the group
that the user is in now: then it is the other table's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from pymongo.database import Database

from app.pricing.explanation import cost_by
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import factor_text
from app.statistics import rollups
from app.statistics.rollups import hour_of
from app.store.driver import store_errors, yielding
from app.store.fields import optional_int
from app.wires.usage import Usage

Document = dict[str, Any]

RECORDS, SUMS = "records", "sums"

_HOUR: Final = timedelta(hours=1)
_AT_ONCE: Final = timedelta(days=31)
"""How much time's sums are added up at once."""
_BATCH = 200
_STRIDE = 10
_TOKENS = ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheWrite1hTokens", "cacheHitTokens")
_READ = (
    *("userId", "model", "createdAt", "costNanoUsd", "costItems", "count", *_TOKENS),
    *("serviceTier", "priceFactor", "settles"),
    *(
        f"usageRaw.{place}{name}"
        for place in ("", "message_start.")
        for name in ("service_tier", "speed", "inference_geo")
    ),
)


@dataclass(slots=True)
class Compared:
    """What some requests were charged, and what they would have been, in nano-dollars."""

    requests: int = 0
    old_nano: int = 0
    new_nano: int = 0

    @property
    def difference_nano(self) -> int:
        """How much more it would have been."""
        return self.new_nano - self.old_nano

    def add(self, other: "Compared") -> None:
        """Add these requests."""
        self.requests += other.requests
        self.old_nano += other.old_nano
        self.new_nano += other.new_nano


class TakesTooLong(Exception):
    """The sums of so long a time could not be added up in the time there is."""


Rows = dict[tuple[str, str], Compared]
"""By user and model; empty where a record names none."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the period (`end` is not in it), and what it was worked out from: `records` or `sums`.

    `booked_nano` is what the hourly sums say that it cost: more than the records do where some have expired.
    What was booked while these were read makes no difference.
    """

    source: str
    start: datetime
    end: datetime
    whole: Compared
    booked_nano: int


@dataclass(slots=True)
class Preview:
    """The comparison, by user and by model. `missing` are models that the other table does not have."""

    parts: list[Part] = field(default_factory=list)
    users: dict[str, Compared] = field(default_factory=dict)
    models: dict[str, Compared] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    @property
    def whole(self) -> Compared:
        """All of it."""
        total = Compared()
        for part in self.parts:
            total.add(part.whole)
        return total

    def take(self, rows: Rows) -> Compared:
        """Take over what was compared; return its sum."""
        total = Compared()
        for (user, model), compared in rows.items():
            self.users.setdefault(user, Compared()).add(compared)
            self.models.setdefault(model, Compared()).add(compared)
            total.add(compared)
        return total


class PricePreview:
    """Compares the table `other` with what was charged; `now_in_force` is the table that charges now.

    `is_late` says that the rest is to be worked out from the sums, which is quicker, and `is_over` that there
    is no time for that either; `progress` is told which part of the records is done, from 0 to 1.
    """

    def __init__(
        self,
        db: Database[Any],
        other: ModelTable,
        now_in_force: ModelTable,
        *,
        is_late: Callable[[], bool] = lambda: False,
        is_over: Callable[[], bool] = lambda: False,
        progress: Callable[[float], object] = lambda _done: None,
    ) -> None:
        self._logs = db["request_logs"]
        self._rollups = db[rollups.COLLECTION]
        self._other = other
        self._now_in_force = now_in_force
        self._users = db["usersNew"]
        self._is_late = is_late
        self._is_over = is_over
        self._regrouped: dict[str, tuple[Fraction, Fraction]] = {}
        self._progress = progress

    def run(self, since: datetime, until: datetime) -> Preview:
        """Compare the whole hours from `since` to `until`; raises `StoreUnavailable` or `TakesTooLong`."""
        start, end = hour_of(since), _next_hour(until)
        preview = Preview()
        with store_errors():
            self._regrouped = self._factors_of_groups()
            first = min(self._first_whole_hour(start, end), end)
            if start < first:
                preview.parts.append(self._from_sums(preview, start, first))
            reached = self._from_records(preview, first, end) if first < end else end
            if reached < end:
                preview.parts.append(self._from_sums(preview, reached, end))
        return preview

    def _factors_of_groups(self) -> dict[str, tuple[Fraction, Fraction]]:
        """Return, of users whose group's factor is another in the other table, what it is now, and there."""
        now, other, none = self._now_in_force.groups, self._other.groups, Fraction(1)
        changed = {
            group: factors
            for group in {*now, *other}
            if len(set(factors := (now.get(group, none), other.get(group, none)))) > 1
        }
        if not changed:
            return {}
        found = self._users.find({"group": {"$in": [*changed]}, "priceFactor": None}, {"group": 1})
        return {str(user["_id"]): changed[user["group"]] for user in yielding(found)}

    def _first_whole_hour(self, start: datetime, end: datetime) -> datetime:
        """Return from when on, at or after `start`, all records are there; `end` where there are none."""
        oldest = self._logs.find_one({}, {"createdAt": True}, sort=[("createdAt", 1)])
        if oldest is None:
            return end
        hour = hour_of(oldest["createdAt"])
        has_expired = self._rollups.find_one({"hour": {"$lt": hour}}, {"_id": True})
        return start if has_expired is None else max(start, hour + _HOUR)

    def _from_records(self, preview: Preview, start: datetime, end: datetime) -> datetime:
        """Compare record by record; return the end of the last whole hour that there was time for."""
        whole, rows, hour = Compared(), Rows(), start
        before, asked_until = self._booked(start, end), end
        found = self._logs.find(
            {"createdAt": {"$gte": start, "$lt": end}}, dict.fromkeys(_READ, True), batch_size=_BATCH
        ).sort("createdAt", 1)
        with found:
            for count, record in enumerate(yielding(found, _STRIDE)):
                if count % _BATCH == 0:
                    self._progress((record["createdAt"] - start) / (end - start))
                    if self._is_late():
                        end = hour
                        break
                if (its_hour := hour_of(record["createdAt"])) != hour:
                    whole.add(preview.take(rows))
                    rows, hour = Rows(), its_hour
                self._compare(preview, rows, record)
            else:
                whole.add(preview.take(rows))
        if start < end:
            after = self._booked(start, end)
            if end != asked_until:
                before = after
            # Between the two something may have been booked.
            is_explained = min(before, after) <= whole.old_nano <= max(before, after)
            booked = whole.old_nano if is_explained else after
            preview.parts.append(Part(RECORDS, start, end, whole, booked))
        return end

    def _compare(self, preview: Preview, rows: Rows, record: Mapping[str, Any]) -> None:
        if (factors := self._regrouped.get(str(record.get("userId")))) is not None:
            record = {**record, "priceFactor": factor_text(factors[1])}
        new, missing = cost_by(self._other, record)
        preview.missing |= missing
        count = optional_int(record.get("count", 1)) or 0
        row = rows.setdefault(_key(record.get("userId"), record.get("model")), Compared())
        row.add(Compared(count, optional_int(record.get("costNanoUsd")) or 0, new))

    def _booked(self, start: datetime, end: datetime) -> int:
        pipeline: list[Document] = [
            {"$match": {"hour": {"$gte": start, "$lt": end}}},
            {"$group": {"_id": None, "costNanoUsd": {"$sum": "$costNanoUsd"}}},
        ]
        return sum(int(row["costNanoUsd"]) for row in self._rollups.aggregate(pipeline))

    def _from_sums(self, preview: Preview, start: datetime, end: datetime) -> Part:
        rows = Rows()
        for begins, ends in self._stretches(start, end):
            for sums in self._sums(begins, ends):
                old, name = int(sums["costNanoUsd"]), sums["_id"].get("model")
                row = rows.setdefault(_key(sums["_id"].get("userId"), name), Compared())
                row.add(Compared(int(sums["requests"]), old, self._changed(preview, sums, name, old, begins)))
        whole = preview.take(rows)
        return Part(SUMS, start, end, whole, whole.old_nano)

    def _changed(
        self, preview: Preview, sums: Mapping[str, Any], name: str | None, old: int, began: datetime
    ) -> int:
        """Return what so many tokens would have cost, of which it is not known how they were answered."""
        now, then = self._regrouped.get(str(sums["_id"].get("userId")), (Fraction(1), Fraction(1)))
        # A factor of 0 leaves nothing to tell the price by.
        listed = Fraction(old) / now if now else Fraction(old)
        if not any(sums[field] for field in _TOKENS):
            return round(listed * then)
        fresh, output, written, written_1h, hits = (int(sums[name]) for name in _TOKENS)
        usage = Usage(
            input_tokens=fresh,
            output_tokens=output,
            cache_creation_5m_input_tokens=max(0, written - written_1h),
            cache_creation_1h_input_tokens=written_1h,
            cache_read_input_tokens=hits,
        )
        other = _standard(self._other, name, usage, began)
        if other is None:
            preview.missing.add(str(name))
            return 0
        usual = _standard(self._now_in_force, name, usage, began)
        if usual is None or not now:
            return round(other * then)
        return round(max(Fraction(0), listed + other - usual) * then)

    def _stretches(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Divide a time where prices of either table change, and so that each piece is read in a moment."""
        tables = (self._other, self._now_in_force)
        moments = {
            _next_hour(begins) for table in tables for model in table for begins, _ in model.card.changes
        }
        moments |= {start + number * _AT_ONCE for number in range(1, (end - start) // _AT_ONCE + 1)}
        limits = [start, *sorted(moment for moment in moments if start < moment < end), end]
        return pairwise(limits)

    def _sums(self, start: datetime, end: datetime) -> Iterable[Document]:
        if self._is_over():
            raise TakesTooLong
        sums = {name: {"$sum": f"${name}"} for name in ("requests", "costNanoUsd", *_TOKENS)}
        return self._rollups.aggregate(
            [
                {"$match": {"hour": {"$gte": start, "$lt": end}}},
                {"$group": {"_id": {"userId": "$userId", "model": "$model"}, **sums}},
            ],
            allowDiskUse=True,
        )


def _standard(table: ModelTable, name: str | None, usage: Usage, began: datetime) -> int | None:
    """Return what text tokens cost in usual requests; None where the table has no such model."""
    model = None if name is None else table.named(name)
    return None if model is None else sum(model.card.at(began).standard.text_cost(usage)[1])


def _key(user: object, model: object) -> tuple[str, str]:
    return str(user or ""), str(model or "")


def _next_hour(moment: datetime) -> datetime:
    hour = hour_of(moment)
    return hour if hour == moment else hour + _HOUR
