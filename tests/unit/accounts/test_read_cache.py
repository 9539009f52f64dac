import threading
from collections.abc import Callable

import pytest

from app.accounts.read_cache import CachePolicy, Outage, ReadCache
from app.common.errors import StoreUnavailable


class Bench:
    """A cache over a scripted store: time and background work happen when the test says so."""

    def __init__(self, **policy: float) -> None:
        self.now = 1000.0
        self.store: dict[str, str] = {"k": "v1"}
        self.loads: list[str] = []
        self.is_down = False
        self.background: list[Callable[[], None]] = []
        self.cache: ReadCache[str] = ReadCache(
            lambda: self.now,
            self.background.append,
            CachePolicy(**{"fresh_s": 5.0, "stale_s": 30.0} | policy),  # type: ignore[arg-type]
        )

    def get(self, key: str = "k", max_age_s: float | None = None) -> str | None:
        return self.cache.get(key, lambda: self.load(key), max_age_s)

    def load(self, key: str) -> str | None:
        self.loads.append(key)
        if self.is_down:
            raise StoreUnavailable("down")
        return self.store.get(key)

    def run_background(self) -> None:
        while self.background:
            self.background.pop(0)()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_fresh_value_is_served_without_asking(bench: Bench) -> None:
    assert [bench.get(), bench.get()] == ["v1", "v1"]
    assert bench.loads == ["k"]


def test_a_stale_value_is_served_at_once_and_renewed_behind(bench: Bench) -> None:
    bench.get()
    bench.store["k"] = "v2"
    bench.now += 6
    assert [bench.get(), bench.get()] == ["v1", "v1"]
    assert bench.loads == ["k"]
    assert len(bench.background) == 1
    bench.run_background()
    assert bench.get() == "v2"
    assert bench.loads == ["k", "k"]


def test_a_renewal_that_never_runs_blocks_nobody(bench: Bench) -> None:
    bench.get()
    bench.now += 6
    bench.get()
    bench.background.clear()  # its greenlet was killed before it began
    bench.store["k"] = "v2"
    bench.now += 25
    assert bench.get() == "v2"
    bench.now += 6
    bench.get()
    assert len(bench.background) == 1


def test_an_old_value_is_loaded_before_it_is_served(bench: Bench) -> None:
    bench.get()
    bench.store["k"] = "v2"
    bench.now += 31
    assert bench.get() == "v2"


def test_a_value_that_is_gone_is_gone(bench: Bench) -> None:
    bench.get()
    del bench.store["k"]
    bench.now += 6
    bench.get()
    bench.run_background()
    assert bench.get() is None


def test_an_outage_serves_what_is_known_for_a_day(bench: Bench) -> None:
    bench.get()
    bench.is_down = True
    for _ in range(23):
        bench.now += 3600
        assert bench.get() == "v1"
        bench.run_background()
    bench.now += 3601
    with pytest.raises(StoreUnavailable):
        bench.get()


def test_during_an_outage_nobody_waits_for_the_store(bench: Bench) -> None:
    bench.get()
    bench.is_down = True
    bench.now += 40
    bench.get()  # the one that finds out
    loads = len(bench.loads)
    bench.now += 40
    assert bench.get() == "v1"
    assert len(bench.loads) == loads
    assert len(bench.background) == 1


def test_the_end_of_an_outage_is_noticed(bench: Bench) -> None:
    bench.get()
    bench.is_down = True
    bench.now += 40
    bench.get()
    bench.is_down = False
    bench.store["k"] = "v2"
    bench.now += 40
    bench.get()
    bench.run_background()
    assert bench.get() == "v2"


def test_nothing_old_is_served_once_the_outage_is_known_to_be_over() -> None:
    outage = Outage()
    bench = Bench()
    bench.cache = ReadCache(lambda: bench.now, bench.background.append, CachePolicy(), outage)
    bench.get()
    bench.is_down = True
    bench.now += 40
    assert bench.get() == "v1"
    bench.is_down = False
    bench.store["k"] = "v2"
    outage.end()
    assert bench.get() == "v2"
    assert not bench.background


def test_unknown_keys_in_an_outage_fail_at_once_after_the_first(bench: Bench) -> None:
    bench.is_down = True
    for key in ("a", "b", "c"):
        with pytest.raises(StoreUnavailable):
            bench.get(key)
    assert bench.loads == ["a"]
    bench.now += 1.1
    bench.is_down = False
    assert bench.get() == "v1"


def test_absence_is_remembered_for_seconds_only(bench: Bench) -> None:
    assert [bench.get("x"), bench.get("x")] == [None, None]
    assert bench.loads == ["x"]
    bench.store["x"] = "made"
    bench.now += 5.1
    assert bench.get("x") == "made"


