"""Refusals that are too many to have a record each: counted, so that no flood of them is dear to keep.

Requests that a client gave up before they were forwarded are counted like refusals.

The first few of a client key within a minute have their own record. The others are summed: one record stands
for all refusals of one kind, key and minute, and its `count` says how many they are, exactly. It is the
record of the first of them, under its id and with its moment.
"""

from collections import Counter
from datetime import datetime
from typing import NamedTuple

from app.records.records import ExchangeRecord, Outcome

MAX_MODELS = 20
"""How many sums of one key and minute tell models apart; all further ones are of no model.

Everything else that makes a kind is of a closed set.
"""


# A client that leaves before its request is forwarded spares the proxy only the answer.
_REFUSALS = (Outcome.REJECTED, Outcome.CLIENT_ABORT)


class _Kind(NamedTuple):
    """What is counted together. `period` is the minute, or the hour of what could not be written in time."""

    user_key_id: str
    period: datetime
    endpoint: str
    api_format: str
    outcome: str
    status_code: int
    error_type: str | None
    model: str | None


class RefusalSums:
    """The refusals of one process, by client key and kind. `minute` is any number that names the minute.

    Memory is bounded by the keys that are known, however many requests there are.
    """

    def __init__(self, own_per_minute: int) -> None:
        self._own_per_minute = own_per_minute
        self._minute: int | None = None
        self._own: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._sums: dict[_Kind, ExchangeRecord] = {}
        self._grown: set[_Kind] = set()
        self._due: list[ExchangeRecord] = []
        self._late: dict[_Kind, ExchangeRecord] = {}

    def __len__(self) -> int:
        return len(self._sums) + len(self._due) + len(self._late)

    def add(self, record: ExchangeRecord, minute: int, *, is_tight: bool) -> bool:
        """Count the record of a request that never went upstream; False: it is to be kept by itself.

        `is_tight` says that there is no room to spare for records of their own: then every request is
        counted, also those that were no refusals.
        """
        self._roll(minute)
        if not is_tight:
            if record.outcome not in _REFUSALS:
                return False
            if self._own[record.user_key_id] < self._own_per_minute:
                self._own[record.user_key_id] += 1
                return False
        kind = _kind(record)
        if kind not in self._sums:
            if self._kinds[kind.user_key_id] >= MAX_MODELS:
                record.forget_model()
                kind = kind._replace(model=None)
            self._kinds[kind.user_key_id] += kind not in self._sums
        self._sums[kind] = _joined(self._sums.get(kind), record)
        self._grown.add(kind)
        return True

    def grown(self) -> list[ExchangeRecord]:
        """Return the sums of this minute that have changed since the last call."""
        grown, self._grown = self._grown, set()
        return [self._sums[kind] for kind in grown]

    def take_due(self, minute: int | None) -> list[ExchangeRecord]:
        """Take the sums whose minute is over (None: all), to be kept now and counted here no more."""
        self._roll(minute)
        due, self._due = [*self._late.values(), *self._due], []
        self._late.clear()
        return due

    def put_back(self, record: ExchangeRecord, *, may_join: bool) -> None:
        """Keep, until the next try, a sum that could not be written; `may_join`: with others of its hour."""
        if not may_join:
            self._due.append(record)
            return
        kind = _kind(record)
        kind = kind._replace(period=kind.period.replace(minute=0))
        self._late[kind] = _joined(self._late.get(kind), record)

    def _roll(self, minute: int | None) -> None:
        # Not only forward: a clock that was set back begins a new minute as well.
        if minute == self._minute and minute is not None:
            return
        self._minute = minute
        self._due += self._sums.values()
        self._sums.clear()
        self._grown.clear()
        self._own.clear()
        self._kinds.clear()


def _kind(record: ExchangeRecord) -> _Kind:
    return _Kind(
        record.user_key_id,
        record.created_at.replace(second=0, microsecond=0),
        record.endpoint,
        record.api_format,
        str(record.outcome),
        record.status_code,
        record.error_type,
        record.model,
    )


def _joined(total: ExchangeRecord | None, record: ExchangeRecord) -> ExchangeRecord:
    if total is None:
        return record
    total.absorb(record)
    return total
