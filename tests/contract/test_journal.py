"""The journal on real files: locks, forks, kill -9, a limit on file size, and a real MongoDB at the end."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from pymongo.database import Database

from app.common.errors import StoreUnavailable
from app.journal import Journal, JournaledQueue, JournalPolicy, acquire_slot, in_memory_slot, replay, survey
from app.journal.disk import RealDisk
from app.journal.journal_format import OpenRequest
from app.journal.slots import adopt_slot, is_owned, orphans, read_identity
from app.persistence.booking import BookedBatch, Booking
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord
from workers.log_writer import Backoff, BatchPolicy, LogWriter

ROUNDS = int(os.environ.get("WEIR_JOURNAL_KILLS", "8"))  # noqa: TID251  how thorough, not what
ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

WRITER = """
import sys
from datetime import UTC, datetime
from app.journal import *
from app.journal.journal_format import OpenRequest
from app.records.records import ExchangeRecord, Outcome

root, name = sys.argv[1:]
queue = JournaledQueue(50)
queue.attach(Journal(acquire_slot(root), JournalPolicy(segment_bytes=20_000)))
now = datetime.now(UTC)
for number in range(1_000_000):
    request_id = f"{name}-{number}"
    queue.open(OpenRequest(request_id, "u", "k", now, "openai", "chat"))
    sys.stdout.write(f"open {request_id}\\n")
    sys.stdout.flush()
    if number % 5 == 4:
        continue  # left open
    queue.put(ExchangeRecord(request_id, "u", "k", now, "openai", Outcome.OK, 200, cost_nano_usd=1))
    sys.stdout.write(f"put {request_id}\\n")
    sys.stdout.flush()
    if number % 20 == 19:
        queue.tend()
"""


ATTEMPTS = (AttemptRecord("env-1", 200, 5),)


class ListBooks:
    """Books that remember, and count as `Booking` does."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.charged: Counter[str] = Counter()
        self.markers: dict[str, int] = {}

    def for_writer(self, writer_id: str) -> "ListBooks":
        self.writer_id = writer_id
        return self

    def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
        for record in batch:
            request_id = record.document["_id"]
            self.outcomes.setdefault(request_id, record.document["outcome"])
            if record.seq > self.markers.get(self.writer_id, 0):
                self.markers[self.writer_id] = record.seq
                self.charged[request_id] += 1
        return BookedBatch(len(batch), {})

    def put_aside(self, record: SequencedRecord, reason: str) -> Any:
        raise AssertionError(reason)


class Outage:
    """Books behind a connection that is away at first."""

    def __init__(self, books: ListBooks) -> None:
        self.books = books
        self.is_away = True

    def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
        if self.is_away:
            raise StoreUnavailable("away")
        return self.books.apply(batch)

    def put_aside(self, record: SequencedRecord, reason: str) -> Any:
        raise AssertionError(reason)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


@pytest.fixture
def queues() -> Iterator[list[JournaledQueue]]:
    made: list[JournaledQueue] = []
    yield made
    for queue in made:
        queue.release()


def record(request_id: str, cost: int = 0) -> ExchangeRecord:
    return ExchangeRecord(
        request_id, "u", "k", NOW, "openai", Outcome.OK, 200, cost_nano_usd=cost, attempts=ATTEMPTS
    )


def opened(request_id: str) -> OpenRequest:
    return OpenRequest(request_id, "u", "k", NOW, "openai", "chat")


def queue_on(root: str, *, memory: int = 100, policy: JournalPolicy | None = None) -> JournaledQueue:
    queue = JournaledQueue(memory)
    queue.attach(Journal(acquire_slot(root), policy))
    return queue


