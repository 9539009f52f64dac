"""One worker's share of the metrics, and through the files of the others, everybody's."""

import logging
import os
import time
from collections.abc import Callable, Container
from typing import Any

from prometheus_client.exposition import choose_encoder

from app.metrics import metric_names as names
from app.metrics.directory import MetricsDirectory, MetricsSlot
from app.metrics.exposition import Snapshot
from app.metrics.gauges import WorkerGauges
from app.metrics.recorder import RequestRecorder
from app.metrics.series import Series, SeriesStore, read_series
from app.metrics.status import WorkerStatus, WorkerTraffic, live_states
from app.metrics.traffic import Traffic
from app.periodic import FailureLog
from app.server.recent_pages import RecentPages
from app.store.secret_key_watch import DIFFERS

INTERVAL_S = 1.0
"""How old a worker's state is, at most, in another worker's answer, in seconds."""

# How often a second all workers' counts are read at most: `/metrics` and `/ready` are open to strangers.
_DRAWS = 5

_KINDS = frozenset(
    choose_encoder(f"{format_}{version}{escaping}")[1]
    for format_ in ("text/plain", "application/openmetrics-text")
    for version in ("", "; version=0.0.1", "; version=0.0.4", "; version=1.0.0")
    for escaping in ("", *(f"; escaping={way}" for way in ("allow-utf-8", "underscores", "dots", "values")))
)
"""What scrapers ask for; others get the plain format."""

log = logging.getLogger(__name__)


