"""The admin API: statistics and the request log, as JSON, under `/api/admin`."""

from app.api.admin.blueprint import LogReader, admin_blueprint
from app.api.admin.statistics import StatsReader

__all__ = ["LogReader", "StatsReader", "admin_blueprint"]
