"""Upstream calls through real proxies, by the product as it really runs."""

from collections.abc import Iterator

import pytest

from simulator import Data, Head, Script, Stall
from simulator.launcher import wait_until
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.proxy_servers import HttpProxy, Socks5Proxy
from tests.support.raw_http import Ending
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess
from tests.support.workers import connections_to_all

PASSWORD = "hunter2-hunter2"
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")


@pytest.fixture
def socks() -> Iterator[Socks5Proxy]:
    with Socks5Proxy(("weir", PASSWORD)) as proxy:
        yield proxy


@pytest.fixture
def http() -> Iterator[HttpProxy]:
    with HttpProxy(("weir", PASSWORD)) as proxy:
        yield proxy


def document(proxy_id: str, server: HttpProxy | Socks5Proxy) -> dict[str, object]:
    """As an existing deployment has it, the password in the clear."""
    return {
        "_id": proxy_id, "name": proxy_id, "type": str(server.kind), "host": "127.0.0.1", "port": server.port,
        "username": "weir", "password": PASSWORD, "status": "unknown", "failCount": 0, "isActive": True,
    }  # fmt: skip


def status_of(weir: WeirProcess, proxy_id: str) -> str:
    found = weir.database["proxies"].find_one({"_id": proxy_id})
    assert found is not None
    return found["status"]


def test_a_running_proxy_follows_bindings_falls_back_and_recovers(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory, socks: Socks5Proxy, http: HttpProxy
) -> None:
    data_dir = tmp_path_factory.mktemp("proxied")
    with WeirProcess(data_dir, upstream.url, UPSTREAM_CONNECT_TIMEOUT_S="10", WEB_CONCURRENCY="2") as weir:
        lab = Lab(weir, upstream)
        check(lab.plain(CHAT, "prompt=100,out=20").record, "100/0/0/20")
        assert socks.connections == http.connections == 0

        # Changes in the store take effect without a restart; the checks say how the proxies fare.
        weir.database["proxies"].insert_many([document("s", socks), document("h", http)])
        for priority, proxy_id in enumerate(("s", "h"), 1):
            weir.database["ohmygpt_bindings"].insert_one(
                {"proxyId": proxy_id, "ohmygptKeyId": "env-1", "priority": priority, "isActive": True}
            )
        wait_until(lambda: status_of(weir, "s") == status_of(weir, "h") == "healthy", what="the checks")
        wait_until(lambda: ways(lab) == {"s"}, what="requests through the first proxy")
        up = socks.bytes_up
        for path in (CHAT, MESSAGES):
            record = lab.stream(path, "prompt=100,out=20,flush,chunks=5").record
            check(record, "100/0/0/20")
            assert record["attempts"][0]["proxyId"] == "s"
        assert socks.bytes_up > up

        # An upstream that does not end its stream is left here, too.
        script = Script.of(SSE_HEAD, *map(Data, sse.chat()), Stall())
        endless = lab.send(CHAT, lab.stream_body(CHAT, script))
        assert endless.response.ending is Ending.FINAL_CHUNK
        check(endless.record, "9/0/0/2")
        assert endless.record["attempts"][0]["proxyId"] == "s"

        # The first proxy dies: nobody notices, and no attempt is lost.
        seen = len(http.seen)
        socks.stop()
        played = [lab.stream(CHAT, "prompt=100,out=20") for _ in range(4)]
        assert [entry.record["outcome"] for entry in played] == ["ok"] * 4
        assert [entry.record["attempts"][0]["proxyId"] for entry in played] == ["h"] * 4
        assert len(http.seen) > seen
        wait_until(lambda: status_of(weir, "s") == "unhealthy", what="the report")

        # So does the second: directly, then.
        http.stop()
        direct = lab.plain(MESSAGES, "prompt=100,out=20").record
        check(direct, "100/0/0/20")
        assert "proxyId" not in direct["attempts"][0]

        # The first one is back, and found by the checks alone.
        socks.start()
        wait_until(lambda: status_of(weir, "s") == "healthy", what="recovery")
        up = socks.bytes_up
        wait_until(lambda: ways(lab) == {"s"}, what="requests through the first proxy again")
        assert socks.bytes_up > up

        assert weir.log_messages("ERROR") == []
        assert PASSWORD not in weir.log
        assert "hunter2" not in str(weir.records())


def ways(lab: Lab) -> set[str | None]:
    """Through which proxies requests go, one of each worker's."""
    found = set()
    with connections_to_all(lab.weir) as connections:
        for connection in connections:
            connection.request("POST", CHAT, lab.headers(), lab.body(CHAT, "prompt=100,out=20"))
            record = lab.played(connection.read_response()).record
            found.add(record["attempts"][0].get("proxyId"))
    return found


def test_without_the_direct_way_nothing_leaves_directly(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory, http: HttpProxy
) -> None:
    data_dir = tmp_path_factory.mktemp("strict")
    with WeirProcess(data_dir, upstream.url, UPSTREAM_PROXY_FALLBACK_DIRECT="off") as weir:
        lab = Lab(weir, upstream)
        played = lab.plain(CHAT, "prompt=100,out=20")
        check(played.record, "–", "upstream_unreachable", status=502)
        assert lab.entries() == []
        weir.database["proxies"].insert_one(document("h", http))
        wait_until(lambda: lab.plain(CHAT, "prompt=1,out=2").record["outcome"] == "ok", what="the proxy")
        http.stop()
        check(lab.plain(CHAT, "prompt=1,out=2").record, "–", "upstream_unreachable", status=502)