def kill_after(root: str, name: str, lines: int) -> tuple[set[str], set[str]]:
    """Let a writer run until it has told of so many steps, kill it, and return what it had told."""
    told: dict[str, set[str]] = {"open": set(), "put": set()}
    command = [sys.executable, "-c", WRITER, root, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for count, line in enumerate(process.stdout):
            if count == lines:
                process.send_signal(signal.SIGKILL)
            if line.endswith("\n"):
                what, request_id = line.split()
                told[what].add(request_id)
    assert process.returncode == -signal.SIGKILL
    return told["open"], told["put"]


def test_whatever_a_killed_process_had_written_is_settled_once(root: str) -> None:
    chance = random.Random(7)
    books = ListBooks()
    all_opened: set[str] = set()
    all_put: set[str] = set()
    for round_number in range(ROUNDS):
        was_opened, was_put = kill_after(root, f"r{round_number}", chance.randrange(1, 600))
        all_opened |= was_opened
        all_put |= was_put
        if chance.random() < 0.5:
            replay(root, books.for_writer)
    replay(root, books.for_writer)
    assert all_put <= set(books.outcomes)
    assert all_opened <= set(books.outcomes)
    assert {books.outcomes[request_id] for request_id in all_put} == {"ok"}
    # The last step may have been taken without being told of; then it was one of the two as well.
    untold = set(books.outcomes) - all_opened
    assert len(untold) <= ROUNDS
    assert set(books.charged.values()) == {1}
    assert orphans(root) == []


def test_workers_take_the_lowest_free_slot_each(root: str) -> None:
    first, second = acquire_slot(root), acquire_slot(root)
    assert (first.name, second.name) == ("0000", "0001")
    assert first.writer_id != second.writer_id
    first.release()
    third = acquire_slot(root)
    assert (third.name, third.writer_id) == ("0000", first.writer_id)
    second.release()
    third.release()


def test_a_forked_child_does_not_keep_the_slot(root: str) -> None:
    slot = acquire_slot(root)
    waiting, ending = os.pipe()
    started, starting = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ending)
        os.write(starting, b"1")
        os.read(waiting, 1)
        os._exit(0)
    try:
        os.read(started, 1)
        assert is_owned(root, slot.name)
        slot.release()
        assert not is_owned(root, slot.name)
        again = acquire_slot(root)
        assert again.name == slot.name
        again.release()
    finally:
        for fd in (ending, waiting, started, starting):
            os.close(fd)
        os.waitpid(child, 0)


def test_numbers_are_never_used_twice_though_no_segment_is_left(root: str) -> None:
    numbers = []
    for _ in range(3):
        slot = acquire_slot(root)
        slot.begin(0)
        numbers += [slot.take_seq() for _ in range(5)]
        slot.release()
    assert numbers == sorted(set(numbers))


def test_a_clock_that_was_set_back_repeats_no_number(root: str) -> None:
    slot = acquire_slot(root, wall_clock=lambda: 2e9)
    slot.begin(0)
    number = slot.take_seq()
    slot.release()
    later = acquire_slot(root, wall_clock=lambda: 1e9)
    later.begin(0)
    assert later.take_seq() > number
    later.release()


def test_running_low_on_reserved_numbers_is_told(root: str) -> None:
    slot = acquire_slot(root)
    slot.begin(0)
    assert not slot.is_running_low
    for _ in range(2**19 + 1):
        slot.take_seq()
    assert slot.is_running_low
    slot.reserve()
    assert not slot.is_running_low
    slot.release()


def test_a_copied_slot_is_settled_but_not_continued(root: str, tmp_path: Path) -> None:
    original = queue_on(root)
    original.put(record("a"))
    copy = str(tmp_path / "copy")
    subprocess.run(["cp", "-r", root, copy], check=True)
    slot = acquire_slot(copy)
    assert slot.name == "0001"
    assert orphans(copy) == ["0000"]
    slot.release()
    books = ListBooks()
    replay(copy, books.for_writer)
    assert list(books.outcomes) == ["a"]
    writer_id = original.status().writer_id  # type: ignore[union-attr]
    assert list(books.markers) == [writer_id]
    renewed = acquire_slot(copy)
    assert renewed.name == "0000"
    assert renewed.writer_id != writer_id
    renewed.release()
    original.release()


def test_a_requests_interrupted_in_a_copied_slot_is_booked_under_a_new_writer_id(
    root: str, tmp_path: Path
) -> None:
    original = queue_on(root)
    original.put(record("a"))
    original.open(opened("b"))
    copy = str(tmp_path / "copy")
    subprocess.run(["cp", "-r", root, copy], check=True)
    books = ListBooks()
    replay(copy, books.for_writer)
    assert books.outcomes == {"a": "ok", "b": "interrupted"}
    assert len(books.markers) == 2
    assert orphans(copy) == []
    original.release()


def test_a_torn_identity_is_read_from_its_other_copy(root: str) -> None:
    slot = acquire_slot(root)
    slot.begin(0)
    slot.reserve()
    directory, writer_id = slot.directory, slot.writer_id
    slot.release()
    path = Path(directory, "identity")
    whole = path.read_bytes()
    for start in (0, 512):
        path.write_bytes(whole[:start] + b"\0" * 300 + whole[start + 300 :])
        identity = read_identity(RealDisk(), directory)
        assert identity is not None
        assert identity.writer_id == writer_id
    path.write_bytes(b"")
    assert read_identity(RealDisk(), directory) is None


def test_an_owned_slot_is_neither_orphan_nor_to_be_adopted(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root)
    queues.append(queue)
    queue.put(record("a"))
    assert orphans(root) == []
    assert adopt_slot(root, "0000") is None
    assert replay(root, ListBooks().for_writer) == []


