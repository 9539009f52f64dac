"""OhMyGPT's books beside Weir's: what it has charged for each key of the pool, and what was booked for it."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any

from pymongo.database import Database

from app.keys.key_account import KeyAccount
from app.management.errors import asks_store
from app.ohmygpt.fee_snapshots import FeeSnapshots
from app.ohmygpt.used_fees import Fees, compare
from app.statistics.periods import YESTERDAY, Period
from app.statistics.stats_store import StatsStore


class UpstreamBooks:
    """Both sides of the ledger by upstream key; readings are kept by the hours and days of `tz`.

    `units_per_usd` is what a dollar is in OhMyGPT's units (None: not known), `most_drift` the share beyond
    which the two sides differ.
    """

    def __init__(
        self, db: Database[Any], tz: tzinfo, units_per_usd: Decimal | None, most_drift: Decimal
    ) -> None:
        self._stats = StatsStore(db)
        self._snapshots = FeeSnapshots(db, tz, self._own_nano)
        self.tz = tz
        self._units_per_usd = units_per_usd
        self._most_drift = most_drift

    def note(self, accounts: Mapping[str, KeyAccount], names: Mapping[str, str], now: datetime) -> None:
        """Keep a snapshot of a reading, the first one of each hour."""
        self._snapshots.note(accounts, names, now)

    def drifts(self, now: datetime) -> Mapping[str, float]:
        """Return how far yesterday's fees were from what was booked, by pool id."""
        fees = self.fees(self.yesterday(now))
        return {key.key_id: key.drift for key in fees.keys if key.drift is not None} if fees else {}

    def yesterday(self, now: datetime) -> Period:
        """Return the day before."""
        return Period.of(YESTERDAY, now, self.tz)

    @asks_store
    def fees(self, period: Period) -> Fees | None:
        """Compare both sides over a period, as far as there are snapshots; None where there are no two."""
        found = self._snapshots.around(period.start, period.until)
        return None if found is None else compare(*found, self._units_per_usd, self._most_drift)

    def _own_nano(self) -> Mapping[str, int]:
        booked = self._stats.booked_so_far("factoryKeyId")
        return {key: totals.list_nano for key, totals in booked.items() if key is not None}
