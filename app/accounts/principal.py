"""Who is calling: the outcome of a credential check."""

import msgspec

from app.accounts.limits import Limits


class Principal(msgspec.Struct, frozen=True):
    """The user and client key behind an authenticated request.

    `user_key_id` is the id under which the key is stored, never the key itself for keys this product made.
    `rpm` is the key's own limit in requests per minute, None for the configured default, 0 for no limit.
    `user_rpm` is the user's limit for all of their keys together, None or 0 for none. `key_limits` and
    `user_limits` are there where something else is limited, too.
    `price_factor` is the user's own, as stored, and `group` the one whose factor counts where they have none.
    `is_metered` is False for callers without a credit balance (the fixed `PROXY_API_KEY`).
    """

    user_id: str
    user_key_id: str
    rpm: int | None = None
    is_metered: bool = True
    on_client_abort: str | None = None
    user_rpm: int | None = None
    key_limits: Limits | None = None
    user_limits: Limits | None = None

    def allows_model(self, model: str) -> bool:
        """Return whether key and user may ask this model, by its canonical id."""
        limits = (self.key_limits, self.user_limits)
        return all(found is None or found.allows_model(model) for found in limits)

    price_factor: str | None = None
    group: str | None = None
