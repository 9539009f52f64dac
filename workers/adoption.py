"""Settling, beside requests, what workers that are gone left in slots nobody owns any more."""

import logging
from collections.abc import Callable, Sequence

from app.journal import Adopted
from app.periodic import FailureLog, StopEvent, every

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
LONGEST_S = 60.0


def adopt_orphans(
    stopping: StopEvent,
    store_problem: Callable[[], str | None],
    replay: Callable[[], Sequence[Adopted]],
    on_adopted: Callable[[Sequence[Adopted]], None],
) -> None:
    """Replay now and then until `stopping`; `store_problem` says why the store does not answer.

    What orphans hold is read from the start each time, so reading is not even begun while the store is away,
    and after each failure half as often as before.
    """
    failures = FailureLog(
        log, "an abandoned journal cannot be booked yet", "abandoned journals can be booked again"
    )

    def adopt() -> bool:
        if store_problem() is not None:
            return False
        on_adopted(replay())
        return True

    every(stopping, lambda: min(INTERVAL_S * 2**failures.in_a_row, LONGEST_S), adopt, failures)
