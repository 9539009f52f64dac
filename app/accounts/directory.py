"""Client keys and balances as the request path sees them: out of a cache, whatever the store is doing.

Two caches, keys by the hash of their secret and users by name, so that many keys of one user share one
balance. What was revoked, disabled or spent elsewhere counts after `CachePolicy.stale_s`, however long a key
was idle, unless the store does not answer. A refusal is cached as an absence and so asked about again after
seconds: a key just made, or a user just enabled, does not meet a stale "no".
"""

import hmac
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo.errors import PyMongoError

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.funds import DECISION_S, Balance, Funds, Spending
from app.accounts.limits import Limits
from app.accounts.principal import Principal
from app.accounts.read_cache import CachePolicy, Clock, Outage, ReadCache, Spawn
from app.accounts.users import User, UserStore
from app.common.errors import StoreUnavailable
from app.store.driver import in_time, store_problem

ENV_ID = "env"
_MAX_SECRET_LENGTH = 512
# How long a request may wait for the store, at most, when the answer is in no cache. (When there is an older
# one to fall back on: `DECISION_S`.)
_LOOKUP_TIMEOUT_S = 2.0
# A balance that would refuse the request is not older than this: credit just bought counts at once.
_REFUSAL_MAX_AGE_S = 1.0
_MANY = 1000


@dataclass(frozen=True, slots=True)
class _KnownKey:
    user_id: str
    key_id: str
    rpm: int | None = None
    expires_at: datetime | None = None
    limits: Limits | None = None


_NO_SPENDING = Spending({})


@dataclass(frozen=True, slots=True)
class _Account:
    """A user as read when `booked` charges (of all users) had been booked by this process.

    `available_nano` is the user's, added up once: it is asked for three times a request.
    """

    user: User
    booked: int
    available_nano: int


