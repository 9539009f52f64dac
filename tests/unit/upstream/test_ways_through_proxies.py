"""Each way through a proxy against a scripted server: a connection through it is one like any other."""

import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import pytest

from app.upstream.http1 import MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS
from app.upstream.proxy_choice import ProxyKind
from app.upstream.proxy_pool import DIRECT, Route
from app.upstream.proxy_transport import ProxyAdapter, RouteFault
from app.upstream.transport import ClientGone, Passed, ProviderKey, UpstreamFailure, UpstreamRequest
from app.upstream.upstream import RequestsUpstream
from tests.support.proxy_servers import PROXIES, HttpProxy, Socks5Proxy, TlsFront
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
USER, PASSWORD = "weir", "hunter2 ü:%@/"
HEADERS = {"accept-encoding": "identity"}


class Routes:
    """What a `ProxyPool` is to the transport: one proxy, then perhaps the direct way."""

    def __init__(self, adapter: ProxyAdapter, *, allow_direct: bool) -> None:
        self._routes = [Route("p1", adapter), DIRECT] if allow_direct else [Route("p1", adapter)]
        self.told: list[str] = []
        """What was found out about the proxy."""

    def routes(self, _key_id: str) -> list[Route]:
        return self._routes

    def note_success(self, proxy_id: str) -> None:
        self.told.append(f"{proxy_id} connects")

    def note_failure(self, proxy_id: str, reason: str) -> None:
        self.told.append(f"{proxy_id}: {reason}")


class Way(NamedTuple):
    """A proxy, and a transport through it to the scripted server."""

    proxy: HttpProxy | Socks5Proxy
    adapter: ProxyAdapter
    url: str
    ca_file: str

    def upstream(self, *, allow_direct: bool = False) -> tuple[RequestsUpstream, Routes]:
        routes = Routes(self.adapter, allow_direct=allow_direct)
        upstream = RequestsUpstream(
            self.url,
            connect_timeout_s=20,
            read_timeout_s=60,
            proxies=routes,  # type: ignore[arg-type]
            ca_file=self.ca_file,
        )
        return upstream, routes


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


def way_of(kind: ProxyKind, server: ScriptedServer, tmp_path: Path, *, tls: bool) -> Iterator[Way]:
    with PROXIES[kind]((USER, PASSWORD)) as proxy, TlsFront(server.port, tmp_path) as front:
        adapter = ProxyAdapter(proxy.endpoint())
        yield Way(proxy, adapter, front.url if tls else f"http://127.0.0.1:{server.port}", front.ca_file)
        adapter.close()


WAYS = {
    "CONNECT": (ProxyKind.HTTP, True),
    "absolute form": (ProxyKind.HTTP, False),
    "SOCKS5 and TLS": (ProxyKind.SOCKS5, True),
    "SOCKS5": (ProxyKind.SOCKS5, False),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, server: ScriptedServer, tmp_path: Path) -> Iterator[Way]:
    kind, tls = WAYS[request.param]
    yield from way_of(kind, server, tmp_path, tls=tls)


@pytest.fixture
def tunnel(server: ScriptedServer, tmp_path: Path) -> Iterator[Way]:
    yield from way_of(ProxyKind.HTTP, server, tmp_path, tls=True)


def asked(query: str = "") -> UpstreamRequest:
    return UpstreamRequest("POST", "/v1/messages", query, HEADERS, b"{}")


def read_all(upstream: RequestsUpstream) -> bytes:
    reply = upstream.send(asked(), KEY)
    data = b"".join(iter(reply.read, b""))
    reply.close()
    return data


# A connection like any other


def test_a_connection_is_used_again(way: Way, server: ScriptedServer) -> None:
    server.scripts += [
        sends(answer(b"one")),
        sends(CHUNKED, chunk(b"two"), b"0\r\n\r\n"),
        sends(answer(b"3")),
    ]
    upstream, _ = way.upstream()
    assert [read_all(upstream) for _ in range(3)] == [b"one", b"two", b"3"]
    assert (way.proxy.connections, server.connections) == (1, 1)


