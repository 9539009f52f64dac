"""Clients that stall: each part of a request and of its answer has its time, and then the connection ends."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest

from simulator import Data, End, Head, Script
from simulator.launcher import wait_until
from tests.support.lab import CHAT, COUNT, MESSAGES, UNKNOWN, Lab, check
from tests.support.metrics_page import scrape
from tests.support.raw_http import RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
ENDLESS = Script.of(SSE_HEAD, *[Data(chunk("x" * 200_000))] * 200, End())
PAGE = "https://chat.example.com"
HEAD_S = BODY_S = 2
ENOUGH = 60
"""Connections that the proxy below allows."""


@pytest.fixture(scope="module")
def strict_weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    with WeirProcess(
        tmp_path_factory.mktemp("strict"),
        upstream.url,
        # Each is many times as long as what a test that has to be served lets it wait.
        CLIENT_KEEPALIVE_S="8",
        CLIENT_HEAD_TIMEOUT_S=str(HEAD_S),
        CLIENT_BODY_TIMEOUT_S=str(BODY_S),
        CLIENT_WRITE_TIMEOUT_S="2",
        WORKER_CONNECTIONS=str(ENOUGH),
        ABORT_DRAIN_S="90",
        CORS_ORIGINS=PAGE,
    ) as process:
        yield process


@pytest.fixture
def strict_lab(strict_weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    opened = Lab(strict_weir, upstream)
    yield opened
    opened.check_books()


def refused(lab: Lab, reason: str) -> float:
    return scrape(lab.weir).get("weir_unauthenticated_requests_total", {}).get((reason,), 0.0)


def sent_until_cut(connection: RawConnection, piece: bytes, *, most: int, pause_s: float = 0.0) -> int:
    """How many pieces could be sent until the other side had enough."""
    for sent in range(most):
        try:
            connection.send(piece)
        except ConnectionError:
            return sent
        time.sleep(pause_s)
    return most


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_body_that_stalls_gets_a_408_in_its_format_and_a_record(strict_lab: Lab, path: str) -> None:
    with RawConnection(strict_lab.weir.url) as connection:
        strict_lab.expected_records += 1
        connection.request("POST", path, strict_lab.headers(**{"Content-Length": "1000"}), b'{"model":')
        played = strict_lab.played(connection.read_response())
        assert played.response.headers["connection"] == "close"
    assert played.response.status == 408
    assert json.loads(played.body)["error"]["type"] == "timeout_error"
    check(played.record, UNKNOWN, "rejected", status=408)
    assert played.record["errorType"] == "request_timeout"


def test_a_body_that_trickles_in_is_given_up_too(strict_lab: Lab) -> None:
    with RawConnection(strict_lab.weir.url) as connection:
        strict_lab.expected_records += 1
        connection.request("POST", CHAT, strict_lab.headers(**{"Content-Length": "1000"}), b"{")
        assert sent_until_cut(connection, b" ", most=900, pause_s=0.05) < 900
    assert strict_lab.only_record()["statusCode"] == 408


def test_a_body_that_comes_slowly_but_steadily_is_served(strict_lab: Lab) -> None:
    # If this process itself gets no time, it is not steadily.
    wait_until(lambda: has_sent_slowly(strict_lab) < BODY_S / 2, what="a body without a long pause")


def has_sent_slowly(lab: Lab) -> float:
    """Send a body that takes longer as a whole than it may stall; the longest pause within it, in seconds."""
    body = lab.body(CHAT, "out=2", padding="x" * 11_000)
    with RawConnection(lab.weir.url) as connection:
        lab.expected_records += 1
        began = time.monotonic()
        connection.request("POST", CHAT, lab.headers(**{"Content-Length": str(len(body))}))
        moments = [time.monotonic()]
        with suppress(ConnectionError):
            for start in range(0, len(body), 1000):
                connection.send(body[start : start + 1000])
                moments.append(time.monotonic())
                time.sleep(BODY_S / 10)
        longest = max(later - earlier for earlier, later in pairwise([began, *moments, time.monotonic()]))
        assert time.monotonic() - began > BODY_S
        status = lab.played(connection.read_response()).response.status
        assert status == 200 or longest >= BODY_S / 2
    return longest


@pytest.mark.parametrize("head", [b"POST /v1/chat", b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: 1\r\n"])
def test_half_a_head_ends_with_a_408_though_more_of_it_trickles_in(strict_lab: Lab, head: bytes) -> None:
    before = refused(strict_lab, "request_timeout")
    with RawConnection(strict_lab.weir.url) as connection:
        connection.send(head)
        for _ in range(3):
            time.sleep(0.1)
            with suppress(ConnectionError):  # this process itself got no time
                connection.send(b"a")
        response = connection.read_response()
        assert response.status == 408
        assert connection.is_closed()
    assert refused(strict_lab, "request_timeout") == before + 1


def test_a_connection_without_a_request_is_closed_without_a_word(strict_lab: Lab) -> None:
    with RawConnection(strict_lab.weir.url) as connection:
        assert connection.is_closed()


def test_a_kept_connection_may_idle_longer_than_a_head_may_take(strict_lab: Lab) -> None:
    with RawConnection(strict_lab.weir.url) as connection:
        connection.request("GET", "/health", {})
        assert connection.read_response().status == 200
        time.sleep(2.5)
        connection.request("GET", "/health", {})
        assert connection.read_response().status == 200
        assert connection.is_closed()


def test_a_client_that_does_not_read_is_one_that_left(strict_lab: Lab) -> None:
    """What becomes of its answer is `ON_CLIENT_ABORT`'s affair, as with any other that left: here a drain."""
    lab = strict_lab
    body = lab.stream_body(CHAT, ENDLESS)
    with RawConnection(lab.weir.url, receive_buffer=4096) as slow:
        lab.expected_records += 1
        slow.request("POST", CHAT, lab.headers(), body)
        slow.read_head()
        record = lab.only_record()
    assert record["outcome"] == "client_abort"
    assert record["statusCode"] == 200
    (entry,) = lab.wait_entries()
    assert entry["end"] == "finished"