def test_the_survey_shows_every_slot_and_changes_nothing(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root)
    queues.append(queue)
    for number in range(5):
        queue.put(record(f"r{number}"))
    queue.open(opened("open"))
    queue.acked(queue.take(2, 0)[-1].seq)
    left = queue_on(root)
    left.put(record("left"))
    left.release()
    before = {path: path.stat().st_size for path in Path(root).rglob("*.seg")}
    live, gone = survey(root)
    assert (live.slot, live.is_owned, live.unbooked, live.open_requests) == ("0000", True, 3, 1)
    assert (gone.slot, gone.is_owned, gone.unbooked, gone.open_requests) == ("0001", False, 1, 0)
    assert {path: path.stat().st_size for path in Path(root).rglob("*.seg")} == before
    assert survey(root + "/nowhere") == []


def test_a_store_that_is_away_leaves_the_orphan_for_later(root: str) -> None:
    queue = queue_on(root)
    queue.put(record("a"))
    queue.release()

    class Away(ListBooks):
        def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
            raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        replay(root, Away().for_writer)
    assert orphans(root) == ["0000"]
    books = ListBooks()
    (adopted,) = replay(root, books.for_writer)
    assert (adopted.records, adopted.is_booked) == (1, True)


def test_a_replay_waits_for_the_disk_in_threads_only(root: str) -> None:
    """Requests of the worker that replays go on meanwhile: there may be gigabytes to read."""
    queue = queue_on(root)
    queue.put(record("a"))
    queue.open(opened("b"))
    queue.release()
    loop = threading.get_ident()
    seen: dict[str, set[bool]] = defaultdict(set)

    class Watched(RealDisk):
        def __getattribute__(self, name: str) -> Any:
            method = super().__getattribute__(name)

            def watched(*args: Any) -> Any:
                seen[name].add(threading.get_ident() != loop)
                return method(*args)

            return watched

    books = ListBooks()
    (adopted,) = replay(root, books.for_writer, disk=Watched())
    assert (adopted.is_booked, books.outcomes) == (True, {"a": "ok", "b": "interrupted"})
    waits = {name for name in seen if name not in ("create", "write", "truncate", "close")}
    assert {"list", "size", "read", "overwrite", "sync", "sync_directory", "remove"} <= waits
    assert {name: seen[name] for name in waits if seen[name] != {True}} == {}


def test_a_record_the_books_refuse_is_put_aside_and_the_others_booked(root: str) -> None:
    queue = queue_on(root)
    for number in range(7):
        queue.put(record(f"r{number}"))
    queue.release()
    aside: list[str] = []

    class Picky(ListBooks):
        def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
            if any(item.document["_id"] == "r3" for item in batch):
                raise ValueError("cannot be booked")
            return super().apply(batch)

        def put_aside(self, record: SequencedRecord, reason: str) -> None:
            aside.append(f"{record.document['_id']} {reason}")

    books = Picky()
    replay(root, books.for_writer)
    assert aside == ["r3 ValueError: cannot be booked"]
    assert len(books.outcomes) == 6


