"""Whether anything was written through a connection."""

from collections.abc import Mapping
from typing import Any

from pymongo import monitoring

_CHANGES_WHOLE = ("bulkWrite", "collMod", "create", "drop", "dropDatabase", "dropIndexes", "renameCollection")
"""Commands that have changed something whenever they succeed."""


class WriteWatch(monitoring.CommandListener):
    """Sees what the server answers to each command: `has_written` once one has changed something."""

    def __init__(self) -> None:
        self.has_written = False

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Take no notice: what counts is how the command ends."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Note a change."""
        self.has_written = self.has_written or _has_changed(event.command_name, event.reply)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Take no notice: nothing was changed."""


def _has_changed(name: str, reply: Mapping[str, Any]) -> bool:
    if name in ("insert", "delete"):
        return bool(reply.get("n"))
    if name == "update":
        return bool(reply.get("nModified") or reply.get("upserted"))
    if name == "findAndModify":
        return bool(reply.get("lastErrorObject", {}).get("n"))
    if name == "createIndexes":
        return reply.get("numIndexesBefore") != reply.get("numIndexesAfter")
    return name in _CHANGES_WHOLE