def test_many_idle_connections_keep_nobody_out(strict_lab: Lab) -> None:
    """Those that have waited longest make room; who is being answered is not touched."""
    gate = strict_lab.gate()
    with strict_lab.open(CHAT, strict_lab.body(CHAT, f"out=2,hold={gate}")) as answered:
        strict_lab.upstream.wait_gate(gate)
        held = []
        try:
            began = time.monotonic()
            for _ in range(3 * ENOUGH):
                held.append(RawConnection(strict_lab.weir.url))
                held[-1].send(b"GET /health HTT")
            assert strict_lab.plain(CHAT, "out=2").response.status == 200
            took_s = time.monotonic() - began
            # Not a word is said, unless a head that stays half has its answer before it has to go.
            are_closed = [connection.is_closed() for connection in held[:ENOUGH]]
            assert all(are_closed) or took_s > HEAD_S
        finally:
            for connection in held:
                connection.close()
        strict_lab.upstream.open_gate(gate)
        assert strict_lab.played(answered.read_response()).response.status == 200


def test_a_body_far_over_the_limit_is_not_read_to_its_end(strict_lab: Lab) -> None:
    """The 413 comes at once and says that the connection ends; what is still sent is skipped for a while."""
    with RawConnection(strict_lab.weir.url) as connection:
        strict_lab.expected_records += 1
        connection.request("POST", CHAT, strict_lab.headers(**{"Content-Length": str(10**12)}), b"{")
        played = strict_lab.played(connection.read_response())
        assert played.response.status == 413
        assert played.response.headers["connection"] == "close"
        assert sent_until_cut(connection, b" " * 1_000_000, most=1000) < 100


def test_a_short_body_that_nobody_wants_leaves_the_connection_usable(strict_lab: Lab) -> None:
    with RawConnection(strict_lab.weir.url) as connection:
        for _ in range(2):
            connection.request("POST", CHAT, {"Authorization": "Bearer sk-unknown"}, b"{" * 50_000)
            assert connection.read_response().status == 401
        connection.request("POST", CHAT, {"Authorization": "Bearer sk-unknown"}, b"{" * 100_000)
        response = connection.read_response()
        assert (response.status, response.headers["connection"]) == (401, "close")
        assert connection.is_closed()


def test_what_is_no_request_is_answered_in_json_counted_and_not_logged(strict_lab: Lab) -> None:
    before = refused(strict_lab, "malformed_request")
    for lines in (b"Authorization Bearer sk-secret-4711\r\n", b"sk-secret-4711 : x\r\n"):
        with RawConnection(strict_lab.weir.url) as connection:
            connection.send(b"GET /v1/models?key=sk-secret-4711 HTTP/1.1\r\n" + lines + b"\r\n")
            response = connection.read_response()
        assert response.status == 400
        assert response.headers["content-type"] == "application/json"
        assert json.loads(response.body)["error"]["type"] == "invalid_request_error"
        assert b"4711" not in response.body
    assert refused(strict_lab, "malformed_request") == before + 2
    assert "4711" not in strict_lab.weir.log


BROKEN = Script.of(SSE_HEAD, Data(chunk("a")), Data(b'data: {"error":{"message":"no more"}}\n\n'), End())


@pytest.mark.parametrize(("origin", "wanted"), [(PAGE, PAGE), ("https://evil.test", None)])
def test_pages_of_a_named_origin_read_answers_of_all_kinds(
    strict_lab: Lab, origin: str, wanted: str | None
) -> None:
    """Here, since this is the proxy that names one."""
    headers = strict_lab.headers(Origin=origin)
    for path, body, status in (
        *((path, strict_lab.body(path, "out=2"), 200) for path in (CHAT, MESSAGES, COUNT)),
        *((path, strict_lab.stream_body(path, "chunks=3"), 200) for path in (CHAT, MESSAGES)),
        (CHAT, strict_lab.stream_body(CHAT, BROKEN), 200),
        (CHAT, strict_lab.body(CHAT, "fault=400"), 400),
        (CHAT, strict_lab.stream_body(CHAT, "fault=400"), 400),
        (MESSAGES, b"no JSON", 400),
        ("/v1/nothing", b"", 404),
        ("/v1/models", b"", 405),
    ):
        played = strict_lab.send(path, body, headers)
        assert played.response.status == status
        assert played.response.headers.get("access-control-allow-origin") == wanted
        assert played.response.headers["vary"] == "Origin"
    stranger = strict_lab.refused("POST", CHAT, {"Origin": origin})
    assert (stranger.status, stranger.headers.get("access-control-allow-origin")) == (401, wanted)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = strict_lab.refused("OPTIONS", CHAT, asked)
    assert (preflight.status, preflight.headers.get("access-control-allow-origin")) == (
        204 if wanted else 405,
        wanted,
    )
