"""The journaled queue against a plain list: whatever the disk does, every record once, in order."""

import errno
from datetime import UTC, datetime
from typing import Any

import bson
import gevent
import pytest
from bson.codec_options import CodecOptions
from gevent.event import Event
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.journal.group_commit import GroupCommit
from app.journal.journal_format import FrameKind, OpenRequest, encode_entry
from app.journal.journaled_queue import JournaledQueue
from app.journal.segment_log import JournalPolicy, SyncMode
from app.records.records import AttemptRecord, Attribution, ExchangeRecord, Outcome, UsageSource
from tests.support.journal_model import ModelBooks, ModelClock, ModelDisk, Note, Process, segment_paths

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
_WITH_ZONE: "CodecOptions[dict[str, Any]]" = CodecOptions(tz_aware=True, tzinfo=UTC)


def opened(request_id: str) -> OpenRequest:
    return OpenRequest(request_id, "user", "key", NOW, "openai", "chat", stream=True, model="m")


def put(process: Process, *names: str) -> list[bool]:
    return [process.queue.put(Note(name)) for name in names]  # type: ignore[arg-type]


def ids(records: list[Any]) -> list[str]:
    return [record.document["_id"] for record in records]


@pytest.fixture
def disk() -> ModelDisk:
    return ModelDisk()


@pytest.fixture
def clock() -> ModelClock:
    return ModelClock()


@pytest.fixture
def books() -> ModelBooks:
    return ModelBooks()


