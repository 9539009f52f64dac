import logging
from datetime import UTC, datetime

import gevent

from app.records.records import ExchangeRecord, Outcome
from tests.support.plain_queue import LogQueue


def record(name="r1", **changes):
    return ExchangeRecord(
        name, "ann", "wk_1", datetime(2026, 11, 23, tzinfo=UTC), "openai", Outcome.OK, 200, **changes
    )


def test_records_come_out_numbered_and_as_documents():
    queue = LogQueue(10, first_seq=7, clock=lambda: 3.5)
    assert queue.put(record("a"))
    assert queue.put(record("b"))
    assert (len(queue), queue.oldest_queued_at()) == (2, 3.5)

    first, second = queue.take(10, 0)
    assert (first.seq, first.document["_id"], first.queued_at) == (7, "a", 3.5)
    assert (second.seq, second.document["_id"]) == (8, "b")
    assert queue.oldest_queued_at() is None


def test_take_takes_no_more_than_asked_for():
    queue = LogQueue(10)
    for name in "abc":
        queue.put(record(name))
    assert [item.document["_id"] for item in queue.take(2, 0)] == ["a", "b"]
    assert [item.document["_id"] for item in queue.take(2, 0)] == ["c"]
    assert queue.take(2, 0) == []


def test_what_does_not_fit_is_counted_and_logged_once_per_burst(caplog):
    queue = LogQueue(1)
    with caplog.at_level(logging.ERROR):
        assert queue.put(record("a"))
        assert [queue.put(record(name)) for name in "bcd"] == [False] * 3
        assert queue.lost == 3
        queue.take(1, 0)
        assert queue.put(record("e"))
        assert not queue.put(record("f"))
    assert queue.lost == 4
    assert [message.split(":")[0] for message in caplog.messages] == ["log queue is full (1)"] * 2
    assert "record b is lost" in caplog.messages[0]
    assert repr(queue) == "LogQueue(1/1, lost=4, closed=False)"


def test_lost_records_leave_no_gap_in_the_numbers():
    queue = LogQueue(1)
    queue.put(record("a"))
    queue.put(record("lost"))
    queue.take(1, 0)
    queue.put(record("b"))
    assert [item.seq for item in queue.take(1, 0)] == [2]


def test_a_closed_queue_gives_what_it_has_and_takes_nothing():
    queue = LogQueue(5)
    queue.put(record("a"))
    queue.close()
    assert not queue.put(record("b"))
    assert queue.lost == 1
    assert len(queue.take(5, None, at_least=5)) == 1
    assert queue.take(5, None) == []


def test_a_record_without_a_document_does_not_take_the_others_with_it(caplog):
    queue = LogQueue(5)
    queue.put(record("bad", attempts=(None,)))
    queue.put(record("good"))
    assert [item.document["_id"] for item in queue.take(5, 0)] == ["good"]
    assert queue.lost == 1
    assert "record bad has no document" in caplog.text


def test_a_waiting_consumer_is_woken_by_the_record_it_waits_for():
    queue = LogQueue(5)
    taken = gevent.spawn(queue.take, 5, 60, 2)
    gevent.sleep(0)
    queue.put(record("a"))
    gevent.sleep(0)
    assert not taken.ready()
    queue.put(record("b"))
    assert len(taken.get(timeout=60)) == 2


def test_a_waiting_consumer_is_woken_by_closing():
    queue = LogQueue(5)
    taken = gevent.spawn(queue.take, 5, 60)
    gevent.sleep(0)
    queue.close()
    assert taken.get(timeout=60) == []


def test_a_consumer_gets_what_there_is_when_its_time_is_over():
    queue = LogQueue(5)
    queue.put(record("a"))
    assert len(queue.take(5, 0.001, at_least=3)) == 1
