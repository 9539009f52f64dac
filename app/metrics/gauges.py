"""This worker's state, read off the parts that know it: queue, journal, writer, key pool, credit."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from app.accounts.rate_window import RateLimiter
from app.credit.credit_gate import GateCounts
from app.journal import JournaledQueue
from app.keys.key_pool import SharedKeyPool
from app.metrics import metric_names as names
from app.metrics.metric_names import MetricSpec
from app.ohmygpt.live_account import LiveAccount
from app.records.shown_record import shown_record
from app.store.secret_key_watch import UNCHECKED

MOST_LISTED = 25
"""How many of its requests under way a worker lists, at most."""


class RefusedReload(Protocol):
    """Why the last reload changed nothing, and when that was."""

    @property
    def at(self) -> str:
        """ISO 8601."""

    @property
    def reason(self) -> str:
        """One line."""


class WriterCounts(Protocol):
    """What a writer has done so far. A protocol, since the app does not know the workers."""

    written: int
    batches: int
    retries: int
    dead: int


class Writer(Protocol):
    """What is asked of `workers.log_writer.LogWriter`, which the app does not know."""

    @property
    def counts(self) -> WriterCounts:
        """The counts of what the writer has done."""

    @property
    def is_failing(self) -> bool:
        """Whether the writer's last attempt failed."""

    def oldest_unsent_age(self) -> float:
        """Return how many seconds the oldest record has waited."""


@dataclass(slots=True)
class WorkerGauges:
    """The parts of a worker. `writer` is there once it runs; `prices` tells the version of the model table.

    `store_problem` and `secret_key` (a state of `SecretKeyWatch`) are set by who watches the store.
    """

    queue: JournaledQueue
    pool: SharedKeyPool
    credit: GateCounts
    in_flight: Callable[[], int]
    rate_limiter: RateLimiter
    usable_hosts: Callable[[], list[bool]] = list
    lost_object_ids: Callable[[], int] = int
    writer: Writer | None = None
    store_problem: str | None = None
    secret_key: str = UNCHECKED
    is_draining: Callable[[], bool] = lambda: False
    adopted_interrupted: int = 0
    account: LiveAccount | None = None
    prices: Callable[[], str] = str
    reload_refused: Callable[[], RefusedReload | None] = lambda: None

    def gauges(self) -> dict[str, float]:
        """Return the gauges of this worker, by metric name."""
        values: dict[MetricSpec, float] = {
            names.IN_FLIGHT: self.in_flight(),
            names.QUEUE: len(self.queue),
            names.STORE_UP: self.store_problem is None,
            names.RELOAD_REFUSED: self.reload_refused() is not None,
        }
        status = self.queue.status()
        if status is not None:
            values |= {
                names.UNBOOKED: status.unbooked,
                names.MEMORY_ONLY: status.memory_only,
                names.OLDEST: status.oldest_unbooked_s,
                names.OPEN_REQUESTS: status.open_requests,
                names.JOURNAL_BYTES: status.total_bytes,
                names.JOURNAL_MAX_BYTES: status.max_bytes,
                names.JOURNAL_FULL: status.is_full,
            }
        if self.writer is not None:
            values |= {
                names.WRITER_LAG: self.writer.oldest_unsent_age(),
                names.WRITER_FAILING: self.writer.is_failing,
            }
        if self.account is not None and (age_s := self.account.age_s()) is not None:
            told = {
                names.BALANCE: self.account.balance.balance,
                names.FREE_BALANCE: self.account.balance.free_balance,
            }
            values |= {spec: float(amount) for spec, amount in told.items() if amount is not None}
            values[names.ACCOUNT_AGE] = age_s
        return {spec.name: float(value) for spec, value in values.items()}

    def fees(self) -> dict[MetricSpec, dict[str, float]]:
        """Return by upstream key what OhMyGPT says it has used, and may use."""
        if self.account is None:
            return {}
        known = dict(islice(self.pool.accounts().items(), names.MAX_KEY_IDS))
        return {
            names.KEY_USED: {
                key_id: float(told.used_fee) for key_id, told in known.items() if told.used_fee is not None
            },
            names.KEY_CAP: {
                key_id: float(told.max_fee) for key_id, told in known.items() if told.max_fee is not None
            },
            names.KEY_DRIFT: dict(islice(self.account.drifts.items(), names.MAX_KEY_IDS)),
        }

    def keys(self) -> dict[str, int]:
        """Count the keys of the pool in each state."""
        return key_states(self.pool.statuses())

    def hosts(self) -> list[int]:
        """Return for each upstream host, where there are several, 1 if requests go there, else 0."""
        return [int(is_usable) for is_usable in self.usable_hosts()]

    def totals(self) -> Iterator[tuple[MetricSpec, tuple[str, ...], int]]:
        """Iterate over counters that are kept elsewhere, with what they have come to in this process."""
        yield names.LOST, (), self.queue.lost
        for result in names.ADMISSIONS:
            yield names.CREDIT, (result,), getattr(self.credit, result)
        yield names.RATE_UNCHECKED, (), self.rate_limiter.failed_open
        yield names.LOST_OBJECT_IDS, (), self.lost_object_ids()
        status = self.queue.status()
        if status is not None:
            yield names.JOURNAL_ERRORS, (), status.counts.write_errors
            yield names.RECOVERED, (), status.counts.interrupted + self.adopted_interrupted
        if self.writer is not None:
            counts = self.writer.counts
            yield names.WRITTEN, (), counts.written
            yield names.BATCHES, (), counts.batches
            yield names.RETRIES, (), counts.retries
            yield names.DEAD_LETTERS, (), counts.dead

    def requests(self) -> list[dict[str, Any]]:
        """Return the oldest requests under way that were forwarded, as readers may see them."""
        return [shown_record(found) for found in self.queue.oldest_open(MOST_LISTED)]

    @property
    def journal_state(self) -> str:
        """`ok`, `full`, `failing` (the disk does not take it), or `starting`."""
        status = self.queue.status()
        if status is None:
            return "starting"
        if not status.is_full:
            return "ok"
        return "full" if status.counts.last_error is None else "failing"


def key_states(statuses: Iterable[str]) -> dict[str, int]:
    """Count keys by state; an unknown state counts as `error`."""
    found = dict.fromkeys(names.KEY_STATES, 0)
    for status in statuses:
        found[status if status in found else "error"] += 1
    return found
