"""Looks whether something needs somebody, and sends what nobody was told yet; beside requests."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from app.alerts import conditions
from app.alerts.alert_store import AlertStore, alert_of
from app.alerts.conditions import Alert, Bounds, WorkerFacts
from app.alerts.delivery import Delivery, deliver, destination_name
from app.common.clock import now_ms
from app.common.errors import StoreUnavailable
from app.periodic import FailureLog, StopEvent, every

LOOK_S: Final = 15.0
"""How often a worker looks at itself, in seconds, and whether there is something to send."""

_LOOK_AT_STORE: Final = timedelta(minutes=1)
_MOST_AT_ONCE: Final = 20
_TOLD_WITHOUT_STORE: Final = "alert-records-late"

Audited = Callable[[str, Mapping[str, Any]], AbstractContextManager[None]]
"""Notes in the audit log what is done within, before and after: the alert, and where it is sent."""

log = logging.getLogger("weir.alerts")


class NotDelivered(Exception):
    """Not all destinations took the alert; the text says which, and why."""


class AlertWatch:
    """The alerts of one worker. `facts` are what it knows; `urls` the destinations, which are secret."""

    def __init__(
        self,
        store: AlertStore,
        audited: Audited,
        urls: Sequence[str],
        facts: Callable[[], WorkerFacts],
        data_dir: Path,
        *,
        bounds: Bounds,
        now: Callable[[], datetime] = now_ms,
        send: Callable[[Alert, Sequence[str], Sequence[int]], list[Delivery]] = deliver,
    ) -> None:
        self._store = store
        self._audited = audited
        self._urls = urls
        self._facts = facts
        self._without_store = data_dir / _TOLD_WITHOUT_STORE
        self._bounds = bounds
        self._now = now
        self._send = send
        self._noted: set[str] = set()

    def run(self, stop: StopEvent) -> None:
        """Look and send until `stop` is set."""
        failures = FailureLog(log, "alerts are not sent for now", "alerts are sent again")
        every(stop, LOOK_S, self.look, failures, is_at_once=True)

    def look(self) -> None:
        """Note what needs somebody, and send what is due."""
        now, facts = self._now(), self._facts()
        found = list(conditions.of_worker(facts, now, self._bounds))
        try:
            if self._store.claim_look(now, _LOOK_AT_STORE):
                found += conditions.of_store(self._store.facts(now), now)
            self._note(found, now)
            self._send_due()
        except StoreUnavailable:
            self._tell_without_store(found)
            raise
        with suppress(FileNotFoundError):
            self._without_store.unlink()

    def _note(self, found: list[Alert], now: datetime) -> None:
        """Keep what holds; what has been so since the last look was kept then."""
        self._store.note(
            [alert for alert in found if alert.alert_id not in self._noted], now, len(self._urls)
        )
        self._noted = {alert.alert_id for alert in found}

    def _send_due(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            if (taken := self._store.take_due(self._now())) is None:
                return
            self._send_one(taken)

    def _send_one(self, taken: dict[str, Any]) -> None:
        numbers = [number for number in taken["left"] if number < len(self._urls)]
        failed = self._deliver(alert_of(taken), numbers)
        problem = _told(failed)
        left = [delivery.number for delivery in failed]
        if not self._store.note_sent(taken, left, problem, self._now()):
            log.error("an alert is given up, %s: %s", taken["title"], problem)

    def _deliver(self, alert: Alert, numbers: Sequence[int]) -> list[Delivery]:
        """Send it; return what failed."""
        failed: list[Delivery] = []
        target = f"alert:{alert.alert_id}"
        details = {"to": [destination_name(number, self._urls[number]) for number in numbers]}
        with suppress(NotDelivered), self._audited(target, details):
            failed = [done for done in self._send(alert, self._urls, numbers) if done.problem is not None]
            if failed:
                raise NotDelivered
        for delivery in failed:
            log.warning("destination %s has not got an alert: %s", delivery.name, delivery.problem)
        return failed

    def _tell_without_store(self, found: list[Alert]) -> None:
        """Send that records are late although the database, which would know who told it, is away.

        One worker of each host does: the one that makes the file. It is told again after the next outage.
        """
        late = [alert for alert in found if alert.kind == "late"]
        if not late:
            return
        try:
            os.close(os.open(self._without_store, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError:  # told already, or a disk that is full: the log says what there is to say
            return
        done = self._send(late[0], self._urls, range(len(self._urls)))
        if problem := _told([delivery for delivery in done if delivery.problem is not None]):
            log.error("nobody was told that records are late: %s", problem)


def _told(failed: Sequence[Delivery]) -> str | None:
    return "; ".join(f"destination {one.name}: {one.problem}" for one in failed) or None
