"""One worker's pool: who serves, what is counted, and what a refresh changes."""

import logging
from datetime import timedelta

import pytest
from pool_world import FAILED, LIMITED, NONE, NOW, OK, SPENT, Clock
from pymongo.errors import ServerSelectionTimeoutError

from app.keys.key_choice import Limits, NoKey, Shortage
from app.keys.key_pool import SharedKeyPool
from app.keys.key_state_store import StoredState
from app.keys.key_sync import KeySync
from app.keys.lease import Lease
from app.keys.provider_keys import StoredProviderKey


class FakeStores:
    """Keys and states in memory; `is_down` for a database that is away."""

    def __init__(self, *keys: StoredProviderKey) -> None:
        self.keys = list(keys)
        self.env: dict[str, StoredState] = {}
        self.written: list[tuple[str, str, bool]] = []
        self.events: list[object] = []
        self.is_down = False

    def list(self):
        self._check()
        return list(self.keys)

    def states(self, store_ids, *, is_env):
        self._check()
        known = self.env if is_env else {key.key_id: key.state for key in self.keys}
        return {store_id: known[store_id] for store_id in store_ids if store_id in known}

    def write(self, store_id, key_id, state, *, is_env, wants_backup=False):
        self._check()
        self.written.append((key_id, str(state.status), wants_backup))
        return True

    def add_events(self, events) -> None:
        self._check()
        self.events += events

    def limit_models(self, store_id, key_id, limits, now, *, is_env):
        self._check()

    def _check(self) -> None:
        if self.is_down:
            raise ServerSelectionTimeoutError("down")


def stored(key_id: str, status: str = "healthy", until=None, limits: Limits | None = None):
    severity = {"healthy": 0, "rate_limited": 1, "exhausted": 2, "error": 3}[status]
    document = {"status": status, "cooldownUntil": until, "stateUntil": until, "updatedAt": NOW}
    state = StoredState.from_document(document | {"stateSeverity": severity})
    return StoredProviderKey(
        key_id, f"sk-{key_id}-secret", status, limits=limits or Limits(), state=state, cooldown_until=until
    )


def pool_of(*keys: StoredProviderKey, env: tuple[str, ...] = (), clock: Clock | None = None):
    pool = SharedKeyPool(env, now=clock or Clock())
    pool.load(keys, {})
    return pool


def lease_of(pool: SharedKeyPool, excluding: frozenset[str] = NONE) -> Lease:
    lease = pool.acquire(excluding)
    assert isinstance(lease, Lease)
    return lease


def taken(pool: SharedKeyPool, count: int, excluding: frozenset[str] = NONE) -> list[str | None]:
    leases = [pool.acquire(excluding) for _ in range(count)]
    return [None if isinstance(lease, NoKey) else lease.key.key_id for lease in leases]


def test_keys_are_handed_out_in_turn() -> None:
    pool = pool_of(stored("a"), stored("b"), env=("sk-env-secret",))
    assert taken(pool, 6) == ["env-1", "a", "b", "env-1", "a", "b"]


def test_the_key_with_the_least_in_flight_serves() -> None:
    pool = pool_of(stored("a"), stored("b"))
    first, second = lease_of(pool), lease_of(pool)
    assert (first.key.key_id, second.key.key_id) == ("a", "b")
    pool.release(second)
    pool.release(second)  # again, which changes nothing
    assert taken(pool, 1) == ["b"]
    assert [view.in_flight for view in pool.snapshot()] == [1, 1]


def test_excluded_keys_are_passed_over() -> None:
    pool = pool_of(stored("a"), stored("b"))
    assert taken(pool, 2, frozenset({"a"})) == ["b", "b"]
    shortage = pool.acquire(frozenset({"a", "b"}))
    assert isinstance(shortage, NoKey)
    assert shortage.reason is Shortage.ALL_TRIED
    assert str(pool.shortage(frozenset({"a", "b"}))) == str(shortage)
    assert pool.shortage(NONE) is None


@pytest.mark.parametrize(
    ("status", "until", "usable"),
    [
        ("healthy", None, True),
        ("rate_limited", NOW - timedelta(seconds=1), True),
        ("rate_limited", NOW + timedelta(seconds=1), False),
        ("exhausted", NOW + timedelta(seconds=1), False),
        ("exhausted", NOW - timedelta(seconds=1), True),
        ("error", None, False),
    ],
)
def test_only_usable_keys_are_handed_out(status: str, until, usable: bool) -> None:
    pool = pool_of(stored("a", status, until))
    assert taken(pool, 1) == (["a"] if usable else [None])
    assert pool.snapshot()[0].available is usable


def test_a_key_that_has_cooled_down_is_used_without_a_refresh() -> None:
    clock = Clock()
    pool = pool_of(stored("a", "rate_limited", NOW + timedelta(minutes=1)), clock=clock)
    assert taken(pool, 1) == [None]
    clock.pass_s(60)
    assert taken(pool, 1) == ["a"]


def test_a_key_without_money_is_tried_once_at_a_time() -> None:
    pool = pool_of(stored("a", "exhausted", NOW))
    probe = lease_of(pool)
    assert probe.is_probe
    assert taken(pool, 1) == [None]
    pool.report(probe, OK, "r1")
    pool.release(probe)
    assert taken(pool, 2) == ["a", "a"]


def test_limits_of_a_key_hold() -> None:
    clock = Clock()
    pool = pool_of(
        stored("a", limits=Limits(rpm=2)), stored("b", limits=Limits(max_in_flight=1)), clock=clock
    )
    assert taken(pool, 4) == ["a", "b", "a", None]
    clock.pass_s(60)
    assert taken(pool, 3) == ["a", "a", None]