class CachedDirectory:
    """`app.exchange.ports.Directory` over the users and client keys in MongoDB."""

    def __init__(
        self,
        users: UserStore,
        client_keys: ClientKeyStore,
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
        policy, outage = policy or CachePolicy(), Outage()
        self._outage = outage
        self._keys: ReadCache[_KnownKey] = ReadCache(clock, spawn, policy, outage)
        self._accounts: ReadCache[_Account] = ReadCache(clock, spawn, policy, outage)
        # Charges made here: noted but not in MongoDB yet, and booked there but maybe not yet in the account
        # as cached. Only users who were charged are in these, and for long only cached ones.
        self._pending: defaultdict[str, int] = defaultdict(int)
        self._booked: dict[str, list[tuple[int, int]]] = {}
        self._bookings = 0
        # Of keys that were rotated: what their other secrets are cached under.
        self._other_secrets: dict[str, set[str]] = {}

    def find(self, secret: str) -> Principal | None:
        """Return whose client key this is; None for an unknown, revoked or expired key, or a disabled user.

        Raises `StoreUnavailable` when the key is not cached and the store cannot be asked.
        """
        if not secret or len(secret) > _MAX_SECRET_LENGTH:
            return None
        if self._env_key and hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), self._env_key):
            return Principal(user_id=ENV_ID, user_key_id=ENV_ID, is_metered=False)
        if not secret.isascii():
            return None
        name = hash_client_key(secret)
        key = self._keys.get(name, lambda: self._load_key(secret, _patience(self._keys, name)))
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            return None
        account = self._account(key.user_id)
        if account is None:
            return None
        return _principal(key, account.user)

    def caller(self, user_id: str, user_key_id: str) -> Principal:
        """Return who it would be that called with this key, as far as that is known; for what the proxy asks.

        The limits are those that are stored by now. Raises `StoreUnavailable`.
        """
        unlimited = Principal(user_id, user_key_id, is_metered=not self._is_env(user_id))
        if not unlimited.is_metered:
            return unlimited
        account = self._account(user_id)
        if account is None:
            return unlimited
        with _translated():
            key = in_time(_LOOKUP_TIMEOUT_S, lambda: self._client_keys.get(user_key_id))
        limits = None if key is None else key.limits
        return _principal(_KnownKey(user_id, user_key_id, limits=limits), account.user)

    def spending(self, user_id: str) -> Spending:
        """Return what of the user's budgets is booked, as last read.

        Raises `StoreUnavailable` when the user is not cached and the store cannot be asked.
        """
        account = self._account(user_id)
        return (
            _NO_SPENDING
            if account is None
            else Spending(account.user.budget_spent, account.user.pending_nano)
        )

    def balance(self, user_id: str) -> Balance | None:
        """Return what the user can still spend, less charges that are not written yet; None: no limit.

        Raises `StoreUnavailable` when the balance is not cached and the store cannot be asked.
        """
        if self._is_env(user_id):
            return None
        balance = self._reckon(user_id, self._account(user_id))
        if balance.nano_usd <= 0:
            balance = self._reckon(user_id, self._account(user_id, _REFUSAL_MAX_AGE_S))
        return balance

    def funds(self, user_id: str) -> Funds | None:
        """Return the cached balance and, apart from it, this process's charges against it; None: no limit.

        Raises `StoreUnavailable` when the balance is not cached and the store cannot be asked.
        """
        if self._is_env(user_id):
            return None
        account = self._account(user_id)
        if account is None:
            return Funds(0)
        unbooked = self._pending.get(user_id, 0)
        return Funds(account.available_nano, unbooked + self._unseen(user_id, account), unbooked)

    def has_unbooked(self, user_id: str) -> bool:
        """Return whether charges were noted that MongoDB is not known to hold."""
        return bool(self._pending.get(user_id))

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        """Count a charge against the cached balance at once, before the writer has booked it."""
        if nano_usd and not self._is_env(user_id):
            self._pending[user_id] += nano_usd

    def charges_booked(self, user_id: str, nano_usd: int) -> None:
        """Have the balance read again, now that MongoDB holds these noted charges.

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

    def key_changed(self, key_id: str, is_active: bool) -> None:
        """Take note of an own write to a key, by its id as shown (`wk_…`); forget a key that ended."""
        for name in (key_id, *self._other_secrets.get(key_id, ())):
            _note_write(self._keys, name, is_active)

    def user_changed(self, user_id: str, is_active: bool) -> None:
        """Take note of an own write to a user; forget a user who was disabled.

        Other users go on being served with what was known of them should the database not answer now.
        """
        _note_write(self._accounts, user_id, is_active)

    def store_answers(self) -> None:
        """Take note that the store answers: cached keys and users are asked for again before they count.

        Otherwise the first requests after an outage would be served once more with what was known before it.
        """
        self._outage.end()

    def outdate_all(self) -> None:
        """Have all keys and users read anew."""
        self._keys.outdate_all()
        self._accounts.outdate_all()

    def _is_env(self, user_id: str) -> bool:
        return user_id == ENV_ID and self._env_key is not None

    def _account(self, user_id: str, max_age_s: float | None = None) -> _Account | None:
        return self._accounts.get(user_id, lambda: self._load_account(user_id), max_age_s)

    def _reckon(self, user_id: str, account: _Account | None) -> Balance:
        if account is None:
            return Balance(0)
        charged = self._pending.get(user_id, 0) + self._unseen(user_id, account)
        return Balance(max(0, account.available_nano - charged), account.user.expires_at, charged)

    def _unseen(self, user_id: str, account: _Account) -> int:
        """Sum the charges that were booked after the account was read, or perhaps while it was."""
        booked = self._booked.get(user_id)
        if not booked:
            return 0
        unseen = [charge for charge in booked if charge[0] > account.booked]
        if unseen:
            self._booked[user_id] = unseen
        else:
            del self._booked[user_id]
        return sum(amount for _, amount in unseen)

    def _load_key(self, secret: str, timeout_s: float) -> _KnownKey | None:
        with _translated():
            return in_time(timeout_s, lambda: self._find_key(secret))

    def _find_key(self, secret: str) -> _KnownKey | None:
        key = self._client_keys.find(secret)
        if key is not None:
            self._note_secret(key.key_id, hash_client_key(secret))
            return (
                _KnownKey(key.username, key.stored_id, key.rpm, key.expires_at, key.limits)
                if key.is_active
                else None
            )
        username = self._users.find_username_by_api_key(secret)
        # The account key has no document of its own; its id must not be the key itself.
        return _KnownKey(username, f"user:{username}") if username is not None else None

    def _note_secret(self, key_id: str, name: str) -> None:
        if name == key_id:
            return
        if len(self._other_secrets) > _MANY:
            self._other_secrets.clear()  # what is cached of them is read anew within seconds anyway
        self._other_secrets.setdefault(key_id, set()).add(name)

    def _load_account(self, user_id: str) -> _Account | None:
        booked = self._bookings
        with _translated():
            user = in_time(_patience(self._accounts, user_id), lambda: self._users.get(user_id))
        if user is None or not user.is_active:
            return None
        return _Account(user, booked, user.available_nano)


def _principal(key: _KnownKey, user: User) -> Principal:
    return Principal(
        user_id=user.username,
        user_key_id=key.key_id,
        rpm=user.rpm if key.rpm is None else key.rpm,
        on_client_abort=user.on_client_abort,
        user_rpm=user.rpm,
        key_limits=key.limits,
        user_limits=user.limits,
        price_factor=user.price_factor,
        group=user.group,
    )


def _note_write(cache: ReadCache[Any], key: str, is_active: bool) -> None:
    if is_active:
        cache.outdate(key)
    else:
        cache.forget(key)


def _patience(cache: ReadCache[Any], key: str) -> float:
    return _LOOKUP_TIMEOUT_S if cache.peek(key) is None else DECISION_S


class _translated:  # noqa: N801 - reads as a phrase where it is used
    """Turns whatever pymongo raises into the one error the request path knows."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PyMongoError):
            raise StoreUnavailable(store_problem(error)) from error
