from datetime import UTC, datetime, timedelta

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from app.adapters.key_cipher import KeyCipher
from app.adapters.key_pool import RoundRobinKeyPool
from app.adapters.mongo.provider_keys import ProviderKeyStore, StoredProviderKey

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NONE: frozenset[str] = frozenset()


class FakeStore:
    def __init__(self, *keys: StoredProviderKey) -> None:
        self.keys = list(keys)
        self.is_down = False

    def list(self):
        if self.is_down:
            raise ServerSelectionTimeoutError("down")
        return list(self.keys)


def stored(key_id: str, status: str = "healthy", cooldown_until: datetime | None = None) -> StoredProviderKey:
    return StoredProviderKey(key_id, f"sk-{key_id}-secret", status, cooldown_until=cooldown_until)


def pool_of(*keys: StoredProviderKey, env: tuple[str, ...] = (), now=lambda: NOW) -> RoundRobinKeyPool:
    pool = RoundRobinKeyPool(env, FakeStore(*keys), now=now)
    pool.refresh()
    return pool


def taken(pool: RoundRobinKeyPool, count: int, excluding: frozenset[str] = NONE) -> list[str | None]:
    keys = [pool.acquire(excluding) for _ in range(count)]
    return [key.key_id if key else None for key in keys]


def test_keys_are_handed_out_in_turn() -> None:
    pool = pool_of(stored("a"), stored("b"), env=("sk-env-secret",))
    assert taken(pool, 5) == ["env-1", "a", "b", "env-1", "a"]


def test_excluded_keys_are_passed_over() -> None:
    pool = pool_of(stored("a"), stored("b"))
    assert taken(pool, 2, frozenset({"a"})) == ["b", "b"]
    assert taken(pool, 1, frozenset({"a", "b"})) == [None]


@pytest.mark.parametrize(
    ("status", "cooldown_until", "usable"),
    [
        ("healthy", None, True),
        ("rate_limited", NOW - timedelta(seconds=1), True),
        ("rate_limited", NOW + timedelta(seconds=1), False),
        ("rate_limited", None, False),
        ("exhausted", None, False),
        ("error", NOW - timedelta(seconds=1), False),
    ],
)
def test_only_usable_keys_are_handed_out(status: str, cooldown_until: datetime | None, usable: bool) -> None:
    pool = pool_of(stored("a", status, cooldown_until))
    assert taken(pool, 1) == (["a"] if usable else [None])
    assert pool.snapshot()[0].available is usable


def test_a_key_that_has_cooled_down_is_used_without_a_refresh() -> None:
    moments = iter([NOW, NOW + timedelta(minutes=2)])
    pool = pool_of(stored("a", "rate_limited", NOW + timedelta(minutes=1)), now=lambda: next(moments))
    assert taken(pool, 2) == [None, "a"]


def test_an_empty_pool_picks_up_later_keys() -> None:
    store = FakeStore()
    pool = RoundRobinKeyPool((), store, now=lambda: NOW)
    pool.refresh()
    assert pool.is_empty()
    assert pool.acquire(NONE) is None
    store.keys.append(stored("a"))
    pool.refresh()
    assert taken(pool, 1) == ["a"]


def test_the_last_list_stays_while_the_store_is_down(caplog) -> None:
    store = FakeStore(stored("a"))
    pool = RoundRobinKeyPool((), store, now=lambda: NOW)
    pool.refresh()
    store.is_down = True
    pool.refresh()
    pool.refresh()
    assert taken(pool, 1) == ["a"]
    assert len(caplog.records) == 1
    store.is_down = False
    store.keys.clear()
    pool.refresh()
    assert pool.is_empty()


def test_the_snapshot_shows_states_but_no_keys(caplog) -> None:
    unreadable = StoredProviderKey("bad", None, "healthy", last_error="cannot be decrypted")
    pool = pool_of(stored("a"), unreadable, env=("sk-env-secret-secret",))
    key = pool.acquire(NONE)
    assert pool.snapshot()[0].in_flight == 1
    pool.release(key, 500, "upstream_error")
    pool.refresh()
    env, a, bad = pool.snapshot()
    assert (env.in_flight, env.requests, env.failures, env.last_status_code) == (0, 1, 1, 500)
    assert env.last_error == "upstream_error"
    assert (a.requests, a.masked) == (0, "sk...t")
    assert (bad.available, bad.status, bad.last_error) == (False, "error", "cannot be decrypted")
    assert "secret" not in str(pool.snapshot())
    assert len(caplog.records) == 1  # once, not at every refresh


def test_a_key_deleted_while_in_use_is_given_back_quietly() -> None:
    store = FakeStore(stored("a"))
    pool = RoundRobinKeyPool((), store, now=lambda: NOW)
    pool.refresh()
    key = pool.acquire(NONE)
    store.keys.clear()
    pool.refresh()
    pool.release(key, 200, None)
    assert pool.snapshot() == []


def test_counts_survive_a_refresh() -> None:
    pool = pool_of(stored("a"))
    pool.release(pool.acquire(NONE), 200, None)
    pool.refresh()
    assert pool.snapshot()[0].requests == 1


def test_run_refreshes_until_it_is_stopped() -> None:
    class ThreeTimes:
        def __init__(self) -> None:
            self.waits: list[float] = []

        def wait(self, timeout: float) -> bool:
            self.waits.append(timeout)
            store.keys.append(stored(f"k{len(self.waits)}"))
            return len(self.waits) == 3

    store = FakeStore()
    pool = RoundRobinKeyPool((), store, now=lambda: NOW)
    stop = ThreeTimes()
    pool.run(stop)
    assert stop.waits == [2.0, 2.0, 2.0]
    assert len(pool.snapshot()) == 2


def test_an_unforeseen_error_does_not_end_the_refreshing(caplog) -> None:
    class Odd:
        def list(self):
            raise TypeError("odd document")

    waits = iter([False, True])

    class Twice:
        def wait(self, timeout: float) -> bool:
            return next(waits)

    RoundRobinKeyPool((), Odd(), now=lambda: NOW).run(Twice())
    assert len(caplog.records) == 2


def test_processes_can_begin_elsewhere() -> None:
    pool = RoundRobinKeyPool(("sk-1", "sk-2", "sk-3"), None, start=7, now=lambda: NOW)
    pool.refresh()
    assert taken(pool, 3) == ["env-2", "env-3", "env-1"]


def test_stored_keys_come_out_of_mongodb(database) -> None:
    store = ProviderKeyStore(database, KeyCipher("secret"))
    store.import_lines("a|sk-aaaaaaaa\nb|sk-bbbbbbbb", now=NOW)
    pool = RoundRobinKeyPool((), store, now=lambda: NOW)
    pool.refresh()
    key = pool.acquire(NONE)
    assert (key.key_id, key.secret) == ("a", "sk-aaaaaaaa")