def test_what_is_sent_before_a_limit_is_known_does_not_end_it() -> None:
    clock = Clock()
    pool = pool_of(stored("a"), clock=clock)
    early, late = lease_of(pool), lease_of(pool)
    clock.pass_s(1)
    pool.report(late, LIMITED, "r2")
    clock.pass_s(1)
    pool.report(early, OK, "r1")
    assert pool.snapshot()[0].status == "rate_limited"


def test_the_last_usable_key_is_not_ejected_for_failures() -> None:
    pool = pool_of(stored("a"), stored("b"))
    for number in range(20):
        for key_id in ("a", "b"):
            lease = pool.acquire(frozenset({"a", "b"} - {key_id}), client=f"user {number % 2}")
            if isinstance(lease, Lease):
                pool.report(lease, FAILED, "r")
                pool.release(lease)
    assert sorted(view.status for view in pool.snapshot()) == ["healthy", "rate_limited"]


def test_an_empty_pool_picks_up_later_keys() -> None:
    pool = pool_of()
    assert pool.is_empty()
    shortage = pool.acquire(NONE)
    assert isinstance(shortage, NoKey)
    assert shortage.reason is Shortage.NO_KEYS
    pool.load([stored("a")], {})
    assert taken(pool, 1) == ["a"]


def test_while_the_database_is_down_states_stay_and_wait(caplog) -> None:
    stores = FakeStores(stored("a"), stored("b"))
    pool = SharedKeyPool((), now=Clock())
    sync = KeySync(pool, stores, stores)
    assert sync.refresh()
    stores.is_down = True
    lease = lease_of(pool)
    pool.report(lease, SPENT, "r1")
    assert not sync.refresh()
    assert not sync.refresh()
    assert len(caplog.records) == 2  # the transition, and once that the database is away
    assert taken(pool, 2) == ["b", "b"]
    stores.is_down = False
    assert sync.refresh()
    assert stores.written == [("a", "exhausted", True)]
    assert len(stores.events) == 1
    assert taken(pool, 1) == ["b"]  # the reading that came after did not bring it back
    assert not pool.has_news


def test_what_happens_while_a_state_goes_out_goes_out_later() -> None:
    pool = pool_of(stored("a"))
    lease = lease_of(pool)
    pool.report(lease, LIMITED, "r1")
    (going,) = pool.pending()
    pool.report(lease, SPENT, "r2")
    pool.shared(going)
    assert [item.state.status for item in pool.pending()] == ["exhausted"]


def test_the_snapshot_shows_states_but_no_keys(caplog) -> None:
    unreadable = StoredProviderKey("bad", None, "healthy", last_error="cannot be decrypted")
    pool = pool_of(stored("a"), unreadable, env=("sk-env-secret-secret",))
    lease = lease_of(pool)
    assert pool.snapshot()[0].in_flight == 1
    pool.report(lease, FAILED, "r1")
    pool.release(lease)
    pool.load([stored("a"), unreadable], {})
    env, a, bad = pool.snapshot()
    assert (env.in_flight, env.requests, env.failures) == (0, 1, 1)
    assert (a.requests, a.masked) == (0, "sk...t")
    assert (bad.available, bad.status, bad.last_error) == (False, "error", "cannot be decrypted")
    assert "secret" not in str(pool.snapshot()) + repr(lease)
    assert len(caplog.records) == 1  # once, not at every refresh


def test_a_key_deleted_or_changed_while_in_use_is_given_back_quietly() -> None:
    pool = pool_of(stored("a"), stored("b"))
    a, b = lease_of(pool), lease_of(pool)
    other = StoredProviderKey("b", "sk-other-secret", "healthy", state=StoredState())
    pool.load([other], {})
    for lease in (a, b):
        pool.report(lease, SPENT, "r1")
        pool.release(lease)
    (view,) = pool.snapshot()
    assert (view.key_id, view.status, view.requests, view.in_flight) == ("b", "healthy", 0, 0)


def test_processes_can_begin_elsewhere() -> None:
    pool = SharedKeyPool(("sk-1", "sk-2", "sk-3"), start=7, now=Clock())
    assert taken(pool, 3) == ["env-2", "env-3", "env-1"]


class Times:
    """Set after so many waits."""

    def __init__(self, count: int) -> None:
        self.left = count

    def is_set(self) -> bool:
        return self.left < 0

    def wait(self, timeout: float) -> bool:
        assert timeout == pytest.approx(0.2)
        self.left -= 1
        return self.left < 0


def test_rounds_go_on_until_they_are_stopped_and_news_go_out_at_once() -> None:
    stores = FakeStores(stored("a"))
    pool = SharedKeyPool((), now=Clock())
    sync = KeySync(pool, stores, stores)

    class Reporting(Times):
        def wait(self, timeout: float) -> bool:
            if self.left == 3:
                pool.report(lease_of(pool), LIMITED, "r1")
            if self.left == 2:
                assert stores.written == [("a", "rate_limited", True)]
            return super().wait(timeout)

    sync.run(Reporting(6), 1.0)
    assert len(stores.written) == 1


def test_an_unforeseen_error_does_not_end_the_rounds(caplog) -> None:
    class Odd(FakeStores):
        lists = 0

        def list(self):
            self.lists += 1
            if self.lists < 3:
                raise TypeError("odd document")
            return super().list()

    stores = Odd()
    with caplog.at_level(logging.INFO):
        KeySync(SharedKeyPool((), now=Clock()), stores, stores).run(Times(10), 1.0)
    assert stores.lists == 3
    assert caplog.messages == ["upstream keys cannot be refreshed", "upstream keys are refreshed again"]
    assert "odd document" in caplog.text
