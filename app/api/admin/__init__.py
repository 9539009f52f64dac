"""The admin API: statistics and the request log, as JSON, under `/api/admin`."""

from app.api.admin.blueprint import admin_blueprint
from app.api.admin.request_logs import LogReader
from app.api.admin.statistics import StatsReader

__all__ = ["LogReader", "StatsReader", "admin_blueprint"]
