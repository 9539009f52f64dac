"""The system's time and request ids."""

import time
from datetime import UTC, datetime

import uuid_utils


def now_ms() -> datetime:
    """Return the moment, in UTC, to the millisecond as MongoDB keeps it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class SystemClock:
    """The real clock."""

    monotonic = staticmethod(time.monotonic)
    """Seconds, for durations."""

    def utcnow(self) -> datetime:
        """Return the moment, in UTC."""
        return datetime.now(UTC)

    def new_request_id(self) -> str:
        """Make a UUIDv7 (RFC 9562): sortable by time."""
        return str(uuid_utils.uuid7())
