"""The transport against a scripted server on the loopback: what it sends, and how each failure is told."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from app.upstream.host_choice import SUSPICIOUS_S
from app.upstream.hosts import HostProber, UpstreamHosts
from app.upstream.http1 import MAX_INTERIM_ANSWERS
from app.upstream.http1_adapter import Http1Adapter
from app.upstream.transport import ProviderKey, UpstreamFailure, UpstreamRequest
from app.upstream.upstream import RequestsUpstream
from tests.support.scripted_server import (
    CHUNKED,
    Script,
    ScriptedServer,
    answer,
    chunk,
    resets,
    sends,
    sends_and_closes,
)

KEY = ProviderKey("k1", "sk-secret")


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


@pytest.fixture
def impatient(server: ScriptedServer) -> Iterator[RequestsUpstream]:
    """One that takes a second of silence for the end."""
    upstream = transport(server, read_timeout_s=1)
    yield upstream
    upstream.close()


def transport(
    server: ScriptedServer, auth: str = "bearer", path: str = "/base/", read_timeout_s: float = 60
) -> RequestsUpstream:
    url = f"http://127.0.0.1:{server.port}{path}"
    return RequestsUpstream(url, connect_timeout_s=20, read_timeout_s=read_timeout_s, auth=auth)


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


# Answers that come before the request has gone out


def refuses_unread(listener: socket.socket, status: bytes, done: threading.Event) -> None:
    """Answer one request after its head, read no more, and keep the connection until it is `done`."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(answer(b"too large", status=status))
        done.wait(60)


@pytest.mark.parametrize("status", [b"413 X", b"400 X", b"503 X"])
def test_a_refusal_is_read_though_the_body_is_not_taken(status: bytes) -> None:
    """The transport does not go on sending until its time is over; the connection is not used again."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuses_unread, args=(listener, status, done), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        upstream = RequestsUpstream(f"http://127.0.0.1:{port}", connect_timeout_s=20, read_timeout_s=60)
        reply = upstream.send(request(b"x" * 20_000_000), KEY)
        assert (reply.status, reply.read(), reply.read()) == (int(status[:3]), b"too large", b"")
        reply.close()
        assert not any(upstream._adapter._idle.values())
        done.set()
        thread.join(60)
        upstream.close()


def test_a_large_body_arrives_whole(server: ScriptedServer) -> None:
    server.scripts = [sends(answer(b"ok"))]
    upstream = RequestsUpstream(f"http://127.0.0.1:{server.port}", connect_timeout_s=20, read_timeout_s=60)
    assert read_all(upstream, request(b"x" * 8_000_000)) == b"ok"
    assert server.requests[0].endswith(b"\r\n\r\n" + b"x" * 8_000_000)
    upstream.close()


def test_a_body_that_nobody_takes_is_given_up(server: ScriptedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        upstream = RequestsUpstream(f"http://127.0.0.1:{port}", connect_timeout_s=2, read_timeout_s=0.2)
        assert failure_of(lambda: upstream.send(request(b"x" * 20_000_000), KEY)) in ("reset", "timeout")
        upstream.close()


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


def test_it_is_an_adapter_as_requests_has_them(server: ScriptedServer) -> None:
    """Mounted on a session, it serves requests' own readers, too."""
    server.scripts += [sends(answer(b"one", b"X-A: 1")), sends(CHUNKED, chunk(b"two"), b"0\r\n\r\n")]
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", Http1Adapter())
        url = f"http://127.0.0.1:{server.port}/"
        first = session.post(url, data=b"{}", timeout=(20, 60))
        assert (first.status_code, first.headers["x-a"], first.content) == (200, "1", b"one")
        with session.get(url, timeout=(20, 60), stream=True) as second:
            assert list(second.iter_content(1000)) == [b"two"]
    assert server.connections == 1
    assert server.closed_by_peer.acquire(timeout=60)


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
            gate.wait(60)
            connection.sendall(chunk(b"second") + b"0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst")
            gate.wait(60)
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
        thread.join(60)


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
def test_silence_before_the_headers_is_a_timeout(server: ScriptedServer, impatient: RequestsUpstream) -> None:
    server.scripts.append(sends())
    assert failure_of(lambda: impatient.send(request(), KEY)) == "timeout"


