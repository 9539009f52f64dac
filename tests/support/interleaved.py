"""Several programs over one database, switched at every command they send, in an order that a seed gives."""

from collections.abc import Callable
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from app.store.connection import connect


class _Switching(CommandListener):
    """Lets the others go first, maybe, before each command."""

    def started(self, event: Any) -> None:
        parent = getcurrent().parent
        if parent is not None:
            parent.switch()

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


def connection_of_its_own(uri: str, name: str) -> Database[Any]:
    """A database as one of the programs sees it."""
    return connect(uri, name, event_listeners=[_Switching()])


def interleave(random: Random, *programs: Callable[[], None]) -> None:
    """Run the programs to their ends, one command at a time."""
    running = [greenlet(program) for program in programs]
    while running:
        chosen = random.choice(running)
        chosen.switch()
        if chosen.dead:
            running.remove(chosen)