def test_a_connection_with_an_unread_rest_is_not_used_again(way: Way, server: ScriptedServer) -> None:
    server.scripts += [sends(CHUNKED, chunk(b"one")), sends(answer(b"two"))]
    upstream, _ = way.upstream()
    upstream.send(asked(), KEY).close()
    assert server.closed_by_peer.acquire(timeout=60)
    assert read_all(upstream) == b"two"
    assert way.proxy.connections == 2


@pytest.mark.parametrize("unasked", [answer(b"another client's"), b"\r\n"])
def test_bytes_beyond_an_answer_close_it(way: Way, server: ScriptedServer, unasked: bytes) -> None:
    server.scripts += [sends(answer(b"mine"), unasked), sends(answer(b"next"))]
    upstream, _ = way.upstream()
    assert read_all(upstream) == b"mine"
    assert server.closed_by_peer.acquire(timeout=60)
    assert read_all(upstream) == b"next"
    assert way.proxy.connections == 2


def gated(gate: threading.Semaphore, *pieces: bytes) -> Script:
    """Send each piece once the one before has got through."""

    def play(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            assert gate.acquire(timeout=60)

    return play


def test_a_stream_comes_chunk_by_chunk(way: Way, server: ScriptedServer) -> None:
    gate = threading.Semaphore(0)
    chunks = [b"one", b"two", b"three"]
    server.scripts.append(gated(gate, CHUNKED + chunk(chunks[0]), *map(chunk, chunks[1:]), b"0\r\n\r\n"))
    upstream, _ = way.upstream()
    reply = upstream.send(asked(), KEY)
    assert (reply.status, reply.proxy_id, reply.headers["content-type"]) == (200, "p1", "text/event-stream")
    for expected in chunks:
        assert reply.read() == expected
        gate.release()
    assert reply.read() == b""
    gate.release()
    reply.close()


def test_a_stream_passes_within_the_event_loop(way: Way, server: ScriptedServer) -> None:
    gate = threading.Semaphore(0)
    chunks = [b"%d" % number * 9 for number in range(9)]
    server.scripts.append(gated(gate, CHUNKED, *map(chunk, chunks)))
    upstream, _ = way.upstream()
    reply = upstream.send(asked(), KEY)
    taken: list[bytes] = []

    def take(data: bytes) -> Passed:
        taken.append(data)
        gate.release()
        return Passed.ON if len(taken) < len(chunks) else Passed.PARTLY

    gate.release()
    assert reply.read_passing(take) is None
    assert taken == chunks
    reply.close()


def test_silence_within_an_answer_is_a_timeout(way: Way, server: ScriptedServer) -> None:
    server.scripts.append(sends(CHUNKED, chunk(b"first")))
    upstream, routes = way.upstream()
    reply = upstream.send(asked(), KEY)
    assert reply.read() == b"first"
    reply._connection.set_timeout(0.2)  # type: ignore[attr-defined]
    with pytest.raises(UpstreamFailure, match="timeout"):
        reply.read()
    reply.close()
    assert routes.told == ["p1 connects"]


@pytest.mark.parametrize("script", [resets(), sends_and_closes()])
def test_one_that_had_served_and_is_closed_without_a_word_was_stale(
    way: Way, server: ScriptedServer, script: Script
) -> None:
    """What tells the attempt loop to try once more; on a fresh connection the same is a failure."""
    server.scripts += [sends(answer(b"one")), script, script]
    upstream, _ = way.upstream()
    assert read_all(upstream) == b"one"
    told = []
    for _ in range(2):
        with pytest.raises(UpstreamFailure) as caught:
            upstream.send(asked(), KEY)
        told.append((caught.value.kind, caught.value.is_stale, caught.value.proxy_id))
    assert told == [("reset", True, "p1"), ("reset", False, "p1")]
    assert way.proxy.connections == 2


def test_one_that_breaks_within_the_headers_was_not_stale(way: Way, server: ScriptedServer) -> None:
    server.scripts += [sends(answer(b"one")), sends_and_closes(b"HTTP/1.1 200 OK\r\n")]
    upstream, _ = way.upstream()
    assert read_all(upstream) == b"one"
    with pytest.raises(UpstreamFailure) as caught:
        upstream.send(asked(), KEY)
    assert (caught.value.kind, caught.value.is_stale) == ("truncated", False)


def test_it_is_closed_with_the_adapter_or_its_answer(way: Way, server: ScriptedServer) -> None:
    server.scripts += [sends(answer(b"one")), sends(answer(b"two"))]
    upstream, _ = way.upstream()
    assert read_all(upstream) == b"one"
    reply = upstream.send(asked(), KEY)
    way.adapter.close()
    assert b"".join(iter(reply.read, b"")) == b"two"
    assert server.closed_by_peer.acquire(timeout=60)


def test_a_forwarding_proxy_is_asked_for_the_whole_url(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts.append(sends(answer(b"")))
    for way in way_of(ProxyKind.HTTP, server, tmp_path, tls=False):
        upstream, _ = way.upstream()
        upstream.send(asked("a=%2F&b"), KEY).close()
        assert way.proxy.seen == [f"http://127.0.0.1:{server.port}/v1/messages?a=%2F&b"]
    assert server.requests[0].split(b"\r\n")[:2] == [
        b"POST /v1/messages?a=%2F&b HTTP/1.1",
        b"Host: 127.0.0.1:%d" % server.port,
    ]


# Credentials


def test_credentials_are_the_proxys_alone(
    way: Way, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.scripts.append(sends(answer(b"")))
    upstream, _ = way.upstream()
    read_all(upstream)
    assert b"proxy-" not in server.requests[0].lower()
    shown = repr((way.adapter, way.adapter.endpoint, upstream)) + caplog.text
    assert PASSWORD.encode() not in server.requests[0]
    assert not [secret for secret in ("hunter2", "d2Vpcjpo") if secret in shown]


@pytest.mark.parametrize("fault", ["wrong", "denied", "no_target", "garbage", "stopped"])
def test_credentials_are_in_no_error(way: Way, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    way.proxy.fault = fault
    if fault == "wrong":
        way.proxy.credentials = ("weir", "another")
    if fault == "stopped":
        way.proxy.stop()
    upstream, routes = way.upstream()
    errors = [
        error_of(lambda: way.adapter.check(way.url, timeout_s=60, verify=way.ca_file)),
        error_of(lambda: upstream.send(asked(), KEY).close()),
    ]
    looks_like_an_answer = way.url.startswith("http:") and fault in ("denied", "no_target")
    assert all(errors) or looks_like_an_answer
    shown = "".join(errors) + caplog.text + str(routes.told)
    assert not [secret for secret in ("hunter2", "d2Vpcjpo", "sk-secret") if secret in shown]


def error_of(do: Callable[[], object]) -> str:
    try:
        do()
    except (RouteFault, UpstreamFailure) as error:
        return "".join(traceback.format_exception(error))
    return ""


# What a proxy says to CONNECT

SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.0 200 Connection established\r\n\r\n"],
        [b"HTTP/1.1 200\r\n\r\n"],
        [b"HTTP/1.1 299 Whatever\r\nX: 1\r\n\r\n"],
        [OK + b"Content-Length: 0\r\n\r\n"],
        [OK + b"Content-Length: 9\r\n\r\n"],  # to be ignored (RFC 9110 §9.3.6), as the next
        [OK + b"Transfer-Encoding: chunked\r\n\r\n"],
        [OK + b"Connection: close\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", OK + b"\r\n"],
        [b"HTTP/1.1 102 Processing\r\n\r\n" + OK + b"\r\n"],
        [bytes([byte]) for byte in HttpProxy.usual],
    ],
)
def test_a_tunnel_that_is_one(tunnel: Way, server: ScriptedServer, pieces: list[bytes]) -> None:
    tunnel.proxy.established, tunnel.proxy.pause_s = pieces, 0.001
    server.scripts += [sends(answer(b"one")), sends(answer(b"two"))]
    upstream, _ = tunnel.upstream()
    assert [read_all(upstream), read_all(upstream)] == [b"one", b"two"]
    assert tunnel.proxy.connections == 1


REFUSED = {
    "a second answer behind the head": [OK + b"\r\n" + SECOND],
    "a body": [OK + b"Content-Length: 4\r\n\r\nfake"],
    "a byte behind the head": [OK + b"\r\n\n"],
    "an answer behind an interim one and the head": [b"HTTP/1.1 100 C\r\n\r\n" + OK + b"\r\n" + SECOND],
    "interim answers without end": [b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM_ANSWERS + 1)],
    "switching protocols": [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tls\r\n\r\n"],
    "a head without end": repeat(b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n"),
    "a head that is too long": [OK, b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n", b"\r\n"],
    "no head": [b"\r\n\r\n"],
    "another protocol": [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
    "another version": [b"HTTP/2.0 200 OK\r\n\r\n"],
    "a header that is none": [OK + b"X\r\n\r\n"],
    "a lone CR": [OK + b"X: a\rY: b\r\n\r\n"],
    "a length that is none": [OK + b"Content-Length: 1, 2\r\n\r\n"],
    "a redirect": [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"],
    "a page": [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nfake"],
    "a page of a gateway": [b"HTTP/1.1 502 Bad Gateway\r\n\r\n" + SECOND],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_tunnel_gets_nothing_and_the_next_way_is_taken(
    tunnel: Way, server: ScriptedServer, name: str
) -> None:
    tunnel.proxy.established = REFUSED[name]
    with pytest.raises(RouteFault) as caught:
        tunnel.adapter.check(tunnel.url, timeout_s=60, verify=tunnel.ca_file)
    assert caught.value.is_certain is (name in ("switching protocols", "a redirect", "a page"))
    assert server.requests == []

    tunnel.proxy.established = REFUSED[name]
    server.scripts.append(sends(answer(b"directly")))
    upstream, routes = tunnel.upstream(allow_direct=True)
    assert read_all(upstream) == b"directly"
    assert routes.told == [f"p1: {caught.value.reason}"]
    upstream.close()


def test_bytes_that_come_after_the_head_are_no_answer_of_the_upstream(
    tunnel: Way, server: ScriptedServer
) -> None:
    tunnel.proxy.established, tunnel.proxy.pause_s = [OK + b"\r\n", SECOND], 0.05
    with pytest.raises(RouteFault, match="no TLS connection to the upstream comes about"):
        tunnel.adapter.check(tunnel.url, timeout_s=60, verify=tunnel.ca_file)
    assert server.requests == []


def test_a_head_that_comes_too_slowly_is_given_up(tunnel: Way) -> None:
    """Each byte comes in time, and there is always one more."""
    tunnel.proxy.established, tunnel.proxy.pause_s = chain([OK + b"X: "], repeat(b"x")), 0.05
    with pytest.raises(RouteFault, match="it does not reach the upstream"):
        tunnel.adapter.check(tunnel.url, timeout_s=0.3, verify=tunnel.ca_file)


def test_a_proxy_that_hangs_up_within_its_head(tunnel: Way) -> None:
    tunnel.proxy.established = hangs_up(tunnel.proxy, OK)
    with pytest.raises(RouteFault, match="it does not reach the upstream"):
        tunnel.adapter.check(tunnel.url, timeout_s=60, verify=tunnel.ca_file)


def hangs_up(proxy: HttpProxy | Socks5Proxy, start: bytes) -> Iterator[bytes]:
    yield start
    proxy.drop()


def test_an_ipv6_upstream_is_asked_for_in_brackets(tunnel: Way) -> None:
    with pytest.raises(RouteFault):
        tunnel.adapter.check("https://[::1]:4430", timeout_s=2)
    assert tunnel.proxy.seen == ["[::1]:4430"]


@pytest.mark.parametrize("handshake", ["_tunnel", "_connect_socks"])
def test_a_client_that_leaves_during_the_handshake_has_had_nothing_sent(
    server: ScriptedServer, tmp_path: Path, handshake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProxyAdapter, handshake, leaves)
    kind = ProxyKind.HTTP if handshake == "_tunnel" else ProxyKind.SOCKS5
    for way in way_of(kind, server, tmp_path, tls=True):
        with pytest.raises(ClientGone) as caught:
            way.upstream()[0].send(asked(), KEY)
        assert caught.value.is_unsent
    assert server.requests == []


def leaves(*_: object) -> None:
    raise ClientGone
