"""What a request relies on without a proxy, through each kind of one: chunks at once, departures, retries."""

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from simulator import Data, Head, Script, Stall
from simulator.launcher import wait_until
from tests.support import sse
from tests.support.lab import CHAT, Lab, check
from tests.support.proxy_servers import PROXIES, HttpProxy, Socks5Proxy, TlsFront
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

PASSWORD = "hunter2-hunter2"
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
SUCCEEDED, A_LONG_NAME = b"\x05\x00\x00", b"\x03\xff"
"""What a SOCKS5 proxy says first, and how a bound address of 255 bytes begins."""


class Site(NamedTuple):
    """A proxy before the upstream, and Weir before both."""

    proxy: HttpProxy | Socks5Proxy
    lab: Lab


def use(weir: WeirProcess, proxy: HttpProxy | Socks5Proxy) -> None:
    weir.database["proxies"].insert_one(
        {
            "_id": "p", "name": "p", "type": str(proxy.kind), "host": "127.0.0.1", "port": proxy.port,
            "username": "weir", "password": PASSWORD, "status": "unknown", "failCount": 0, "isActive": True,
        }
    )  # fmt: skip


def status(weir: WeirProcess) -> str:
    (found,) = weir.database["proxies"].find()
    return str(found["status"])


def last_error(weir: WeirProcess) -> str:
    (found,) = weir.database["proxies"].find()
    return str(found.get("lastError"))


@pytest.fixture(scope="module", params=PROXIES)
def site(
    request: pytest.FixtureRequest, upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("through")
    with (
        PROXIES[request.param](("weir", PASSWORD)) as proxy,
        WeirProcess(
            data_dir, upstream.url, UPSTREAM_PROXY_FALLBACK_DIRECT="off", ABORT_DRAIN_S="0.2"
        ) as weir,
    ):
        use(weir, proxy)
        wait_until(lambda: status(weir) == "healthy", what="the check")
        yield Site(proxy, Lab(weir, upstream))
        assert PASSWORD not in weir.log
        assert weir.log_messages("ERROR") == []


def ways(record: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(attempt["proxyId"], attempt.get("error")) for attempt in record["attempts"]]


def test_each_chunk_arrives_before_the_next_is_sent(site: Site) -> None:
    pieces = [sse.chunk(str(number)) for number in range(20)] + sse.chat()
    played = site.lab.in_step(CHAT, [(piece, piece) for piece in pieces])
    assert played.body == b"".join(pieces)
    check(played.record, "9/0/0/2")
    assert ways(played.record) == [("p", None)]


def test_requests_share_a_connection(site: Site) -> None:
    site.lab.plain(CHAT, "prompt=1,out=2")
    before = site.proxy.connections
    for play in ("prompt=1,out=2", "prompt=1,out=2,flush,chunks=5"):
        check(site.lab.plain(CHAT, play).record, "1/0/0/2")
        check(site.lab.stream(CHAT, play).record, "1/0/0/2")
    assert site.proxy.connections < before + 4  # checks have their own


def test_a_client_that_leaves_is_noticed(site: Site) -> None:
    script = Script.of(SSE_HEAD, Data(sse.chunk("hi")), Stall())
    lab = Lab(site.lab.weir, site.lab.upstream)
    with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
        connection.read_head()
        connection.read_until(b"hi")
    (entry,) = lab.wait_entries()
    assert entry["end"] == "client_gone"
    assert lab.only_record()["outcome"] == "client_abort"


def test_a_connection_grown_stale_is_replaced_as_without_a_proxy(site: Site) -> None:
    """The upstream closes a kept connection as the next request comes: the only key gets a second try."""
    lab = site.lab
    lab.plain(CHAT, "prompt=1,out=2")
    lab.upstream.behave("gpt-test", "fault=no_answer", times=1)
    played = lab.send(CHAT, lab.body(CHAT, "", user=None))
    assert played.response.status == 200
    assert ways(played.record) == [("p", "reset"), ("p", None)]


def test_a_client_that_leaves_during_the_handshake_pays_nothing(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data_dir = tmp_path_factory.mktemp("mute")
    options = {"UPSTREAM_PROXY_FALLBACK_DIRECT": "off", "ABORT_DRAIN_S": "0.2"}
    with (
        Socks5Proxy(("weir", PASSWORD)) as proxy,
        WeirProcess(data_dir, upstream.url, UPSTREAM_CONNECT_TIMEOUT_S="30", **options) as weir,
    ):
        lab = Lab(weir, upstream)
        proxy.fault = "mute"
        use(weir, proxy)
        wait_until(lambda: proxy.connections == 1, what="the check, which then waits")
        with lab.open(CHAT, lab.stream_body(CHAT, "prompt=1,out=2")):
            wait_until(lambda: proxy.connections >= 2, what="the request")
        record = lab.only_record()
        check(record, "–", "client_abort", status=499)
        assert lab.entries() == []


@pytest.mark.parametrize(
    ("kind", "scheme", "start"),
    [("http", "https", b"HTTP/1.1 200 OK\r\nX: "), ("socks5", "http", SUCCEEDED + A_LONG_NAME)],
)
def test_a_handshake_that_never_ends_is_given_up(
    upstream: UpstreamProcess, tmp_path: Path, kind: str, scheme: str, start: bytes
) -> None:
    """Each byte of it comes in time."""
    url = upstream.url.replace("http", scheme)
    with (
        PROXIES[kind](("weir", PASSWORD)) as proxy,
        WeirProcess(tmp_path, url, UPSTREAM_CONNECT_TIMEOUT_S="1") as weir,
    ):
        proxy.established = chain([start], repeat(b"x"))
        proxy.pause_s = 0.2
        use(weir, proxy)
        # A first check may have been too slow even for the proxy.
        wait_until(lambda: last_error(weir) == "it does not reach the upstream", what="a check")
        assert status(weir) == "unhealthy"


def test_a_tunnel_to_an_upstream_nobody_vouches_for_is_not_used(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    with (
        HttpProxy(("weir", PASSWORD)) as proxy,
        TlsFront(urlsplit(upstream.url).port or 0, tmp_path) as front,
        WeirProcess(tmp_path / "data", front.url) as weir,
    ):
        use(weir, proxy)
        wrong = "no TLS connection to the upstream comes about through it"
        wait_until(lambda: last_error(weir) == wrong, what="a check")
        assert status(weir) == "unhealthy"
        assert proxy.seen == [f"127.0.0.1:{front.port}"] * len(proxy.seen)
        lab = Lab(weir, upstream)
        check(lab.plain(CHAT, "prompt=1,out=2").record, "–", "upstream_unreachable", status=502)
        assert lab.entries() == []
        assert PASSWORD not in weir.log
