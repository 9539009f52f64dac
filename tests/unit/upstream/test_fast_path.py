"""Bytes that are passed on from within the event loop: all of them, in order, and nothing is waited for."""

import fcntl
import gc
import itertools
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import gevent
import pytest

from app.upstream import http1_adapter
from app.upstream.http1 import HeadReader
from app.upstream.http1_adapter import AnswerBody, Http1Adapter
from app.upstream.transport import ClientGone, Passed, UpstreamFailure

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ORIGIN: http1_adapter.Origin = ("http", "127.0.0.1", 80, True)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Taker:
    """Takes bytes until it is told otherwise."""

    def __init__(self, passed: Passed = Passed.ON) -> None:
        self.passed = passed
        self.taken: list[bytes] = []

    def __call__(self, data: bytes) -> Passed:
        if self.passed is not Passed.NOT:
            self.taken.append(data)
        return self.passed


class Upstream:
    """The two ends of an answer's connection."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        near.settimeout(60)
        self.near = near
        self.adapter = Http1Adapter()
        found = HeadReader().feed(HEAD)
        assert found is not None
        connection = http1_adapter.Connection(near)
        self.body = AnswerBody(self.adapter, ORIGIN, connection, found[0], b"")

    def later(self, *acts: Callable[[], object]) -> threading.Thread:
        """Do this while the other side waits, each once it has read what the last one sent."""

        def run() -> None:
            for act in acts:
                time.sleep(0.02)
                while self.unread():
                    time.sleep(0.001)
                act()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def unread(self) -> int:
        """How many bytes have been sent and wait to be read."""
        if self.near.fileno() < 0:
            return 0
        size = fcntl.ioctl(self.near.fileno(), termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(size, sys.byteorder)

    def sends(self, data: bytes) -> Callable[[], object]:
        return lambda: self.far.sendall(data)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.far.close()
    upstream.body.close()
    upstream.adapter.close()


def test_what_is_taken_is_not_returned(upstream: Upstream) -> None:
    taker = Taker()
    upstream.far.sendall(chunk(b"a"))
    thread = upstream.later(
        upstream.sends(chunk(b"bc")), upstream.sends(b"3"), upstream.sends(b"\r\ndef\r\n0\r\n\r\n")
    )
    assert upstream.body.read_passing(taker) == b"def"
    assert taker.taken == [b"a", b"bc"]
    assert upstream.body.read_passing(taker) == b""
    thread.join()


def test_what_is_not_taken_is_returned(upstream: Upstream) -> None:
    upstream.far.sendall(chunk(b"a"))
    assert upstream.body.read_passing(Taker(Passed.NOT)) == b"a"
    thread = upstream.later(upstream.sends(chunk(b"b")))
    assert upstream.body.read_passing(Taker(Passed.NOT)) == b"b"
    thread.join()


@pytest.mark.parametrize("is_late", [True, False])
def test_a_client_that_does_not_keep_up_is_told(upstream: Upstream, is_late: bool) -> None:
    taker = Taker(Passed.PARTLY)
    thread = upstream.later(upstream.sends(chunk(b"a"))) if is_late else None
    if not is_late:
        upstream.far.sendall(chunk(b"a"))
    assert upstream.body.read_passing(taker) is None
    assert taker.taken == [b"a"]
    if thread:
        thread.join()


def test_all_bytes_pass_however_they_come(upstream: Upstream) -> None:
    data = b"".join(chunk(b"%d" % number * 7) for number in range(2000)) + b"0\r\n\r\n"
    taker = Taker()
    thread = upstream.later(*(upstream.sends(data[at : at + 3001]) for at in range(0, len(data), 3001)))
    rest = b""
    while more := upstream.body.read_passing(taker):
        rest += more
    assert b"".join(taker.taken) + rest == b"".join(b"%d" % number * 7 for number in range(2000))
    thread.join()


def test_silence_is_a_timeout_only_when_it_lasts(upstream: Upstream) -> None:
    upstream.near.settimeout(0.2)
    taker = Taker()
    sent = [time.monotonic()]

    def send() -> None:
        with suppress(OSError):  # closed, as below
            upstream.far.sendall(chunk(b"x"))
        sent.append(time.monotonic())

    thread = upstream.later(*[send] * 20)
    with pytest.raises(UpstreamFailure, match="timeout"):
        upstream.body.read_passing(taker)
    assert upstream.near.gettimeout() == 0.2
    upstream.body.close()
    thread.join()
    # On a busy machine nothing may really have come for so long.
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(taker.taken) == 20 or max(pauses) > 0.15


def test_an_answer_that_is_cut_is_not_whole(upstream: Upstream) -> None:
    thread = upstream.later(upstream.sends(chunk(b"x")), upstream.far.close)
    with pytest.raises(UpstreamFailure, match="truncated: within the body"):
        upstream.body.read_passing(Taker())
    thread.join()


def test_bytes_that_are_no_chunks_are_told(upstream: Upstream) -> None:
    thread = upstream.later(upstream.sends(b"no chunk\r\n"))
    with pytest.raises(UpstreamFailure, match="truncated: no chunk size"):
        upstream.body.read_passing(Taker())
    thread.join()


def test_what_fails_in_passing_on_fails_where_it_is_waited_for(upstream: Upstream) -> None:
    def fails(_data: bytes) -> Passed:
        raise ArithmeticError

    thread = upstream.later(upstream.sends(chunk(b"x")))
    with pytest.raises(ArithmeticError):
        upstream.body.read_passing(fails)
    thread.join()


def test_it_can_be_called_off(upstream: Upstream) -> None:
    taker = Taker()
    ended: list[bool] = []

    def read() -> None:
        try:
            upstream.body.read_passing(taker)
        except ClientGone:
            ended.append(True)

    greenlet = gevent.spawn(read)
    gevent.sleep(0.01)
    gevent.get_hub().loop.run_callback(greenlet.throw, ClientGone())
    gevent.sleep(0.01)
    assert ended
    upstream.far.sendall(chunk(b"late"))
    gevent.sleep(0.01)
    assert taker.taken == []
    assert upstream.near.gettimeout() == 60


def test_others_run_while_bytes_come_without_end(upstream: Upstream) -> None:
    upstream.far.sendall(b"".join(chunk(b"x" * 1000) for _ in range(100)))
    small = http1_adapter.FastPath(upstream.near, upstream.body._reader, 100)
    turns: list[int] = []
    taken = Taker()
    other = gevent.spawn(lambda: turns.append(len(taken.taken)))
    reader = gevent.spawn(small.read, taken)
    other.join()
    assert turns[0] < 100
    reader.kill()


def test_an_answer_that_was_passed_on_leaves_nothing_to_the_collector_of_cycles() -> None:
    def answer() -> None:
        upstream = Upstream()
        upstream.far.sendall(chunk(b"a") * 20 + b"0\r\n\r\n")
        while upstream.body.read_passing(Taker()):
            pass
        upstream.far.close()
        upstream.adapter.close()

    answer()
    gc.collect()
    gc.disable()
    try:
        answer()
        assert gc.collect() == 0
    finally:
        gc.enable()
