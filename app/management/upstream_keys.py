"""The pool of OhMyGPT keys: those in the database, and those of `OHMYGPT_API_KEYS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.database import Database

from app.accounts.limits import MAX_NUMBER
from app.common.clock import now_ms
from app.common.cursor import PageCursor
from app.keys.key_rotation import KeyRotation
from app.keys.key_state_store import EVENTS_KEPT_S, KeyEvent, KeyStateStore, StoredState, env_store_id
from app.keys.key_states import Policy, reset
from app.keys.provider_keys import ENV_ID_PREFIX, ProviderKeyStore, StoredProviderKey, id_problem
from app.management.audit import Actor, AuditLog
from app.management.errors import Missing, Unusable, asks_store
from app.ohmygpt.account import Balance
from app.ohmygpt.live_account import READING
from app.ohmygpt.readings import Readings, accounts_of, balance_of
from app.store.key_cipher import KeyCipher

__all__ = [
    "LEAST",
    "MAX_NUMBER",
    "StoredProviderKey",
    "UpstreamKeyAdmin",
    "id_problem",
    "is_configured",
    "stored_id",
]

LEAST: Final[Mapping[str, int]] = {"weight": 1, "rpm": 0, "maxInFlight": 0}
"""The limits of a key, by their stored names, with the least that each may be; 0: it gets no requests."""

MOST_CHANGES = 5000
"""How many changes of states are looked through at most; reading them takes some 30 ms."""

Document = dict[str, Any]
KeyList = list[StoredProviderKey]
Ids = list[str]
Events = list[KeyEvent]


@dataclass(frozen=True, slots=True)
class AccountReading:
    """The account behind the keys as OhMyGPT told it, at `read_at`; `problem` is why there is nothing newer.

    `unmatched_keys` counts the keys OhMyGPT listed that are not in the pool.
    """

    balance: Balance
    read_at: datetime | None = None
    problem: str | None = None
    unmatched_keys: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to keys, by their ids, newest first; of the time before `known_from` nothing is known."""

    of_keys: Mapping[str, Events]
    known_from: datetime


