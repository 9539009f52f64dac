"""One connection after the other through the worker, over real sockets."""

import logging
import queue
import re
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gunicorn.config import Config
from gunicorn.http.errors import InvalidChunkSize, ParseException
from gunicorn.workers.ggevent import GeventWorker

from app.logs.process_log import NullAccessLogger
from app.server.client_limits import ClientLimits
from app.server.client_watch import SocketWatch
from app.server.gevent_worker import WeirWorker
from app.server.http_request import FREE_FRAMING
from app.server.pace import SLICE_S

REQUEST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
LISTENER = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8005))


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    data = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return iter([data])


def services(refused: Callable[[str], object] = str, origins: tuple[str, ...] = ()) -> Any:
    """What a worker needs of the application's, where it refuses by itself."""
    recorder = SimpleNamespace(refused=refused)
    settings = SimpleNamespace(cors_origins=origins)
    return {"weir": SimpleNamespace(metrics=SimpleNamespace(recorder=recorder), settings=settings)}


def with_services(wsgi: Any, extensions: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        return wsgi(environ, start_response)

    app.extensions = extensions  # type: ignore[attr-defined]
    return app


class Site:
    """A worker without a master, and connections to it."""

    def __init__(self, wsgi: Any, limits: ClientLimits | None = None, **settings: Any) -> None:
        cfg = Config()
        cfg.set("pre_request", lambda worker, req: None)
        for name, value in settings.items():
            cfg.set(name, value)
        self.worker = WeirWorker(1, 1, [], SimpleNamespace(), 30, cfg, NullAccessLogger(cfg))
        self.worker.wsgi = with_services(wsgi, services())
        self.worker.client_limits = limits or ClientLimits()
        self.worker.look_up()
        self.worker.tmp.close()  # what a worker tells its master that it lives with

    def connect(self, peer: Any = ("127.0.0.1", 4711)) -> Any:
        ours, theirs = socket.socketpair()
        gevent.spawn(self.worker.handle, LISTENER, theirs, peer)
        ours.settimeout(60)
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
    deadline = time.monotonic() + 60
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


def full_site(
    wsgi: Any, reasons: list[str], limits: ClientLimits | None = None, origins: tuple[str, ...] = ()
) -> Site:
    """One with two places, and four that are kept for operators' questions."""
    site = Site(wsgi, limits, worker_connections=6)
    site.worker.wsgi = with_services(wsgi, services(reasons.append, origins))
    return site


PAGE = "https://chat.example.com"
BY_PAGE = f"Host: a\r\norigin: {PAGE}\r\n".encode()
SHARED = f"\r\nAccess-Control-Allow-Origin: {PAGE}\r\n".encode()


def test_a_page_may_read_that_all_places_are_taken() -> None:
    gate = Event()

    def app(environ: Any, start_response: Any) -> Any:
        gate.wait(120)
        return echo(environ, start_response)

    site = full_site(app, [], origins=(PAGE, "https://other.example.com"))
    long = [site.connect(), site.connect()]
    for client in long:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    gevent.idle()

    wanted = b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    asked = site.play(b"OPTIONS /v1/messages HTTP/1.1\r\n" + BY_PAGE + wanted + b"\r\n")
    assert asked.startswith(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n")
    assert b"\r\nAccess-Control-Allow-Headers: authorization\r\n" in asked
    assert SHARED in asked
    refused = site.play(b"POST /v1/messages HTTP/1.1\r\n" + BY_PAGE + b"\r\n")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert SHARED in refused
    assert b"\r\nVary: Origin\r\n" in refused
    for head in (b"GET /admin HTTP/1.1\r\n" + BY_PAGE, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n"):
        assert b"Access-Control" not in site.play(head + b"\r\n")
    gate.set()
    for client in long:
        client.close()


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"POST /v1/messages HTTP/1.1\r\n%b" + b"X-A: " + b"x" * 9_000 + b"\r\n\r\n", b"431"),
        (b"POST /v1/messages HTTP/1.1\r\n%b" + b"Expect: the worst\r\n\r\n", b"417"),
        (b"POST /v1/messages HTTP/1.1\r\n%b" + b"no header\r\n\r\n", b"400"),
        (b"POST /v1/messages HTTP/1.1\r\n%b", b"408"),
    ],
    ids=["431", "417", "400", "408"],
)
def test_a_page_may_read_what_is_wrong_with_its_head(wire: bytes, status: bytes) -> None:
    site = Site(echo, ClientLimits(head_s=0.1))
    site.worker.wsgi = with_services(echo, services(origins=(PAGE,)))
    with_page, without = site.connect(), site.connect()
    with_page.sendall(wire % BY_PAGE)
    without.sendall(wire % b"Host: a\r\n")

    told, untold = everything(with_page), everything(without)
    assert told.startswith(b"HTTP/1.1 " + status)
    assert SHARED in told
    assert untold.startswith(b"HTTP/1.1 " + status)
    assert b"Access-Control" not in untold
    ids = [re.findall(rb"\n(?:x-)?request-id: (\S+)", answer) for answer in (told, untold)]
    assert [len(found) for found in ids] == [2, 2]
    assert [len({*found}) for found in ids] == [1, 1]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(("path", "shape"), [(b"/v1/chat", b'{"error":{'), (b"/v1/messages", b'{"type":"e')])
