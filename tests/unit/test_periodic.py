"""Background work: when it is done, what ends it, and what the log says while it fails."""

import logging
from collections.abc import Callable

import pytest
from gevent.event import Event
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from app.common.errors import StoreUnavailable
from app.periodic import FailureLog, every, until_done

LOG = logging.getLogger("weir.test")


class Stopping:
    """Remembers how long was waited, and is set after so many times."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.waits: list[float] = []

    def is_set(self) -> bool:
        return len(self.waits) > self.rounds

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        return self.is_set()


@pytest.fixture
def failures(caplog: pytest.LogCaptureFixture) -> FailureLog:
    caplog.set_level(logging.INFO)
    return FailureLog(LOG, "it fails", "it works again")


def scripted(*results: Exception | bool | None) -> Callable[[], object]:
    """Work that raises or returns what it is told, one after the other."""
    left = list(results)

    def work() -> object:
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return work


def test_work_is_done_after_each_interval_until_the_stop(failures: FailureLog) -> None:
    stopping, done = Stopping(3), []
    every(stopping, 2.0, lambda: done.append(len(stopping.waits)), failures)
    assert done == [1, 2, 3]
    assert stopping.waits == [2.0] * 4


def test_work_can_begin_at_once(failures: FailureLog) -> None:
    stopping, done = Stopping(1), []
    every(stopping, 2.0, lambda: done.append(len(stopping.waits)), failures, is_at_once=True)
    assert done == [0, 1]


def test_nothing_is_done_after_a_stop_during_the_first_interval(failures: FailureLog) -> None:
    done: list[int] = []
    every(Stopping(0), 2.0, lambda: done.append(1), failures)
    assert done == []


def test_each_interval_can_be_another_one(failures: FailureLog) -> None:
    stopping, pauses = Stopping(2), [1.0, 5.0, 3.0]
    every(stopping, lambda: pauses.pop(0), lambda: None, failures)
    assert stopping.waits == [1.0, 5.0, 3.0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ServerSelectionTimeoutError("no server\nand its topology"), "it fails: no server"),
        (StoreUnavailable("away"), "it fails: away"),
        (OSError("disk full"), "it fails: disk full"),
    ],
)
def test_failures_of_the_surroundings_take_a_line_when_they_begin_and_one_when_they_end(
    failures: FailureLog, caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    every(Stopping(5), 1.0, scripted(None, error, error, None, None), failures)
    assert caplog.messages == [said, "it works again"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert not any(record.exc_info for record in caplog.records)


def test_a_fault_of_the_program_is_logged_with_its_traceback_and_ends_nothing(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    every(Stopping(3), 1.0, scripted(KeyError("bug"), KeyError("bug"), KeyError("bug")), failures)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "it fails")
    assert "KeyError: 'bug'" in caplog.text


def test_each_failure_is_news_after_a_success(failures: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    every(Stopping(3), 1.0, scripted(OSError("a"), None, OSError("b")), failures)
    assert caplog.messages == ["it fails: a", "it works again", "it fails: b"]


def test_an_outage_is_one_failure_and_what_it_hid_is_another(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    outage = AutoReconnect("closed"), ServerSelectionTimeoutError("none"), StoreUnavailable("away")
    every(Stopping(5), 1.0, scripted(*outage, OperationFailure("no such index"), *outage[:1]), failures)
    assert caplog.messages == ["it fails: closed", "it fails: no such index"]


def test_what_was_not_tried_is_neither_failure_nor_success(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    every(Stopping(3), 1.0, scripted(OSError("a"), False, OSError("a")), failures)
    assert caplog.messages == ["it fails: a"]
    assert failures.in_a_row == 2


def test_failures_in_a_row_are_counted_until_a_success(failures: FailureLog) -> None:
    assert not failures.is_failing
    failures.note_failure(OSError())
    failures.note_failure(OSError())
    assert failures.is_failing
    assert failures.in_a_row == 2
    failures.note_success()
    assert failures.in_a_row == 0


def test_a_failure_because_of_the_stop_is_not_mentioned(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    stopping, tries = Event(), []

    def work() -> None:
        tries.append(1)
        stopping.set()
        raise StoreUnavailable("Cannot use MongoClient after close")

    for _ in ("indexes", "expiry"):
        until_done(stopping, 5.0, work, failures)
    every(stopping, 5.0, work, failures)
    assert len(tries) == 1
    assert caplog.records == []


def test_work_is_tried_until_it_is_done(failures: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    stopping = Stopping(9)
    until_done(stopping, 5.0, scripted(StoreUnavailable("away"), StoreUnavailable("away"), None), failures)
    assert stopping.waits == [5.0, 5.0]
    assert caplog.messages == ["it fails: away", "it works again"]
