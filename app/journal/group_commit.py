"""Group commit: however many wait for the disk, one round of syncing serves them all."""

from collections.abc import Callable

from gevent.event import Event


class GroupCommit:
    """Tells how far the journal is durable and takes it further.

    Positions are counts of bytes appended. `commit` makes everything appended before its call durable or
    raises OSError; it may let other greenlets run. One round runs at a time; who arrives during it waits for
    the next one.
    """

    def __init__(self, position: Callable[[], int], commit: Callable[[], None]) -> None:
        self._position = position
        self._commit = commit
        self._round: Event | None = None
        self._failed_rounds = 0
        self.durable = 0

    def wait(self, position: int, timeout_s: float | None = None) -> bool:
        """Return once everything before `position` is durable; False when a round failed or the wait did.

        The time-out holds for callers that wait; the caller that syncs for them stays with the disk.
        """
        while self.durable < position:
            if self._round is None:
                if not self._lead():
                    return False
                continue
            failed_before = self._failed_rounds
            if not self._round.wait(timeout_s) or self._failed_rounds > failed_before:
                return False
        return True

    def _lead(self) -> bool:
        this_round = self._round = Event()
        target = self._position()
        try:
            self._commit()
        except OSError:
            self._failed_rounds += 1
            return False
        else:
            self.durable = max(self.durable, target)
            return True
        finally:
            # Also when the leader is killed while it waits: the others go on without it.
            self._round = None
            this_round.set()