def test_when_all_places_are_taken_only_operators_are_answered(path: bytes, shape: bytes) -> None:
    gate, reasons = Event(), list[str]()

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/long":
            gate.wait(120)
        return echo(environ, start_response)

    site = full_site(app, reasons)
    long = [site.connect(), site.connect()]
    for client in long:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    gevent.idle()

    refused = site.play(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n")
    assert b"Retry-After: 2\r\n" in refused
    assert b"\r\n\r\n" + shape in refused
    assert reasons == ["no_place"]
    for asked in (b"/health", b"/ready", b"/metrics"):
        answered = site.play(b"GET " + asked + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close\r\n" in answered

    gate.set()
    for client in long:
        client.shutdown(socket.SHUT_WR)
        assert everything(client).startswith(b"HTTP/1.1 200 OK\r\n")
    assert site.play(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_slowest_upload_makes_room_and_the_others_stay() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        try:
            data = environ["wsgi.input"].read()
        except TimeoutError:
            start_response("408 Request Timeout", [("Content-Length", "0")])
            return [b""]
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]

    site = full_site(app, [])
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
    fast, slow = site.connect(), site.connect()
    for client in (fast, slow):
        client.sendall(head + b"x")
    gevent.sleep(0.05)
    fast.sendall(b"x" * 50_000)
    gevent.sleep(0.05)

    assert site.play(REQUEST).endswith(b"\r\n\r\nbody")
    assert slow.recv(65536).startswith(b"HTTP/1.1 408")
    slow.close()
    fast.sendall(b"x" * 9_999)
    fast.shutdown(socket.SHUT_WR)
    assert everything(fast).startswith(b"HTTP/1.1 200 OK\r\n")


def test_who_has_sent_his_body_is_not_put_out_for_another() -> None:
    gate, reasons = Event(), list[str]()

    def app(environ: Any, start_response: Any) -> Any:
        data = environ["wsgi.input"].read()
        gate.wait(120)
        start_response("200 OK", [("Content-Length", str(len(data)))])
        return [data]

    site = full_site(app, reasons)
    clients = [site.connect(), site.connect()]
    for client in clients:
        client.sendall(REQUEST[:-2])
        gevent.sleep(0.02)
        client.sendall(REQUEST[-2:])
    gevent.sleep(0.05)

    assert site.play(REQUEST).startswith(b"HTTP/1.1 503")
    gate.set()
    for client in clients:
        client.shutdown(socket.SHUT_WR)
        assert everything(client).endswith(b"\r\n\r\nbody")


def test_requests_sent_at_once_let_others_pass_between_them() -> None:
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(environ["PATH_INFO"])
        until = time.monotonic() + SLICE_S
        while time.monotonic() < until:
            pass
        return echo(environ, start_response)

    site = Site(app)
    eager, other = site.connect(), site.connect()
    eager.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
    other.sendall(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    everything(other)

    assert seen.index("/other") < 20
    eager.close()


def test_who_sends_a_body_faster_than_it_is_read_lets_others_pass() -> None:
    read: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/other":
            read.append(0)
        else:
            while data := environ["wsgi.input"].read(1000):
                read.append(len(data))
                until = time.monotonic() + SLICE_S
                while time.monotonic() < until:
                    pass
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    site = Site(app)
    eager, other = site.connect(), site.connect()
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    eager._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    eager.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 100)
    other.sendall(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    everything(other)

    assert read.index(0) < 50
    eager.close()


@pytest.mark.parametrize(
    "chunk",
    [b"1\r\na\r\n", b"10;x=" + b"y" * 200 + b"\r\n" + b"a" * 16 + b"\r\n", b"000000000001\r\na\r\n"],
)
def test_a_body_of_hardly_anything_but_framing_is_refused(chunk: bytes) -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        try:
            seen.append(environ["wsgi.input"].read())
        except ParseException as error:
            seen.append(error)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    few, many = 100, 2 * FREE_FRAMING // len(chunk)
    assert Site(app).play(head + chunk * few + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    Site(app).play(head + chunk * many + b"0\r\n\r\n")
    whole, broken = seen
    assert whole == b"a" * whole.count(b"a")
    assert isinstance(broken, InvalidChunkSize)


def test_chunks_with_enough_in_them_may_be_many() -> None:
    chunk = b"40\r\n" + b"a" * 64 + b"\r\n"
    wire = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 20_000 + b"0\r\n\r\n"
    )
    client = Site(echo).connect()
    sender = gevent.spawn(client.sendall, wire)
    data = b""
    while len(data) < 64 * 20_000:
        data += client.recv(1 << 20)
    assert data.endswith(b"a" * 64 * 20_000)
    sender.join()
    client.close()


def test_a_request_that_had_arrived_when_its_connection_was_let_go_is_answered() -> None:
    site = Site(asking_upstream)
    client = site.connect()
    gevent.sleep(0.05)  # it waits for a request now
    client._sock.send(REQUEST)
    site.worker.alive = False
    site.worker._hang_up(0.0)

    assert everything(client).startswith(b"HTTP/1.1 200 OK\r\n")


def asking_upstream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Echo what came after a wait that the client's leaving would end."""
    data = environ["wsgi.input"].read()
    watch = SocketWatch(environ["gunicorn.socket"])
    watch.waiting()
    gevent.sleep(0.05)
    watch.stop()
    start_response("200 OK", [("Content-Length", str(len(data)))])
    return iter([data])


def test_a_request_of_a_connection_that_was_let_go_takes_no_place_of_operators() -> None:
    gate, reasons = Event(), list[str]()

    def app(environ: Any, start_response: Any) -> Any:
        gate.wait(120)
        return echo(environ, start_response)

    site = full_site(app, reasons)
    clients = [site.connect() for _ in range(4)]
    for client in clients:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    gevent.sleep(0.1)

    gate.set()
    answers = [everything(client).partition(b"\r\n")[0] for client in clients]
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.count(b"HTTP/1.1 503 Service Unavailable") == 2


@pytest.mark.parametrize(
    ("early", "goes_on"),
    [
        ([signal.SIGTERM], False),
        ([signal.SIGINT], False),
        ([signal.SIGQUIT], False),
        ([signal.SIGHUP, signal.SIGTERM], False),
        ([signal.SIGHUP, signal.SIGTTIN], True),
        ([], True),
    ],
)
def test_a_stop_that_comes_before_a_workers_own_handlers_is_heeded(
    monkeypatch: pytest.MonkeyPatch, early: list[signal.Signals], goes_on: bool
) -> None:
    monkeypatch.setattr(GeventWorker, "init_signals", lambda _worker: None)
    worker = Site(echo).worker
    worker.masters_signals = queue.SimpleQueue()
    for number in early:
        worker.masters_signals.put_nowait(number)
    worker.init_signals()
    gevent.sleep(0)
    assert worker.alive is goes_on
