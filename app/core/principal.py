"""Who is calling: the outcome of a credential check."""

from datetime import datetime

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """The user and client key behind an authenticated request.

    `user_key_id` is the id under which the key is stored, never the key itself for keys this product made.
    `rpm` is the key's own limit in requests per minute, None for the configured default, 0 for no limit.
    `is_metered` is False for callers without a credit balance (the fixed `PROXY_API_KEY`).
    """

    user_id: str
    user_key_id: str
    rpm: int | None = None
    is_metered: bool = True
    credits_expire_at: datetime | None = None
    on_client_abort: str | None = None


class Balance(msgspec.Struct, frozen=True):
    """What a user can still spend, in nano-dollars, and until when (None: for ever).

    `unbooked_nano` has been taken off for charges that may or may not be in the stored balance already.
    """

    nano_usd: int
    expires_at: datetime | None = None
    unbooked_nano: int = 0

    @property
    def usd(self) -> float:
        """The balance in USD, as old readers and error bodies show it."""
        return self.nano_usd / 1_000_000_000
