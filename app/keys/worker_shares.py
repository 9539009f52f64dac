"""This worker's part in dividing the limits of upstream keys among all workers, through MongoDB.

Slots are let go of before the database hears of it and used only after it has agreed, so that an answer
that is lost costs slots and never adds any.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.keys.key_pool import SharedKeyPool
from app.keys.key_share_store import Division, KeyShareStore
from app.keys.key_shares import MINUTE_S, SILENCE_S, Kind, QuotaShare, Shares, reshared

_TURN_S = 10
_TRIES = 4

Slots = Mapping[Kind, int]


@dataclass(slots=True)
class _Sign:
    number: int
    heard_at: float


class KeyShares:
    """One worker's shares. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        worker_id: str,
        pool: SharedKeyPool,
        store: KeyShareStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._me = worker_id
        self._pool = pool
        self._store = store
        self._clock = clock
        self._signs: dict[str, _Sign] = {}
        self._sharers: set[str] = set()
        self._heard_at = clock()
        self._held: set[str] = set()

    def exchange(self, *, is_leaving: bool = False) -> dict[str, Slots]:
        """Take this worker's shares anew; return the shares that have grown, to be granted.

        Raises `PyMongoError`.
        """
        needs = self._pool.needs()
        keys = needs.keys() | self._held
        if not keys:
            return {}
        silent_s = self._listen()
        slots: dict[str, Slots] = {}
        grown: dict[str, Slots] = {}
        left = set(keys)
        for _ in range(_TRIES):  # until nobody else has changed the same division meanwhile
            changes: dict[str, tuple[Division, Mapping[str, Shares]]] = {}
            for store_id, division in self._store.divisions(left).items():
                self._sharers |= division.shares.keys()
                mine = needs.get(store_id, {})
                turn = int(self._clock()) // _TURN_S
                shares = reshared(self._me, mine, division.shares, silent_s, turn, is_leaving=is_leaving)
                own = shares.get(self._me, {})
                held = self._pool.cede(store_id, {kind: share.slots for kind, share in own.items()})
                if own:
                    own = {
                        kind: QuotaShare(max(s.slots, held.get(kind, 0)), s.want) for kind, s in own.items()
                    }
                    shares[self._me] = own
                if shares != division.shares:
                    changes[store_id] = division, shares
                slots[store_id] = {kind: share.slots for kind, share in own.items()}
                grown.pop(store_id, None)
                if slots[store_id] != held:
                    grown[store_id] = slots[store_id]
            left = changes.keys() - self._store.replace(changes)
            if not left:
                break
        self._held = {store_id for store_id in keys if slots.get(store_id)}
        return {store_id: grown[store_id] for store_id in grown.keys() - left}

    def _listen(self) -> dict[str, float]:
        """Give a sign, and return how long each other worker has been silent.

        What was missed in an outage is no silence.
        """
        now, last = self._clock(), self._heard_at
        signs = self._store.heartbeat(self._me)
        if now - last > SILENCE_S / 2:
            self._signs.clear()
        self._heard_at = now
        known = self._signs
        self._signs = {
            name: known[name] if name in known and known[name].number == number else _Sign(number, now)
            # Whoever holds a share and has given no sign has been forgotten, or is very new.
            for name, number in (dict.fromkeys(self._sharers, 0) | signs).items()
        }
        self._sharers.clear()
        silent_s = {name: now - sign.heard_at for name, sign in self._signs.items() if name != self._me}
        gone = {name for name in signs if silent_s.get(name, 0.0) > SILENCE_S + 2 * MINUTE_S}
        self._store.forget(gone)
        return silent_s
