"""One worker's share of the metrics, and through the files of the others, everybody's."""

import logging
import os
import time
from collections.abc import Callable, Container
from typing import Any

from app.adapters.metrics.directory import MetricsDirectory, MetricsSlot
from app.adapters.metrics.exposition import Snapshot
from app.adapters.metrics.recorder import RequestRecorder
from app.adapters.metrics.series import Series, SeriesStore, read_series
from app.adapters.metrics.status import WorkerStatus, live_states
from app.adapters.metrics.vitals import Vitals
from app.core import metric_names as names

INTERVAL_S = 1.0
"""How old a worker's state is, at most, in another worker's answer, in seconds."""

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
        self._vitals: Vitals | None = None
        self._booked: dict[tuple[str, tuple[str, ...]], int] = {}
        self._is_failing = False

    def watch(self, vitals: Vitals) -> None:
        """Whose state is shown."""
        self._vitals = vitals

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
        """The worker is about to end: leave its counts behind, not its state. Idempotent."""
        self.tend()
        self._store.close()
        if self._directory is not None and self._slot is not None:
            self._directory.release(self._slot)
        self._directory = None

    def tend(self) -> None:
        """Take over the counts that are kept elsewhere, and leave this worker's state for the others."""
        if self._vitals is None:
            return
        for spec, labels, total in self._vitals.totals():
            cell = self._store.cell(spec.name, labels)
            cell.add(total - self._booked.get((spec.name, labels), 0))
            self._booked[spec.name, labels] = total
        if self._directory is None or self._slot is None:
            return
        try:
            self._own_state(self._vitals).write(self._slot.status)
        except OSError as error:
            if not self._is_failing:
                log.warning("the state of this worker cannot be shared: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False

    def snapshot(self) -> Snapshot:
        """The counts and states of all workers, as of now."""
        self.tend()
        counts: dict[Series, float] = self._store.values()
        own = self._own_state(self._vitals) if self._vitals is not None else None
        states = [own] if own is not None else []
        if self._directory is not None and self._slot is not None:
            for path in self._directory.counts():
                if path != self._slot.counts:
                    _add(counts, path)
            slot = self._slot.number
            states += [state for state in live_states(self._directory.states()) if state.slot != slot]
        return Snapshot(counts, states)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page of `GET /metrics` and its content type."""
        return self.snapshot().render(accept)

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests should be sent to this worker, and each check's state.

        A journal that cannot take records and an approaching end speak against it; a store that is away does
        not, since the journal stands in for it.
        """
        if self._vitals is None:
            return False, {"journal": "starting"}
        journal, is_draining = self._vitals.journal_state, self._vitals.is_draining()
        return journal == "ok" and not is_draining, {
            "journal": journal,
            "store": "ok" if self._vitals.is_store_up else "degraded",
            "draining": is_draining,
            "lostRecords": int(self.snapshot().count(names.LOST)),
        }

    def health(self) -> dict[str, Any]:
        """The figures of `GET /api/admin/health`: those of the metrics page, and each worker's own."""
        snapshot = self.snapshot()
        counted = {field: int(snapshot.count(spec)) for field, spec in _HEALTH_COUNTS.items()}
        measured = {field: _plain(snapshot.gauge(spec)) for field, spec in _HEALTH_GAUGES.items()}
        now = time.time()
        workers = [
            {
                "pid": state.pid,
                "updatedSecondsAgo": round(max(0.0, now - state.updated_at), 1),
                **{
                    field: _plain(state.gauges[spec.name])
                    for field, spec in _HEALTH_GAUGES.items()
                    if spec.name in state.gauges
                },
            }
            for state in snapshot.states
        ]
        return {**counted, **measured, "workers": workers}

    def _own_state(self, vitals: Vitals) -> WorkerStatus:
        slot = self._slot.number if self._slot is not None else 0
        return WorkerStatus(os.getpid(), slot, time.time(), vitals.gauges(), vitals.keys())


_HEALTH_COUNTS = {
    "lostRecords": names.LOST,
    "deadLetters": names.DEAD_LETTERS,
    "writtenRecords": names.WRITTEN,
    "writerRetries": names.RETRIES,
    "journalWriteErrors": names.JOURNAL_ERRORS,
    "recoveredInterrupted": names.RECOVERED,
}
_HEALTH_GAUGES = {
    "journalDepth": names.UNSETTLED,
    "queueDepth": names.QUEUE,
    "oldestUnsentSeconds": names.OLDEST,
    "unkeptRecords": names.UNKEPT,
    "journalBytes": names.JOURNAL_BYTES,
    "journalMaxBytes": names.JOURNAL_MAX_BYTES,
    "journalFull": names.JOURNAL_FULL,
    "openRequests": names.OPEN_REQUESTS,
    "inFlight": names.IN_FLIGHT,
    "storeUp": names.STORE_UP,
}


def _plain(value: float) -> int | float:
    """A whole number as one, another with milliseconds."""
    return int(value) if value == int(value) else round(value, 3)


def _add(counts: dict[Series, float], path: Any) -> None:
    try:
        for series, value in read_series(path).items():
            counts[series] = counts.get(series, 0.0) + value
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("%s: the counts in it are left out: %s", path, error)
