"""What a database needs before it is worked on, made by workers at their start and by `weir init`."""

from collections.abc import Callable
from datetime import UTC
from typing import Any

from pymongo.database import Database

from app.accounts.dashboard_access import EndedSessions
from app.accounts.rate_limiter import ensure_expiry
from app.accounts.shown_once import ShownOnce
from app.alerts.alert_store import AlertStore
from app.billing.statements import Statements
from app.credit.credit_ledger import CreditLedger
from app.keys.key_state_store import KeyStateStore
from app.management.audit_log import AuditStore
from app.objects.object_store import ObjectStore
from app.persistence.settlements import Settlements
from app.records.request_logs import RequestLogStore
from app.statistics.stats_store import StatsStore
from app.store.connection import ensure_indexes


def index_makers(db: Database[dict[str, Any]], log_retention_s: int) -> list[Callable[[], None]]:
    """List functions that each make some missing indexes; they raise `PyMongoError` or `StoreUnavailable`."""
    return [
        lambda: ensure_indexes(db, log_retention_s),
        lambda: ensure_expiry(db),
        RequestLogStore(db).ensure_indexes,
        StatsStore(db).ensure_indexes,
        KeyStateStore(db).ensure_indexes,
        AuditStore(db).ensure_indexes,
        AlertStore(db).ensure_indexes,
        CreditLedger(db).ensure_indexes,
        EndedSessions(db).ensure_indexes,
        ShownOnce(db).ensure_indexes,
        ObjectStore(db, log_retention_s).ensure_indexes,
        Settlements(db).ensure_indexes,
        Statements(db, UTC).ensure_indexes,
    ]