def test_records_are_taken_in_the_order_they_were_put(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    assert put(process, "a", "b", "c") == [True] * 3
    assert ids(process.take(2)) == ["a", "b"]
    assert ids(process.take(2)) == ["c"]
    assert process.take(2) == []


def test_requests_under_way_are_listed_from_what_the_journal_keeps_anyway(
    disk: ModelDisk, clock: ModelClock
) -> None:
    process = Process(disk, clock)
    assert JournaledQueue(4).oldest_open(5) == []
    for name in ("a", "b", "c"):
        process.queue.open(opened(name))
    put(process, "a")
    first, second = process.queue.oldest_open(5)
    assert first == {
        "id": "b", "userId": "user", "userKeyId": "key", "createdAt": NOW, "apiFormat": "openai",
        "endpoint": "chat", "stream": True, "model": "m", "requestedModel": None,
    }  # fmt: skip
    assert second["id"] == "c"
    assert [found["id"] for found in process.queue.oldest_open(1)] == ["b"]


def test_beyond_its_memory_the_queue_reads_from_disk_and_comes_back_to_memory(
    disk: ModelDisk, clock: ModelClock
) -> None:
    process = Process(disk, clock, memory=2)
    put(process, *"abcdef")
    assert len(process.queue) == 6
    assert "disk=4" in repr(process.queue)
    assert ids(process.take(3)) == ["a", "b", "c"]
    put(process, "g")
    assert ids(process.take(10)) == ["d", "e", "f", "g"]
    put(process, "h")
    assert "disk=0" in repr(process.queue)
    assert ids(process.take(10)) == ["h"]


def test_old_records_read_from_disk_wait_for_no_sync_of_newer_ones(
    disk: ModelDisk, clock: ModelClock
) -> None:
    """Under full load there is always something newer: a backlog would be read one sync at a time."""
    process = Process(disk, clock, memory=2)
    log = process.journal.log
    put(process, *"abcdef")
    assert log.sync()
    syncs = log.counts.syncs
    put(process, "g")
    assert ids(process.take(3)) == ["a", "b", "c"]
    assert ids(process.take(2)) == ["d", "e"]
    assert (log.counts.syncs, log.is_dirty) == (syncs, True)
    assert ids(process.take(3)) == ["f", "g"]
    assert not log.is_dirty


def test_what_was_not_acknowledged_is_taken_again_by_the_next_process(
    disk: ModelDisk, clock: ModelClock
) -> None:
    first = Process(disk, clock)
    put(first, "a", "b", "c")
    records = first.take(2)
    first.queue.acked(records[0].seq)
    second = Process(disk, clock)
    again = second.take(10)
    assert ids(again) == ["b", "c"]
    assert again[0].seq == records[1].seq
    put(second, "d")
    assert second.take(1)[0].seq > again[-1].seq


def test_an_interrupted_request_gets_its_record(disk: ModelDisk, clock: ModelClock) -> None:
    first = Process(disk, clock)
    assert first.queue.open(opened("r1"))
    put(first, "other")
    second = Process(disk, clock)
    other, interrupted = second.take(10)
    assert other.document["_id"] == "other"
    document = interrupted.document
    assert (document["_id"], document["outcome"], document["isSuccess"]) == ("r1", "interrupted", False)
    assert (document["statusCode"], document["errorType"]) == (500, "interrupted")
    assert (document["tokensUsed"], document["costNanoUsd"], document["usageSource"]) == (0, 0, "none")
    assert (document["userId"], document["userKeyId"], document["model"]) == ("user", "key", "m")
    assert (document["stream"], document["endpoint"], document["createdAt"]) == (True, "chat", NOW)
    second.queue.acked(interrupted.seq)
    assert Process(disk, clock).take(10) == []


def test_an_interrupted_request_is_attributed_as_it_was_opened(disk: ModelDisk, clock: ModelClock) -> None:
    request = opened("r1")
    request.attribution = Attribution("bob", "s1", "curl/8.5.0", ("a", "b"))
    Process(disk, clock).queue.open(request)
    [interrupted] = Process(disk, clock).take(10)
    assert Attribution.from_document(interrupted.document) == request.attribution


def test_a_request_opened_twice_is_one_request(disk: ModelDisk, clock: ModelClock) -> None:
    first = Process(disk, clock)
    assert first.queue.open(opened("r1"))
    better = opened("r1")
    better.model = "other"
    assert first.queue.open(better)
    records = Process(disk, clock).take(10)
    assert [(record.document["_id"], record.document["model"]) for record in records] == [("r1", "other")]


def test_a_full_disk_keeps_records_in_memory_until_it_can_be_written(
    disk: ModelDisk, clock: ModelClock
) -> None:
    process = Process(disk, clock)
    put(process, "a")
    disk.room = 10
    assert put(process, "b", "c") == [True, True]
    status = process.queue.status()
    assert status is not None
    assert (status.memory_only, status.is_full, process.queue.accepts()) == (2, True, False)
    disk.room = None
    process.queue.tend()
    status = process.queue.status()
    assert status is not None
    assert (status.memory_only, status.is_full, process.queue.accepts()) == (0, False, True)
    assert ids(Process(disk, clock).take(10)) == ["a", "b", "c"]


def test_a_failed_write_leaves_no_half_frame(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    put(process, "a")
    size = disk.size(segment_paths(disk)[0])
    disk.room = 10
    put(process, "b")
    assert disk.size(segment_paths(disk)[0]) == size


def test_a_half_frame_that_cannot_be_taken_back_is_survived(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    put(process, "a")
    disk.room, disk.fails_to_truncate = 10, True
    put(process, "b")
    disk.room = None
    process.queue.tend()
    put(process, "c")
    second = Process(disk, clock)
    assert ids(second.take(10)) == ["a", "b", "c"]
    assert second.journal.counts.torn == 1


def test_records_are_lost_only_when_disk_and_memory_are_full_and_counted(
    disk: ModelDisk, clock: ModelClock, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(disk, clock, memory=3)
    put(process, "a", "b")
    disk.room = 0
    # Records that are on disk too make room in memory for those that are not.
    assert put(process, *"cdefg") == [True, True, True, False, False]
    assert process.queue.lost == 2
    assert sum("is lost" in message for message in caplog.messages) == 1
    taken = process.take(10)
    assert ids(taken) == ["a", "b", "c", "d", "e"]
    assert [record.seq for record in taken] == sorted({record.seq for record in taken})


def test_a_lost_record_leaves_nothing_behind(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock, memory=1)
    disk.room = 0
    for name in "ab":
        process.queue.open(opened(name))
    assert put(process, *"ab") == [True, False]
    disk.room = None
    process.queue.tend()
    status = process.queue.status()
    assert status is not None
    assert (status.lost, status.open_requests) == (1, 0)
    assert ids(Process(disk, clock).take(10)) == ["a"]


def test_requests_under_way_when_the_disk_fills_up_are_kept_beyond_what_memory_holds(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks
) -> None:
    process = Process(disk, clock, memory=1)
    for name in "abc":
        process.queue.open(opened(name))
    disk.room = 0
    assert put(process, *"abcd") == [True, True, True, False]
    assert process.queue.lost == 1
    process.drain(books)
    assert sorted(books.outcomes) == ["a", "b", "c"]
    disk.room = None
    process.queue.tend()
    assert Process(disk, clock).take(10) == []


def test_what_is_given_up_is_lost_unless_its_request_is_open_on_disk(
    disk: ModelDisk, clock: ModelClock
) -> None:
    process = Process(disk, clock)
    process.queue.open(opened("a"))
    disk.room = 0
    put(process, "a", "b")
    assert process.queue.abandon() == 1
    disk.room = None
    (found,) = Process(disk, clock).take(10)
    assert (found.document["_id"], found.document["outcome"]) == ("a", "interrupted")


def test_at_the_limit_records_go_to_memory_and_acknowledging_makes_room(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks
) -> None:
    process = Process(disk, clock, memory=50, policy=JournalPolicy(max_bytes=3000, segment_bytes=500))
    names = [f"r{number}" for number in range(60)]
    assert all(put(process, *names))
    status = process.queue.status()
    assert status is not None
    assert status.memory_only > 0
    assert status.bytes <= 3000
    assert not process.queue.accepts()
    process.drain(books)
    process.queue.tend()
    assert process.queue.accepts()
    assert set(books.outcomes) == set(names)


@pytest.mark.parametrize("sync", ["group", "off"])
def test_a_limit_smaller_than_a_segment_is_left_again_once_all_is_settled(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks, sync: SyncMode
) -> None:
    process = Process(disk, clock, memory=50, policy=JournalPolicy(sync, max_bytes=3000, segment_bytes=10**6))
    process.queue.open(opened("long"))
    names = [f"r{number}" for number in range(60)]
    assert all(put(process, *names))
    assert not process.queue.accepts()
    process.queue.tend()
    assert not process.queue.accepts()  # nothing is booked yet, so nothing is removed
    process.drain(books)
    process.queue.tend()
    assert process.queue.accepts()
    put(process, "after")
    second = Process(disk, clock)
    second.drain(books)
    assert set(books.outcomes) == {*names, "after", "long"}
    assert books.outcomes["long"] == "interrupted"


@pytest.mark.parametrize("is_foreseen", [False, True], ids=["opened", "checkpointed"])
def test_a_record_settled_without_the_journal_is_not_taken_for_interrupted(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks, is_foreseen: bool
) -> None:
    process = Process(disk, clock)
    process.queue.open(opened("r1"))
    disk.room = 0
    checkpointed = ExchangeRecord(*("r1", "user", "key", NOW, "openai", Outcome.INTERRUPTED, 200))
    assert not (is_foreseen and process.queue.checkpoint(checkpointed))
    put(process, "r1")
    process.drain(books)
    disk.room = None
    process.queue.tend()
    Process(disk, clock).drain(books)
    assert books.charged == {"r1": 1}
    assert books.outcomes == {"r1": "ok"}


def test_segments_go_once_all_they_hold_is_settled(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks
) -> None:
    process = Process(disk, clock)
    process.queue.open(opened("long"))
    for number in range(100):
        put(process, f"r{number}")
        process.book(books, 10)
        process.queue.tend()
    assert len(segment_paths(disk)) <= 2
    assert ids(Process(disk, clock).take(10)) == ["long"]


def test_a_released_journal_with_nothing_left_leaves_no_segments(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks
) -> None:
    process = Process(disk, clock)
    put(process, "a")
    process.drain(books)
    process.queue.release()
    process.queue.release()
    assert segment_paths(disk) == []
    assert not disk.open_files
    assert put(process, "late") == [False]
    later = Process(disk, clock)
    put(later, "b")
    assert later.take(1)[0].seq > max(books.markers.values())


def test_abandoned_records_that_are_journaled_are_not_lost(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    put(process, "a", "b")
    process.take(1)
    disk.room = 0
    put(process, "c")
    assert process.queue.abandon() == 1
    process.queue.release()
    disk.room = None
    assert ids(Process(disk, clock).take(10)) == ["a", "b"]


def test_records_put_after_close_are_still_kept(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    process.queue.close()
    assert put(process, "a") == [True]
    assert ids(process.queue.take(5, None)) == ["a"]


def test_a_record_no_bson_can_hold_is_kept_with_its_odd_field_as_text(
    disk: ModelDisk, clock: ModelClock
) -> None:
    record = ExchangeRecord(
        "r1", "u", "k", NOW, "openai", Outcome.OK, 200, upstream_model="\ud800", usage_raw={"n": 2**70}
    )
    process = Process(disk, clock)
    assert process.queue.put(record)
    document = Process(disk, clock).take(1)[0].document
    assert document["usageRaw"] == "{'n': 1180591620717411303424}"
    assert (document["_id"], document["upstreamModel"]) == ("r1", "?")


def test_a_record_too_long_for_a_frame_is_kept_shortened(disk: ModelDisk, clock: ModelClock) -> None:
    record = ExchangeRecord("r1", "u", "k", NOW, "openai", Outcome.OK, 200, usage_raw={"n": "x" * 2_000_000})
    process = Process(disk, clock)
    assert process.queue.put(record)
    assert len(Process(disk, clock).take(1)[0].document["usageRaw"]) == 500


def test_what_was_foreseen_is_the_record_if_the_process_dies(disk: ModelDisk, clock: ModelClock) -> None:
    first = Process(disk, clock)
    assert first.queue.open(opened("r1"))
    checkpointed = ExchangeRecord(
        *("r1", "user", "key", NOW, "openai", Outcome.INTERRUPTED, 200),
        factory_key_id="env-1",
        input_tokens=9,
        cost_nano_usd=2**40,
    )
    assert first.queue.checkpoint(checkpointed)
    (record,) = Process(disk, clock).take(10)
    assert record.document == checkpointed.to_document()


@pytest.mark.parametrize(
    "usage_raw", [{"n": 3}, {"n": 2**70}, {"n": "x" * 2_000_000}], ids=["fit", "odd", "long"]
)
def test_a_foreseen_record_is_kept_as_it_ends(
    disk: ModelDisk, clock: ModelClock, usage_raw: dict[str, Any]
) -> None:
    values: tuple[Any, ...] = ("r1", "user", "key", NOW, "openai", Outcome.INTERRUPTED, 200)
    record = ExchangeRecord(*values, usage_raw=usage_raw, cost_nano_usd=7, error_type="interrupted")
    at_once = ExchangeRecord(*values, usage_raw=usage_raw, cost_nano_usd=7)
    first, other = Process(disk, clock), Process(ModelDisk(), clock)
    assert first.queue.checkpoint(record)
    for ended in (record, at_once):
        ended.end(
            Outcome.CLIENT_ABORT,
            499,
            error_type="\ud800",
            usage_source=UsageSource.ESTIMATE,
            latency_ms=2**33,
            bytes_out=2**40,
        )
    assert first.queue.put(record)
    assert other.queue.put(at_once)
    (taken,), (expected,) = first.take(10), other.take(10)
    assert taken.document == expected.document
    assert taken.document["outcome"] == "client_abort"
    assert bson.decode(taken.encoded, _WITH_ZONE) == taken.document
    assert Process(disk, clock).take(10)[0].document == taken.document


def test_what_was_foreseen_counts_for_nothing_once_the_request_has_ended(
    disk: ModelDisk, clock: ModelClock
) -> None:
    first = Process(disk, clock)
    assert first.queue.open(opened("r1"))
    assert first.queue.checkpoint(ExchangeRecord(*("r1", "u", "k", NOW, "openai", Outcome.INTERRUPTED, 200)))
    assert first.queue.put(ExchangeRecord(*("r1", "u", "k", NOW, "openai", Outcome.OK, 200)))
    assert [record.document["outcome"] for record in Process(disk, clock).take(10)] == ["ok"]


def test_a_record_is_the_same_from_memory_and_from_disk(disk: ModelDisk, clock: ModelClock) -> None:
    record = ExchangeRecord(
        *("r1", "u", "k", NOW, "anthropic", Outcome.OK, 200),
        cost_nano_usd=2**40,
        attempts=(AttemptRecord("env-1", 200, 12),),
        usage_raw={"input_tokens": 3, "list": [1, None, 2.5]},
    )
    process = Process(disk, clock)
    process.queue.put(record)
    from_memory = process.take(1)[0]
    from_disk = Process(disk, clock).take(1)[0]
    assert from_memory.document == from_disk.document
    assert from_memory.seq == from_disk.seq


def test_a_record_without_a_document_is_counted(disk: ModelDisk, clock: ModelClock) -> None:
    class Broken:
        request_id = "r1"
        kept = None
        attempts = ("an attempt",)
        count = 1

        def facts(self) -> dict[str, Any]:
            raise RuntimeError("a bug")

    process = Process(disk, clock)
    assert not process.queue.put(Broken())  # type: ignore[arg-type]
    assert process.queue.lost == 1


def test_without_a_journal_records_wait_in_memory_and_move_into_it(
    disk: ModelDisk, clock: ModelClock
) -> None:
    queue = JournaledQueue(3, clock=clock)
    assert [queue.put(Note(name)) for name in "abcd"] == [True, True, True, False]  # type: ignore[arg-type]
    assert (queue.accepts(), queue.open(opened("x")), queue.take(5, 0), queue.status()) == (
        False,
        False,
        [],
        None,
    )
    queue.attach(Process(disk, clock).journal)
    queue.tend()
    assert ids(queue.take(5, 0)) == ["a", "b", "c"]
    assert queue.memory_only == 0


def test_a_disk_that_cannot_sync_stops_nothing(disk: ModelDisk, clock: ModelClock, books: ModelBooks) -> None:
    process = Process(disk, clock)
    put(process, "a")
    disk.fails_to_sync = True
    process.queue.tend()
    assert process.journal.counts.last_error is not None
    process.drain(books)
    put(process, "b")
    disk.fails_to_sync = False
    process.drain(books)
    assert books.charged == {"a": 1, "b": 1}


def test_damage_in_the_middle_is_set_aside_and_counted_once(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    put(process, *"abc")
    path = segment_paths(disk)[0]
    start = process.queue._memory[1].place.offset
    disk.names[path].data[start + 20] ^= 1
    second = Process(disk, clock)
    assert ids(second.take(10)) == ["a", "c"]
    third = Process(disk, clock)
    assert (second.journal.counts.damaged, third.journal.counts.damaged) == (1, 1)
    kept = [disk.names[name] for name in disk.names if name.endswith(".corrupt")]
    assert len(kept) == 1
    assert b"b" in kept[0].data


def test_damage_after_counting_is_told_as_loss(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock, memory=1)
    put(process, *"abc")
    disk.names[segment_paths(disk)[0]].data[-5] ^= 1
    assert ids(process.take(10)) == ["a", "b"]
    assert (process.queue.lost, process.journal.counts.damaged) == (1, 1)
    put(process, "d")
    assert ids(process.take(10)) == ["d"]


def test_a_removed_directory_stops_nothing(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock, memory=1)
    put(process, *"abc")
    for path in segment_paths(disk):
        del disk.names[path]
    clock.now += 10
    process.queue.tend()
    put(process, "d")
    assert ids(process.take(10)) == ["a", "d"]
    assert process.queue.lost == 2


def test_ages_and_sizes_are_shown(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    assert process.queue.oldest_queued_at() is None
    put(process, "a", "b")
    clock.now += 60
    process.take(1)
    status = process.queue.status()
    assert status is not None
    assert 60 <= status.oldest_unbooked_s < 61
    assert (status.slot, status.unbooked, status.segments) == ("0000", 2, 1)
    assert status.bytes == sum(disk.size(path) for path in segment_paths(disk))


def test_a_journal_that_cannot_be_read_now_is_read_later_in_order(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock, memory=2)
    put(process, "a", "b", "c", "d")
    disk.room = 0
    put(process, "e")
    disk.read_error = errno.EMFILE
    assert ids(process.take(10)) == ["a"]
    with pytest.raises(OSError, match="cannot read"):
        process.take(10)
    disk.read_error = None
    assert ids(process.take(10)) == ["b", "c", "d", "e"]


def test_a_bad_spot_on_the_disk_costs_only_what_it_holds(disk: ModelDisk, clock: ModelClock) -> None:
    policy = JournalPolicy(segment_bytes=100_000)
    process = Process(disk, clock, policy=policy)
    names = [f"r{number}" for number in range(400)]
    put(process, *names)
    disk.bad_spots = {10_000}
    second = Process(disk, clock, memory=1000, policy=policy)
    taken = ids(second.take(1000))
    missing = set(names) - set(taken)
    assert taken == [name for name in names if name not in missing]
    assert 0 < len(missing) < 80
    assert second.journal.counts.damaged == 1


def test_an_open_that_cannot_be_read_is_counted_as_damage_and_forgotten(
    disk: ModelDisk, clock: ModelClock
) -> None:
    process = Process(disk, clock)
    payload = encode_entry(0, 1, b"r1", b"no document")
    process.journal.log.append(FrameKind.OPEN, payload)
    second = Process(disk, clock)
    assert (second.take(5), second.journal.counts.damaged) == ([], 1)
    assert Process(disk, clock).journal.counts.damaged == 0


def test_frames_that_say_nothing_are_set_aside(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    process.journal.log.append(FrameKind.ACK, b"short")
    process.journal.log.append(99, b"from a later version")
    process.journal.append_close("r1", b"no document")
    put(process, "a")
    second = Process(disk, clock)
    assert ids(second.take(5)) == ["a"]
    assert second.journal.counts.damaged == 2


def test_files_that_are_no_segments_are_left_alone(disk: ModelDisk, clock: ModelClock) -> None:
    disk.overwrite("/data/journal/0000/junk.seg", 0, b"junk")
    process = Process(disk, clock)
    put(process, "a")
    assert ids(Process(disk, clock).take(5)) == ["a"]


def test_numbers_that_cannot_be_reserved_stop_nothing(disk: ModelDisk, clock: ModelClock) -> None:
    first = Process(disk, clock)
    put(first, "a")
    disk.overwrite_error = errno.EROFS
    second = Process(disk, clock)
    assert second.slot.is_running_low
    put(second, "b")
    second.queue.tend()
    assert second.journal.counts.last_error is not None
    disk.overwrite_error = None
    second.queue.tend()
    assert not second.slot.is_running_low
    assert ids(second.take(5)) == ["a", "b"]


def test_a_torn_tail_that_cannot_be_cut_is_passed_over(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    put(process, "a")
    disk.names[segment_paths(disk)[0]].data += b"\xf5\xfe\x03"
    disk.cut_error = errno.EROFS
    second = Process(disk, clock)
    put(second, "b")
    assert ids(second.take(5)) == ["a", "b"]
    assert second.journal.counts.torn == 1


def test_many_requests_open_for_long_move_to_the_current_segment(
    disk: ModelDisk, clock: ModelClock, books: ModelBooks
) -> None:
    process = Process(disk, clock, memory=1000, policy=JournalPolicy(segment_bytes=20_000))
    names = [f"long{number}" for number in range(60)]
    for name in names:
        process.queue.open(opened(name))
    put(process, *(f"r{number}" for number in range(1000)))
    process.drain(books)
    process.queue.tend()
    assert len(segment_paths(disk)) == 1
    assert set(ids(Process(disk, clock, memory=1000).take(100))) == set(names)


def test_opens_that_could_not_be_written_are_written_later(disk: ModelDisk, clock: ModelClock) -> None:
    process = Process(disk, clock)
    disk.room = 0
    assert not process.queue.open(opened("r1"))
    disk.room = None
    process.queue.tend()
    assert ids(Process(disk, clock).take(5)) == ["r1"]


def test_waiting_ends_with_the_round_or_with_the_patience() -> None:
    commits: list[int] = []
    release = Event()

    def commit() -> None:
        commits.append(1)
        release.wait()

    group = GroupCommit(lambda: 10, commit)
    leader = gevent.spawn(group.wait, 10)
    gevent.sleep(0)
    assert not group.wait(10, timeout_s=0.001)
    release.set()
    assert leader.get(timeout=60)
    assert group.wait(10)
    assert len(commits) == 1


def test_a_killed_leader_leaves_the_others_able_to_go_on() -> None:
    release = Event()
    group = GroupCommit(lambda: 10, release.wait)  # type: ignore[arg-type]
    leader = gevent.spawn(group.wait, 10)
    follower = gevent.spawn(group.wait, 10)
    gevent.sleep(0)
    leader.kill()
    release.set()
    assert follower.get(timeout=60)


class QueueMachine(RuleBasedStateMachine):
    """Puts, takes, acknowledgements, restarts and a failing disk, against two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.disk, self.clock, self.books = ModelDisk(), ModelClock(), ModelBooks()
        self.policy = JournalPolicy(segment_bytes=400, max_bytes=4000)
        self.count = 0
        self.put_ids: list[str] = []
        self.lost = 0
        self.may_double = 0
        self.start()

    def start(self) -> None:
        self.process = Process(self.disk, self.clock, memory=3, policy=self.policy)
        self.in_hand: list[Any] = []

    @rule(count=st.integers(1, 6), is_open=st.booleans())
    def put(self, count: int, is_open: bool) -> None:
        for _ in range(count):
            self.count += 1
            request_id = f"r{self.count}"
            if is_open:
                self.process.queue.open(opened(request_id))
            if self.process.queue.put(Note(request_id)):  # type: ignore[arg-type]
                self.put_ids.append(request_id)
            elif is_open:
                self.put_ids.append(request_id)  # what remains is its OPEN, if that could be written
                self.lost += 1
            else:
                self.lost += 1

    @rule(count=st.integers(1, 8))
    def take(self, count: int) -> None:
        self.in_hand += self.process.take(count)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def book(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.in_hand)))
        batch, self.in_hand = self.in_hand[:count], self.in_hand[count:]
        self.books.for_writer(self.process.slot.writer_id).apply(batch)
        self.process.queue.acked(batch[-1].seq)

    @rule()
    def tend(self) -> None:
        self.process.queue.tend()

    @rule(room=st.sampled_from([0, 5, 200, None]))
    def change_room(self, room: int | None) -> None:
        self.disk.room = room

    @precondition(
        lambda self: self.process.queue.memory_only == 0 and self.disk.room is None and not self.lost
    )
    @rule()
    def restart(self) -> None:
        self.process.queue.tend()
        self.disk.kill_process()
        self.start()

    @invariant()
    def counts_agree(self) -> None:
        queue = self.process.queue
        assert queue.lost == self.lost
        missing = len(self.put_ids) - len(self.books.outcomes)
        assert len(queue) + len(self.in_hand) <= missing
        assert set(self.books.charged.values()) <= {1}

    def teardown(self) -> None:
        self.disk.room = None
        if self.in_hand:
            self.books.for_writer(self.process.slot.writer_id).apply(self.in_hand)
            self.process.queue.acked(self.in_hand[-1].seq)
        self.process.queue.tend()
        self.process.drain(self.books)
        assert set(self.books.outcomes) <= set(self.put_ids)
        assert len(self.books.outcomes) >= len(self.put_ids) - self.lost
        assert all(outcome == "ok" for outcome in self.books.outcomes.values())
        assert set(self.books.charged.values()) <= {1}


QueueMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestQueueMachine = QueueMachine.TestCase