@pytest.mark.parametrize(
    "start", [CHUNKED + chunk(b"first"), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nfirst"]
)
def test_silence_within_the_answer_is_a_timeout(
    server: ScriptedServer, upstream: RequestsUpstream, start: bytes
) -> None:
    server.scripts.append(sends(start))
    reply = upstream.send(request(), KEY)
    assert reply.read() == b"first"
    reply._connection.set_timeout(0.5)  # type: ignore[attr-defined]
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
    assert server.closed_by_peer.acquire(timeout=60)
    assert read_all(upstream) == b"two"
    assert server.connections == 2


def test_an_idle_connection_that_the_upstream_closed_is_replaced(
    server: ScriptedServer, upstream: RequestsUpstream
) -> None:
    server.scripts += [sends_and_closes(answer(b"one")), sends(answer(b"two"))]
    assert read_all(upstream) == b"one"
    assert server.closed_by_peer.acquire(timeout=60)
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
    server: ScriptedServer, impatient: RequestsUpstream
) -> None:
    server.scripts += [sends(HINTS), sends(answer(b"next"))]
    assert failure_of(lambda: impatient.send(request(), KEY)) == "timeout"
    impatient._timeout = (20, 60)
    assert read_all(impatient) == b"next"


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
    assert server.closed_by_peer.acquire(timeout=60)
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
    assert server.closed_by_peer.acquire(timeout=60)
    assert read_all(upstream) == b"next"
    assert server.connections == 2


@pytest.mark.parametrize("unasked", [STRAY, STRAY[:40]], ids=["whole", "half"])
def test_bytes_on_an_idle_connection_close_it(
    server: ScriptedServer, upstream: RequestsUpstream, unasked: bytes
) -> None:
    is_read, is_sent = threading.Event(), threading.Event()

    def play(connection: socket.socket) -> None:
        connection.sendall(answer(b"mine"))
        is_read.wait(60)
        connection.sendall(unasked)
        is_sent.set()

    server.scripts += [play, sends(answer(b"next"))]
    assert read_all(upstream) == b"mine"
    is_read.set()
    assert is_sent.wait(60)
    assert read_all(upstream) == b"next"
    assert server.connections == 2


# Several hosts


def page(status: bytes = b"503 X") -> bytes:
    return answer(b"<html>", b"Content-Type: text/html", status=status)


def test_a_failing_host_is_avoided_told_of_and_probed_without_a_key(server: ScriptedServer) -> None:
    now = [100.0]
    urls = [f"http://127.0.0.1:{server.port}/a", f"http://127.0.0.1:{server.port}/b"]
    hosts = UpstreamHosts(urls, clock=lambda: now[0])
    upstream = RequestsUpstream(hosts, connect_timeout_s=20, read_timeout_s=60)
    server.scripts = [sends(page()), sends(answer(b"ok")), sends(answer(b"no", status=b"401 X"))]
    first = upstream.send(request(), KEY)
    assert (first.host, first.is_of_host, hosts.usable()) == (0, True, [False, True])
    first.close()
    second = upstream.send(request(), KEY, frozenset({0}))
    assert (second.host, second.is_of_host, second.read()) == (1, False, b"ok")
    second.close()
    prober = HostProber(hosts, upstream.probe)
    prober.probe_due()
    assert len(server.requests) == 2
    now[0] += 5
    prober.probe_due()
    assert hosts.usable() == [True, True]
    assert server.requests[2].startswith(b"GET /a/v1/models ")
    assert b"sk-secret" not in server.requests[2]
    upstream.close()


@pytest.mark.parametrize(
    ("script", "kind", "is_of_host"),
    [
        (resets(), "reset", False),
        (sends(b""), "timeout", True),
        (sends(b"nonsense\r\n\r\n"), "garbled", False),
    ],
)
def test_only_some_failures_are_a_hosts(
    server: ScriptedServer, script: Script, kind: str, is_of_host: bool
) -> None:
    url = f"http://127.0.0.1:{server.port}"
    upstream = RequestsUpstream(
        UpstreamHosts([url, f"{url}/b"]), connect_timeout_s=20, read_timeout_s=1 if kind == "timeout" else 60
    )
    server.scripts = [script]
    with pytest.raises(UpstreamFailure) as caught:
        upstream.send(request(), KEY)
    assert (caught.value.kind, caught.value.host, caught.value.is_of_host) == (kind, 0, is_of_host)
    upstream.close()


def test_a_client_that_gives_up_on_a_silent_host_has_it_probed() -> None:
    now = [0.0]
    hosts = UpstreamHosts(["http://a.invalid", "http://b.invalid"], clock=lambda: now[0])
    now[0] = SUSPICIOUS_S - 1
    hosts.note_departure(0, 0.0)
    assert hosts.due() == []
    now[0] += 1
    hosts.note_departure(0, 0.0)
    assert hosts.due() == [0]
    HostProber(hosts, lambda position: "no answer").probe_due()
    assert hosts.usable() == [False, True]
