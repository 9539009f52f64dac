"""From now on MongoDB may delete old records: their sums are kept."""

from datetime import datetime, timedelta

from pymongo.database import Database

from app.migration.step import Document, MigrationError, Progress, StepReport
from app.store.connection import ensure_log_expiry, log_expiry_s, would_lose_history

_DAY_S = 86_400


class Expiry:
    """The expiry of `request_logs` as `LOG_RETENTION_DAYS` says, once nothing is lost by it."""

    name = "expiry"
    title = "let records expire after LOG_RETENTION_DAYS"
    unit = "settings"

    def __init__(self, db: Database[Document], retention_s: int, now: datetime) -> None:
        self._db = db
        self._retention_s = retention_s
        self._now = now

    def look(self) -> StepReport:
        """See whether the expiry is as it should be, and how many records it would delete."""
        if log_expiry_s(self._db) == (self._retention_s or None):
            return StepReport(0)
        if not self._retention_s:
            return StepReport(1, ("records are kept for ever from then on",))
        before = self._now - timedelta(seconds=self._retention_s)
        count = self._db["request_logs"].count_documents({"createdAt": {"$lt": before}})
        days = self._retention_s // _DAY_S
        note = f"MongoDB will delete {count} records older than {days} days; LOG_RETENTION_DAYS=0 keeps them"
        return StepReport(1, (note,) if count else ())

    def apply(self, progress: Progress) -> int:
        """Set the expiry; raises `MigrationError` while records would go that are in no sum."""
        if log_expiry_s(self._db) == (self._retention_s or None):
            return 0
        if self._retention_s and would_lose_history(self._db["request_logs"], self._retention_s):
            raise MigrationError("records that are in no sum would be deleted: apply the step records first")
        ensure_log_expiry(self._db, self._retention_s)
        progress(1)
        return 1
