"""Sharing the event loop: long work goes on in turns, between everything else that is ready.

gevent gives the processor to a greenlet until it waits. Whoever has much to do and need not wait, since a
client or an upstream sends faster than its bytes are read, would stop all others. So such work is done in
pieces of bounded size, and between them `Pace.rest` looks how long the greenlet has been at it. After
`SLICE_S` it queues, and one queue lets one greenlet go on each time the event loop has looked for news: a
request that only needs moments waits for one slice at most, however many queue.
"""

import time
from collections import deque
from contextlib import suppress
from typing import Any, Final

from gevent import get_hub
from gevent.hub import Waiter

SLICE_S: Final = 0.001
"""How long a greenlet may go on, and how long one queue's greenlets may between two looks for news."""
_LONG_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.1


class Turns:
    """A queue of greenlets, each of which goes on when its turn comes: first come, first served.

    A turn that took long is followed by as long a pause, in which everybody else goes on.
    """

    __slots__ = ("_iteration", "_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._timer: Any = None
        # The round of the event loop in which somebody went on last.
        self._iteration = -1

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> None:
        """Go on at once if nobody waits and nobody has gone on in this round of the loop, else wait."""
        iteration = get_hub().loop.iteration
        if self._waiting or iteration == self._iteration:
            self.wait()
        else:
            self._iteration = iteration

    def wait(self) -> None:
        """Wait until everybody who is ready has been served, and those who queue already."""
        waiter = Waiter()
        self._waiting.append(waiter)
        if self._timer is None:
            self._set_timer(0.0)
        try:
            waiter.get()
        except BaseException:
            with suppress(ValueError):  # it had its turn, and was broken off then
                self._waiting.remove(waiter)
            raise

    def _set_timer(self, pause_s: float) -> None:
        self._timer = get_hub().loop.timer(pause_s)
        # By the clock: the loop's own time is that of its last look for news.
        self._timer.start(self._next, update=pause_s > 0)

    def _next(self) -> None:
        """Let greenlets go on, in the event loop: each switch comes back when its greenlet waits."""
        self._timer.stop()
        self._timer.close()
        self._iteration = get_hub().loop.iteration
        # Of the processor: on a machine that is busy otherwise, others take their part of any slice.
        began = time.thread_time()
        took_s = 0.0
        try:
            while self._waiting and took_s < SLICE_S:
                self._waiting.popleft().switch(None)
                took_s = time.thread_time() - began
        finally:
            self._timer = None
            if self._waiting:
                self._set_timer(min(took_s, _LONGEST_PAUSE_S) if took_s > _LONG_S else 0.0)


class Pace:
    """One connection's part in this (`app.exchange.ports.Pace`); the queues are those of all connections."""

    __slots__ = ("_began", "_heavy", "_iteration", "_light")

    def __init__(self, heavy: Turns, light: Turns) -> None:
        self._heavy = heavy
        self._light = light
        self._iteration = -1
        self._began = 0.0

    def rest(self) -> None:
        """Wait for a turn, between two pieces of work, after a slice of it."""
        iteration, now = get_hub().loop.iteration, time.monotonic()
        if iteration != self._iteration:
            # The loop has looked for news since the last call.
            self._iteration = iteration
            self._began = now
        elif now - self._began >= SLICE_S:
            self._heavy.wait()

    def queue(self) -> None:
        """Wait for a turn before a piece of work that takes long by itself."""
        self._heavy.take()

    def give_way(self) -> None:
        """Let those who are served go first, before work for a client nobody knows, or after a refusal."""
        self._light.take()
