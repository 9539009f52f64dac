"""The admin API: statistics and the request log, as JSON, under `/api/admin`."""

from app.api.admin.blueprint import admin_blueprint

__all__ = ["admin_blueprint"]
