"""Says out loud when the upstream charges more than it should: once a day for each model, key and reason."""

import logging
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final

from pymongo.database import Database

from app.management.errors import asks_store
from app.management.upstream_books import UpstreamBooks
from app.ohmygpt.readings import Readings
from app.ohmygpt.used_fees import Verdict
from app.pricing.ledger_findings import Finding, Told, of_key, of_model
from app.statistics.periods import TODAY, Period
from app.statistics.stats_store import StatsStore

LOOK_EVERY: Final = timedelta(minutes=5)
MOST_FINDINGS: Final = 50

_READING = "ledger"

logger = logging.getLogger(__name__)


class LedgerWatch:
    """Looks at today's sums by model, and at yesterday's books by key; raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any], books: UpstreamBooks, tz: tzinfo, most_drift: Decimal) -> None:
        self._stats = StatsStore(db)
        self._readings = Readings(db)
        self._books = books
        self._tz = tz
        self._most_drift = most_drift

    def look(self, now: datetime) -> bool:
        """Look, if it is this worker's turn, and log what nobody has logged today; False if it is not."""
        if not self._readings.claim(_READING, now, LOOK_EVERY):
            return False
        found = self._found(now)
        day = now.astimezone(self._tz).date().isoformat()
        stored = self._readings.get(_READING)
        said = set(stored.get("said", ())) if stored.get("day") == day else set()
        for finding in found:
            if finding.name not in said:
                logger.warning("%s %s", finding.text, finding.advice)
        names = sorted(said | {finding.name for finding in found})[: 10 * MOST_FINDINGS]
        findings = [finding._asdict() for finding in found]
        self._readings.put(_READING, {"day": day, "said": names, "findings": findings}, now)
        return True

    @asks_store
    def findings(self, now: datetime) -> list[Finding]:
        """Return what was found last, unless that was another day."""
        return self.found_today(now)

    def found_today(self, now: datetime) -> list[Finding]:
        """Return the same; raises `StoreUnavailable`."""
        stored = self._readings.get(_READING)
        if stored.get("day") != now.astimezone(self._tz).date().isoformat():
            return []
        return [Finding(found["name"], found["text"], found["advice"]) for found in stored["findings"]]

    def _found(self, now: datetime) -> list[Finding]:
        found: list[Finding] = []
        for model, sums in self._stats.sums(Period.of(TODAY, now, self._tz), by="model").items():
            if model is not None and sums.is_told:
                told = Told(sums.upstream_cost_nano, sums.told_cost_nano, sums.told_list_nano)
                found += of_model(model, told, self._most_drift)
        fees = self._books.fees(self._books.yesterday(now))
        for key in fees.keys if fees is not None else ():
            if key.verdict is Verdict.DIFFERS and key.upstream_nano is not None:
                found.append(of_key(key.key_id, key.upstream_nano, key.own_nano))
        return sorted(found)[:MOST_FINDINGS]
