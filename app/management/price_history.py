"""What the model table has been: its versions, why records cost what they did, what another would do."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database

from app.management.errors import Unusable, asks_store
from app.pricing.explanation import Explanation, explain
from app.pricing.model_table import ModelTable
from app.pricing.price_versions import PriceVersions
from app.pricing.table_parser import ModelTableError
from app.statistics.price_preview import Preview, PricePreview, TakesTooLong

MOST_VERSIONS: Final = 500
PREVIEW_S: Final = 20.0
"""How long records are read for a comparison somebody waits for, in seconds; the rest is of hourly sums."""
PREVIEW_END_S: Final = 40.0
"""After how many seconds such a comparison is given up."""

_TABLES_KEPT = 4


class PriceHistory:
    """Reads it. `in_force` is the table that charges now; `read` reads a text (`ModelTableError`).

    Its methods raise `StoreUnavailable`.
    """

    def __init__(
        self,
        db: Database[dict[str, Any]],
        in_force: Callable[[], ModelTable],
        read: Callable[[str], ModelTable] = ModelTable.from_toml,
    ) -> None:
        self._db = db
        self._versions = PriceVersions(db)
        self.in_force = in_force
        self._read = read
        self._tables: OrderedDict[str, ModelTable] = OrderedDict()

    @asks_store
    def versions(self) -> list[dict[str, Any]]:
        """Return the newest versions without their texts, the newest first."""
        return list(self._versions.all(MOST_VERSIONS))

    @asks_store
    def explain(self, record: Mapping[str, Any]) -> Explanation:
        """Explain the cost of a record by the text of its own version."""
        version = record.get("priceVersion")
        table, why_not = self._table(version) if isinstance(version, str) else (None, _NO_VERSION)
        found = explain(record, table)
        is_open = table is None and found.worked_out_nano is None
        return replace(found, notes=(*found.notes, why_not)) if is_open else found

    def preview(
        self,
        text: str,
        since: datetime,
        until: datetime,
        *,
        is_late: Callable[[], bool] = lambda: False,
        is_over: Callable[[], bool] = lambda: False,
        progress: Callable[[float], object] = lambda _done: None,
    ) -> Preview:
        """Say what a table of this text would have charged.

        `is_late`, `is_over` and `progress` are as in `PricePreview`. Raises `Unusable` where the text is no
        table, or the time too long.
        """
        try:
            other = self._read(text)
        except ModelTableError as error:
            raise Unusable("table", str(error)) from None
        compared = PricePreview(
            self._db, other, self.in_force(), is_late=is_late, is_over=is_over, progress=progress
        )
        try:
            return compared.run(since, until)
        except TakesTooLong:
            raise Unusable("from", _TOO_LONG) from None

    def _table(self, version: str) -> tuple[ModelTable | None, str]:
        now = self.in_force()
        if version == now.version:
            return now, ""
        if version in self._tables:
            self._tables.move_to_end(version)
            return self._tables[version], ""
        text = self._versions.text(version)
        if text is None:
            return None, f"The text of version {version} is not in the database (any more, or yet)."
        try:
            table = self._tables[version] = self._read(text)
        except ModelTableError as error:
            return None, f"This Weir cannot read the text of version {version}: {error}."
        if len(self._tables) > _TABLES_KEPT:
            self._tables.popitem(last=False)
        return table, ""


_TOO_LONG: Final = (
    "the sums of so long a time take too long: ask for a later start, or use `weir prices preview`"
)
_NO_VERSION: Final = (
    "The record does not say by which version of the table it was charged: it is of before 0.2."
)
