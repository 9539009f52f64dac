"""Rate limits counted in a storage of the `limits` library, for `RATE_LIMIT_STORAGE_URI`: exact everywhere.

To be imported only where one is configured: the library takes 1.5 MiB of every worker.
"""

import logging
import math
from collections.abc import Callable

import limits
import limits.errors
import limits.storage
import limits.strategies
import limits.util

from app.accounts.rate_window import RateDecision, decide
from app.common.errors import SettingsError

logger = logging.getLogger("weir.rate")


def check_storage(uri: str) -> None:
    """Check that the `limits` library has such a storage and all it needs; raises `SettingsError`.

    No storage is made: some start threads.
    """
    scheme = uri.partition("://")[0].lower()
    storage = limits.storage.SCHEMES.get(scheme)  # type: ignore[attr-defined]  # documented
    if storage is None or not issubclass(storage, limits.storage.Storage):
        raise SettingsError(
            "RATE_LIMIT_STORAGE_URI: not a storage of the limits library, such as redis://HOST:6379"
        )
    needed = limits.util.LazyDependency()
    needed.DEPENDENCIES = storage.DEPENDENCIES
    # It may run on any one of those it names; the first is what its scheme stands for.
    package = "valkey" if scheme.startswith("valkey") else next(iter(storage.DEPENDENCIES), None)
    if package is None:
        return
    try:
        needed.dependencies[package]
    except limits.errors.ConfigurationError:
        raise SettingsError(
            f"RATE_LIMIT_STORAGE_URI: {scheme}:// needs the Python package {package}: pip install {package}"
        ) from None


class StorageRateLimiter:
    """Fixed windows in a storage of the `limits` library (Redis, Memcached, MongoDB, memory).

    A storage that cannot be reached lets requests pass (counted in `failed_open`): a limiter must not be
    what takes the service down. A URI that cannot be used is a `SettingsError`.
    """

    def __init__(self, storage_uri: str, now: Callable[[], float]) -> None:
        check_storage(storage_uri)
        try:
            storage = limits.storage.storage_from_string(storage_uri)
        except Exception as error:  # noqa: BLE001  every storage has errors of its own
            # What a storage's own parser says may hold the URI, and with it a password.
            raise SettingsError(f"RATE_LIMIT_STORAGE_URI: is not usable ({type(error).__name__})") from None
        self._limiter = limits.strategies.FixedWindowRateLimiter(storage)
        self._now = now
        self.failed_open = 0

    def hit(self, key_id: str, limit: int, cost: int = 1) -> RateDecision:
        """Count one request of this key against `limit` per minute."""
        now = self._now()
        item = limits.RateLimitItemPerMinute(limit)
        try:
            allowed = self._limiter.hit(item, key_id) if cost else self._limiter.test(item, key_id)
            stats = self._limiter.get_window_stats(item, key_id)
        except Exception as error:  # noqa: BLE001  every storage has errors of its own
            self.failed_open += 1
            logger.warning("rate limit storage failed, letting requests pass: %s", type(error).__name__)
            return decide(0, limit, now)
        reset_at = math.ceil(stats.reset_time)
        return RateDecision(
            allowed, limit, max(0, stats.remaining), reset_at, max(1, math.ceil(reset_at - now))
        )
