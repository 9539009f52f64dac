"""One connection after the other through the worker, over real sockets."""

import logging
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gunicorn.config import Config

from app.adapters.logs import RecordsInsteadOfAccessLog
from app.core.client_limits import ClientLimits
from workers.gevent_worker import WeirWorker

REQUEST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
LISTENER = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8005))


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    data = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return iter([data])


class Site:
    """A worker without a master, and connections to it."""

    def __init__(self, wsgi: Any, limits: ClientLimits | None = None, **settings: Any) -> None:
        cfg = Config()
        cfg.set("pre_request", lambda worker, req: None)
        for name, value in settings.items():
            cfg.set(name, value)
        self.worker = WeirWorker(1, 1, [], SimpleNamespace(), 30, cfg, RecordsInsteadOfAccessLog(cfg))
        self.worker.wsgi = wsgi
        self.worker.client_limits = limits or ClientLimits()
        self.worker.look_up()
        self.worker.tmp.close()  # what a worker tells its master that it lives with

    def connect(self, peer: Any = ("127.0.0.1", 4711)) -> Any:
        ours, theirs = socket.socketpair()
        gevent.spawn(self.worker.handle, LISTENER, theirs, peer)
        ours.settimeout(10)
        return ours

    def play(self, wire: bytes) -> bytes:
        """All that comes until the connection ends."""
        client = self.connect()
        client.sendall(wire)
        client.shutdown(socket.SHUT_WR)
        return everything(client)


def everything(client: Any) -> bytes:
    """What comes until the connection ends."""
    data = b""
    with client:
        while piece := client.recv(65536):
            data += piece
    return data


def test_requests_sent_at_once_are_answered_one_after_the_other() -> None:
    got = Site(echo).play(REQUEST + b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n" + REQUEST)

    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert got.count(b"\r\n\r\nbody") == 2


def test_who_sends_without_pause_does_not_keep_the_worker_to_himself() -> None:
    site = Site(echo)
    eager = site.connect()
    other = site.connect()
    seen: list[str] = []

    def answer_and_send_the_next(environ: Any, start_response: Any) -> Any:
        seen.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/a" and len(seen) < 1000:
            eager._sock.send(REQUEST)
        return echo(environ, start_response)

    site.worker.wsgi = answer_and_send_the_next
    other.sendall(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    eager.sendall(REQUEST)
    everything(other)

    assert seen.index("/other") < 900
    eager.close()


@pytest.mark.parametrize("data", [b"", b"GET / HT"])
def test_a_silent_client_is_let_go(data: bytes) -> None:
    site = Site(echo, ClientLimits(idle_s=0.05, head_s=0.05))
    site.worker.wsgi = SimpleNamespace(
        extensions={"weir": SimpleNamespace(metrics=SimpleNamespace(recorder=SimpleNamespace(refused=print)))}
    )
    client = site.connect()
    client.sendall(data)

    assert everything(client).partition(b"\r\n")[0] == (b"HTTP/1.1 408 Request Timeout" if data else b"")


def test_a_kept_connection_has_its_time_for_each_request_anew() -> None:
    site = Site(echo, ClientLimits(idle_s=0.4, head_s=0.4))
    client = site.connect()
    began = time.monotonic()
    for _ in range(4):
        client.sendall(REQUEST)
        assert client.recv(65536).endswith(b"body")
        gevent.sleep(0.2)

    assert everything(client) == b""
    assert time.monotonic() - began >= 0.9


def test_a_body_that_stops_coming_ends_in_a_timeout_error() -> None:
    seen: list[type] = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except TimeoutError as error:
            seen.append(type(error))
        start_response("408 Request Timeout", [("Content-Length", "0")])
        return [b""]

    client = Site(app, ClientLimits(body_s=0.05)).connect()
    client.sendall(REQUEST[:-2])

    assert client.recv(65536).startswith(b"HTTP/1.1 408")
    assert seen == [TimeoutError]
    client.close()


def test_a_large_answer_reaches_a_client_that_reads_late() -> None:
    data = bytes(range(256)) * 20_000

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]

    client = Site(app).connect()
    client.sendall(REQUEST)
    gevent.sleep(0.05)
    client.shutdown(socket.SHUT_WR)

    assert everything(client).endswith(data)


def test_a_client_that_does_not_read_its_answer_is_cut_off() -> None:
    closed: list[bool] = []

    class Answer(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Answer([b"x" * 1_000_000] * 10)

    client = Site(app, ClientLimits(write_s=0.05)).connect()
    client.sendall(REQUEST)
    deadline = time.monotonic() + 10
    while not closed and time.monotonic() < deadline:
        gevent.sleep(0.01)

    assert closed
    client.close()


def test_an_answer_that_fails_midway_is_cut_without_its_last_chunk(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise RuntimeError("broken")

    got = Site(app).play(REQUEST + REQUEST)

    assert got.endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert got.count(b"HTTP/1.1") == 1


def test_one_that_fails_before_its_head_is_a_500() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        raise RuntimeError("broken")

    got = Site(app).play(REQUEST)

    assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n")


def test_hooks_see_every_request_and_its_response() -> None:
    seen: list[Any] = []

    def pre_request(worker: Any, req: Any) -> None:
        seen.append(
            (req.method, req.path, req.query, dict(req.headers)["HOST"], req.scheme, req.remote_addr[0])
        )

    def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
        seen.append((resp.status, resp.sent))

    site = Site(echo, pre_request=pre_request, post_request=post_request)
    site.play(
        b"GET /a%20b?c HTTP/1.1\r\nHost: h\r\n\r\n"
        b"GET /a%20b?c HTTP/1.1\r\nHost:\t h\r\nConnection: close\r\n\r\n"
    )

    first, _, second, _ = seen
    assert first == second == ("GET", "/a%20b", "c", "h", "http", "127.0.0.1")
    assert seen[1] == ("200 OK", 0)


def test_the_last_request_of_a_worker_ends_its_connection() -> None:
    site = Site(echo, max_requests=2)
    logging.getLogger("gunicorn.error").setLevel(logging.WARNING)

    got = site.play(REQUEST * 3)

    assert got.count(b"HTTP/1.1 200") == 2
    assert got.count(b"Connection: close") == 1
    assert not site.worker.alive


def test_a_proxy_in_front_may_say_who_calls_if_it_is_configured() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Peer", environ["REMOTE_ADDR"])])
        return [b""]

    site = Site(app, proxy_protocol="auto")

    assert b"X-Peer: 192.0.2.1\r\n" in site.play(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + REQUEST)


def test_the_access_log_is_written_where_a_logger_has_one() -> None:
    site = Site(echo)
    lines: list[Any] = []
    site.worker.log.access = lambda *args: lines.append(args)

    site.play(REQUEST)

    ((_, request, environ, took),) = lines
    assert (request.uri, environ["RAW_URI"]) == ("/a", "/a")
    assert took.total_seconds() >= 0
