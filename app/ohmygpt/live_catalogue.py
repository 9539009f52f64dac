"""The catalogue as workers know it: read by one of all, kept in the database, looked up in memory.

It is there for `UNPRICED_MODELS`: which ids may be used that the model table has no price for.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from app.common.clock import now_ms
from app.ohmygpt.asking import NotTold
from app.ohmygpt.catalogue import CatalogueError
from app.ohmygpt.readings import Readings
from app.pricing.model_table import ModelTable

READ_EVERY = timedelta(minutes=10)
SOON = timedelta(minutes=1)
"""After which time the worker that could not read it tries again."""
LOOK_S = 15.0
"""How often each worker looks at what is stored, in seconds."""

_ID = "catalogue"

log = logging.getLogger(__name__)


class LiveCatalogue:
    """Has `models` offer what the upstream does. `read` asks it (`NotTold`, `CatalogueError`)."""

    def __init__(
        self,
        readings: Readings,
        read: Callable[[], tuple[str, ...]],
        models: ModelTable,
        now: Callable[[], datetime] = now_ms,
    ) -> None:
        self._models = models
        self._readings = readings
        self._read = read
        self._now = now
        self._seen: datetime | None = None
        self._has_failed = False

    def look(self) -> None:
        """Read the catalogue anew if it is this worker's turn, and take over what is stored."""
        now = self._now()
        if self._readings.claim(_ID, now, SOON if self._has_failed else READ_EVERY):
            self._has_failed = True
            try:
                self._readings.put(_ID, {"models": list(self._read())}, now)
                self._has_failed = False
            except (NotTold, CatalogueError) as error:
                self._readings.note_problem(_ID, str(error))
                log.warning("the upstream's models are not known anew, the last list stays: %s", error)
        stored = self._readings.get(_ID)
        if (read_at := stored.get("readAt")) != self._seen:
            self._seen = read_at
            self._models.offer(map(str, stored.get("models", ())))
