"""Days that do not end within a test."""

from datetime import UTC, datetime


def a_zone_where_it_is_day() -> str:
    """Return a zone in which this hour and the one before are of the same day, whatever the time is."""
    return "UTC" if 2 <= datetime.now(UTC).hour <= 21 else "Etc/GMT+6"
