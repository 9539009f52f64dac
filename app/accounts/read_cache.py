"""A bounded cache in front of a store that may be slow or gone.

An entry is *fresh* for a moment; then it is *stale*: still served, while one background load renews it; then
it is *old*: loaded anew before it is served. So what is in use makes nobody wait, and nothing older than the
limit is served while the store answers. While it cannot be reached, stale and old entries keep serving up to
the outage limit. Absence is cached apart, so that a flood of unknown keys neither pushes out the known ones
nor reaches the store more than once per key and few seconds.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.common.errors import StoreUnavailable

V = TypeVar("V")
Clock = Callable[[], float]
Spawn = Callable[[Callable[[], None]], object]


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long (seconds) and how many (entries)."""

    fresh_s: float = 0.75
    # What was revoked, or spent, elsewhere counts everywhere after this, with what a load takes: within 2 s.
    stale_s: float = 1.5
    # Nothing can be revoked in a store that is away, so what was known goes on for as long as outages last.
    outage_s: float = 86_400.0
    absent_s: float = 5.0
    # After a failed load, how long to answer "unavailable" at once instead of waiting for the next timeout.
    retry_s: float = 1.0
    max_entries: int = 10_000
    max_absent: int = 10_000


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    loaded_at: float
    # Set by an own write: loaded anew before it is served, as long as the store answers.
    is_outdated: bool = False


@dataclass(slots=True)
class Outage:
    """When a load failed last, until one succeeds. Caches of one store share it, so that only one waits."""

    failed_at: float | None = None

    def end(self) -> None:
        """Take note that the store answers: nothing old is served from now on."""
        self.failed_at = None


@dataclass(slots=True)
class _Flight(Generic[V]):
    """One load under way; those who want the same wait for it."""

    done: threading.Event = field(default_factory=threading.Event)
    value: V | None = None
    error: StoreUnavailable | None = None
    has_landed: bool = False
    # Set when the entry was written to meanwhile: what is being read may be from before that.
    is_outdated: bool = False


