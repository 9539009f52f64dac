"""What a gunicorn worker runs besides requests: the log writer and the loops that keep its views fresh."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Self

import gevent
from gevent.event import Event
from pymongo.errors import PyMongoError

from app.adapters.clock import SystemClock
from app.adapters.journal import (
    Adopted,
    Journal,
    JournaledQueue,
    JournalPolicy,
    acquire_slot,
    replay,
    unplaced_slot,
)
from app.adapters.journal.segment_log import SEGMENT_BYTES
from app.adapters.metrics.directory import MetricsDirectory
from app.adapters.metrics.worker_metrics import INTERVAL_S
from app.adapters.mongo.connection import ensure_indexes, store_problem
from app.adapters.mongo.dashboard_access import EndedSessions
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.request_logs import RequestLogStore
from app.adapters.mongo.settlement import Settlement
from app.adapters.mongo.stats import StatsStore
from app.adapters.mongo.summaries import SummaryMaker
from app.adapters.mongo.writers import WriterMarks
from app.adapters.rate_limiter import SYNC_INTERVAL_S, SharedRateLimiter, ensure_expiry
from app.core.ports import StoreUnavailable
from app.management.administration import ensure_administration_indexes
from app.services import Services, unreachable
from app.settings import Settings
from workers import lifecycle
from workers.adoption import adopt_orphans
from workers.log_writer import LogWriter
from workers.memory import TRIM_S, trimmer

_HALT_S = 1.0
_INDEX_RETRY_S = 5.0
_STORE_WATCH_S = 2.0
_ROUNDS_FOR_SHARES = 2
_SUMMING_S = 30.0, 90.0
"""Any time between: workers that look at different times do not do each other's work."""
_FORGETTING_S = 12 * 3600.0, 36 * 3600.0
_BETWEEN_SUMS_S = 0.05

_NEW_OBJECTS = 10_000
"""So many more new objects than freed ones, and the collector looks for cycles (Python's default: 700)."""

logger = logging.getLogger("weir.worker")


