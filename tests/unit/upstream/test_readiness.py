"""Waiting for a socket: it ends with bytes, the end, or the time, whatever was waited for before."""

import math
import socket
import time
from collections.abc import Iterator

import gevent
import gevent.socket
import gevent.ssl
import pytest

from app.upstream.readiness import Readiness, bare


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
    assert pair.wait(0.2)  # its timer rings within the next wait
    assert pair.near.recv(9) == b"x"
    gevent.spawn_later(0.3, pair.far.sendall, b"y")
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


def test_a_watch_calls_back_as_long_as_there_is_something_and_then_one_may_wait_again(pair: Pair) -> None:
    calls: list[int] = []

    def read() -> None:
        calls.append(len(pair.near.recv(1)))

    assert not pair.wait(0.0)
    pair.readiness.watch(read)
    pair.far.sendall(b"ab")
    while len(calls) < 2:
        gevent.sleep(0)
    pair.readiness.unwatch()
    pair.readiness.unwatch()
    pair.far.sendall(b"c")
    gevent.sleep(0.01)
    assert calls == [1, 1]
    assert pair.wait(60)
    assert pair.near.recv(9) == b"c"


def test_a_watch_ends_with_its_readiness(pair: Pair) -> None:
    pair.readiness.watch(lambda: pytest.fail("called after the end"))
    pair.readiness.close()
    pair.far.sendall(b"x")
    gevent.sleep(0.01)
    pair.readiness.unwatch()


def test_what_is_bare_never_waits_and_tls_is_left_as_it_is() -> None:
    far, near = gevent.socket.socketpair()
    near.settimeout(60)
    with far, near:
        with pytest.raises(BlockingIOError):
            bare(near).recv(1)
        secured = gevent.ssl.create_default_context().wrap_socket(
            near, server_hostname="weir.test", do_handshake_on_connect=False
        )
        assert bare(secured) is secured
        secured.close()
