"""What clients ask of their own key: what it has used, and what is left. `/v1/usage`, and OpenAI's old paths.

Credit is the user's, use is the key's. The old paths say what programs that show a balance work out from
them: `hard_limit_usd` less `total_usage` (in cents) is what the user can still spend. That is so whatever
dates they ask for, as with other proxies that have these paths.
"""

from datetime import tzinfo
from typing import Any, Final

import msgspec

from app.accounts.credentials import shown_key_id
from app.accounts.principal import Principal
from app.accounts.rate_window import RateLimiter
from app.api.user import REQUESTS_PER_KEY
from app.common.display import iso_utc
from app.exchange.admission import refuse_over_limit
from app.exchange.ports import Clock, Directory
from app.management.reading import StatsStore
from app.statistics.figures import Totals, usd
from app.statistics.periods import ALL, Period

_UNLIMITED_USD: Final = 100_000_000.0
"""The limit of a key without one, as programs know it from other proxies."""
_CENTS = 100
_PERIODS: Final = {"today": "today", "last_30_days": "30d", "total": ALL}


class OwnUsage:
    """Answers the caller's questions from the statistics; `tz` is where days start.

    Each makes the database add up, so a key may ask as often as its user may ask `/api/user`, in one count.
    """

    def __init__(
        self, stats: StatsStore, directory: Directory, limiter: RateLimiter, clock: Clock, tz: tzinfo
    ) -> None:
        self._stats = stats
        self._directory = directory
        self._limiter = limiter
        self._clock = clock
        self._tz = tz

    def usage(self, caller: Principal) -> bytes:
        """Answer `/v1/usage`: the credit, and what the key has used today, of late and ever."""
        self._count(caller)
        balance = self._directory.balance(caller.user_id)
        remaining = None if balance is None else balance.usd
        expires_at = None if balance is None else balance.expires_at
        told: dict[str, Any] = {
            "object": "usage",
            "key_id": shown_key_id(caller.user_key_id),
            "unit": "USD",
            "remaining": remaining,
            "expires_at": None if expires_at is None else iso_utc(expires_at),
        }
        sums = self._used(caller, *_PERIODS.values())
        return msgspec.json.encode(told | dict(zip(_PERIODS, map(_figures, sums), strict=True)))

    def subscription(self, caller: Principal) -> bytes:
        """Answer OpenAI's `billing/subscription`."""
        self._count(caller)
        balance = self._directory.balance(caller.user_id)
        limit = _UNLIMITED_USD
        if balance is not None:
            limit = usd(balance.nano_usd + self._used(caller, ALL)[0].cost_nano_usd)
        expires_at = None if balance is None else balance.expires_at
        return msgspec.json.encode(
            {
                "object": "billing_subscription",
                "has_payment_method": True,
                "soft_limit_usd": limit,
                "hard_limit_usd": limit,
                "system_hard_limit_usd": limit,
                "access_until": 0 if expires_at is None else int(expires_at.timestamp()),
            }
        )

    def billed(self, caller: Principal) -> bytes:
        """Answer OpenAI's `billing/usage`: in US cents."""
        self._count(caller)
        used = self._used(caller, ALL)[0].cost_nano_usd
        return msgspec.json.encode({"object": "list", "total_usage": usd(used * _CENTS)})

    def _count(self, caller: Principal) -> None:
        refuse_over_limit(self._limiter.hit(f"user-api:{caller.user_key_id}", REQUESTS_PER_KEY))

    def _used(self, caller: Principal, *names: str) -> list[Totals]:
        now = self._clock.utcnow()
        periods = [Period.of(name, now, self._tz) for name in names]
        return self._stats.totals(periods, key=caller.user_key_id)


def _figures(totals: Totals) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "cache_write_tokens": totals.cache_write_tokens,
        "cache_read_tokens": totals.cache_hit_tokens,
        "cost_usd": usd(totals.cost_nano_usd),
        "cost_nano_usd": totals.cost_nano_usd,
    }
