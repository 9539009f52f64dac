"""When the machine stood still, by the drill's own looks at it; and what of a cooldown counts then."""

import os
import time

import gevent
import pytest

from drill.report import Findings
from drill.scenarios.key_chaos import check_cooldowns
from drill.stillness import Stillness
from simulator.launcher import PATIENCE_S

NAMES = {"sk-1": "env-1"}


def stood_still(*spans: tuple[float, float]) -> Stillness:
    stillness = Stillness(lambda: None)
    stillness.spans += spans
    return stillness


def test_only_what_lies_between_the_moments_counts() -> None:
    stillness = stood_still((10.0, 12.0), (20.0, 21.0))
    spans = ((0, 9), (11, 30), (11, 20.5), (12, 20), (10.5, 11), (0, 100))
    assert [stillness.between(*span) for span in spans] == [0, 2, 1.5, 0, 0.5, 3]


def test_a_look_that_takes_long_is_a_standstill() -> None:
    pauses = iter([0.0, 0.0, 0.5])
    stillness = Stillness(lambda: gevent.sleep(next(pauses, 0.0)))
    began = time.time()
    with stillness.watched():
        while not stillness.spans and time.time() < began + 30:
            gevent.sleep(0.05)
    assert stillness.between(began, time.time()) >= 0.5


def test_a_process_that_waits_for_a_processor_stands_still_by_itself() -> None:
    stillness = Stillness(lambda: None, [1, 2])
    stillness._moments += [10.0, 11.0, 12.0, 13.0]
    stillness._waits += [[0.0, 5.0], [0.1, 5.0], [0.2, 5.5], [0.2, 7.0]]
    spans = ((10, 11), (11, 12), (11.5, 11.6), (10, 99))
    assert [stillness.between(*span) for span in spans] == pytest.approx([0.1, 0.5, 0.5, 2.0])
    assert stillness.between(0, 10) == 0
    assert Stillness(lambda: None).between(0, 99) == 0


def test_it_reads_how_long_processes_have_waited() -> None:
    stillness = Stillness(lambda: None, [os.getpid(), 2**22 + 1])
    with stillness.watched(), gevent.Timeout(PATIENCE_S):
        while len(stillness._moments) < 3:
            gevent.sleep(0.05)
    own, gone = zip(*stillness._waits, strict=True)
    assert list(own) == sorted(own)
    assert set(gone) == {0.0}


def limited(at: float, sender: str) -> dict[str, object]:
    return {"key": "sk-1", "began": at - 0.1, "ended": at, "status": 429, "fault": "", "sender": sender}


def late_after(asked_at: float, stillness: Stillness) -> list[str]:
    """Two clients meet a limit of four seconds at 100 s; then the key is asked once more."""
    asked = {"key": "sk-1", "began": asked_at, "ended": asked_at, "status": 200, "fault": "", "sender": "b"}
    findings = Findings("key-chaos")
    entries = [limited(99.9, "a"), limited(100.0, "b"), asked]
    check_cooldowns(findings, entries, NAMES, [], [], stillness)
    return findings.problems


def test_a_limited_key_is_left_alone_within_two_seconds_in_which_the_machine_runs() -> None:
    assert late_after(101.9, stood_still()) == []
    assert len(late_after(102.1, stood_still())) == 1
    assert late_after(102.1, stood_still((100.5, 101.5))) == []
    assert len(late_after(103.1, stood_still((100.5, 101.5)))) == 1
    assert len(late_after(102.1, stood_still((90.0, 99.0)))) == 1
