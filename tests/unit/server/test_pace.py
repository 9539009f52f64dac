"""Long work takes turns, and whoever needs a moment only is not kept waiting by it."""

import itertools
import time

import gevent
import pytest
from gevent import socket

from app.server import pace as pace_module
from app.server.pace import SLICE_S, Pace, Turns

MANY = 50


def work(pace: Pace, pieces: int, done: list[str], name: str) -> None:
    for _ in range(pieces):
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            pass
        done.append(name)
        pace.rest()


def test_who_works_long_lets_others_go_on_in_turn() -> None:
    heavy, light, done = Turns(), Turns(), list[str]()
    workers = [gevent.spawn(work, Pace(heavy, light), 10, done, name) for name in "ab"]
    gevent.joinall(workers)

    assert sorted(done) == ["a"] * 10 + ["b"] * 10
    assert "b" in done[:6]
    assert len(heavy) == 0


def test_one_who_waits_for_news_waits_for_one_slice_however_many_queue() -> None:
    heavy, light, done = Turns(), Turns(), list[str]()
    ours, theirs = socket.socketpair()

    def answer() -> None:
        while data := theirs.recv(10):
            theirs.sendall(data)

    echo = gevent.spawn(answer)
    workers = [gevent.spawn(work, Pace(heavy, light), 100, done, "long") for _ in range(MANY)]
    gevent.sleep(0.1)
    before = len(done)
    for _ in range(10):
        ours.sendall(b"x")
        assert ours.recv(10) == b"x"
    slices = len(done) - before

    # Each of the ten rounds takes four waits or so; without turns, each of those let fifty go first.
    assert slices < 10 * MANY
    gevent.killall([echo, *workers])
    ours.close()
    theirs.close()
    assert len(heavy) == 0


def test_the_first_of_a_round_goes_on_at_once_and_the_others_take_turns() -> None:
    turns, order = Turns(), list[int]()

    def take(number: int) -> None:
        turns.take()
        order.append(number)

    takers = [gevent.spawn(take, number) for number in range(5)]
    gevent.joinall(takers)
    assert order == [0, 1, 2, 3, 4]


def test_whoever_is_killed_while_it_queues_leaves_the_queue() -> None:
    turns = Turns()
    first, second = gevent.spawn(turns.wait), gevent.spawn(turns.wait)
    gevent.idle()
    first.kill()
    gevent.joinall([second])
    assert second.successful()
    assert len(turns) == 0


def test_short_work_never_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "SLICE_S", 3600.0)
    heavy = Turns()
    pace = Pace(heavy, Turns())
    switches = 0

    def count() -> None:
        nonlocal switches
        while True:
            switches += 1
            gevent.sleep(0)

    counter = gevent.spawn(count)
    gevent.sleep(0)
    seen = switches
    pace.rest()
    pace.rest()
    assert switches == seen
    counter.kill()


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_long_turn_is_followed_by_a_pause(pieces: int) -> None:
    turns = Turns()
    ends: list[float] = []

    def hold() -> None:
        turns.wait()
        began = time.thread_time()
        while time.thread_time() < began + 0.02:
            pass
        ends.append(time.monotonic())

    gevent.joinall([gevent.spawn(hold) for _ in range(pieces)])
    pauses = [later - earlier - 0.02 for earlier, later in itertools.pairwise(ends)]
    assert all(pause >= 0.015 for pause in pauses)
