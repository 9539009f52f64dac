"""How the process logs: one line per event, as text for people or JSON for machines.

What is logged while a request is being worked on carries its id.
"""

import logging
import sys
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger

from app.core.current_request import request_id
from app.settings import Settings


def logging_config(settings: Settings) -> dict[str, Any]:
    """The configuration for `logging.config.dictConfig`, gunicorn's own loggers included."""
    wanted = settings.log_format or ("text" if sys.stderr.isatty() else "json")
    formatters: dict[str, Any] = {
        "text": {"()": TextFormatter, "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger", "process": "pid"},
        },
    }
    level = settings.log_level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": formatters,
        "filters": {"request": {"()": RequestIds}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": wanted,
                "filters": ["request"],
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            "urllib3": {"level": "WARNING"},
            "pymongo": {"level": "WARNING"},
        },
    }


class RequestIds(logging.Filter):
    """Gives an event the id of the request it belongs to, as `request_id`; the JSON formatter shows it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything through."""
        current = request_id.get()
        if current is not None:
            record.request_id = current
        return True


class TextFormatter(logging.Formatter):
    """Text with the request's id at the end of the line, unless the message names it anyway."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        """The line, without a traceback."""
        line = super().formatMessage(record)
        current = getattr(record, "request_id", None)
        return line if current is None or current in line else f"{line} [request {current}]"


class RecordsInsteadOfAccessLog(GunicornLogger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger without its access log: every request leaves a record, which says more.

    Access lines would be formatted for each request even where nobody reads them, and would hold query
    strings. Debug lines hold errors by their names only: gunicorn's quote what a client sent.
    """

    def debug(self, msg: str, *args: Any, **options: Any) -> None:
        """Log for developers."""
        names = (type(arg).__name__ if isinstance(arg, BaseException) else arg for arg in args)
        super().debug(msg, *names, **options)

    def access(self, *args: Any) -> None:
        """Log nothing."""
