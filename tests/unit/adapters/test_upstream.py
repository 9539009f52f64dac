"""The transport against a scripted server on the loopback: what it sends, and how each failure is told."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from app.adapters.upstream import RequestsUpstream
from app.core.http1 import MAX_INTERIM_ANSWERS
from app.core.ports import ProviderKey, UpstreamFailure, UpstreamRequest

KEY = ProviderKey("k1", "sk-secret")
Script = Callable[[socket.socket], None]


class ScriptedServer:
    """Reads a request, plays the next script on the connection, and keeps what it read."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.scripts: list[Script] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_peer = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := _read_request(connection):
                    self.requests.append(request)
                    self.scripts.pop(0)(connection)
            except OSError:
                pass
        self.closed_by_peer.release()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def sends(*parts: bytes) -> Script:
    return lambda connection: connection.sendall(b"".join(parts))


def sends_and_closes(*parts: bytes) -> Script:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_RDWR)

    return play


def resets(*parts: bytes) -> Script:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"".join(parts))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return play


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def upstream(server: ScriptedServer) -> Iterator[RequestsUpstream]:
    upstream = transport(server)
    yield upstream
    upstream.close()


def transport(server: ScriptedServer, auth: str = "bearer", path: str = "/base/") -> RequestsUpstream:
    return RequestsUpstream(
        f"http://127.0.0.1:{server.port}{path}", connect_timeout_s=2, read_timeout_s=0.2, auth=auth
    )


def request(body: bytes = b"{}", query: str = "", **headers: str) -> UpstreamRequest:
    return UpstreamRequest("POST", "/v1/messages", query, {"accept-encoding": "identity", **headers}, body)


def read_all(upstream: RequestsUpstream, asked: UpstreamRequest | None = None) -> bytes:
    reply = upstream.send(asked or request(), KEY)
    data = b"".join(iter(reply.read, b""))
    reply.close()
    return data


def failure_of(do: Callable[[], object]) -> str:
    with pytest.raises(UpstreamFailure) as caught:
        do()
    assert "127.0.0.1" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    return caught.value.kind


# What is sent


def head_of(server: ScriptedServer) -> tuple[str, dict[str, str]]:
    lines = server.requests[-1].split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines[1:]]
    names = [name.lower() for name, _ in pairs]
    assert len(set(names)) == len(names)
    return lines[0], {name.lower(): value for name, value in pairs}


def test_a_request_arrives_as_it_was_meant(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts.append(sends(answer(b"hi", b"X-A: 1")))
    body = '{"text":"é"}'.encode()
    reply = upstream.send(request(body, "beta=true&x=%2F", **{"user-agent": "Anthropic/Python"}), KEY)
    assert (reply.status, reply.headers["x-a"], reply.read(), reply.read(), reply.read()) == (
        200,
        "1",
        b"hi",
        b"",
        b"",
    )
    line, headers = head_of(server)
    assert line == "POST /base/v1/messages?beta=true&x=%2F HTTP/1.1"
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept-encoding": "identity",
        "user-agent": "Anthropic/Python",
        "authorization": "Bearer sk-secret",
        "content-length": str(len(body)),
    }
    assert server.requests[-1].endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("bearer", {"authorization": "Bearer sk-secret"}),
        ("x-api-key", {"x-api-key": "sk-secret"}),
        ("both", {"authorization": "Bearer sk-secret", "x-api-key": "sk-secret"}),
    ],
)
def test_the_key_goes_into_the_headers_that_are_configured(
    server: ScriptedServer, auth: str, expected: dict[str, str]
) -> None:
    server.scripts.append(sends(answer(b"")))
    upstream = transport(server, auth)
    read_all(upstream)
    upstream.close()
    _, headers = head_of(server)
    assert {name: headers[name] for name in ("authorization", "x-api-key") if name in headers} == expected


