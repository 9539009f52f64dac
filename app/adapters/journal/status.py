"""The journal's health, for readiness, metrics and the dashboard."""

from dataclasses import dataclass
from typing import Self

from app.adapters.journal.journal import Journal
from app.adapters.journal.segment_log import JournalCounts


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The health view. Sizes are bytes, ages seconds; `lost` must be 0.

    `unsettled` counts the records that are not in the store yet, `unkept` those of them that would not
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
    unsettled: int
    unkept: int
    oldest_unsettled_s: float
    lost: int
    is_full: bool
    is_overflowing: bool
    counts: JournalCounts

    @classmethod
    def of(
        cls,
        journal: Journal,
        *,
        unsettled: int,
        unkept: int,
        oldest_unsettled_s: float,
        lost: int,
        is_overflowing: bool,
    ) -> Self:
        """The journal's figures beside those of its queue."""
        return cls(
            slot=journal.slot.name,
            writer_id=journal.slot.writer_id,
            sync=journal.policy.sync,
            bytes=journal.log.own_bytes,
            total_bytes=journal.log.total_bytes,
            max_bytes=journal.policy.max_bytes,
            segments=len(journal.log.segments),
            open_requests=journal.open_requests,
            unsettled=unsettled,
            unkept=unkept,
            oldest_unsettled_s=oldest_unsettled_s,
            lost=lost,
            is_full=journal.log.is_full,
            is_overflowing=is_overflowing,
            counts=journal.counts,
        )