class ReadCache(Generic[V]):
    """Values by text key; `load` functions return the value or None, or raise `StoreUnavailable`.

    Loads are made without holding a lock. The bookkeeping needs none under gevent, since it never yields;
    the lock is there for plain threads (tests, other servers). Reading takes it not even there: each step
    of it is one operation of a dictionary.
    """

    def __init__(self, clock: Clock, spawn: Spawn, policy: CachePolicy, outage: Outage | None = None) -> None:
        self._clock = clock
        self._spawn = spawn
        self._policy = policy
        self._fresh_s = min(policy.fresh_s, policy.stale_s)
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._flights: dict[str, _Flight[V]] = {}
        self._renewing: set[str] = set()
        self._outage = outage or Outage()

    def get(self, key: str, load: Callable[[], V | None], max_age_s: float | None = None) -> V | None:
        """Return the value, or None if there is none; raises `StoreUnavailable` if it is and stays unknown.

        With `max_age_s`, a value older than that is loaded anew before it is served, if the store answers.
        """
        now = self._clock()
        entry = self._entries.get(key)
        if entry is None:
            absent_until = self._absent.get(key)
            if absent_until is not None and now < absent_until:
                return None
            self._fail_fast(now)
            return self._load(key, load)
        try:  # noqa: SIM105  `suppress` takes three calls, and this is done five times a request
            self._entries.move_to_end(key)
        except KeyError:
            pass  # another thread has just taken it out
        age = now - entry.loaded_at
        if age < self._fresh_s and not entry.is_outdated and (max_age_s is None or age < max_age_s):
            return entry.value
        return self._serve(key, load, entry, age, max_age_s)

    def peek(self, key: str) -> V | None:
        """Return the value as cached, whatever its age."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    def holds(self, key: str) -> bool:
        """Return whether there is a value, or one is being loaded."""
        return key in self._entries or key in self._flights

    def forget(self, key: str) -> None:
        """Drop the key and its absence; nothing more is served of it, and a load under way is not kept."""
        with self._lock:
            self._entries.pop(key, None)
            self._drop_news(key)

    def outdate(self, key: str) -> None:
        """Note an own write: the next read loads the key anew, or serves what was known if that fails."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.is_outdated = True
            self._drop_news(key)

    def expire(self, key: str) -> None:
        """Make the entry stale: it is still served, and renewed behind the next read."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.loaded_at = min(entry.loaded_at, self._clock() - self._policy.fresh_s)

    def outdate_all(self) -> None:
        """Have every value loaded anew when it is next read, or served as it is while that fails."""
        with self._lock:
            for entry in self._entries.values():
                entry.is_outdated = True
            self._absent.clear()
            for key in list(self._flights):
                self._drop_news(key)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many values and how many absences are held."""
        return len(self._entries), len(self._absent)

    def _serve(
        self, key: str, load: Callable[[], V | None], entry: _Entry[V], age: float, max_age_s: float | None
    ) -> V | None:
        policy = self._policy
        limit = 0.0 if entry.is_outdated else policy.stale_s if max_age_s is None else max_age_s
        if age < limit or (self._outage.failed_at is not None and age < policy.outage_s):
            # With the store down nobody waits for it: each read serves what there is and has it tried again.
            self._renew(key, load)
            return entry.value
        if age >= policy.outage_s:
            self._fail_fast(self._clock())
            return self._load(key, load)
        try:
            return self._load(key, load)
        except StoreUnavailable:
            return entry.value

    def _fail_fast(self, now: float) -> None:
        if self._outage.failed_at is not None and now - self._outage.failed_at < self._policy.retry_s:
            raise StoreUnavailable("the store could not be reached a moment ago")

    def _renew(self, key: str, load: Callable[[], V | None]) -> None:
        just_failed = (
            self._outage.failed_at is not None
            and self._clock() - self._outage.failed_at < self._policy.retry_s
        )
        if just_failed:
            return
        if key in self._renewing:
            return  # as most who come while it is renewed hear without the lock
        with self._lock:
            if key in self._renewing or key in self._flights:
                return
            self._renewing.add(key)
        self._spawn(lambda: self._renew_now(key, load))

    def _renew_now(self, key: str, load: Callable[[], V | None]) -> None:
        self._renewing.discard(key)
        # Boarded only here: a flight whose greenlet were killed before its start would never land.
        flight, is_mine = self._board(key)
        if is_mine:
            # A failure stays in the flight: the next read has it tried again.
            self._fly(key, load, flight)

    def _load(self, key: str, load: Callable[[], V | None]) -> V | None:
        while True:
            flight, is_mine = self._board(key)
            if is_mine:
                self._fly(key, load, flight)
            else:
                flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.has_landed:
                return flight.value

    def _board(self, key: str) -> tuple[_Flight[V], bool]:
        """Return the load of this key that is under way, or a new one that is the caller's to make."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _Flight[V]()
            return flight, True

    def _fly(self, key: str, load: Callable[[], V | None], flight: _Flight[V]) -> None:
        started_at = self._clock()
        try:
            flight.value = load()
            flight.has_landed = True
        except StoreUnavailable as error:
            flight.error = error
        finally:
            # Also when broken off (a killed greenlet, a bug): those who wait then make the load themselves.
            self._land(key, flight, started_at)

    def _land(self, key: str, flight: _Flight[V], started_at: float) -> None:
        with self._lock:
            self._renewing.discard(key)
            if self._flights.get(key) is flight:
                del self._flights[key]
            if flight.error is not None:
                self._outage.failed_at = self._clock()
            elif flight.has_landed:
                self._outage.failed_at = None
                if not flight.is_outdated:
                    self._keep(key, flight.value, started_at)
        flight.done.set()

    def _keep(self, key: str, value: V | None, loaded_at: float) -> None:
        if value is None:
            self._entries.pop(key, None)
            self._absent[key] = loaded_at + self._policy.absent_s
            self._absent.move_to_end(key)
            if len(self._absent) > self._policy.max_absent:
                self._absent.popitem(last=False)
            return
        self._absent.pop(key, None)
        self._entries[key] = _Entry(value, loaded_at)
        self._entries.move_to_end(key)
        if len(self._entries) > self._policy.max_entries:
            self._entries.popitem(last=False)

    def _drop_news(self, key: str) -> None:
        """Forget an absence, and what a load under way is going to say."""
        self._absent.pop(key, None)
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.is_outdated = True
