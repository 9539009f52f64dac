"""Client keys and balances as the request path sees them: out of a cache, whatever the store is doing.

Two caches, keys by the hash of their secret and users by name, so that many keys of one user share one
balance. A refusal is cached as an absence and so asked about again after seconds, even when idle for long: a
key just made, or a user just enabled, does not meet a stale "no".
"""

import hmac
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pymongo
from pymongo.errors import PyMongoError

from app.adapters.mongo.client_keys import ClientKey
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.users import User
from app.adapters.read_cache import CachePolicy, Clock, ReadCache, Spawn
from app.core.credentials import hash_client_key
from app.core.credit_policy import Funds
from app.core.ports import StoreUnavailable
from app.core.principal import Balance, Principal

ENV_ID = "env"
_MAX_SECRET_LENGTH = 512
# How long a request may wait for the store, at most, when the answer is in no cache.
_LOOKUP_TIMEOUT_S = 2.0
# A balance that would refuse the request is not older than this: credit just bought counts at once.
_REFUSAL_MAX_AGE_S = 1.0
_MANY = 1000


class UserReader(Protocol):
    """What the directory asks about users."""

    def get(self, username: str) -> User | None:
        """The user, or None."""

    def find_username_by_api_key(self, secret: str) -> str | None:
        """Whose account key this is."""


class ClientKeyReader(Protocol):
    """What the directory asks about client keys."""

    def find(self, secret: str) -> ClientKey | None:
        """The key stored for this secret, active or not."""


@dataclass(frozen=True, slots=True)
class _KnownKey:
    user_id: str
    key_id: str
    rpm: int | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Account:
    """A user as read when `booked` charges (of all users) had been booked by this process."""

    user: User
    booked: int


