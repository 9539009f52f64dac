"""Settling, beside requests, what workers that are gone left in slots nobody owns any more."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from app.adapters.journal import Adopted
from app.core.ports import StoreUnavailable

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
LONGEST_S = 60.0


class Stopping(Protocol):
    """An event, set when the worker stops."""

    def is_set(self) -> bool:
        """Whether it stops."""

    def wait(self, timeout: float) -> object:
        """Wait for it; true when it is set."""


def adopt_orphans(
    stopping: Stopping,
    store_problem: Callable[[], str | None],
    replay: Callable[[], Sequence[Adopted]],
    on_adopted: Callable[[Sequence[Adopted]], None],
) -> None:
    """Replay now and then until `stopping`; `store_problem` says why the store does not answer.

    What orphans hold is read from the start each time, so it is not even begun while the store is away, and
    after each failure half as often as before.
    """
    pause_s = INTERVAL_S
    while not stopping.wait(pause_s):
        if store_problem() is not None:
            continue
        try:
            on_adopted(replay())
        except (StoreUnavailable, OSError) as error:
            if stopping.is_set():
                return
            log.warning("an abandoned journal cannot be settled yet: %s", error)
            pause_s = min(2 * pause_s, LONGEST_S)
        else:
            pause_s = INTERVAL_S