def test_floods_of_unknown_keys_neither_grow_nor_push_out_known_ones() -> None:
    bench = Bench(max_entries=10, max_absent=50)
    bench.get()
    for number in range(1000):
        assert bench.get(f"bad-{number}") is None
    assert bench.cache.sizes == (1, 50)
    loads = len(bench.loads)
    assert bench.get() == "v1"
    assert len(bench.loads) == loads


def test_the_least_recently_used_value_goes_first() -> None:
    bench = Bench(max_entries=2)
    bench.store.update(a="1", b="2", c="3")
    for key in ("a", "b", "a", "c"):
        bench.get(key)
    assert bench.cache.peek("a") == "1"
    assert bench.cache.peek("b") is None


def test_max_age_asks_again_and_falls_back_to_what_is_known(bench: Bench) -> None:
    bench.get()
    bench.store["k"] = "v2"
    bench.now += 2
    assert bench.get(max_age_s=3.0) == "v1"
    assert bench.get(max_age_s=1.0) == "v2"
    bench.now += 2
    bench.is_down = True
    assert bench.get(max_age_s=1.0) == "v2"


def test_forget_drops_values_and_absences(bench: Bench) -> None:
    bench.get()
    bench.get("x")
    bench.store.update(k="v2", x="made")
    bench.cache.forget("k")
    bench.cache.forget("x")
    assert bench.cache.sizes == (0, 0)
    assert (bench.get(), bench.get("x")) == ("v2", "made")


def test_what_is_outdated_is_loaded_before_it_is_served(bench: Bench) -> None:
    bench.get()
    bench.get("x")
    bench.store.update(k="v2", x="made")
    bench.cache.outdate("k")
    bench.cache.outdate("x")
    assert (bench.get(), bench.get("x")) == ("v2", "made")
    bench.store.update(k="v3", x="v3")
    bench.cache.outdate_all()
    assert (bench.get(), bench.get("x")) == ("v3", "v3")


def test_what_is_outdated_is_served_while_the_store_is_down_and_renewed_once_it_is_not(bench: Bench) -> None:
    bench.get()
    bench.store["k"] = "v2"
    bench.cache.outdate("k")
    bench.is_down = True
    assert (bench.get(), bench.get()) == ("v1", "v1")
    bench.is_down = False
    bench.now += 1
    assert bench.get() == "v1"
    bench.run_background()
    assert bench.get() == "v2"


def test_expire_serves_the_old_value_once_more(bench: Bench) -> None:
    bench.get()
    bench.store["k"] = "v2"
    bench.cache.expire("k")
    bench.cache.expire("unknown")
    assert bench.get() == "v1"
    bench.run_background()
    assert bench.get() == "v2"


def test_a_load_overtaken_by_a_write_is_not_kept(bench: Bench) -> None:
    def load_while_it_changes() -> str:
        bench.cache.outdate("k")
        return "from before the write"

    assert bench.cache.get("k", load_while_it_changes) == "from before the write"
    assert bench.cache.peek("k") is None


class SlowStore:
    """A store whose answer waits until the test lets it go."""

    def __init__(self, outcome: Callable[[], str | None]) -> None:
        self.asked = threading.Semaphore(0)
        self.released = threading.Event()
        self.loads = 0
        self._outcome = outcome

    def load(self) -> str | None:
        self.loads += 1
        self.asked.release()
        assert self.released.wait(60)
        return self._outcome()


def in_threads(count: int, store: SlowStore, cache: ReadCache[str]) -> list[object]:
    results: list[object] = []

    def ask() -> None:
        try:
            results.append(cache.get("k", store.load))
        except (StoreUnavailable, RuntimeError) as error:
            results.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    threads[0].start()
    assert store.asked.acquire(timeout=60)
    for thread in threads[1:]:
        thread.start()
    store.released.set()
    for thread in threads:
        thread.join(60)
    return results


def test_those_who_miss_together_ask_once(bench: Bench) -> None:
    store = SlowStore(lambda: "v")
    assert in_threads(8, store, bench.cache) == ["v"] * 8
    assert store.loads == 1


def test_those_who_miss_together_fail_together(bench: Bench) -> None:
    def fail() -> str:
        raise StoreUnavailable("down")

    assert in_threads(8, SlowStore(fail), bench.cache) == [StoreUnavailable] * 8


def test_a_load_broken_off_leaves_nobody_waiting(bench: Bench) -> None:
    outcomes = iter([RuntimeError("a bug"), None])

    def first_breaks() -> str:
        error = next(outcomes)
        if error:
            raise error
        return "v"

    results = in_threads(2, SlowStore(first_breaks), bench.cache)
    assert sorted(map(str, results)) == [str(RuntimeError), "v"] or results == [RuntimeError, "v"]
    assert bench.get() == "v"