class WorkerMetrics:
    """Counts requests (`recorder`) and answers for all workers of this gunicorn.

    Until `join` it knows of its own process only. Everything but counting happens in `tend`, once a second,
    and when somebody asks.
    """

    def __init__(self, known_models: Callable[[], Container[str]]) -> None:
        self._store = SeriesStore()
        self.recorder = RequestRecorder(self._store, known_models)
        self._directory: MetricsDirectory | None = None
        self._slot: MetricsSlot | None = None
        self._gauges: WorkerGauges | None = None
        self._booked: dict[tuple[str, tuple[str, ...]], int] = {}
        self._sharing = FailureLog(
            log, "the state of this worker cannot be shared", "the state of this worker is shared again"
        )
        self._pages = RecentPages[str, tuple[bytes, str]](_DRAWS, time.monotonic)
        self._lost = RecentPages[None, int](_DRAWS, time.monotonic)

    def watch(self, gauges: WorkerGauges) -> None:
        """Show the state that these gauges have, from now on."""
        self._gauges = gauges

    def join(self, directory: MetricsDirectory) -> None:
        """Share counts and state with the other workers. Without a place to do so, go on alone."""
        try:
            self._slot = directory.claim()
            self._directory = directory
            self._store.attach(self._slot.counts)
        except OSError as error:
            log.error("metrics are this worker's alone: %s", error)  # noqa: TRY400
            self._directory = None
        self.tend()

    def leave(self) -> None:
        """Leave this worker's counts behind, not its state: it is about to end. Idempotent."""
        self.tend()
        self._store.close()
        if self._directory is not None and self._slot is not None:
            self._directory.release(self._slot)
        self._directory = None

    def tend(self) -> None:
        """Take over the counts that are kept elsewhere, and leave this worker's state for the others."""
        if self._gauges is None:
            return
        for spec, labels, total in self._gauges.totals():
            cell = self._store.cell(spec.name, labels)
            cell.add(total - self._booked.get((spec.name, labels), 0))
            self._booked[spec.name, labels] = total
        if self._directory is None or self._slot is None:
            return
        try:
            self._own_state(self._gauges).write(self._slot.status)
        except OSError as error:
            self._sharing.note_failure(error)
        else:
            self._sharing.note_success()

    def snapshot(self) -> Snapshot:
        """Collect the counts and states of all workers, as of now."""
        self.tend()
        counts: dict[Series, float] = self._store.values()
        own = self._own_state(self._gauges) if self._gauges is not None else None
        states = [own] if own is not None else []
        if self._directory is not None and self._slot is not None:
            for path in self._directory.counts():
                if path != self._slot.counts:
                    _add(counts, path)
            slot = self._slot.number
            states += [state for state in live_states(self._directory.states()) if state.slot != slot]
        return Snapshot(counts, states, self._gauges.fees() if self._gauges is not None else {})

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the page of `GET /metrics` and its content type."""
        # The encoder repeats any version in its content type; there have to be few kinds of pages.
        wanted = accept if choose_encoder(accept)[1] in _KINDS else ""
        kind = choose_encoder(wanted)[1]
        return self._pages.get(kind, lambda: self.snapshot().render(wanted))

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether requests should be sent to this worker, and each check's state.

        A journal that cannot take records, a SECRET_KEY that is not the database's and an approaching end
        speak against it; a store that is away does not, since the journal stands in for it.
        """
        if self._gauges is None:
            return False, {"journal": "starting"}
        journal, is_draining = self._gauges.journal_state, self._gauges.is_draining()
        secret_key, problem = self._gauges.secret_key, self._gauges.store_problem
        return journal == "ok" and not is_draining and secret_key != DIFFERS, {
            "journal": journal,
            "store": "ok" if problem is None else "degraded",
            **({} if problem is None else {"storeProblem": problem}),
            "secret_key": secret_key,
            "draining": is_draining,
            "lostRecords": self._lost.get(None, lambda: int(self.snapshot().count(names.LOST))),
        }

    def health(self) -> dict[str, Any]:
        """Return the figures of `GET /api/admin/health`: those of the metrics page, and each worker's own."""
        snapshot = self.snapshot()
        counted = {field: int(snapshot.count(spec)) for field, spec in _HEALTH_COUNTS.items()}
        measured = {field: _plain(snapshot.gauge(spec)) for field, spec in _HEALTH_GAUGES.items()}
        now = time.time()
        workers = [
            {
                "pid": state.pid,
                "updatedSecondsAgo": round(max(0.0, now - state.updated_at), 1),
                "priceVersion": state.prices,
                **{
                    field: _plain(state.gauges[spec.name])
                    for field, spec in _HEALTH_GAUGES.items()
                    if spec.name in state.gauges
                },
            }
            for state in snapshot.states
        ]
        hosts = snapshot.hosts()
        refused = self._gauges.reload_refused() if self._gauges is not None else None
        return {
            **counted,
            **measured,
            **({"reloadRefused": {"at": refused.at, "reason": refused.reason}} if refused else {}),
            **({"upstreamHosts": [bool(is_used) for is_used in hosts]} if hosts else {}),
            "workers": workers,
        }

    def traffic(self) -> Traffic:
        """Return what goes on in all workers, and have them tell more of it while this is asked for.

        It reads a small file of each and no counts: cheap enough for every second.
        """
        own = self._own_state(self._gauges, is_watched=True) if self._gauges is not None else None
        states = [own] if own is not None else []
        if self._directory is not None and self._slot is not None:
            try:
                self._directory.watch()
            except OSError as error:
                self._sharing.note_failure(error)
            slot = self._slot.number
            states += [state for state in live_states(self._directory.states()) if state.slot != slot]
        return Traffic.of(states)

    def _own_state(self, gauges: WorkerGauges, *, is_watched: bool | None = None) -> WorkerStatus:
        if is_watched is None:
            is_watched = self._directory is not None and self._directory.is_watched(time.time())
        slot = self._slot.number if self._slot is not None else 0
        return WorkerStatus(
            os.getpid(),
            slot,
            time.time(),
            gauges.gauges(),
            gauges.keys(),
            gauges.hosts(),
            prices=gauges.prices(),
            traffic=self._own_traffic(gauges) if is_watched else None,
        )

    def _own_traffic(self, gauges: WorkerGauges) -> WorkerTraffic:
        written = gauges.writer.counts.written if gauges.writer is not None else 0
        return WorkerTraffic(self._store.total(names.REQUESTS.name), written, gauges.requests())


_HEALTH_COUNTS = {
    "lostRecords": names.LOST,
    "deadLetters": names.DEAD_LETTERS,
    "writtenRecords": names.WRITTEN,
    "writerRetries": names.RETRIES,
    "journalWriteErrors": names.JOURNAL_ERRORS,
    "recoveredInterrupted": names.RECOVERED,
    "unpricedRequests": names.UNPRICED,
}
_HEALTH_GAUGES = {
    "journalDepth": names.UNBOOKED,
    "queueDepth": names.QUEUE,
    "oldestUnsentSeconds": names.OLDEST,
    "memoryOnlyRecords": names.MEMORY_ONLY,
    "journalBytes": names.JOURNAL_BYTES,
    "journalMaxBytes": names.JOURNAL_MAX_BYTES,
    "journalFull": names.JOURNAL_FULL,
    "openRequests": names.OPEN_REQUESTS,
    "inFlight": names.IN_FLIGHT,
    "storeUp": names.STORE_UP,
}


def _plain(value: float) -> int | float:
    """Turn a whole number into an int; round another one to thousandths."""
    return int(value) if value == int(value) else round(value, 3)


def _add(counts: dict[Series, float], path: Any) -> None:
    try:
        for series, value in read_series(path).items():
            counts[series] = counts.get(series, 0.0) + value
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("%s: the counts in it are left out: %s", path, error)