class UpstreamKeyAdmin:
    """Actions on upstream keys. `changed` has the pool read anew; `env_keys` are the configured secrets."""

    def __init__(
        self,
        db: Database[Document],
        cipher: KeyCipher,
        audit: AuditLog,
        changed: Callable[[], object],
        env_keys: Sequence[str] = (),
    ) -> None:
        self._store = ProviderKeyStore(db, cipher)
        self._readings = Readings(db)
        self._states = KeyStateStore(db)
        self._rotation = KeyRotation(db, cipher)
        self._audit = audit
        self._changed = changed
        self._env_secrets = list(env_keys)

    @asks_store
    def list(self) -> KeyList:
        """Return the pool, configured keys first, with what OhMyGPT says about each."""
        accounts = accounts_of(self._readings.get(READING))
        keys = self._env_keys() + list(self._store.list())
        return [replace(key, account=accounts.get(stored_id(key))) for key in keys]

    @asks_store
    def account(self) -> AccountReading:
        """Return what OhMyGPT said last about the account behind the keys."""
        stored = self._readings.get(READING)
        return AccountReading(
            balance_of(stored),
            read_at=stored.get("readAt"),
            problem=stored.get("problem"),
            unmatched_keys=stored.get("unmatchedKeys"),
        )

    @asks_store
    def get(self, key_id: str) -> StoredProviderKey:
        """Return one key."""
        return self._known(key_id)

    @asks_store
    def add(self, actor: Actor, key_id: str, secret: str) -> StoredProviderKey:
        """Add a key to the pool."""
        with self._audit.action(actor, "keys.add", _target(key_id)):
            try:
                key = self._store.add(key_id, secret, now=now_ms())
            except ValueError as error:
                raise Unusable("", str(error)) from None
        self._changed()
        return key

    @asks_store
    def import_lines(self, actor: Actor, text: str) -> Ids:
        """Add every `id|key` line, all or none; the ids. Raises `Unusable` with every bad line."""
        with self._audit.action(actor, "keys.import", "key-pool"):
            ids = self._store.import_lines(text, now=now_ms())
        self._changed()
        return ids

    @asks_store
    def reset(self, actor: Actor, key_id: str) -> StoredProviderKey:
        """Make the key healthy again, on all workers and hosts, whatever these know of the key."""
        with self._audit.action(actor, "keys.reset", _target(key_id)):
            if key_id.startswith(ENV_ID_PREFIX):
                key = self._reset_env_key(key_id)
            else:
                key = self._store.reset(key_id, now=now_ms())
            if key is None:
                raise _unknown(key_id)
            self._rotation.allow()
        self._changed()
        return key

    @asks_store
    def limit(self, actor: Actor, key_id: str, changes: Mapping[str, int | None]) -> StoredProviderKey:
        """Change some of `LEAST`; None takes a limit away, and what is not named stays."""
        with self._audit.action(actor, "keys.limit", _target(key_id), changes):
            for name, value in changes.items():
                if value is not None and not LEAST[name] <= value <= MAX_NUMBER:
                    raise Unusable(name, f"takes a whole number from {LEAST[name]} to {MAX_NUMBER:,}")
            if is_configured(key_id) or (key := self._store.limit(key_id, changes)) is None:
                raise _unknown(key_id)
        self._changed()
        return key

    @asks_store
    def delete(self, actor: Actor, key_id: str) -> None:
        """Remove the key from the pool."""
        with self._audit.action(actor, "keys.delete", _target(key_id)):
            if not self._store.delete(key_id):
                raise _unknown(key_id)
        self._changed()

    @asks_store
    def events(
        self, key_id: str | None, limit: int, cursor: PageCursor | None = None
    ) -> tuple[Events, str | None]:
        """Return what happened to one key or to all, newest first, and the cursor of the next page."""
        return self._states.event_page(key_id, limit, cursor)

    @asks_store
    def changes_since(self, start: datetime, now: datetime) -> Changes:
        """Return what happened to all keys since then, and from when on that is known (at the earliest)."""
        kept_from = now - timedelta(seconds=EVENTS_KEPT_S)
        events = self._states.events_since(max(start, kept_from), MOST_CHANGES)
        known_from = events[-1].at if len(events) == MOST_CHANGES else kept_from
        found: dict[str, Events] = {}
        for event in events:
            found.setdefault(event.key_id, []).append(event)
        return Changes(found, known_from)

    def _known(self, key_id: str) -> StoredProviderKey:
        found: StoredProviderKey | None
        if key_id.startswith(ENV_ID_PREFIX):
            found = {key.key_id: key for key in self._env_keys()}.get(key_id)
        else:
            found = self._store.get(key_id)
        if found is None:
            raise _unknown(key_id)
        return found

    def _env_keys(self) -> KeyList:
        known = self._states.states((env_store_id(secret) for secret in self._env_secrets), is_env=True)
        keys = []
        for number, secret in enumerate(self._env_secrets, 1):
            state = known.get(env_store_id(secret), StoredState())
            keys.append(
                StoredProviderKey(
                    f"{ENV_ID_PREFIX}{number}",
                    secret,
                    state.status,
                    last_error=state.last_error,
                    cooldown_until=state.until,
                    state=state,
                )
            )
        return keys

    def _reset_env_key(self, key_id: str) -> StoredProviderKey | None:
        found = {key.key_id: key for key in self._env_keys()}.get(key_id)
        if found is None or found.secret is None:
            return None
        now = now_ms()
        state, event = reset(found.state.restore(now, now, Policy()), now)
        self._states.put(env_store_id(found.secret), key_id, state, is_env=True)
        self._states.add_events([KeyEvent.of(key_id, event)])
        return {key.key_id: key for key in self._env_keys()}[key_id]


def is_configured(key_id: str) -> bool:
    """Return whether the key is one of `OHMYGPT_API_KEYS`."""
    return key_id.startswith(ENV_ID_PREFIX)


def stored_id(key: StoredProviderKey) -> str:
    """Return what a key is stored under: those of the configuration under a digest."""
    return env_store_id(key.secret or "") if is_configured(key.key_id) else key.key_id


def _target(key_id: str) -> str:
    return f"key:{key_id}"


def _unknown(key_id: str) -> Missing:
    if key_id.startswith(ENV_ID_PREFIX):
        return Missing(f"{key_id[:80]} comes from OHMYGPT_API_KEYS: change it there")
    return Missing(f"there is no key {key_id[:80]}")
