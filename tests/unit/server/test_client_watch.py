"""The watch over a client's socket, with real sockets and the event loop, and a clock of milliseconds."""

import socket
import time
from collections.abc import Iterator

import gevent
import gevent.event
import gevent.socket
import pytest

from app.server.client_connection import ClientConnection
from app.server.client_limits import ClientLimits
from app.server.client_watch import SocketWatch, _waiting_bytes
from app.upstream.transport import ClientGone, StillSilent, UpstreamFailure

SOON = 0.02
LATER = 0.2
NEVER = 60.0


class Request:
    """A greenlet that waits for an upstream that is silent until `answer` is set."""

    def __init__(self, watch: SocketWatch) -> None:
        self.watch = watch
        self.answer = gevent.event.Event()
        self.is_gone = False
        self.failure: UpstreamFailure | None = None
        self.greenlet = gevent.spawn(self._run)
        gevent.sleep(0)

    def _run(self) -> None:
        self.watch.waiting()
        try:
            self.answer.wait(NEVER)
        except ClientGone:
            self.is_gone = True
        except UpstreamFailure as failure:
            self.failure = failure
        finally:
            self.watch.working()

    def ends(self) -> bool:
        """Whether it ended; True as soon as it has."""
        return bool(self.greenlet.join(NEVER) or self.greenlet.dead)


@pytest.fixture
def sockets() -> Iterator[tuple[gevent.socket.socket, gevent.socket.socket]]:
    ours, theirs = gevent.socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def client(sockets: tuple[gevent.socket.socket, gevent.socket.socket]) -> gevent.socket.socket:
    return sockets[1]


@pytest.fixture
def watch(sockets: tuple[gevent.socket.socket, gevent.socket.socket]) -> Iterator[SocketWatch]:
    connection = ClientConnection(sockets[0], ClientLimits())
    watch = SocketWatch(connection)
    yield watch
    watch.stop()
    connection.readiness.close()


def loop_turns(seconds: float = SOON) -> None:
    """Let the event loop do what is due by then."""
    gevent.sleep(seconds)


def until_departed(watch: SocketWatch) -> None:
    """Let the event loop turn until the departure is noticed: a timer may ring before, on a busy machine."""
    with gevent.Timeout(NEVER):
        while not watch.departed:
            gevent.sleep(0)


