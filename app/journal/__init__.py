"""The durable journal: every request and record on disk until MongoDB has it. See `JournaledQueue`."""

from app.journal.adoption import Adopted, SlotReport, replay, survey
from app.journal.journal import Journal
from app.journal.journaled_queue import JournaledQueue
from app.journal.segment_log import JournalPolicy
from app.journal.slots import acquire_slot, in_memory_slot
from app.journal.status import QueueStatus

__all__ = [
    "Adopted",
    "Journal",
    "JournalPolicy",
    "JournaledQueue",
    "QueueStatus",
    "SlotReport",
    "acquire_slot",
    "in_memory_slot",
    "replay",
    "survey",
]
