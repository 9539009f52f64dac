"""The transport through real proxies on the loopback, with the simulator behind them, plain and with TLS."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.keys.upstream_outcome import KeyOutcome, of_failure
from app.upstream.hosts import UpstreamHosts
from app.upstream.proxies import StoredProxy
from app.upstream.proxy_bindings import StoredBinding
from app.upstream.proxy_choice import Binding, Health, ProxyEndpoint, ProxyKind, ProxyStatus
from app.upstream.proxy_pool import ProxyPool
from app.upstream.proxy_transport import ProxyAdapter, RouteFault
from app.upstream.transport import ProviderKey, UpstreamFailure, UpstreamRequest
from app.upstream.upstream import RequestsUpstream
from simulator import Simulator
from tests.support.proxy_servers import PROXIES, HttpProxy, Socks5Proxy, TlsFront

KEY = ProviderKey("k1", "sk-secret")
SECRETS = ("sk-secret", "hunter2 ü", "weir:")


class World:
    """An upstream with and without TLS, proxies, and the pool and transport over them."""

    def __init__(self, simulator: Simulator, front: TlsFront) -> None:
        self.simulator = simulator
        self.front = front
        self.proxies: list[StoredProxy] = []
        self.bindings: list[StoredBinding] = []
        self.health: dict[str, Health] = {}
        self.pools: list[ProxyPool] = []
        self.upstreams: list[RequestsUpstream] = []

    def list(self):
        return list(self.proxies)

    def set_health(self, proxy_id: str, health: Health) -> bool:
        self.health[proxy_id] = health
        return True

    def use(self, *endpoints: ProxyEndpoint, bound: int = 0) -> None:
        """Proxies p1, p2, …, the first `bound` of which the key is bound to, in this order."""
        for number, endpoint in enumerate(endpoints, 1):
            self.proxies.append(
                StoredProxy(
                    f"p{number}", "", endpoint.kind, endpoint.host, endpoint.port, bool(endpoint.username),
                    endpoint, Health(), True,
                )
            )  # fmt: skip
            if number <= bound:
                self.bindings.append(StoredBinding(Binding(f"p{number}", KEY.key_id, number), True))

    def upstream(
        self,
        *,
        tls: bool = False,
        allow_direct: bool = False,
        url: str | UpstreamHosts | None = None,
        connect_timeout_s: float = 20,
        read_timeout_s: float = 60,
    ) -> RequestsUpstream:
        """Connect within `connect_timeout_s`; the direct way may take its time."""
        bindings = type("Bindings", (), {"list": lambda _: list(self.bindings)})()
        pool = ProxyPool(self, bindings, allow_direct=allow_direct)
        pool.refresh()
        self.pools.append(pool)
        upstream = RequestsUpstream(
            url or (self.front.url if tls else self.simulator.url),
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            proxies=pool,
            ca_file=self.front.ca_file,
        )
        directly = upstream._adapter
        directly.open = lambda origin, _, open=directly.open: open(origin, 20)  # type: ignore[method-assign]
        self.upstreams.append(upstream)
        return upstream

    @property
    def pool(self) -> ProxyPool:
        return self.pools[-1]

    def errors(self) -> dict[str, str | None]:
        return {name: health.last_error for name, health in self.pool.health().items()}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, TlsFront]]:
    with Simulator() as simulator:
        port = urlsplit(simulator.url).port
        assert port is not None
        with TlsFront(port, tmp_path_factory.mktemp("tls")) as front:
            yield simulator, front


@pytest.fixture
def world(servers: tuple[Simulator, TlsFront], caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    world = World(*servers)
    yield world
    for upstream in world.upstreams:
        upstream.close()
    for pool in world.pools:
        pool.close()
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.fixture
def http() -> Iterator[HttpProxy]:
    with HttpProxy(("weir", "hunter2 ü:%@/")) as proxy:
        yield proxy


@pytest.fixture
def socks() -> Iterator[Socks5Proxy]:
    with Socks5Proxy(("weir", "hunter2 ü:%@/")) as proxy:
        yield proxy


@pytest.fixture(params=["http", "socks5"])
def proxy(request: pytest.FixtureRequest) -> Iterator[HttpProxy | Socks5Proxy]:
    with PROXIES[request.param](("weir", "hunter2 ü:%@/")) as proxy:
        yield proxy


def ask(upstream: RequestsUpstream, play: str = "") -> str | None:
    """Send a request, read the answer; the proxy it came through. `play` tells the simulator what to do."""
    user = f'"user":"sim:{play}",' if play else ""
    body = b'{%s"model":"gpt-test","messages":[{"role":"user","content":"hi"}]}' % user.encode()
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    reply = upstream.send(UpstreamRequest("POST", "/v1/chat/completions", "", headers, body), KEY)
    data = b"".join(iter(reply.read, b""))
    reply.close()
    assert reply.status == 200, data
    assert json.loads(data)["object"] == "chat.completion"
    return reply.proxy_id


def failure(do: Callable[[], object], proxy_id: str | None = None) -> str:
    with pytest.raises(UpstreamFailure) as caught:
        do()
    assert "127.0.0.1" not in str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    assert caught.value.proxy_id == proxy_id
    return caught.value.kind


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# The way through


def test_a_host_that_is_gone_is_no_proxys_fault(world: World, proxy: HttpProxy | Socks5Proxy) -> None:
    world.use(proxy.endpoint())
    hosts = UpstreamHosts([f"https://127.0.0.1:{unused_port()}", world.front.url])
    upstream = world.upstream(url=hosts)
    question = UpstreamRequest("GET", "/v1/models", "", {"accept-encoding": "identity"}, b"")
    with pytest.raises(UpstreamFailure) as caught:
        upstream.send(question, KEY)
    assert (caught.value.kind, caught.value.host, caught.value.is_of_host) == ("unreachable", 0, True)
    reply = upstream.send(question, KEY, frozenset({0}))
    assert (reply.host, reply.proxy_id, reply.status) == (1, "p1", 200)
    reply.close()
    assert hosts.usable() == [False, True]
    assert world.errors() == {"p1": None}


@pytest.mark.parametrize("tls", [False, True])
def test_requests_go_through_the_proxy_with_its_credentials_over_one_connection(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool
) -> None:
    world.use(proxy.endpoint())
    upstream = world.upstream(tls=tls)
    assert [ask(upstream) for _ in range(4)] == ["p1"] * 4
    assert proxy.connections == 1
    assert world.pool.health()["p1"].status is ProxyStatus.HEALTHY
    entry = world.simulator.tally.wait_ended(1)[-1]
    assert "proxy-authorization" not in entry.header_names


@pytest.mark.parametrize("tls", [False, True])
def test_an_interim_answer_is_not_taken_for_the_answer(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool
) -> None:
    world.use(proxy.endpoint())
    upstream = world.upstream(tls=tls)
    assert [ask(upstream, "fault=early_hints"), ask(upstream)] == ["p1", "p1"]


def test_a_refusal_is_read_though_the_body_is_not_taken(world: World, proxy: HttpProxy | Socks5Proxy) -> None:
    done = threading.Event()

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno")
            done.wait(60)

    world.use(proxy.endpoint())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        upstream = world.upstream(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        asked = UpstreamRequest("POST", "/v1/chat/completions", "", {}, b"x" * 20_000_000)
        reply = upstream.send(asked, KEY)
        assert (reply.status, reply.read(), reply.read()) == (413, b"no", b"")
        reply.close()
        done.set()
        thread.join(60)


def test_each_proxy_has_connections_of_its_own(world: World, http: HttpProxy, socks: Socks5Proxy) -> None:
    world.use(http.endpoint(), socks.endpoint())
    upstream = world.upstream(tls=True)
    assert sorted(ask(upstream) or "" for _ in range(6)) == ["p1"] * 3 + ["p2"] * 3
    assert (http.connections, socks.connections) == (1, 1)
    assert http.seen == socks.seen == [f"127.0.0.1:{world.front.port}"]


def test_a_connection_that_the_proxy_closed_is_replaced(world: World, proxy: HttpProxy | Socks5Proxy) -> None:
    world.use(proxy.endpoint())
    upstream = world.upstream(tls=True)
    ask(upstream)
    proxy.drop()
    deadline = [ask_until_ok(upstream) for _ in range(2)]
    assert deadline == ["p1", "p1"]
    assert proxy.connections == 2


def ask_until_ok(upstream: RequestsUpstream) -> str | None:
    try:
        return ask(upstream)
    except UpstreamFailure:  # the end of the connection had not arrived yet
        return ask(upstream)


def test_the_name_of_the_upstream_is_resolved_by_the_proxy(world: World, socks: Socks5Proxy) -> None:
    world.use(socks.endpoint())
    port = urlsplit(world.simulator.url).port
    assert ask(world.upstream(url=f"http://localhost:{port}")) == "p1"
    assert socks.seen == [f"localhost:{port}"]


# Falling back


@pytest.mark.parametrize("tls", [False, True])
def test_a_dead_proxy_is_passed_over_for_the_next_and_left_alone_afterwards(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool
) -> None:
    with type(proxy)() as dead:
        world.use(dead.endpoint(), proxy.endpoint(), bound=2)
    upstream = world.upstream(tls=tls)
    assert [ask(upstream) for _ in range(3)] == ["p2"] * 3
    assert world.errors() == {"p1": "it refuses connections", "p2": None}
    assert len(world.simulator.tally.wait_ended(3)) >= 3


def test_bound_then_another_then_direct(world: World, http: HttpProxy, socks: Socks5Proxy) -> None:
    world.use(http.endpoint(), socks.endpoint(), bound=1)
    upstream = world.upstream(tls=True, allow_direct=True)
    assert ask(upstream) == "p1"
    http.stop()
    assert ask_until_ok(upstream) == "p2"
    socks.stop()
    assert ask_until_ok(upstream) is None
    assert ask(upstream) is None


def test_without_the_direct_way_the_request_fails(world: World, http: HttpProxy) -> None:
    world.use(http.endpoint())
    http.stop()
    upstream = world.upstream(tls=True)
    assert [failure(lambda: ask(upstream)) for _ in range(2)] == ["no_proxy"] * 2
    http.start()
    assert ask(upstream) == "p1"  # the last resort is tried although it failed before
    assert world.pool.health()["p1"].status is ProxyStatus.HEALTHY


@pytest.mark.parametrize("tls", [False, True])
def test_wrong_credentials_mark_the_proxy_and_are_not_shown(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world.use(proxy.endpoint("weir", "hunter2 ü wrong"))
    assert ask(world.upstream(tls=tls, allow_direct=True)) is None
    assert world.errors() == {"p1": "it refuses the user name or password"}
    assert "proxy p1 is not used for now: it refuses the user name or password" in caplog.text


@pytest.mark.parametrize("fault", ["mute", "garbage", "no_target"])
def test_a_proxy_that_does_not_get_through_is_marked_once_another_way_did(
    world: World, proxy: HttpProxy | Socks5Proxy, fault: str
) -> None:
    proxy.fault = fault
    world.use(proxy.endpoint())
    within_s = 0.5 if fault == "mute" else 20
    assert ask(world.upstream(tls=True, allow_direct=True, connect_timeout_s=within_s)) is None
    assert world.pool.health()["p1"].status is ProxyStatus.UNHEALTHY


def test_an_upstream_that_is_down_is_not_the_proxies_fault(
    world: World, http: HttpProxy, socks: Socks5Proxy
) -> None:
    http.fault = socks.fault = "no_target"
    world.use(http.endpoint(), socks.endpoint())
    upstream = world.upstream(url=f"https://127.0.0.1:{unused_port()}", allow_direct=True)
    assert failure(lambda: ask(upstream)) == "unreachable"
    assert [health.status for health in world.pool.health().values()] == [ProxyStatus.UNKNOWN] * 2


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("fault", "kind"), [("no_answer", "reset"), ("reset_early", "reset"), ("stall_early", "timeout")]
)
def test_a_failure_behind_the_proxy_is_the_upstreams_and_nothing_is_sent_twice(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool, fault: str, kind: str
) -> None:
    world.use(proxy.endpoint())
    world.simulator.reset()
    world.simulator.behave("gpt-test", f"fault={fault}", times=1)
    within_s = 1 if kind == "timeout" else 60
    upstream = world.upstream(tls=tls, allow_direct=True, read_timeout_s=within_s)
    assert failure(lambda: ask(upstream), "p1") == kind
    assert world.pool.health()["p1"].status is ProxyStatus.HEALTHY
    assert len(world.simulator.tally.wait_ended(1)) == 1


def test_an_untrusted_upstream_behind_the_proxy_is_not_talked_to(
    world: World, http: HttpProxy, tmp_path: Path
) -> None:
    world.use(http.endpoint())
    upstream = world.upstream(tls=True)
    upstream._verify = True
    assert failure(lambda: ask(upstream)) == "unreachable"
    assert world.pool.health()["p1"].status is ProxyStatus.UNKNOWN


# Checks


@pytest.mark.parametrize("tls", [False, True])
def test_a_check_reaches_the_upstream_without_a_key(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool
) -> None:
    url = world.front.url if tls else world.simulator.url
    adapter = ProxyAdapter(proxy.endpoint())
    assert adapter.check(url, timeout_s=60, verify=world.front.ca_file) >= 0
    adapter.close()
    assert len(proxy.seen) == 1
    assert "sk-secret" not in str(proxy.seen)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("fault", "is_certain"),
    [("mute", False), ("garbage", False), ("no_target", False), ("password", True), ("stopped", True)],
)
def test_a_check_says_what_is_wrong(
    world: World, proxy: HttpProxy | Socks5Proxy, tls: bool, fault: str, is_certain: bool
) -> None:
    endpoint = proxy.endpoint("weir", "wrong") if fault == "password" else proxy.endpoint()
    if fault == "stopped":
        proxy.stop()
    proxy.fault = fault
    adapter = ProxyAdapter(endpoint)
    url = world.front.url if tls else world.simulator.url
    with pytest.raises(RouteFault) as caught:
        adapter.check(url, timeout_s=0.3 if fault == "mute" else 60, verify=world.front.ca_file)
    adapter.close()
    assert caught.value.is_certain is is_certain
    assert caught.value.reason.startswith("it ")


@pytest.mark.parametrize("kind", ProxyKind)
def test_a_proxy_that_takes_no_connection_is_given_up_in_time(world: World, kind: ProxyKind) -> None:
    with socket.socket() as listener, socket.socket() as one, socket.socket() as other:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (one, other):  # they fill the queue of those who wait to be accepted
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        world.use(ProxyEndpoint(kind, "127.0.0.1", listener.getsockname()[1]))
        assert ask(world.upstream(tls=True, allow_direct=True, connect_timeout_s=0.5)) is None
    assert world.errors() == {"p1": "it cannot be reached in time"}


def test_a_proxy_that_forbids_the_upstream_is_at_fault(world: World, proxy: HttpProxy | Socks5Proxy) -> None:
    proxy.fault = "denied"
    world.use(proxy.endpoint())
    assert failure(lambda: ask(world.upstream(tls=True))) == "no_proxy"
    assert of_failure("no_proxy").outcome is KeyOutcome.NEUTRAL  # the key is not blamed
    assert (world.errors()["p1"] or "").startswith("it refuses to connect to the upstream")


@pytest.mark.parametrize("kind", ProxyKind)
def test_a_proxy_whose_name_is_unknown(world: World, kind: ProxyKind) -> None:
    endpoint = ProxyEndpoint(kind, "no-such-host.invalid", 1)
    adapter = ProxyAdapter(endpoint)
    with pytest.raises(RouteFault, match="its host name is not known"):
        adapter.check(world.simulator.url, timeout_s=60)
    adapter.close()
