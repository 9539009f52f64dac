"""How the process logs: one line per event, as text for people or JSON for machines.

What is logged while a request is being worked on carries its id.
"""

import logging
import sys
from typing import Any, TextIO

from gunicorn.glogging import Logger as GunicornLogger

from app.logs.current_request import request_id
from app.logs.log_repeats import WINDOW_S, Repeats
from app.settings import Settings


def logging_config(settings: Settings) -> dict[str, Any]:
    """Build the configuration for `logging.config.dictConfig`, gunicorn's own loggers included."""
    wanted = settings.log_format or ("text" if sys.stderr.isatty() else "json")
    formatters: dict[str, Any] = {
        "text": {
            "()": TextFormatter,
            "fmt": "%(asctime)s [%(process)d] %(levelname)s %(message)s",
            "datefmt": "%Y-%m-%d %H:%M:%S",
        },
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
                "class": "app.logs.process_log.SummingHandler",
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


_SAID_BY_WEIR = frozenset(
    {
        "Starting gunicorn %s", "Listening at: %s (%s)", "Using worker: %s", "Booting worker with pid: %s",
        "Worker exiting (pid: %s)", "Handling signal: %s", "Hang up: %s", "Shutting down: %s",
    }
)  # fmt: skip
"""What gunicorn says of a normal start and stop; the hooks of gunicorn.conf.py say it in plainer words."""


class RequestIds(logging.Filter):
    """Gives an event the id of the request it belongs to, as `request_id`; the JSON formatter shows it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything through."""
        current = request_id.get()
        if current is not None:
            record.request_id = current
        return True


class SummingHandler(logging.StreamHandler[TextIO]):
    """Writes so many lines of one kind in a minute, then how many more there were.

    Nobody may fill the log, or what is kept of it, by causing the same line again and again.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._repeats: Repeats[tuple[str, int, str]] = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or count it."""
        is_written, sums = self._repeats.take((record.name, record.levelno, str(record.msg)), record.created)
        self._write(sums)
        if is_written:
            super().emit(record)

    def close(self) -> None:
        """Write what is left to be said, then close."""
        self._write(self._repeats.due())
        super().close()

    def _write(self, sums: list[tuple[tuple[str, int, str] | None, int]]) -> None:
        for kind, left_out in sums:
            name, level, message = kind or ("weir", logging.WARNING, "lines of many kinds")
            said = f"{left_out} more within {WINDOW_S} s were left out: %s"
            super().emit(logging.LogRecord(name, level, __file__, 0, said, (message,), None))


class TextFormatter(logging.Formatter):
    """Text with the request's id at the end of the line, unless the message names it anyway."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        """Format the line, without a traceback."""
        line = super().formatMessage(record)
        current = getattr(record, "request_id", None)
        return line if current is None or current in line else f"{line} [request {current}]"


class NullAccessLogger(GunicornLogger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's logger without its access log: every request leaves a record, which says more.

    Access lines would be formatted for each request even where nobody reads them, and would hold query
    strings. Debug lines hold errors by their names only: gunicorn's quote what a client sent.
    """

    def info(self, msg: str, *args: Any, **options: Any) -> None:
        """Log for operators."""
        if msg in _SAID_BY_WEIR:
            self.debug(msg, *args, **options)
        else:
            super().info(msg, *args, **options)

    def debug(self, msg: str, *args: Any, **options: Any) -> None:
        """Log for developers."""
        names = (type(arg).__name__ if isinstance(arg, BaseException) else arg for arg in args)
        super().debug(msg, *names, **options)

    def access(self, *args: Any) -> None:
        """Log nothing."""
