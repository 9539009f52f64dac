"""What a gunicorn worker runs besides requests: the log writer and the loops that keep its views fresh."""

import gc
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import uniform
from typing import Any, Self

import gevent
import pymongo
from gevent.event import Event
from gevent.pool import Pool
from gunicorn.arbiter import Arbiter
from pymongo.errors import PyMongoError

from app.accounts.rate_limiter import SYNC_INTERVAL_S, SharedRateLimiter
from app.common.clock import SystemClock
from app.common.errors import StoreUnavailable
from app.journal import Adopted, Journal, JournaledQueue, JournalPolicy, acquire_slot, in_memory_slot, replay
from app.journal.segment_log import SEGMENT_BYTES
from app.management import price_book
from app.management.installation import index_makers
from app.metrics.directory import MetricsDirectory
from app.metrics.worker_metrics import INTERVAL_S
from app.objects.upstream_object import UpstreamObject
from app.ohmygpt import live_account
from app.ohmygpt.live_account import LiveAccount
from app.ohmygpt.live_catalogue import LOOK_S, LiveCatalogue
from app.periodic import FailureLog, every, until_done
from app.persistence.booking import Booking
from app.persistence.store_watch import UNREACHABLE, StoreWatch, unreachable
from app.persistence.writers import WriterMarks
from app.pricing.price_versions import START
from app.services import OutboundProxies, Services
from app.settings import Settings
from app.statistics.summaries import SummaryMaker
from app.store.connection import overridden
from app.store.incomplete_restore import IncompleteRestore, refuse_incomplete
from workers import lifecycle
from workers.adoption import adopt_orphans
from workers.log_writer import LogWriter
from workers.memory import TRIM_S, trimmer

_HALT_S = 1.0
# How long a start looks whether the database is whole; one of its own has just answered and does so again.
_LOOK_S, _OWN_LOOK_S = 1.0, 30.0
_INDEX_RETRY_S = 5.0
_STORE_WATCH_S = 2.0
_HOLDS_S = 5.0
_ROUNDS_FOR_SHARES = 2
# Any time between: workers that look at different times do not do each other's work.
_SUMMING_S = 30.0, 90.0
_FORGETTING_S = 12 * 3600.0, 36 * 3600.0
_BETWEEN_SUMS_S = 0.05
_POLLING_S = 5.0
_POLL_TIMEOUT_S = 60.0
_POLLS_AT_ONCE = 5
_MOST_POLLS = 100
_LEDGER_S = 60.0

_NEW_OBJECTS = 10_000
"""How many more new objects than freed ones set the garbage collector off (Python's default: 700)."""

logger = logging.getLogger("weir.worker")


