"""What routes and pages read besides the resources: records, sums, sessions, and the state of this worker.

They do no I/O of their own and import no stores. They are given these, and name their types from here.
"""

from app.accounts.dashboard_access import DashboardAccounts, EndedSessions
from app.accounts.shown_once import ShownOnce
from app.billing.statement import Month, Statement, by_model
from app.billing.statement_text import rows_csv, statement_csv, statement_html
from app.billing.statements import Statements
from app.keys.key_pool import KeyView
from app.metrics.traffic import Traffic
from app.metrics.worker_metrics import WorkerMetrics
from app.records.request_logs import RequestLogStore
from app.reloading import Reloaded
from app.statistics.stats_store import StatsStore
from app.verify.reconciliation import Reconciliation

__all__ = [
    "DashboardAccounts",
    "EndedSessions",
    "KeyView",
    "Month",
    "Reconciliation",
    "Reloaded",
    "RequestLogStore",
    "ShownOnce",
    "Statement",
    "Statements",
    "StatsStore",
    "Traffic",
    "WorkerMetrics",
    "by_model",
    "rows_csv",
    "statement_csv",
    "statement_html",
]
