"""Refusals in the queue: summed, held open in the journal, and never in the way of other requests."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.journal.journal_format import OpenRequest
from app.journal.journaled_queue import REFUSALS_PER_MINUTE, JournaledQueue
from app.journal.segment_log import JournalPolicy
from app.records.records import AttemptRecord, ExchangeRecord, Outcome
from tests.support.journal_model import ModelClock, ModelDisk, Process

MAX_BYTES = 256 * 1024
POLICY = JournalPolicy(max_bytes=MAX_BYTES, segment_bytes=MAX_BYTES // 8)


def at(clock: ModelClock) -> datetime:
    return datetime.fromtimestamp(clock.now, UTC)


def refusal(clock: ModelClock, name: str, key: str = "wk_mallory") -> ExchangeRecord:
    return ExchangeRecord(
        name, "mallory", key, at(clock), "openai", Outcome.REJECTED, 429, endpoint="chat", error_type="e"
    )


def paid(clock: ModelClock, name: str) -> ExchangeRecord:
    return ExchangeRecord(
        name,
        "alice",
        "wk_alice",
        at(clock),
        "openai",
        Outcome.OK,
        200,
        endpoint="chat",
        cost_nano_usd=5,
        attempts=(AttemptRecord("env-1", 200, 5),),
    )


def listing(clock: ModelClock, name: str) -> ExchangeRecord:
    return ExchangeRecord(
        name, "mallory", "wk_mallory", at(clock), "openai", Outcome.OK, 200, endpoint="models"
    )


def requests(documents: list[dict[str, Any]]) -> int:
    return sum(document.get("count", 1) for document in documents)


def taken(process: Process) -> list[dict[str, Any]]:
    """Everything that is there, as the writer takes it and settles it."""
    records = []
    while batch := process.take(50):
        records += [record.document for record in batch]
        process.queue.acked(batch[-1].seq)
    return records


def pass_minute(process: Process, clock: ModelClock) -> None:
    clock.now += 60
    process.queue.tend()


def flood(process: Process, clock: ModelClock, count: int) -> None:
    for number in range(count):
        process.queue.put(refusal(clock, f"r{clock.now}-{number}"))


def test_a_flood_leaves_a_few_records_and_one_that_stands_for_the_others() -> None:
    clock = ModelClock()
    process = Process(ModelDisk(), clock)
    flood(process, clock, 1000)
    status = process.queue.status()
    assert status is not None
    assert (len(process.queue), status.unbooked) == (REFUSALS_PER_MINUTE, REFUSALS_PER_MINUTE + 1)
    pass_minute(process, clock)
    documents = taken(process)
    assert len(documents) == REFUSALS_PER_MINUTE + 1
    assert documents[-1]["count"] == 1000 - REFUSALS_PER_MINUTE
    assert (documents[-1]["outcome"], documents[-1]["statusCode"]) == ("rejected", 429)


def test_a_refusal_for_which_credit_is_held_is_booked_by_itself() -> None:
    clock = ModelClock()
    process = Process(ModelDisk(), clock)
    flood(process, clock, REFUSALS_PER_MINUTE)
    held = refusal(clock, "held")
    held.hold_nano_usd = 7
    process.queue.put(held)
    assert taken(process)[-1]["_id"] == "held"


def test_an_end_of_the_worker_keeps_what_was_summed() -> None:
    clock = ModelClock()
    process = Process(ModelDisk(), clock)
    flood(process, clock, 500)
    process.queue.close()
    assert requests(taken(process)) == 500


def test_a_killed_worker_leaves_what_was_noted_a_second_ago() -> None:
    clock, disk = ModelClock(), ModelDisk()
    first = Process(disk, clock)
    flood(first, clock, 500)
    clock.now += 1
    first.queue.tend()
    flood(first, clock, 7)  # not noted yet
    second = Process(disk, clock)
    assert requests(taken(second)) == 500
    assert second.journal.counts.interrupted == 0
    third = Process(disk, clock)
    assert taken(third) == []


def test_a_flood_leaves_the_journal_to_requests_while_the_store_is_away() -> None:
    """Days of refusals, model lists among them, and the journal is not even three quarters full."""
    clock = ModelClock()
    process = Process(ModelDisk(), clock, memory=10, policy=POLICY)
    sent = 0
    for _ in range(400):
        for number in range(80):
            process.queue.put(refusal(clock, f"r{clock.now}-{number}"))
            process.queue.put(listing(clock, f"l{clock.now}-{number}"))
            sent += 2
        pass_minute(process, clock)
    assert process.journal.log.is_for_requests_only
    assert not process.journal.log.is_full
    assert process.queue.accepts()
    assert process.journal.log.total_bytes < 0.77 * MAX_BYTES
    paid_for = 0
    while process.journal.log.total_bytes < 0.99 * MAX_BYTES:
        request = paid(clock, f"p{paid_for}")
        assert process.queue.put(request)
        paid_for += 1
    assert process.queue.memory_only == 0
    assert paid_for > 40
    documents = taken(process)
    process.queue.tend()
    pass_minute(process, clock)  # there is room again for what had to wait
    documents += taken(process)
    assert process.queue.lost == 0
    assert sum(document["userId"] == "alice" for document in documents) == paid_for
    assert requests([document for document in documents if document["userId"] == "mallory"]) == sent
    assert len(process.queue._sums) == 0


def test_a_flood_takes_no_place_in_memory_of_those_the_journal_refuses() -> None:
    clock, disk = ModelClock(), ModelDisk()
    process = Process(disk, clock, memory=20)
    disk.room = 0
    process.queue.put(paid(clock, "first"))
    assert process.journal.log.is_failing
    for _ in range(5):
        flood(process, clock, 50)
        pass_minute(process, clock)
    assert [process.queue.put(paid(clock, f"p{number}")) for number in range(10)] == [True] * 10
    assert process.queue.lost == 0
    documents = taken(process)
    pass_minute(process, clock)
    assert requests(documents + taken(process)) == 250 + 11


def test_what_is_summed_is_lost_only_with_the_process_and_counted_as_what_it_stands_for() -> None:
    clock, disk = ModelClock(), ModelDisk()
    process = Process(disk, clock, memory=4)
    disk.room = 0
    flood(process, clock, 300)
    process.queue.close()
    process.queue.abandon()
    assert process.queue.lost == 300


def test_before_there_is_a_journal_refusals_are_counted_too() -> None:
    clock = ModelClock()
    queue = JournaledQueue(10, clock=clock, wall_clock=clock)
    for number in range(200):
        assert queue.put(refusal(clock, f"r{number}"))
    assert len(queue) == 5
    process = Process(ModelDisk(), clock)
    queue.attach(process.journal)
    queue.close()
    assert requests([record.document for record in queue.take(50, 0)]) == 200


def test_a_request_that_was_opened_keeps_its_record() -> None:
    clock = ModelClock()
    process = Process(ModelDisk(), clock, policy=POLICY)
    process.queue.open(OpenRequest("o1", "mallory", "wk_mallory", at(clock), "openai", "chat"))
    flood(process, clock, 200)
    opened = refusal(clock, "o1")
    opened.outcome = Outcome.UPSTREAM_ERROR
    process.queue.put(opened)
    assert taken(process)[-1]["_id"] == "o1"
    assert process.journal.open_requests == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["flood", "paid", "wait", "minute", "take", "kill", "full", "room"]),
            st.integers(1, 120),
        ),
        max_size=30,
    )
)
def test_whatever_happens_paid_requests_are_booked_once_and_refusals_counted_to_a_second(
    steps: list[tuple[str, int]],
) -> None:
    clock, disk = ModelClock(), ModelDisk()
    process = Process(disk, clock, memory=200)
    documents: list[dict[str, Any]] = []
    sent = paid_for = unnoted = lost = 0
    for number, (step, amount) in enumerate(steps):
        match step:
            case "flood":
                for count in range(amount):
                    process.queue.put(refusal(clock, f"r{number}-{count}"))
                sent += amount
                unnoted += amount
            case "paid":
                process.queue.put(paid(clock, f"p{number}"))
                paid_for += 1
            case "wait" | "minute":
                clock.now += 1 if step == "wait" else 60
                process.queue.tend()
                if not process.journal.log.is_failing:
                    unnoted = 0
            case "take":
                documents += taken(process)
            case "kill" if not process.journal.log.is_failing:
                if process.queue.memory_only == 0:
                    process = Process(disk, clock, memory=200)
                    lost += unnoted
                    unnoted = 0
            case "full":
                disk.room = 0
            case "room":
                disk.room = None
                process.queue.tend()
    disk.room = None
    pass_minute(process, clock)
    pass_minute(process, clock)
    documents += taken(process)
    assert process.queue.lost == 0
    names = Counter(document["_id"] for document in documents)
    assert max(names.values(), default=1) == 1
    assert sum(document["userId"] == "alice" for document in documents) == paid_for
    counted = requests([document for document in documents if document["userId"] == "mallory"])
    assert sent - lost <= counted <= sent
