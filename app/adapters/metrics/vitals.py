"""This worker's state, read off the parts that know it: queue, journal, writer, key pool, credit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.adapters.credit_gate import GateCounts
from app.adapters.journal import JournaledQueue
from app.core import metric_names as names
from app.core.metric_names import MetricSpec
from app.core.ports import RateLimiter


class WriterCounts(Protocol):
    """What a writer has done so far."""

    written: int
    batches: int
    retries: int
    dead: int


class Writer(Protocol):
    """What is asked of the background writer (`workers.log_writer.LogWriter`)."""

    @property
    def counts(self) -> WriterCounts:
        """What it has done."""

    @property
    def is_failing(self) -> bool:
        """Whether its last attempt failed."""

    def oldest_unsent_age(self) -> float:
        """Seconds that the oldest record has waited."""


class Pool(Protocol):
    """What is asked of the key pool."""

    def statuses(self) -> Sequence[str]:
        """Every key's status, one of `KEY_STATES`."""


@dataclass(slots=True)
class Vitals:
    """The parts of a worker. `writer` is there once it runs; `is_store_up` is set by who watches it."""

    queue: JournaledQueue
    pool: Pool
    credit: GateCounts
    in_flight: Callable[[], int]
    rate_limiter: RateLimiter
    writer: Writer | None = None
    is_store_up: bool = True
    is_draining: Callable[[], bool] = lambda: False
    adopted_interrupted: int = 0

    def gauges(self) -> dict[str, float]:
        """The gauges of this worker, by metric name."""
        values: dict[MetricSpec, float] = {
            names.IN_FLIGHT: self.in_flight(),
            names.QUEUE: len(self.queue),
            names.STORE_UP: self.is_store_up,
        }
        status = self.queue.status()
        if status is not None:
            values |= {
                names.UNSETTLED: status.unsettled,
                names.UNKEPT: status.unkept,
                names.OLDEST: status.oldest_unsettled_s,
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
        return {spec.name: float(value) for spec, value in values.items()}

    def keys(self) -> dict[str, int]:
        """How many keys of the pool are in each state."""
        return key_states(self.pool.statuses())

    def totals(self) -> Iterator[tuple[MetricSpec, tuple[str, ...], int]]:
        """Counters that are kept elsewhere, with what they have come to in this process."""
        yield names.LOST, (), self.queue.lost
        for result in names.ADMISSIONS:
            yield names.CREDIT, (result,), getattr(self.credit, result)
        yield names.RATE_UNCHECKED, (), self.rate_limiter.failed_open
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
    """Keys by state; what is no known state counts as `error`."""
    found = dict.fromkeys(names.KEY_STATES, 0)
    for status in statuses:
        found[status if status in found else "error"] += 1
    return found
