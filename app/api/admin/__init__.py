"""The admin API: statistics and the request log, as JSON, under `/api/admin`."""

from app.api.admin.blueprint import LogReader, StatsReader, admin_blueprint

__all__ = ["LogReader", "StatsReader", "admin_blueprint"]