def test_a_file_that_may_not_grow_is_survived(root: str, queues: list[JournaledQueue]) -> None:
    """The kernel refuses writes in earnest (EFBIG, with short writes before it), as a full disk would."""
    queue = queue_on(root)
    queues.append(queue)
    queue.put(record("a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
    try:
        for number in range(10):
            assert queue.put(record(f"r{number}"))
        status = queue.status()
        assert status is not None
        assert status.is_full
        assert status.memory_only > 0
        size = sum(path.stat().st_size for path in Path(root).rglob("*.seg"))
        assert size == status.bytes
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old_handler)
    queue.tend()
    status = queue.status()
    assert status is not None
    assert (status.memory_only, status.is_full) == (0, False)
    assert [item.document["_id"] for item in queue.take(20, 0)] == [
        "a",
        *(f"r{number}" for number in range(10)),
    ]


def test_a_worker_without_a_slot_keeps_records_in_memory(queues: list[JournaledQueue]) -> None:
    queue = JournaledQueue(2)
    queues.append(queue)
    queue.attach(Journal(in_memory_slot()))
    assert [queue.put(record(name)) for name in "abc"] == [True, True, False]
    queue.tend()
    assert not queue.accepts()
    taken = queue.take(5, 0)
    assert [item.document["_id"] for item in taken] == ["a", "b"]
    queue.acked(taken[-1].seq)
    assert queue.lost == 1


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        acquire_slot(str(tmp_path / "file" / "journal"))


def test_always_waits_for_the_disk_and_shares_its_rounds(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root, policy=JournalPolicy(sync="always"))
    queues.append(queue)
    gevent.joinall([gevent.spawn(queue.put, record(f"r{number}")) for number in range(50)], raise_error=True)
    status = queue.status()
    assert status is not None
    assert len(queue) == 50
    assert status.counts.syncs < 25
    assert not queue._journal.log.is_dirty  # type: ignore[union-attr]


def test_off_never_syncs(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root, policy=JournalPolicy(sync="off", segment_bytes=1000))
    queues.append(queue)
    for number in range(20):
        queue.put(record(f"r{number}"))
    queue.tend()
    assert len(queue.take(100, 0)) == 20
    assert queue.status().counts.syncs == 0  # type: ignore[union-attr]


def test_the_maintenance_greenlet_runs_until_it_is_stopped(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root)
    queues.append(queue)
    stopping = Event()
    runner = gevent.spawn(queue.run, stopping, 0.001)
    queue.put(record("a"))
    with gevent.Timeout(120):
        while queue._journal.log.is_dirty:  # type: ignore[union-attr]
            gevent.sleep(0.001)
    stopping.set()
    runner.join(120)
    assert runner.successful()


def test_a_waiting_consumer_is_woken_by_the_first_record(root: str, queues: list[JournaledQueue]) -> None:
    queue = queue_on(root)
    queues.append(queue)
    consumer = gevent.spawn(queue.take, 10, 5.0)
    gevent.sleep(0)
    queue.put(record("a"))
    assert [item.document["_id"] for item in consumer.get(timeout=120)] == ["a"]
    consumer = gevent.spawn(queue.take, 10, None)
    gevent.sleep(0)
    queue.close()
    assert consumer.get(timeout=120) == []


def test_the_limit_counts_the_other_slots(root: str, queues: list[JournaledQueue]) -> None:
    policy = JournalPolicy(max_bytes=50_000)
    first, second = queue_on(root, policy=policy), queue_on(root, policy=policy)
    queues += [first, second]
    while first.accepts():
        first.put(record("r"))
    second._journal.log.rescan(is_forced=True)  # type: ignore[union-attr]
    assert not second.accepts()


def test_a_slot_that_cannot_be_used_is_passed_over(root: str) -> None:
    Path(root).mkdir()
    Path(root, "0000").write_text("in the way")
    slot = acquire_slot(root)
    assert slot.name == "0001"
    slot.release()
    for number in range(2, 5):
        Path(root, f"{number:04}").write_text("in the way")
    taken = acquire_slot(root)
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        acquire_slot(root)
    taken.release()


def test_the_writer_books_through_an_outage_and_a_restart(root: str) -> None:
    """The real background writer over the real queue; the store is away while memory overflows."""
    policy = BatchPolicy(size=10, max_age_s=0.005, backoff=Backoff(first_s=0.005, cap_s=0.01))
    books = ListBooks()
    names = {f"r{number}" for number in range(300)}
    queue = queue_on(root, memory=20)
    outage = Outage(books.for_writer(queue.status().writer_id))  # type: ignore[union-attr]
    writer = LogWriter(queue, outage, policy=policy, on_booked_up_to=queue.acked)  # type: ignore[arg-type]
    writer.start()
    for name in sorted(names):
        assert queue.put(record(name))
        if name.endswith("7"):
            gevent.sleep(0.001)
    outage.is_away = False
    with gevent.Timeout(120):
        while len(books.outcomes) < 200:
            gevent.sleep(0.005)
    outage.is_away = True
    queue.put(record("last"))
    writer._greenlet.kill()  # type: ignore[union-attr]
    queue._journal.slot.release()  # type: ignore[union-attr]
    again = queue_on(root, memory=20)
    writer = LogWriter(again, books, policy=policy, on_booked_up_to=again.acked)  # type: ignore[arg-type]
    writer.start()
    assert writer.join(120) == 0
    again.release()
    assert set(books.outcomes) == names | {"last"}
    assert set(books.charged.values()) == {1}
    assert orphans(root) == []


def test_replaying_a_killed_workers_slot_settles_it_in_mongodb(root: str, database: Database[Any]) -> None:
    database["usersNew"].insert_one({"_id": "u", "credits": 10.0})
    was_opened, was_put = kill_after(root, "m", 300)
    replay(root, lambda writer_id: Booking(database, writer_id))
    replay(root, lambda writer_id: Booking(database, writer_id))
    logs = {item["_id"]: item["outcome"] for item in database["request_logs"].find()}
    assert was_opened <= set(logs)
    assert {logs[request_id] for request_id in was_put} == {"ok"}
    billed = sum(1 for outcome in logs.values() if outcome == "ok")
    user = database["usersNew"].find_one({"_id": "u"})
    assert user is not None
    assert round(user["creditsUsed"] * 1e9) == billed