@dataclass(slots=True)
class WorkerLife:
    """The background of one worker, from just after its fork to its exit."""

    services: Services
    writer: LogWriter
    stopping: Event
    helpers: list[gevent.Greenlet] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        services: Services,
        *,
        is_first: bool,
        metrics: MetricsDirectory | None = None,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> Self:
        """Start everything. `is_first` is True in one worker, which says what concerns them all.

        `metrics` is where workers share their counts, and `is_draining` whether this one is to end.
        """
        settings = services.settings
        queue = services.queue
        journal = _attached_journal(queue, settings)
        writer = lifecycle.start(
            queue,
            Settlement(services.database, journal.slot.writer_id),
            batch_size=settings.log_batch_size,
            flush_ms=settings.log_flush_ms,
            on_booked=lambda charges: _note_booked(services, charges),
            on_settled=queue.acked,
        )
        life = cls(services, writer, Event())
        services.vitals.writer = writer
        services.vitals.is_draining = is_draining
        if metrics is not None:
            services.metrics.join(metrics)
        gevent.spawn(life._tend_metrics)
        life.help(life._watch_store)
        gevent.spawn(queue.run, life.stopping, settings.log_flush_ms / 1000)
        life.help(life._adopt_orphans)
        life.help(life._prepare_store)
        interval_s = settings.key_sync_ms / 1000
        life.help(life._sum_up)
        life.help(life._forget_writers)
        life.help(life._give_back_memory)
        services.key_sync.refresh()
        for _ in range(_ROUNDS_FOR_SHARES):
            # Others have to hear of this worker first, and then let go of a part of theirs.
            if services.key_pool.lacks_shares:
                life.stopping.wait(interval_s)
                services.key_sync.refresh()
        if is_first and services.key_pool.is_empty():
            logger.warning(
                "no upstream key is configured: requests get 503 until OHMYGPT_API_KEYS is set or "
                "'flask keys add ID --api-key-stdin' adds one"
            )
        gevent.spawn(services.key_sync.run, life.stopping, interval_s)
        if services.proxies is not None:
            # Before the first request: a key that is bound to a proxy must not go another way meanwhile.
            services.proxies.pool.refresh()
            gevent.spawn(services.proxies.pool.run, life.stopping)
            gevent.spawn(services.proxies.checker.run, life.stopping)
        if isinstance(services.rate_limiter, SharedRateLimiter):
            life.help(life._share_rates, services.rate_limiter)
        # What exists now lives as long as the worker: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        # Requests leave no cycles behind: looking for them often is in vain, and a stream's chunk would wait.
        gc.set_threshold(_NEW_OBJECTS)
        return life

    def help(self, work: Callable[..., None], *args: Any) -> None:
        """Run something that talks to the store until the worker stops; it may be cut at any point."""
        self.helpers.append(gevent.spawn(work, *args))

    def stop(self) -> None:
        """Book what is left, then let go of the connections."""
        self.stopping.set()
        self.services.key_sync.leave()
        gevent.killall(self.helpers, timeout=_HALT_S)
        lifecycle.drain(self.writer)
        self.services.queue.release()
        self.services.metrics.leave()
        self.services.upstream.close()
        if self.services.proxies is not None:
            self.services.proxies.pool.close()
        self.services.database.client.close()

    def _adopt_orphans(self) -> None:
        """Settle what workers that are gone left in slots nobody owns any more."""
        database, root = self.services.database, _journal_root(self.services.settings)

        def note(adopted: Sequence[Adopted]) -> None:
            self.services.vitals.adopted_interrupted += sum(item.interrupted for item in adopted)

        adopt_orphans(
            self.stopping,
            lambda: unreachable(database),
            lambda: replay(root, lambda writer_id: Settlement(database, writer_id)),
            note,
        )

    def _tend_metrics(self) -> None:
        """Share this worker's state with the others, and reload when another one was asked to."""
        while not self.stopping.wait(INTERVAL_S):
            try:
                self.services.metrics.tend()
                self.services.reloader.follow()
            except Exception:
                logger.exception("looking after the metrics failed")

    def _watch_store(self) -> None:
        """Keep an eye on the store, for readiness."""
        while not self.stopping.wait(_STORE_WATCH_S):
            self.services.vitals.is_store_up = unreachable(self.services.database) is None

    def _prepare_store(self) -> None:
        """Make the indexes, as soon as the store can be reached."""
        database = self.services.database
        self._until_done(lambda: ensure_indexes(database, self.services.settings.log_retention_s))
        self._until_done(lambda: ensure_expiry(database))
        self._until_done(RequestLogStore(database).ensure_indexes)
        self._until_done(StatsStore(database).ensure_indexes)
        self._until_done(KeyStateStore(database).ensure_indexes)
        self._until_done(lambda: ensure_administration_indexes(database))
        self._until_done(EndedSessions(database).ensure_indexes)

    def _sum_up(self) -> None:
        """Make summaries of hours that have ended; leaves the store time for others in between."""
        maker, clock = SummaryMaker(self.services.database), SystemClock()
        is_failing = False
        while not self.stopping.wait(uniform(*_SUMMING_S)):  # noqa: S311
            try:
                while maker.step(clock.utcnow()) and not self.stopping.wait(_BETWEEN_SUMS_S):
                    pass
                is_failing = False
            except PyMongoError as error:
                if not is_failing:
                    logger.warning("summaries are not made for now: %s", store_problem(error))
                is_failing = True

    def _forget_writers(self) -> None:
        """Take the marks of writers that are long gone off users and keys, about once a day."""
        marks = WriterMarks(self.services.database)
        while not self.stopping.wait(uniform(*_FORGETTING_S)):  # noqa: S311
            try:
                forgotten = marks.forget_dead()
            except PyMongoError as error:
                logger.warning("writers that are gone stay noted for now: %s", store_problem(error))
            else:
                if forgotten:
                    logger.info("forgot %d writers that have been gone for long", len(forgotten))

    def _give_back_memory(self) -> None:
        trim = trimmer()
        while trim is not None and not self.stopping.wait(TRIM_S):
            gevent.get_hub().threadpool.apply(trim)

    def _until_done(self, work: Callable[[], None]) -> None:
        """Try until it is done or the worker stops, which also ends the try under way: quietly."""
        while not self.stopping.is_set():
            try:
                work()
            except (PyMongoError, StoreUnavailable) as error:
                if self.stopping.is_set():
                    return
                problem = store_problem(error) if isinstance(error, PyMongoError) else error
                logger.warning("the database is not ready, trying again: %s", problem)
            else:
                return
            self.stopping.wait(_INDEX_RETRY_S)

    def _share_rates(self, limiter: SharedRateLimiter) -> None:
        is_failing = False
        while not self.stopping.wait(SYNC_INTERVAL_S):
            try:
                limiter.sync(self.services.database)
            except PyMongoError as error:
                if not is_failing:
                    logger.warning("rate limits are not shared for now: %s", store_problem(error))
                is_failing = True
            else:
                is_failing = False


def _journal_root(settings: Settings) -> str:
    return str(settings.data_dir / "journal")


def _journal_policy(settings: Settings) -> JournalPolicy:
    """The configured one, with segments small enough that the limit is worth something.

    A segment that is being written is never removed: were those of all workers as large as the limit,
    a journal that is full once would stay full.
    """
    max_bytes = settings.journal_max_mb * 1024 * 1024
    largest = max_bytes // (4 * settings.web_concurrency)
    return JournalPolicy(settings.journal_sync, max_bytes, min(SEGMENT_BYTES, largest))


def _attached_journal(queue: JournaledQueue, settings: Settings) -> Journal:
    """A journal of this worker's own; where none can be had, records are kept in memory and said to be."""
    policy = _journal_policy(settings)
    slot = None
    try:
        slot = acquire_slot(_journal_root(settings))
        journal = Journal(slot, policy)
        queue.attach(journal)
    except OSError as error:
        logger.error("no journal, records are kept in memory only: %s", error)  # noqa: TRY400
        if slot is not None:
            slot.release()
        journal = Journal(unplaced_slot(), policy)
        queue.attach(journal)
    return journal


def _note_booked(services: Services, charges: Mapping[str, int]) -> None:
    for user_id, nano_usd in charges.items():
        services.directory.charges_booked(user_id, nano_usd)
