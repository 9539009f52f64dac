"""What OhMyGPT says about a key of the pool: what it has used, may use, and until when. Pure.

A key whose own cap is used up may be refused with a 401, like one that is dead. Knowing the cap tells the two
apart: a capped key is `exhausted` for the reason `CAPPED`, and healthy again once its cap has been raised.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class KeyAccount:
    """Amounts are in OhMyGPT's units. `used_fee` is None where it is not told, `max_fee` without a cap."""

    used_fee: Decimal | None = None
    max_fee: Decimal | None = None
    expires_at: datetime | None = None
    is_disabled: bool = False

    @property
    def is_capped(self) -> bool:
        """Whether the cap is used up."""
        return self.max_fee is not None and (self.used_fee or 0) >= self.max_fee