@pytest.mark.wire(59)
def test_a_client_that_leaves_interrupts_the_wait_at_once(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    request = Request(watch)
    assert not watch.departed
    client.close()
    assert request.ends()
    assert request.is_gone
    assert watch.departed


def test_a_client_that_left_before_the_wait_is_noticed(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    client.close()
    assert not watch.departed
    request = Request(watch)
    assert request.ends()
    assert request.is_gone


def test_with_a_grace_the_wait_goes_on_until_it_is_over(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    watch.give(2 * SOON)
    request = Request(watch)
    client.close()
    until_departed(watch)
    assert not request.is_gone
    assert request.ends()
    assert request.is_gone


def test_an_answer_within_the_grace_is_not_interrupted(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    watch.give(NEVER)
    request = Request(watch)
    client.close()
    until_departed(watch)
    request.answer.set()
    assert request.ends()
    assert not request.is_gone


def test_a_wait_for_what_follows_an_answer_is_broken_off(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    """All waits together last no longer than what was given; the client is not held to have left."""
    watch.end_within(SOON)
    request = Request(watch)
    assert request.ends()
    assert request.failure is not None
    assert request.failure.kind == "timeout"
    late = Request(watch)
    assert late.ends()
    assert late.failure is not None
    assert not watch.departed


def test_nothing_is_broken_off_between_waits_for_what_follows_an_answer(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    watch.end_within(LATER)
    request = Request(watch)
    request.answer.set()
    assert request.ends()
    assert request.failure is None
    loop_turns(LATER + SOON)  # nobody waits: nothing may be thrown into this greenlet


def test_a_client_that_leaves_ends_the_wait_for_what_follows_its_answer(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    watch.end_within(NEVER)
    request = Request(watch)
    client.close()
    assert request.ends()
    assert request.is_gone
    assert request.failure is None


def test_a_request_sent_early_on_the_same_connection_is_no_departure(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    request = Request(watch)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    loop_turns()
    assert not watch.departed
    assert not request.is_gone
    request.answer.set()
    assert request.ends()


def test_nothing_is_thrown_into_a_request_that_works(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    first = Request(watch)
    first.answer.set()
    assert first.ends()
    working = gevent.spawn(gevent.sleep, 2 * SOON)
    client.close()
    until_departed(watch)
    assert working.join(NEVER) is None
    assert working.successful()


def test_a_wait_that_begins_after_the_grace_is_interrupted_at_once(
    watch: SocketWatch, client: gevent.socket.socket
) -> None:
    watch.give(LATER)
    first = Request(watch)
    client.close()
    until_departed(watch)
    first.answer.set()
    assert first.ends()
    assert not first.is_gone
    loop_turns(LATER + SOON)
    again = Request(watch)
    assert again.ends()
    assert again.is_gone
    once_more = Request(watch)
    assert once_more.ends()
    assert once_more.is_gone


def test_a_departure_known_from_a_failed_write_starts_the_grace(watch: SocketWatch) -> None:
    watch.give(SOON / 2)
    watch.depart()
    watch.depart()
    request = Request(watch)
    assert request.ends()
    assert request.is_gone


def test_a_departure_without_any_grace_interrupts_only_by_way_of_the_loop(watch: SocketWatch) -> None:
    reached = []

    def run() -> None:
        watch.waiting()
        watch.depart()
        reached.append("after depart")
        try:
            gevent.sleep(NEVER)
        except ClientGone:
            reached.append("interrupted")

    gevent.spawn(run).join(NEVER)
    assert reached == ["after depart", "interrupted"]


def test_after_stop_nothing_is_thrown_any_more(watch: SocketWatch, client: gevent.socket.socket) -> None:
    request = Request(watch)
    watch.stop()
    watch.stop()
    client.close()
    loop_turns()
    assert not request.is_gone
    request.answer.set()
    assert request.ends()


def test_stop_ends_a_grace(watch: SocketWatch, client: gevent.socket.socket) -> None:
    watch.give(LATER)
    request = Request(watch)
    client.close()
    until_departed(watch)
    watch.stop()
    loop_turns(LATER + SOON)
    assert not request.is_gone
    request.answer.set()
    assert request.ends()


def test_a_socket_that_cannot_be_asked_counts_as_closed() -> None:
    with open("/dev/null", "rb") as no_socket:
        assert _waiting_bytes(no_socket) == 0


def test_a_client_without_a_socket_never_leaves() -> None:
    watch = SocketWatch(None)
    request = Request(watch)
    loop_turns(0)
    request.answer.set()
    assert request.ends()
    assert not watch.departed
    watch.stop()


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_reset_on_close_is_no_end(is_stopped: bool) -> None:
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:
        client = gevent.socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    watch = SocketWatch(ClientConnection(ours, ClientLimits()))
    if is_stopped:
        watch.stop()
    ours.sendall(b"half")
    watch.reset_on_close()
    ours.close()
    watch.reset_on_close()
    assert client.recv(4, socket.MSG_WAITALL) == b"half"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()


def test_there_is_nothing_to_reset_without_a_socket() -> None:
    SocketWatch(None).reset_on_close()


class Listener(Request):
    """A request that waits again each time it is told that the upstream is silent."""

    def __init__(self, watch: SocketWatch) -> None:
        self.told = 0
        super().__init__(watch)

    def _run(self) -> None:
        while not self.answer.is_set():
            self.watch.waiting()
            try:
                self.answer.wait(NEVER)
            except StillSilent:
                self.told += 1
            finally:
                self.watch.working()


def test_a_wait_is_told_of_silence_again_and_again(watch: SocketWatch) -> None:
    watch.tell_silence(SOON, lambda: 0.0)
    request = Listener(watch)
    while request.told < 3:
        loop_turns(SOON / 4)
    request.answer.set()
    assert request.ends()


def test_an_upstream_that_was_heard_puts_it_off(watch: SocketWatch) -> None:
    watch.tell_silence(SOON, time.monotonic)  # it is always heard just now
    request = Listener(watch)
    loop_turns(4 * SOON)
    assert request.told == 0
    request.answer.set()
    assert request.ends()


def test_work_and_departed_clients_are_not_told(watch: SocketWatch, client: gevent.socket.socket) -> None:
    watch.give(NEVER)
    watch.tell_silence(SOON, lambda: 0.0)
    loop_turns(3 * SOON)  # nobody waits
    request = Listener(watch)
    client.close()
    while not watch.departed:
        loop_turns(0)
    told = request.told
    loop_turns(3 * SOON)
    assert request.told == told
    request.answer.set()
    assert request.ends()
    watch.tell_no_silence()
