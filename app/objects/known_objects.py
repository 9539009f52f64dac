"""What this worker knows of what the upstream keeps, and how others come to hear of it.

A request with an id is looked up in memory, then in MongoDB. Another worker may have learnt the id this very
moment: it writes at once what it learns, but beside the answer, not before it. So what is not found is looked
for again, some times within a second, before it counts as unknown.

Looking again has a bound, or whoever asks for ids that do not exist would have a greenlet sleep and MongoDB
asked five times for each: what has turned out to be unknown is looked up once, without waiting, when it is
asked for again, and so is whatever a user asks for who has waited in vain often within a minute.
"""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import gevent
from gevent.event import Event
from msgspec.structs import replace

from app.common.errors import StoreUnavailable
from app.objects.object_store import ObjectStore
from app.objects.upstream_object import MAX_PARTS, UpstreamObject
from app.periodic import FailureLog, StopEvent

MAX_KNOWN_IDS: Final = 50_000
"""How many ids a worker remembers; the rest it asks MongoDB for."""
MAX_UNWRITTEN: Final = 20_000
"""How many objects wait for MongoDB at most; beyond it the oldest are dropped, and counted."""
MAX_VAIN: Final = 20
"""How often within a minute a user may wait for an id that turns out to be unknown."""
MAX_UNKNOWN_IDS: Final = 10_000
"""How many ids are remembered, for up to a minute, as unknown."""

_MINUTE_S: Final = 60
_BATCH: Final = 200
_RENEWED_AFTER: Final = timedelta(days=1)
"""What is in use is kept: a conversation may go on for months."""
_LOOKS_S: Final = (0.0, 0.03, 0.08, 0.2, 0.5)
"""Pauses before each look, in seconds: in all longer than a write takes."""
_RETRY_S: Final = 1.0
_IDLE_S: Final = 5.0

log = logging.getLogger(__name__)


class KnownObjects:
    """`app.exchange.ports.UpstreamObjects`: bounded memory over the store, and the writer beside it.

    `lost` counts what could not be written: other workers know these ids once the record is booked.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = gevent.sleep,
    ) -> None:
        self._store = store
        self._now = now
        self._pause = pause
        self._known: OrderedDict[str, UpstreamObject] = OrderedDict()
        self._by_id: dict[str, UpstreamObject] = {}
        self._unwritten: deque[UpstreamObject] = deque()
        self._is_news = Event()
        self._in_vain = _InVain()
        self.lost = 0

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def unwritten(self) -> int:
        """How many are still to be written."""
        return len(self._unwritten)

    def learn(self, made: UpstreamObject) -> None:
        """Note what a request has made, or used again, or a part more of it; never waits.

        The first to tell an id says whose it is.
        """
        known = self._known.get(made.object_id)
        if known is not None:
            new = [part for part in made.parts if part not in known.parts]
            if not new and made.created_at - known.created_at < _RENEWED_AFTER:
                return
            made = replace(known, parts=(*known.parts, *new)[:MAX_PARTS], created_at=made.created_at)
        self._keep(made)
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._unwritten.popleft()
            if not self.lost:
                log.error("ids of upstream objects are dropped: other workers know them once booked")
            self.lost += 1
        self._unwritten.append(made)
        self._is_news.set()

    def find(self, ids: Collection[str], user_id: str, *, waits: bool = True) -> Mapping[str, UpstreamObject]:
        """Return what is known of these ids, by id; those that nobody knows are left out.

        They are asked for by a user's request, and as long as an id may have. Without `waits` the store is
        asked once at most. Raises `StoreUnavailable` when it has to be asked and does not answer.
        """
        found = self._remembered(ids)
        for number, pause_s in enumerate(_LOOKS_S):
            if number and not waits:
                break
            missing = [name for name in ids if name not in found]
            if not missing or (number and not self._vain().may_wait(user_id, missing)):
                break
            if pause_s:
                self._pause(pause_s)
            for stored in self._store.find(missing):
                self._keep(stored)
            found |= self._remembered(missing)
        else:
            if missing := [name for name in ids if name not in found]:
                self._vain().note(user_id, missing)
        return found

    def settled(self, object_id: str) -> None:
        """Note that what an object cost has been seen here: nobody need look again."""
        known = self._known.get(object_id)
        if known is not None:
            self._keep(replace(known, is_settled=True))

    def run(self, stop: StopEvent) -> None:
        """Write what is learnt, at once, until `stop` is set; then what is left, once."""
        failures = FailureLog(log, "ids of upstream objects are not stored", "ids are stored again")
        while not stop.is_set():
            self._is_news.wait(_IDLE_S)
            self._is_news.clear()
            if not self._write_all(failures):
                stop.wait(_RETRY_S)
                self._is_news.set()

    def flush(self) -> None:
        """Write what is left, as far as the store takes it."""
        self._write_all(FailureLog(log, "ids of upstream objects are lost", "ids are stored again"))
        self.lost += len(self._unwritten)

    def _write_all(self, failures: FailureLog) -> bool:
        while self._unwritten:
            batch = [self._unwritten.popleft() for _ in range(min(_BATCH, len(self._unwritten)))]
            try:
                self._store.add(batch, self._now())
            except StoreUnavailable as error:
                failures.note_failure(error)
                self._unwritten.extendleft(reversed(batch))
                return False
            failures.note_success()
        return True

    def _vain(self) -> "_InVain":
        minute = int(self._now().timestamp()) // _MINUTE_S
        if self._in_vain.minute != minute:
            self._in_vain = _InVain(minute)
        return self._in_vain

    def _remembered(self, ids: Collection[str]) -> dict[str, UpstreamObject]:
        found = {name: self._by_id[name] for name in ids if name in self._by_id}
        for made in found.values():
            self._known.move_to_end(made.object_id)
        return found

    def _keep(self, made: UpstreamObject) -> None:
        self._known[made.object_id] = made
        self._known.move_to_end(made.object_id)
        for name in made.ids:
            self._by_id[name] = made
        while len(self._by_id) > MAX_KNOWN_IDS:
            _, gone = self._known.popitem(last=False)
            for name in gone.ids:
                if self._by_id.get(name) is gone:
                    del self._by_id[name]


class _InVain:
    """What was waited for in vain within a minute, and by whom: at most `MAX_VAIN` times by each."""

    def __init__(self, minute: int = 0) -> None:
        self.minute = minute
        self._waits: Counter[str] = Counter()
        self._unknown: set[str] = set()

    def may_wait(self, user_id: str, missing: Collection[str]) -> bool:
        return self._waits[user_id] < MAX_VAIN and not self._unknown.issuperset(missing)

    def note(self, user_id: str, missing: Collection[str]) -> None:
        self._waits[user_id] += 1
        if len(self._unknown) + len(missing) <= MAX_UNKNOWN_IDS:
            self._unknown.update(missing)