def test_an_empty_body_has_a_length(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts.append(sends(answer(b"")))
    read_all(upstream, request(b""))
    assert head_of(server)[1]["content-length"] == "0"


def test_proxies_of_the_environment_are_not_used(
    server: ScriptedServer, upstream: RequestsUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.scripts.append(sends(answer(b"direct")))
    assert read_all(upstream) == b"direct"


# What comes back


@pytest.mark.wire(65)
@pytest.mark.parametrize(
    "script",
    [
        sends(answer(b"whole answer")),
        sends(CHUNKED, chunk(b"whole "), chunk(b"answer"), b"0\r\n\r\n"),
        sends(CHUNKED, chunk(b"whole "), chunk(b"answer"), b"0\r\nX-Trailer: 1\r\n\r\n"),
        sends_and_closes(b"HTTP/1.0 200 OK\r\n\r\nwhole answer"),
    ],
)
def test_every_framing_gives_the_same_bytes(
    server: ScriptedServer, upstream: RequestsUpstream, script: Script
) -> None:
    server.scripts.append(script)
    assert read_all(upstream) == b"whole answer"


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_read_returns_what_has_arrived(
    server: ScriptedServer, upstream: RequestsUpstream, is_chunked: bool
) -> None:
    gate = threading.Event()

    def play(connection: socket.socket) -> None:
        if is_chunked:
            connection.sendall(CHUNKED + chunk(b"first"))
            gate.wait(5)
            connection.sendall(chunk(b"second") + b"0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst")
            gate.wait(5)
            connection.sendall(b"second")

    server.scripts.append(play)
    reply = upstream.send(request(), KEY)
    assert reply.read() == b"first"
    gate.set()
    assert (reply.read(), reply.read()) == (b"second", b"")
    reply.close()


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
def test_compressed_bytes_are_not_decoded(
    server: ScriptedServer, upstream: RequestsUpstream, coding: bytes
) -> None:
    server.scripts.append(sends(answer(b"\x1f\x8bxyz", b"Content-Encoding: " + coding)))
    assert read_all(upstream) == b"\x1f\x8bxyz"


def test_redirects_are_not_followed(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts.append(sends(answer(b"", b"Location: /elsewhere", status=b"307 Temporary Redirect")))
    reply = upstream.send(request(), KEY)
    assert reply.status == 307
    reply.close()
    assert len(server.requests) == 1


def test_cookies_are_not_kept(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts += [sends(answer(b"", b"Set-Cookie: a=b; Path=/"))] * 2
    read_all(upstream)
    read_all(upstream)
    assert "cookie" not in head_of(server)[1]


# Failures


@pytest.mark.wire(60)
def test_a_refused_connection_is_unreachable(server: ScriptedServer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        upstream = RequestsUpstream(
            f"http://127.0.0.1:{unused.getsockname()[1]}", connect_timeout_s=2, read_timeout_s=1
        )
        assert failure_of(lambda: upstream.send(request(), KEY)) == "unreachable"
        upstream.close()


def test_an_unknown_host_is_unreachable() -> None:
    upstream = RequestsUpstream("http://weir.invalid", connect_timeout_s=2, read_timeout_s=1)
    assert failure_of(lambda: upstream.send(request(), KEY)) == "unreachable"
    upstream.close()


def test_a_server_that_speaks_no_tls_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_plainly() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(65536)

        thread = threading.Thread(target=answer_plainly, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        upstream = RequestsUpstream(f"https://127.0.0.1:{port}", connect_timeout_s=2, read_timeout_s=2)
        assert failure_of(lambda: upstream.send(request(), KEY)) == "unreachable"
        upstream.close()
        thread.join(5)


@pytest.mark.wire(60)
@pytest.mark.parametrize("script", [resets(), sends_and_closes(), resets(b"HTTP/1.1 200 OK\r\n")])
def test_a_connection_lost_before_the_headers_is_a_reset(
    server: ScriptedServer, upstream: RequestsUpstream, script: Script
) -> None:
    server.scripts.append(script)
    assert failure_of(lambda: upstream.send(request(), KEY)) == "reset"


@pytest.mark.parametrize("script", [resets(), sends_and_closes()])
def test_a_connection_that_had_served_and_is_closed_without_a_word_was_stale(
    server: ScriptedServer, upstream: RequestsUpstream, script: Script
) -> None:
    server.scripts += [sends(answer(b"one")), script, script]
    first = upstream.send(request(), KEY)
    assert b"".join(iter(first.read, b"")) == b"one"
    first.close()
    told = []
    for _ in range(2):  # on the connection that had served, then on a fresh one
        with pytest.raises(UpstreamFailure) as caught:
            upstream.send(request(), KEY)
        told.append((caught.value.kind, caught.value.is_stale))
    assert told == [("reset", True), ("reset", False)]
    assert server.connections == 2


def test_a_connection_that_breaks_inside_an_answers_headers_was_not_stale(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [sends(answer(b"one")), resets(b"HTTP/1.1 200 OK\r\n")]
    first = upstream.send(request(), KEY)
    assert b"".join(iter(first.read, b"")) == b"one"
    first.close()
    with pytest.raises(UpstreamFailure) as caught:
        upstream.send(request(), KEY)
    assert (caught.value.kind, caught.value.is_stale) == ("reset", False)
    assert server.connections == 1


@pytest.mark.wire(60)
def test_silence_before_the_headers_is_a_timeout(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts.append(sends())
    assert failure_of(lambda: upstream.send(request(), KEY)) == "timeout"


@pytest.mark.parametrize(
    "start", [CHUNKED + chunk(b"first"), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nfirst"]
)
def test_silence_within_the_answer_is_a_timeout(
    server: ScriptedServer, upstream: RequestsUpstream, start: bytes
) -> None:
    server.scripts.append(sends(start))
    reply = upstream.send(request(), KEY)
    assert reply.read() == b"first"
    assert failure_of(reply.read) == "timeout"
    reply.close()


@pytest.mark.wire(66)
@pytest.mark.parametrize(
    "script",
    [
        sends_and_closes(CHUNKED, chunk(b"first")),
        sends_and_closes(CHUNKED, chunk(b"first"), b"5\r\nse"),
        sends_and_closes(CHUNKED, chunk(b"first"), b"5"),
        sends_and_closes(CHUNKED, chunk(b"first"), b"zz\r\n"),
        sends_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nfirst"),
        resets(CHUNKED, chunk(b"first")),
    ],
)
def test_an_answer_that_breaks_off_is_truncated(
    server: ScriptedServer, upstream: RequestsUpstream, script: Script
) -> None:
    server.scripts.append(script)

    def read_on() -> None:
        reply = upstream.send(request(), KEY)
        try:
            while reply.read():
                pass
        finally:
            reply.close()

    assert failure_of(read_on) in ("truncated", "reset")


def test_headers_that_are_no_http_are_a_failure(server: ScriptedServer, upstream: RequestsUpstream) -> None:
    server.scripts.append(sends_and_closes(b"SSH-2.0-OpenSSH\r\n\r\n"))
    assert failure_of(lambda: upstream.send(request(), KEY)) in ("reset", "garbled")


def test_a_base_url_that_is_none_is_a_failure() -> None:
    upstream = RequestsUpstream("http://:0/ x", connect_timeout_s=1, read_timeout_s=1)
    assert failure_of(lambda: upstream.send(request(), KEY)) == "garbled"
    upstream.close()


# Connections


def test_a_connection_is_used_again_after_a_whole_answer(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [
        sends(answer(b"one")),
        sends(CHUNKED, chunk(b"two"), b"0\r\n\r\n"),
        sends(answer(b"three")),
    ]
    assert [read_all(upstream) for _ in range(3)] == [b"one", b"two", b"three"]
    assert server.connections == 1


@pytest.mark.parametrize("reads", [0, 1])
def test_a_connection_with_an_unread_rest_is_closed(
    server: ScriptedServer, upstream: RequestsUpstream, reads: int
) -> None:
    server.scripts += [sends(CHUNKED, chunk(b"one")), sends(answer(b"two"))]
    reply = upstream.send(request(), KEY)
    for _ in range(reads):
        assert reply.read() == b"one"
    reply.close()
    reply.close()
    assert server.closed_by_peer.acquire(timeout=5)
    assert read_all(upstream) == b"two"
    assert server.connections == 2


def test_an_idle_connection_that_the_upstream_closed_is_replaced(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [sends_and_closes(answer(b"one")), sends(answer(b"two"))]
    assert read_all(upstream) == b"one"
    assert server.closed_by_peer.acquire(timeout=5)
    assert read_all(upstream) == b"two"


# Interim answers, and bytes nobody asked for

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    "interim",
    [HINTS, HINTS + HINTS, CONTINUE + HINTS + CONTINUE, b"HTTP/1.1 199 X\r\nContent-Length: 9\r\n\r\n"],
)
@pytest.mark.parametrize("whole", [answer(b"real"), CHUNKED + chunk(b"real") + b"0\r\n\r\n"])
def test_interim_answers_are_skipped(
    server: ScriptedServer, upstream: RequestsUpstream, interim: bytes, whole: bytes
) -> None:
    server.scripts += [sends(interim, whole), sends(answer(b"next"))]
    reply = upstream.send(request(), KEY)
    assert (reply.status, reply.headers.get("link")) == (200, None)
    assert b"".join(iter(reply.read, b"")) == b"real"
    reply.close()
    assert read_all(upstream) == b"next"
    assert server.connections == 1


@pytest.mark.parametrize("interim", [HINTS, CONTINUE])
def test_interim_answers_without_end_are_a_failure(
    server: ScriptedServer, upstream: RequestsUpstream, interim: bytes
) -> None:
    server.scripts += [sends(interim * (MAX_INTERIM_ANSWERS + 1), answer(b"late")), sends(answer(b"next"))]
    assert failure_of(lambda: upstream.send(request(), KEY)) == "garbled"
    assert read_all(upstream) == b"next"
    assert server.connections == 2


def test_an_interim_answer_that_never_becomes_a_final_one_is_a_timeout(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [sends(HINTS), sends(answer(b"next"))]
    assert failure_of(lambda: upstream.send(request(), KEY)) == "timeout"
    assert read_all(upstream) == b"next"


def test_a_connection_that_changed_its_protocol_is_not_used_again(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [
        sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        sends(answer(b"next")),
    ]
    reply = upstream.send(request(), KEY)
    assert (reply.status, reply.read()) == (101, b"")
    reply.close()
    assert server.closed_by_peer.acquire(timeout=5)
    assert read_all(upstream) == b"next"
    assert server.connections == 2


STRAY = answer(b"another client's")


@pytest.mark.parametrize(
    "unasked",
    [STRAY, STRAY * 2000, STRAY[:40], STRAY[:1], b"\r\n"],
    ids=["whole", "many", "half", "byte", "newline"],
)
@pytest.mark.parametrize(
    "whole",
    [
        answer(b"mine"),
        CHUNKED + chunk(b"mine") + b"0\r\n\r\n",
        CHUNKED + chunk(b"mine") + b"0\r\nX-Trailer: 1\r\n\r\n",
        answer(b"", status=b"204 No Content"),
    ],
    ids=["length", "chunked", "trailer", "no content"],
)
def test_bytes_beyond_an_answer_close_the_connection(
    server: ScriptedServer, upstream: RequestsUpstream, whole: bytes, unasked: bytes
) -> None:
    """In one piece with the answer: whatever of them is read with it must not be forgotten."""
    server.scripts += [sends(whole, unasked), sends(answer(b"next"))]
    assert read_all(upstream) in (b"mine", b"")
    assert server.closed_by_peer.acquire(timeout=5)
    assert read_all(upstream) == b"next"
    assert server.connections == 2


@pytest.mark.parametrize("unasked", [STRAY, STRAY[:40]], ids=["whole", "half"])
def test_bytes_on_an_idle_connection_close_it(
    server: ScriptedServer, upstream: RequestsUpstream, unasked: bytes
) -> None:
    is_read, is_sent = threading.Event(), threading.Event()

    def play(connection: socket.socket) -> None:
        connection.sendall(answer(b"mine"))
        is_read.wait(5)
        connection.sendall(unasked)
        is_sent.set()

    server.scripts += [play, sends(answer(b"next"))]
    assert read_all(upstream) == b"mine"
    is_read.set()
    assert is_sent.wait(5)
    assert read_all(upstream) == b"next"
    assert server.connections == 2
