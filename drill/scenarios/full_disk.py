"""A disk that is really full: a small tmpfs as data directory, filled to the last byte under load."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drill.books import check_sums, read_records
from drill.report import Findings, NotTried
from drill.scenarios.limits import ADMIN_TOKEN, counted_losses, send_many
from drill.stage import Drill, Stage
from simulator.launcher import PATIENCE_S, wait_until

_DISK_MB = 4
_IN_MEMORY = 100
"""Records that are kept although neither disk nor database takes them: `LOG_QUEUE_SIZE`."""

_KEPT = 300
_TOO_MANY = 400


def full_disk(drill: Drill) -> Findings:
    """Fill the disk: with the database there all is kept, with it away what is lost is counted."""
    findings = Findings("full-disk")
    with drill.stage(
        "full-disk",
        users=0,
        is_started=False,
        ADMIN_TOKEN=ADMIN_TOKEN,
        WEB_CONCURRENCY="1",
        LOG_QUEUE_SIZE=str(_IN_MEMORY),
        LOG_LEVEL="error",
    ) as stage:
        stage.weir.data_dir.mkdir()
        with _small_disk(stage.weir.data_dir):
            stage.weir.start()
            _play(stage, findings)
            stage.weir.stop()
            findings.expect(stage.is_settled(), f"something is left in the journal: {stage.slots()}")
    return findings


def _play(stage: Stage, findings: Findings) -> None:
    assert stage.store is not None  # noqa: S101  it is the drill's own
    records = stage.database["request_logs"]
    filler = stage.weir.data_dir / "somebody-elses-file"
    send_many(stage, _KEPT // 3)
    _fill(filler)
    send_many(stage, _KEPT // 3)
    wait_until(lambda: not stage.weir.is_ready(), PATIENCE_S, "/ready to say that the journal fails")
    wait_until(lambda: records.count_documents({}) == 2 * (_KEPT // 3), PATIENCE_S, "all records")
    filler.unlink()
    wait_until(stage.weir.is_ready, PATIENCE_S, "/ready to say that the journal works again")
    send_many(stage, _KEPT // 3)
    wait_until(lambda: records.count_documents({}) == _KEPT, PATIENCE_S, "all records")
    # What the journal lets go of after that would be room on the disk again.
    wait_until(lambda: stage.is_settled() and stage.is_all_booked(), PATIENCE_S, "an empty journal")
    findings.expect(not counted_losses(stage), "with the database there nothing may be lost")
    stage.store.kill()
    _fill(filler)
    send_many(stage, _TOO_MANY)
    filler.unlink()
    stage.store.start()
    stage.wait_settled()
    # Records in memory only follow those of the journal.
    wait_until(stage.is_all_booked, PATIENCE_S, "the records in memory to be booked")
    _compare(stage, findings)


def _compare(stage: Stage, findings: Findings) -> None:
    suffered = {name: count for name, count in stage.load.endings().items() if name != "whole"}
    findings.expect(not suffered, f"answers suffered from the full disk: {suffered}")
    records = read_records(stage.database)
    missing, counted = len(stage.load) - len(records), counted_losses(stage)
    findings.requests, findings.records = len(stage.load), len(records)
    findings.whole, findings.lost = stage.load.endings()["whole"], missing
    findings.figures["lost by design, counted by the product"] = counted
    findings.expect(missing > 0, "the disk was not full")
    findings.expect(counted == missing, f"{missing} records are missing, {counted} are counted as lost")
    known = {call.request_id for call in stage.load.calls}
    findings.expect(known >= records.keys(), "there are records of requests that nobody sent")
    check_sums(findings, stage.database, stage.callers, records)
    stage.verify(findings)


def _fill(path: Path) -> None:
    """Write until the file system takes nothing more."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue


@contextmanager
def _small_disk(directory: Path) -> Iterator[None]:
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        raise NotTried("there is no mount command here")
    made = subprocess.run(  # noqa: S603  fixed arguments
        [mount, "-t", "tmpfs", "-o", f"size={_DISK_MB}m,mode=0700", "weir-drill", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise NotTried(f"mounting a small disk takes root: {made.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: whatever still has a file open there is ended with the stage.
        subprocess.run([unmount, "--lazy", str(directory)], check=False)  # noqa: S603
