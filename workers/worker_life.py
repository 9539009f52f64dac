"""What a gunicorn worker runs besides requests: the log writer and the loops that keep its views fresh."""

import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import gevent
from gevent.event import Event
from pymongo.errors import PyMongoError

from app.adapters.journal import (
    Journal,
    JournaledQueue,
    JournalPolicy,
    acquire_slot,
    replay,
    unplaced_slot,
)
from app.adapters.mongo.connection import ensure_indexes, store_problem
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.request_logs import RequestLogStore
from app.adapters.mongo.settlement import Settlement
from app.adapters.mongo.stats import StatsStore
from app.adapters.rate_limiter import SYNC_INTERVAL_S, SharedRateLimiter, ensure_expiry
from app.core.ports import StoreUnavailable
from app.services import Services
from app.settings import Settings
from workers import lifecycle
from workers.log_writer import LogWriter

DRAIN_TIMEOUT_S = 30.0
"""How long a stopping worker may take to book what is left, in seconds."""

_INDEX_RETRY_S = 5.0
_ADOPTION_INTERVAL_S = 5.0

logger = logging.getLogger("weir.worker")


@dataclass(slots=True)
class WorkerLife:
    """The background of one worker, from just after its fork to its exit."""

    services: Services
    writer: LogWriter
    stopping: Event

    @classmethod
    def start(cls, services: Services, *, is_first: bool) -> Self:
        """Start everything. `is_first` is True in one worker, which says what concerns them all."""
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
        gevent.spawn(queue.run, life.stopping, settings.log_flush_ms / 1000)
        gevent.spawn(life._adopt_orphans)
        gevent.spawn(life._prepare_store)
        services.key_sync.refresh()
        if is_first and services.key_pool.is_empty():
            logger.warning(
                "no upstream key is configured: requests get 503 until OHMYGPT_API_KEYS is set or "
                "'flask keys add ID --api-key-stdin' adds one"
            )
        gevent.spawn(services.key_sync.run, life.stopping, settings.key_sync_ms / 1000)
        if isinstance(services.rate_limiter, SharedRateLimiter):
            gevent.spawn(life._share_rates, services.rate_limiter)
        # What exists now lives as long as the worker: keep the collector from walking it again and again.
        gc.collect()
        gc.freeze()
        return life

    def stop(self) -> None:
        """Book what is left, then let go of the connections."""
        self.stopping.set()
        self.services.key_sync.flush()
        lifecycle.drain(self.writer, DRAIN_TIMEOUT_S)
        self.services.queue.release()
        self.services.upstream.close()
        self.services.database.client.close()

    def _adopt_orphans(self) -> None:
        """Settle what workers that are gone left in slots nobody owns any more."""
        database, root = self.services.database, _journal_root(self.services.settings)
        while not self.stopping.wait(_ADOPTION_INTERVAL_S):
            try:
                replay(root, lambda writer_id: Settlement(database, writer_id))
            except (StoreUnavailable, OSError) as error:
                logger.warning("an abandoned journal cannot be settled yet: %s", error)

    def _prepare_store(self) -> None:
        """Make the indexes, as soon as the store can be reached."""
        database = self.services.database
        self._until_done(lambda: ensure_indexes(database, self.services.settings.log_retention_s))
        self._until_done(lambda: ensure_expiry(database))
        self._until_done(RequestLogStore(database).ensure_indexes)
        self._until_done(StatsStore(database).ensure_indexes)
        self._until_done(KeyStateStore(database).ensure_indexes)

    def _until_done(self, work: Callable[[], None]) -> None:
        while True:
            try:
                work()
            except PyMongoError as error:
                logger.warning("the database is not ready, trying again: %s", store_problem(error))
            except StoreUnavailable as error:
                logger.warning("the database is not ready, trying again: %s", error)
            else:
                return
            if self.stopping.wait(_INDEX_RETRY_S):
                return

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


def _attached_journal(queue: JournaledQueue, settings: Settings) -> Journal:
    """A journal of this worker's own; where none can be had, records are kept in memory and said to be."""
    policy = JournalPolicy(settings.journal_sync, settings.journal_max_mb * 1024 * 1024)
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
