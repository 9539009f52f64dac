"""The journal's health, for readiness, metrics and the dashboard."""

from dataclasses import dataclass
from typing import Self

from app.journal.journal import Journal
from app.journal.segment_log import JournalCounts


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The health view. Sizes are bytes, ages seconds; `lost` must be 0.

    `unbooked` counts the records that are not in the store yet, `memory_only` those of them that would not
    survive the process.
    """

    slot: str
    writer_id: str
    sync: str
    bytes: int
    total_bytes: int
    max_bytes: int
    segments: int
    open_requests: int
    unbooked: int
    memory_only: int
    oldest_unbooked_s: float
    lost: int
    is_full: bool
    counts: JournalCounts

    @classmethod
    def of(
        cls,
        journal: Journal,
        *,
        unbooked: int,
        memory_only: int,
        oldest_unbooked_s: float,
        lost: int,
    ) -> Self:
        """Put the journal's figures beside those of its queue."""
        return cls(
            slot=journal.slot.name,
            writer_id=journal.slot.writer_id,
            sync=journal.policy.sync,
            bytes=journal.log.own_bytes,
            total_bytes=journal.log.total_bytes,
            max_bytes=journal.policy.max_bytes,
            segments=len(journal.log.segments),
            open_requests=journal.open_requests,
            unbooked=unbooked,
            memory_only=memory_only,
            oldest_unbooked_s=oldest_unbooked_s,
            lost=lost,
            is_full=journal.log.is_full,
            counts=journal.counts,
        )