@dataclass(slots=True)
class BackgroundTasks:
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
        may_refuse: bool = False,
        metrics: MetricsDirectory | None = None,
        is_draining: Callable[[], bool] = lambda: False,
        started_by: str = START,
    ) -> Self:
        """Start everything.

        `metrics` is where workers share their counts, and `is_draining` whether this one is to end.
        `started_by` is what brought the model table into force. With `may_refuse` a database that was set up
        with another SECRET_KEY raises `WrongSecretKeyError`.
        """
        settings = services.settings
        _refuse_incomplete(services, _OWN_LOOK_S if settings.mongodb_uri is None else _LOOK_S)
        is_store_there = services.secret_key.look()
        if may_refuse:
            services.secret_key.require()
        services.gauges.secret_key = services.secret_key.state
        queue = services.queue
        journal = _attached_journal(queue, settings)
        writer = lifecycle.start(
            queue,
            Booking(
                services.database, journal.slot.writer_id, kept_s=settings.log_retention_s, tz=settings.tz
            ),
            batch_size=settings.log_batch_size,
            flush_ms=settings.log_flush_ms,
            on_booked=lambda charges: _note_booked(services, charges),
            on_booked_up_to=queue.acked,
        )
        life = cls(services, writer, Event())
        services.gauges.writer = writer
        services.gauges.is_draining = is_draining
        if metrics is not None:
            services.metrics.join(metrics)
        life.help(life._tend_metrics)
        life.help(life._watch_store, StoreWatch(services.database, journal.slot.writer_id))
        life.help(queue.run, life.stopping, settings.log_flush_ms / 1000)
        life.help(life._adopt_orphans)
        life.help(services.objects.run, life.stopping)
        life.help(life._ask_about_pending)
        life.help(life._prepare_store)
        services.price_book.note(services.models.in_force, started_by)
        life.help(life._store_prices)
        interval_s = settings.key_sync_ms / 1000
        for work in (life._tend_holds, life._sum_up, life._watch_ledger, life._forget_writers):
            life.help(work)
        life.help(life._give_back_memory)
        if is_store_there:  # else it takes as long again to find out
            services.key_sync.refresh()
        for _ in range(_ROUNDS_FOR_SHARES if is_store_there else 0):
            # Others have to hear of this worker first, and then let go of a part of theirs.
            if services.key_pool.lacks_shares:
                life.stopping.wait(interval_s)
                services.key_sync.refresh()
        life.help(services.key_sync.run, life.stopping, interval_s)
        life.help(services.key_prober.run, life.stopping)
        if services.host_prober is not None:
            life.help(services.host_prober.run, life.stopping)
        if services.catalogue is not None:
            life.help(life._look_at_catalogue, services.catalogue)
        if services.account is not None:
            life.help(life._look_at_account, services.account)
        if services.proxies is not None:
            life._use_proxies(services.proxies)
        life.help(life._share_rates, services.login_limiter)
        if services.alerts is not None:
            life.help(services.alerts.run, life.stopping)
        # What exists now lives as long as the worker: keep the garbage collector from ever walking it again.
        gc.collect()
        gc.freeze()
        # Requests leave no reference cycles: frequent looks are in vain, and a stream's chunk would wait.
        gc.set_threshold(_NEW_OBJECTS)
        return life

    def tell_what_concerns_all(self) -> None:
        """Log what is so for every worker; for one worker to do."""
        _name_overridden_options(self.services.settings)
        if self.services.key_pool.is_empty():
            logger.warning(
                "no upstream key is configured: requests get 503 until OHMYGPT_API_KEYS is set or "
                "'weir keys add ID --api-key-stdin' adds one"
            )

    def help(self, work: Callable[..., None], *args: Any) -> None:
        """Run something in the background until the worker stops.

        It ends soon after `stopping` is set; where it waits for something it may be cut at any point.
        """
        self.helpers.append(gevent.spawn(work, *args))

    def _use_proxies(self, proxies: OutboundProxies) -> None:
        # Before the first request: a key that is bound to a proxy must not go another way meanwhile.
        proxies.pool.refresh()
        self.help(proxies.pool.run, self.stopping)
        self.help(proxies.checker.run, self.stopping)

    def stop(self) -> None:
        """Book what is left, then let go of the connections."""
        self.stopping.set()
        # All of it, before anything is closed that it may be using.
        gevent.joinall(self.helpers, timeout=_HALT_S)
        gevent.killall(self.helpers, timeout=_HALT_S)
        self.services.objects.flush()
        self.services.key_sync.leave()
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
        kept_s, tz = self.services.settings.log_retention_s, self.services.settings.tz

        def note(adopted: Sequence[Adopted]) -> None:
            self.services.gauges.adopted_interrupted += sum(item.interrupted for item in adopted)

        adopt_orphans(
            self.stopping,
            lambda: unreachable(database),
            lambda: replay(root, lambda writer_id: Booking(database, writer_id, kept_s=kept_s, tz=tz)),
            note,
        )

    def _ask_about_pending(self) -> None:
        """Ask the upstream about what goes on in the background and whose client does not ask.

        Each is taken by one worker of all, for as long as it takes until it is due again.
        """
        services = self.services
        interval = timedelta(seconds=services.settings.background_poll_s)
        clock, pool = SystemClock(), Pool(_POLLS_AT_ONCE)

        def ask(made: UpstreamObject) -> None:
            with gevent.Timeout(_POLL_TIMEOUT_S, False):
                services.gateway.poll(made)

        def ask_all() -> None:
            for _ in range(_MOST_POLLS):
                if (made := services.object_store.take_due(clock.utcnow(), interval)) is None:
                    break
                pool.spawn(ask, made)
            pool.join()

        self._every(
            min(_POLLING_S, interval.total_seconds()),
            ask_all,
            "nobody asks about what goes on in the background",
            "what goes on in the background is asked about again",
        )

    def _tend_metrics(self) -> None:
        """Share this worker's state with the others, and reload when another one was asked to."""

        def tend() -> None:
            self.services.metrics.tend()
            self.services.reloader.follow()

        self._every(
            INTERVAL_S, tend, "the metrics cannot be looked after", "the metrics are looked after again"
        )

    def _watch_store(self, watch: StoreWatch) -> None:
        """Keep an eye on the store, and on whose SECRET_KEY it has, for readiness; log each change once."""
        gauges, secret_key = self.services.gauges, self.services.secret_key
        untold = [secret_key.tell]  # of what was found at the start

        def look() -> None:
            problem = watch.look()
            if problem != UNREACHABLE:
                self.services.directory.store_answers()
            if problem is not None and problem != gauges.store_problem:
                logger.warning("the database is degraded, %s: %s", problem, watch.reason)
            elif problem is None and gauges.store_problem is not None:
                logger.info("the database answers and acknowledges writes again")
            gauges.store_problem = problem
            while untold:
                untold.pop()()
            if problem is None:
                secret_key.follow()
                gauges.secret_key = secret_key.state

        self._every(_STORE_WATCH_S, look, "the database cannot be watched", "the database is watched again")

    def _tend_holds(self) -> None:
        """Renew this worker's holds on credit, and end those that its requests have left."""

        def tend() -> None:
            with suppress(StoreUnavailable):  # said by who watches the store; what is due stays due
                self.services.credit.tend()

        self._every(_HOLDS_S, tend, "holds on credit cannot be renewed", "holds on credit are renewed again")

    def _prepare_store(self) -> None:
        """Make the indexes, as soon as the store can be reached."""
        database = self.services.database
        failures = FailureLog(logger, "the database is not ready, trying again", "the database is ready")
        for make in index_makers(database, self.services.settings.log_retention_s):
            until_done(self.stopping, _INDEX_RETRY_S, make, failures)

    def _store_prices(self) -> None:
        """Keep each text of the model table, as soon as the store can be reached."""
        failures = FailureLog(
            logger, "the model table's text is stored later", "the model table's text is stored"
        )
        every(self.stopping, price_book.STORE_S, self.services.price_book.store, failures, is_at_once=True)

    def _sum_up(self) -> None:
        """Make summaries of hours that have ended; leaves the store time for others in between."""
        maker, clock = SummaryMaker(self.services.database, self.services.settings.tz), SystemClock()

        def make() -> None:
            while maker.step(clock.utcnow()) and not self.stopping.wait(_BETWEEN_SUMS_S):
                pass

        self._every(_between(*_SUMMING_S), make, "summaries are not made for now", "summaries are made again")

    def _watch_ledger(self) -> None:
        """Say when the upstream charges more than it should."""
        watch, clock = self.services.administration.ledger, SystemClock()
        self._every(
            _LEDGER_S,
            lambda: watch.look(clock.utcnow()),
            "nobody looks at what the upstream charges",
            "what the upstream charges is looked at again",
        )

    def _forget_writers(self) -> None:
        """Take the marks of writers that are long gone off users and keys, about once a day."""
        marks = WriterMarks(self.services.database)

        def forget() -> None:
            if forgotten := marks.forget_dead():
                logger.info("forgot %d writers that have been gone for long", len(forgotten))

        self._every(
            _between(*_FORGETTING_S),
            forget,
            "writers that are gone stay noted for now",
            "writers that are gone are forgotten again",
        )

    def _look_at_catalogue(self, catalogue: LiveCatalogue) -> None:
        """Know which models the upstream offers: those without a price may be allowed to some."""
        failures = FailureLog(
            logger, "the upstream's models cannot be looked up", "the upstream's models are looked up again"
        )
        every(self.stopping, LOOK_S, catalogue.look, failures, is_at_once=True)

    def _look_at_account(self, account: LiveAccount) -> None:
        """Know what OhMyGPT says about balance and keys."""
        failures = FailureLog(
            logger, "OhMyGPT's account cannot be looked up", "OhMyGPT's account is looked up again"
        )
        every(self.stopping, live_account.LOOK_S, account.look, failures, is_at_once=True)

    def _give_back_memory(self) -> None:
        trim = trimmer()
        if trim is None:
            return
        self._every(
            TRIM_S,
            lambda: gevent.get_hub().threadpool.apply(trim),
            "memory cannot be given back",
            "memory is given back again",
        )

    def _share_rates(self, limiter: SharedRateLimiter) -> None:
        self._every(
            SYNC_INTERVAL_S,
            lambda: limiter.sync(self.services.database),
            "rate limits are not shared for now",
            "rate limits are shared again",
        )

    def _every(
        self,
        interval_s: float | Callable[[], float],
        work: Callable[[], object],
        failing: str,
        recovered: str,
    ) -> None:
        """Do the work after each interval until the worker stops; the log says `failing` or `recovered`."""
        every(self.stopping, interval_s, work, FailureLog(logger, failing, recovered))


