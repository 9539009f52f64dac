"""The view of proxies that requests read, over a real MongoDB, and the checks in the background."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from app.store.key_cipher import KeyCipher
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_bindings import BindingStore
from app.upstream.proxy_check import ProxyChecker
from app.upstream.proxy_choice import ProxyEndpoint, ProxyKind, ProxyStatus
from app.upstream.proxy_pool import ProxyPool
from simulator import Simulator
from tests.support.proxy_servers import HttpProxy, Socks5Proxy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ENDPOINT = ProxyEndpoint(ProxyKind.HTTP, "127.0.0.1", 1)


class World:
    """Stores over a database, which may be out of reach, and a clock that is set by hand."""

    def __init__(self, database) -> None:
        self.store = ProxyStore(database, KeyCipher("secret"))
        self.bindings = BindingStore(database)
        self.now = NOW
        self.is_down = False

    def pool(self, *, allow_direct: bool = True) -> ProxyPool:
        pool = ProxyPool(self, self.bindings, allow_direct=allow_direct, now=lambda: self.now)
        pool.refresh()
        return pool

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def add(self, *proxy_ids: str, endpoint: ProxyEndpoint = ENDPOINT) -> None:
        for proxy_id in proxy_ids:
            self.store.add(proxy_id, endpoint, now=NOW)

    def bind(self, proxy_id: str, key_id: str, priority: int = 1) -> None:
        self.bindings.add(proxy_id, key_id, now=NOW, priority=priority)

    # What the pool sees of the store

    def list(self):
        if self.is_down:
            raise ServerSelectionTimeoutError("down")
        return self.store.list()

    def set_health(self, proxy_id, health):
        if self.is_down:
            raise ServerSelectionTimeoutError("down")
        return self.store.set_health(proxy_id, health)


@pytest.fixture
def world(database) -> World:
    return World(database)


def ways(pool: ProxyPool, key_id: str = "k1") -> list[str | None]:
    return [route.proxy_id for route in pool.routes(key_id)]


def test_without_proxies_requests_go_directly_if_they_may(world: World) -> None:
    assert ways(world.pool()) == [None]
    assert ways(world.pool(allow_direct=False)) == []


def test_bindings_are_followed_and_changes_take_effect_with_the_next_refresh(world: World) -> None:
    world.add("a", "b", "c")
    world.bind("b", "k1")
    world.bind("c", "k2")
    pool = world.pool()
    assert ways(pool) == ["b", "a", "c", None]
    assert ways(pool, "k2") == ["c", "a", "b", None]
    world.bindings.delete("b", "k1")
    world.bind("c", "k1", 2)
    pool.refresh()
    assert ways(pool)[0] == "c"
    world.bindings.update("c", "k1", now=NOW, is_active=False)
    world.store.update("a", now=NOW, is_active=False)
    pool.refresh()
    assert ways(pool)[:2] in (["b", "c"], ["c", "b"])
    world.store.delete("b")
    world.store.delete("c")
    pool.refresh()
    assert ways(pool) == [None]


def test_equal_bindings_take_turns_for_each_key(world: World) -> None:
    world.add("a", "b")
    for key_id in ("k1", "k2"):
        world.bind("a", key_id)
        world.bind("b", key_id)
    pool = world.pool()
    taken = [(ways(pool, "k1")[0], ways(pool, "k2")[0]) for _ in range(4)]
    assert taken == [("a", "a"), ("b", "b")] * 2


def test_failures_count_at_once_and_are_written_by_the_next_refresh(world: World, caplog) -> None:
    world.add("a", "b")
    world.bind("a", "k1")
    pool = world.pool()
    for _ in range(50):  # many requests at once find out
        pool.note_failure("a", "it refuses connections")
    assert ways(pool) == ["b", None]
    assert world.store.get("a").health.status is ProxyStatus.UNKNOWN
    pool.refresh()
    health = world.store.get("a").health
    assert (health.status, health.fail_count, health.last_error) == (
        ProxyStatus.UNHEALTHY, 1, "it refuses connections",
    )  # fmt: skip
    assert [entry["status"] for entry in world.store.health_log("a")] == ["unhealthy"]
    assert caplog.text.count("proxy a is not used for now: it refuses connections") == 1
    other = world.pool()
    assert ways(other) == ["b", None]


def test_what_another_worker_found_out_is_taken_over(world: World) -> None:
    world.add("a")
    one, other = world.pool(), world.pool()
    one.note_failure("a", "it refuses connections")
    one.refresh()
    other.refresh()
    assert ways(other) == [None]
    world.later(5)
    other.note_check("a", 7, None)
    other.refresh()
    one.refresh()
    assert ways(one) == ["a", None]
    assert one.health()["a"].latency_ms == 7


def test_a_success_is_noted_once(world: World) -> None:
    world.add("a")
    pool = world.pool()
    for _ in range(10):
        pool.note_success("a")
        world.later(1)
        pool.refresh()
    assert len(list(world.store.health_log("a"))) == 1


def test_an_operator_can_bring_a_failed_proxy_back(world: World) -> None:
    world.add("a")
    pool = world.pool()
    pool.note_failure("a", "it refuses connections")
    world.later(1)
    world.store.update("a", now=world.now, is_active=True)
    pool.refresh()
    assert ways(pool) == ["a", None]


def test_a_changed_proxy_is_a_new_one(world: World) -> None:
    world.add("a")
    pool = world.pool()
    (before, _) = pool.routes("k1")
    pool.refresh()
    assert pool.routes("k1")[0].adapter is before.adapter
    pool.note_failure("a", "it refuses connections")
    world.store.update("a", now=NOW, endpoint=ProxyEndpoint(ProxyKind.HTTP, "127.0.0.1", 2))
    pool.refresh()
    (after, _) = pool.routes("k1")
    assert after.adapter is not before.adapter


def test_the_last_list_stays_while_the_store_is_down_and_nothing_found_out_is_lost(
    world: World, caplog
) -> None:
    world.add("a", "b")
    pool = world.pool()
    world.is_down = True
    pool.note_failure("a", "it refuses connections")
    pool.refresh()
    pool.refresh()
    assert ways(pool) == ["b", None]
    assert caplog.text.count("proxies cannot be read") == 1
    world.is_down = False
    pool.refresh()
    assert world.store.get("a").health.status is ProxyStatus.UNHEALTHY


def test_a_proxy_that_cannot_be_read_is_left_out_and_named_once(world: World, database, caplog) -> None:
    world.add("a", endpoint=ProxyEndpoint(ProxyKind.HTTP, "h", 1, "u", "hunter2"))
    other = ProxyPool(ProxyStore(database, KeyCipher("another")), world.bindings)
    for _ in range(3):
        other.refresh()
    assert ways(other) == [None]
    assert caplog.text.count("proxy a is left out: cannot be decrypted") == 1


def test_what_is_said_of_a_deleted_proxy_is_ignored(world: World) -> None:
    pool = world.pool()
    pool.note_failure("gone", "x")
    pool.note_success("gone")
    pool.note_check("gone", 1, None)
    assert pool.health() == {}


def test_run_refreshes_until_it_is_stopped_whatever_happens(world: World, caplog) -> None:
    class Odd:
        lists = 0

        def list(self):
            self.lists += 1
            raise TypeError("odd document")

    odd = Odd()
    ProxyPool(odd, world.bindings).run(StopAfter(1))
    assert odd.lists == 2
    assert caplog.text.count("proxies cannot be refreshed") == 1


class StopAfter:
    """An event that is set after so many waits."""

    def __init__(self, waits: int) -> None:
        self.left = waits

    def is_set(self) -> bool:
        return self.left < 0

    def wait(self, timeout: float) -> bool:
        self.left -= 1
        return self.is_set()


# Checks


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator() as upstream:
        yield upstream


def test_checks_bring_a_proxy_back_that_works_again(world: World, simulator: Simulator) -> None:
    with Socks5Proxy(("weir", "hunter2")) as server:
        world.add("a", endpoint=server.endpoint())
        pool = world.pool(allow_direct=False)
        checker = ProxyChecker(pool, world.store, simulator.url, timeout_s=60)
        checker.check_due()
        assert pool.health()["a"].status is ProxyStatus.HEALTHY
        assert pool.health()["a"].latency_ms is not None
        assert pool.due() == []
        server.stop()
        world.later(60)
        pool.note_failure("a", "it refuses connections")
        world.later(4.9)
        assert pool.due() == []
        world.later(0.1)
        assert [proxy_id for proxy_id, _ in pool.due()] == ["a"]
        server.start()
        expire_claims(world)
        checker.check_due()
        assert ways(pool) == ["a"]
        pool.refresh()
        assert world.store.get("a").health.status is ProxyStatus.HEALTHY


def expire_claims(world: World) -> None:
    world.store._proxies.update_many({}, {"$unset": {"checkClaimedUntil": ""}})


def test_one_worker_checks_and_each_for_itself_without_a_store(world: World, simulator: Simulator) -> None:
    with HttpProxy() as server:
        world.add("a", endpoint=server.endpoint())
        pools = [world.pool(), world.pool()]
        checkers = [ProxyChecker(pool, world.store, simulator.url, timeout_s=60) for pool in pools]
        for checker in checkers:
            checker.check_due()
        assert server.connections == 1
        pools[0].refresh()
        pools[1].refresh()
        assert pools[1].due() == []

        class Down(ProxyStore):
            def claim_check(self, *_, **__):
                raise ServerSelectionTimeoutError("down")

        world.later(60)
        store = Down(world.store._proxies.database, KeyCipher("secret"))
        for pool in pools:
            ProxyChecker(pool, store, simulator.url, timeout_s=60).check_due()
        assert server.connections == 3


@pytest.mark.parametrize(("allow_direct", "status"), [(True, "unknown"), (False, "unhealthy")])
def test_an_upstream_that_is_down_is_no_verdict_where_that_can_be_told(
    world: World, allow_direct: bool, status: str
) -> None:
    with HttpProxy() as server, HttpProxy() as gone:
        gone.stop()  # its port refuses connections
        server.fault = "no_target"
        world.add("a", endpoint=server.endpoint())
        pool = world.pool(allow_direct=allow_direct)
        url = f"https://127.0.0.1:{gone.port}"
        ProxyChecker(pool, world.store, url, timeout_s=60).check_due()
        assert pool.health()["a"].status == status


def test_a_proxy_that_does_not_reach_a_working_upstream_is_unhealthy(
    world: World, simulator: Simulator
) -> None:
    with Socks5Proxy() as server:
        server.fault = "no_target"
        world.add("a", endpoint=server.endpoint())
        pool = world.pool()
        ProxyChecker(pool, world.store, simulator.url, timeout_s=60).check_due()
        assert pool.health()["a"].last_error == "it does not reach the upstream"


def test_checking_goes_on_whatever_happens(world: World, caplog) -> None:
    class Odd(ProxyPool):
        looks = 0

        def due(self):
            self.looks += 1
            raise TypeError("odd")

    odd = Odd(world, world.bindings)
    ProxyChecker(odd, world.store, "http://h", timeout_s=60).run(StopAfter(2))
    assert odd.looks == 2
    assert caplog.text.count("proxies cannot be checked") == 1