class CachedDirectory:
    """`app.core.ports.Directory` over the users and client keys in MongoDB."""

    def __init__(
        self,
        users: UserReader,
        client_keys: ClientKeyReader,
        *,
        clock: Clock,
        spawn: Spawn,
        proxy_api_key: str | None = None,
        policy: CachePolicy | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._users = users
        self._client_keys = client_keys
        self._now = now
        self._env_key = proxy_api_key.encode() if proxy_api_key else None
        self._keys: ReadCache[_KnownKey] = ReadCache(clock, spawn, policy or CachePolicy())
        self._accounts: ReadCache[_Account] = ReadCache(clock, spawn, policy or CachePolicy())
        # Charges made here: noted but not in MongoDB yet, and booked there but maybe not yet in the account
        # as cached. Only users who were charged are in these, and for long only cached ones.
        self._pending: defaultdict[str, int] = defaultdict(int)
        self._booked: dict[str, list[tuple[int, int]]] = {}
        self._bookings = 0

    def find(self, secret: str) -> Principal | None:
        """Who this client key belongs to; None for unknown, revoked, expired or disabled ones.

        Raises `StoreUnavailable` when it is not cached and the store cannot be asked.
        """
        if not secret or len(secret) > _MAX_SECRET_LENGTH:
            return None
        if self._env_key and hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), self._env_key):
            return Principal(user_id=ENV_ID, user_key_id=ENV_ID, is_metered=False)
        if not secret.isascii():
            return None
        key = self._keys.get(hash_client_key(secret), lambda: self._load_key(secret))
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            return None
        account = self._account(key.user_id)
        if account is None:
            return None
        user = account.user
        return Principal(
            user_id=user.username,
            user_key_id=key.key_id,
            rpm=user.rpm if key.rpm is None else key.rpm,
            credits_expire_at=user.expires_at,
            on_client_abort=user.on_client_abort,
        )

    def balance(self, user_id: str) -> Balance | None:
        """What the user can still spend, less what is charged but not yet written; None: no limit.

        Raises `StoreUnavailable` when it is not cached and the store cannot be asked.
        """
        if self._is_env(user_id):
            return None
        balance = self._reckon(user_id, self._account(user_id))
        if balance.nano_usd <= 0:
            balance = self._reckon(user_id, self._account(user_id, _REFUSAL_MAX_AGE_S))
        return balance

    def funds(self, user_id: str) -> Funds | None:
        """The cached balance and this process's charges against it, apart from each other; None: no limit.

        Raises `StoreUnavailable` when it is not cached and the store cannot be asked.
        """
        if self._is_env(user_id):
            return None
        account = self._account(user_id)
        if account is None:
            return Funds(0)
        unbooked = self._pending.get(user_id, 0)
        return Funds(account.user.spendable_nano, unbooked + self._unseen(user_id, account), unbooked)

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        """Count a charge against the cached balance at once, before the writer has booked it."""
        if nano_usd and not self._is_env(user_id):
            self._pending[user_id] += nano_usd

    def charges_booked(self, user_id: str, nano_usd: int) -> None:
        """MongoDB holds these noted charges now: have the balance read again.

        To be called with what `note_charge` was told in this process, not for charges replayed from the
        journal of another. Until a balance read after this moment has come in, the charge is still taken
        off the cached one: never counted twice for long, never forgotten in between.
        """
        pending = self._pending.pop(user_id, 0) - nano_usd
        if pending > 0:
            self._pending[user_id] = pending
        self._bookings += 1
        self._booked.setdefault(user_id, []).append((self._bookings, nano_usd))
        self._accounts.expire(user_id)
        self._forget_uncached()

    def _forget_uncached(self) -> None:
        """Let go of users whom the cache has pushed out; now and then, so that it costs next to nothing."""
        if len(self._booked) > 2 * self._accounts.sizes[0] + _MANY:
            self._booked = {
                user_id: charges for user_id, charges in self._booked.items() if self._accounts.holds(user_id)
            }

    def invalidate_key_id(self, key_id: str) -> None:
        """Forget a key by its id as shown (`wk_…`), after an own write."""
        self._keys.invalidate(key_id)

    def invalidate_user(self, user_id: str) -> None:
        """Forget a user, after an own write."""
        self._accounts.invalidate(user_id)

    def invalidate_all(self) -> None:
        """Forget everything but the charges not yet booked."""
        self._keys.clear()
        self._accounts.clear()

    def _is_env(self, user_id: str) -> bool:
        return user_id == ENV_ID and self._env_key is not None

    def _account(self, user_id: str, max_age_s: float | None = None) -> _Account | None:
        return self._accounts.get(user_id, lambda: self._load_account(user_id), max_age_s)

    def _reckon(self, user_id: str, account: _Account | None) -> Balance:
        if account is None:
            return Balance(0)
        charged = self._pending.get(user_id, 0) + self._unseen(user_id, account)
        return Balance(max(0, account.user.spendable_nano - charged), account.user.expires_at, charged)

    def _unseen(self, user_id: str, account: _Account) -> int:
        """Charges that were booked after the account was read, or maybe while."""
        booked = self._booked.get(user_id)
        if not booked:
            return 0
        unseen = [charge for charge in booked if charge[0] > account.booked]
        if unseen:
            self._booked[user_id] = unseen
        else:
            del self._booked[user_id]
        return sum(amount for _, amount in unseen)

    def _load_key(self, secret: str) -> _KnownKey | None:
        with _translated(), pymongo.timeout(_LOOKUP_TIMEOUT_S):
            key = self._client_keys.find(secret)
            if key is not None:
                return (
                    _KnownKey(key.username, key.stored_id, key.rpm, key.expires_at) if key.is_active else None
                )
            username = self._users.find_username_by_api_key(secret)
        # The account key has no document of its own; its id must not be the key itself.
        return _KnownKey(username, f"user:{username}") if username is not None else None

    def _load_account(self, user_id: str) -> _Account | None:
        booked = self._bookings
        with _translated(), pymongo.timeout(_LOOKUP_TIMEOUT_S):
            user = self._users.get(user_id)
        return _Account(user, booked) if user is not None and user.is_active else None


class _translated:  # noqa: N801 - reads as a phrase where it is used
    """Turns whatever pymongo raises into the one error the request path knows."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PyMongoError):
            raise StoreUnavailable(store_problem(error)) from error