def _between(least_s: float, most_s: float) -> Callable[[], float]:
    return lambda: uniform(least_s, most_s)  # noqa: S311


def _name_overridden_options(settings: Settings) -> None:
    uri = settings.mongodb_uri
    options = overridden(uri.get_secret_value()) if uri is not None else []
    if options:
        logger.warning("%s in MONGODB_URI is not followed: see docs/scaling.md", ", ".join(options))


def _journal_root(settings: Settings) -> str:
    return str(settings.data_dir / "journal")


def _journal_policy(settings: Settings) -> JournalPolicy:
    """Return the configured policy, with segments small enough that the limit is worth something.

    A segment that is being written is never removed: were those of all workers as large as the limit,
    a journal that is full once would stay full.
    """
    max_bytes = settings.journal_max_mb * 1024 * 1024
    largest = max_bytes // (4 * settings.web_concurrency)
    return JournalPolicy(settings.journal_sync, max_bytes, min(SEGMENT_BYTES, largest))


def _refuse_incomplete(services: Services, look_s: float) -> None:
    """End the start on a database that is not whole; gunicorn's master ends, too.

    While MongoDB is away nobody can tell: later on, nothing is booked into such a database.
    """
    try:
        with pymongo.timeout(look_s):
            refuse_incomplete(services.database)
    except IncompleteRestore as error:
        logger.error("%s", error)  # noqa: TRY400  one line, for an operator
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
    except PyMongoError:
        return


def _attached_journal(queue: JournaledQueue, settings: Settings) -> Journal:
    """Attach a journal of this worker's own; without one, keep records in memory and say so."""
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
        journal = Journal(in_memory_slot(), policy)
        queue.attach(journal)
    return journal


def _note_booked(services: Services, charges: Mapping[str, int]) -> None:
    for user_id, nano_usd in charges.items():
        services.directory.charges_booked(user_id, nano_usd)
