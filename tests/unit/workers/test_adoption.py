"""When a worker looks for orphaned journals: not while the store is away, and less often after failures."""

import logging

import pytest

from app.common.errors import StoreUnavailable
from app.journal import Adopted
from workers import adoption
from workers.adoption import INTERVAL_S, LONGEST_S, adopt_orphans

ADOPTED = Adopted("0001", 3, 1, 0, True)


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


def test_orphans_are_left_alone_while_the_store_is_away() -> None:
    stopping = Stopping(3)
    replays: list[int] = []
    problems: list[str | None] = ["away", "away", None]
    told: list[Adopted] = []

    def replay() -> list[Adopted]:
        replays.append(len(stopping.waits))
        return [ADOPTED]

    adopt_orphans(stopping, lambda: problems.pop(0), replay, told.extend)
    assert replays == [3]
    assert told == [ADOPTED]
    assert stopping.waits == [INTERVAL_S] * 4


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OSError("unreadable")])
def test_each_failure_doubles_the_pause_until_it_succeeds(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stopping = Stopping(8)
    failures: list[Exception | None] = [error] * 6 + [None] * 2

    def replay() -> list[Adopted]:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return []

    with caplog.at_level(logging.INFO):
        adopt_orphans(stopping, lambda: None, replay, lambda adopted: None)
    assert stopping.waits == [5.0, 10.0, 20.0, 40.0, LONGEST_S, LONGEST_S, LONGEST_S, INTERVAL_S, INTERVAL_S]
    assert caplog.messages == [
        f"an abandoned journal cannot be booked yet: {error}",
        "abandoned journals can be booked again",
    ]


def test_a_failure_because_of_the_stop_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    stopping = Stopping(1)

    def replay() -> list[Adopted]:
        stopping.rounds = 0
        raise StoreUnavailable("Cannot use MongoClient after close")

    adopt_orphans(stopping, lambda: None, replay, lambda adopted: None)
    assert caplog.records == []
    assert adoption.log.isEnabledFor(logging.WARNING)
