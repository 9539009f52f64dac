"""The journals of this machine, compared with the store: nothing acknowledged may be missing there.

Only reads. Files are read in a thread, so that no answer being relayed waits for the disk.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database

from app.journal import SlotReport, survey
from app.journal.disk import RealDisk
from app.journal.documents import decode_record
from app.journal.journal import in_thread
from app.journal.journal_format import Entry, FrameKind, decode_entry
from app.journal.recovery import Contents, decoded_chunks, scan
from app.journal.segments import Segment
from app.persistence.record_writes import DEAD_COLLECTION
from app.verify.reconcile import CheckResult, Difference

_BATCH = 500
_DAMAGE_HINT = "a record may be in there: see DATA_DIR/journal/SLOT/damaged, and remove it once looked into"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record in a journal: where, and what it says."""

    where: str
    entry: Entry


class JournalAudit:
    """The slots under a directory (None, or one that is not there: no journal on this machine)."""

    def __init__(self, db: Database[Any], root: str | None) -> None:
        self._logs = db["request_logs"]
        self._dead = db[DEAD_COLLECTION]
        self._root = root
        self._disk = RealDisk()

    def check(self, kept_since: datetime | None) -> CheckResult:
        """Check that every acknowledged record of a journal is in the store.

        Records from before `kept_since` may have expired there.
        """
        result = CheckResult("journal", "what journals saw booked is in request_logs", unit="records")
        if self._root is None or not os.path.isdir(self._root):
            where = "" if self._root is None else f" {self._root}"
            result.notes.append(f"there is no journal{where}: is DATA_DIR that of the service?")
            return result
        try:
            for report in in_thread(survey, self._root):
                self._check_slot(result, report, kept_since)
        except OSError as error:
            result.notes.append(f"the journal cannot be read: {error}")
        return result

    def stuck(self, since: datetime) -> int:
        """Count the requests whose records have been in journals since then and are not booked to the end."""
        if self._root is None or not os.path.isdir(self._root):
            return 0
        since_ms = since.timestamp() * 1000
        try:
            reports = in_thread(survey, self._root)
            return sum(self._waiting(report) for report in reports if 0 < report.oldest_ms <= since_ms)
        except OSError:
            return 0

    def _waiting(self, report: SlotReport) -> int:
        """Count the requests that the records of a slot which are not booked stand for."""
        directory = os.path.join(self._root or "", report.slot)
        contents = in_thread(scan, self._disk, directory, report.writer_id)
        closes = (entry for segment in contents.segments for entry in self._closes(segment))
        return sum(_requests(entry) for entry in closes if entry.seq > contents.acked)

    def _check_slot(self, result: CheckResult, report: SlotReport, kept_since: datetime | None) -> None:
        where = f"journal {report.slot}"
        directory = os.path.join(self._root or "", report.slot)
        contents = in_thread(scan, self._disk, directory, report.writer_id)
        waiting = contents.unbooked + (0 if report.is_owned else len(contents.opens))
        if waiting:
            hint = "a running worker books them" if report.is_owned else "`weir journal replay` books them"
            result.pending.append(Difference("records not booked yet", where, 0, waiting, hint))
            result.pending_count += waiting
        if report.damaged:
            result.add([Difference("damaged pieces of the journal", where, 0, report.damaged, _DAMAGE_HINT)])
        batch: list[_Kept] = []
        for kept in self._acknowledged(contents, where):
            batch.append(kept)
            if len(batch) == _BATCH:
                self._compare(result, batch, kept_since)
                batch = []
        self._compare(result, batch, kept_since)

    def _acknowledged(self, contents: Contents, where: str) -> Iterator[_Kept]:
        for segment in contents.segments:
            for entry in self._closes(segment):
                if entry.seq <= contents.acked:
                    yield _Kept(f"{where}, {os.path.basename(segment.path)}", entry)

    def _closes(self, segment: Segment) -> Iterator[Entry]:
        chunks = decoded_chunks(self._disk, segment)
        while (decoded := in_thread(next, chunks, None)) is not None:
            for frame in decoded.frames:
                if frame.kind == FrameKind.CLOSE:
                    try:
                        yield decode_entry(frame.payload)
                    except ValueError:
                        continue  # counted among the damage when the slot is taken over

    def _compare(self, result: CheckResult, batch: list[_Kept], kept_since: datetime | None) -> None:
        wanted = {kept.entry.request_id: kept for kept in batch}
        result.compared += len(wanted)
        if not wanted:
            return
        found = {document["_id"] for document in self._logs.find({"_id": {"$in": list(wanted)}}, {"_id": 1})}
        missing = [key for key in wanted if key not in found]
        if missing:
            dead = self._dead.find({"requestId": {"$in": missing}}, {"requestId": 1})
            buried = {document["requestId"] for document in dead}
            result.add(
                _missing(wanted[key])
                for key in missing
                if key not in buried and not _may_have_expired(wanted[key].entry, kept_since)
            )


def _requests(entry: Entry) -> int:
    if b"count" not in entry.document:
        return 1
    try:
        return int(decode_record(entry.document).get("count", 1))
    except ValueError:
        return 1  # counted among the damage when the slot is taken over


def _missing(kept: _Kept) -> Difference:
    return Difference(
        "record missing",
        f"request {kept.entry.request_id}",
        "in request_logs",
        "nowhere",
        f"it was booked and has been removed since; its content is in {kept.where}",
    )


def _may_have_expired(entry: Entry, kept_since: datetime | None) -> bool:
    if kept_since is None:
        return False
    try:
        created_at = decode_record(entry.document).get("createdAt")
    except ValueError:
        created_at = None
    if not isinstance(created_at, datetime):
        created_at = datetime.fromtimestamp(entry.at_ms / 1000, UTC)
    return created_at < kept_since
