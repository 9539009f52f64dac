"""Waiting for a socket: it ends with bytes, the end, or the time, whatever was waited for before."""

import math
import socket
import time
from collections.abc import Iterator

import gevent
import pytest

from app.upstream.readiness import Readiness


class Pair:
    def __init__(self) -> None:
        self.far, self.near = socket.socketpair()
        self.readiness = Readiness(self.near.fileno())

    def wait(self, seconds: float) -> bool:
        return self.readiness.wait(time.monotonic() + seconds)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.readiness.close()
    made.near.close()
    made.far.close()


def test_bytes_and_the_end_end_a_wait(pair: Pair) -> None:
    gevent.spawn_later(0.01, pair.far.sendall, b"x")
    assert pair.readiness.wait(math.inf)
    assert pair.near.recv(9) == b"x"
    gevent.spawn_later(0.01, pair.far.shutdown, socket.SHUT_RDWR)
    assert pair.wait(60)
    assert pair.near.recv(9) == b""


def test_so_does_the_time_and_not_before(pair: Pair) -> None:
    for seconds in (0.05, 0.01, 0.03, 0.0, -1.0):
        until = time.monotonic() + seconds
        assert not pair.readiness.wait(until)
        assert time.monotonic() >= until


def test_a_timer_that_rings_too_early_is_set_anew(pair: Pair) -> None:
    pair.far.sendall(b"x")
    assert pair.wait(0.02)  # its timer rings within the next wait
    assert pair.near.recv(9) == b"x"
    gevent.spawn_later(0.06, pair.far.sendall, b"y")
    assert pair.wait(60)
    assert pair.near.recv(9) == b"y"
    assert not pair.wait(0.01)


def test_what_is_thrown_into_a_wait_ends_it_and_the_next_one_is_as_ever(pair: Pair) -> None:
    waiter = gevent.spawn(pair.wait, 0.02)
    gevent.sleep(0)
    waiter.kill(KeyError())
    assert isinstance(waiter.exception, KeyError)
    gevent.sleep(0.03)  # its time is over, and nobody waits
    pair.far.sendall(b"x")
    assert pair.wait(60)


def test_closing_is_idempotent(pair: Pair) -> None:
    assert not pair.wait(0.001)
    pair.readiness.close()
    pair.readiness.close()
