"""The durable journal: every request and record on disk until MongoDB has it. See `JournaledQueue`."""

from app.adapters.journal.adoption import Adopted, SlotReport, replay, survey
from app.adapters.journal.journal import Journal
from app.adapters.journal.journaled_queue import JournaledQueue
from app.adapters.journal.segment_log import JournalPolicy
from app.adapters.journal.slots import acquire_slot, unplaced_slot
from app.adapters.journal.status import QueueStatus

__all__ = [
    "Adopted",
    "Journal",
    "JournalPolicy",
    "JournaledQueue",
    "QueueStatus",
    "SlotReport",
    "acquire_slot",
    "replay",
    "survey",
    "unplaced_slot",
]
