"""Traffic, and the load client's own tally of it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gevent

from drill.mix import Caller, Request
from drill.wire import Answer, Ending, ask

_MOST_IN_FLIGHT = 400
_DRAIN_S = 90.0


@dataclass(slots=True)
class Call:
    """One line of the tally: what was asked, and how it ended.

    `began` and `ended` are monotonic seconds; `asked_at` and `over_at`, of the epoch, lie around them.
    """

    sha256: str
    caller: Caller
    model: str
    is_stream: bool
    ending: Ending
    status: int
    request_id: str | None
    output_tokens: int | None
    error: bytes
    began: float
    ended: float
    asked_at: float
    over_at: float

    @classmethod
    def of(cls, request: Request, answer: Answer, asked_at: float) -> "Call":
        """Note a request and its answer, which is over now, without the bodies."""
        return cls(
            request.sha256,
            request.caller,
            request.model,
            request.is_stream,
            answer.ending,
            answer.status,
            answer.request_id,
            answer.output_tokens,
            answer.body[:500] if answer.status != 200 else b"",
            answer.began,
            answer.ended,
            asked_at,
            time.time(),
        )

    @property
    def ms(self) -> float:
        """How long it took, in milliseconds."""
        return (self.ended - self.began) * 1000


class Load:
    """Sends requests and writes down what came of each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.calls: list[Call] = []
        self.overrun = 0

    def __len__(self) -> int:
        return len(self.calls)

    def endings(self) -> Counter[str]:
        """Count how many ended in which way, with the status of those that are no 200."""
        return Counter(
            call.ending.value if call.status in (0, 200) else f"{call.ending.value} {call.status}"
            for call in self.calls
        )

    def send(self, request: Request, *, leave_after: int | None = None) -> Answer:
        """Send one request; its line is added to the tally unless there was no connection."""
        asked_at = time.time()
        answer = ask(self._port, request, leave_after=leave_after)
        if answer.ending is not Ending.REFUSED:
            self.calls.append(Call.of(request, answer, asked_at))
        return answer

    @contextmanager
    def clients(self, count: int, make: Callable[[], Request]) -> Iterator[None]:
        """Run `count` clients, each of which asks again once it was answered; waits for the last."""
        is_over = False

        def client() -> None:
            while not is_over:
                if self.send(make()).ending is not Ending.WHOLE:
                    gevent.sleep(0.03)

        greenlets = [gevent.spawn(client) for _ in range(count)]
        try:
            yield
            is_over = True
            gevent.joinall(greenlets, timeout=_DRAIN_S, raise_error=True)
        finally:
            gevent.killall(greenlets)

    @contextmanager
    def steadily(self, rate: float, make: Callable[[], Request]) -> Iterator[None]:
        """Send `rate` requests per second, whether earlier ones were answered or not; waits for the last.

        `overrun` counts those that were left out because too many were in flight.
        """
        is_over, in_flight = False, 0

        def one() -> None:
            nonlocal in_flight
            in_flight += 1
            try:
                self.send(make())
            finally:
                in_flight -= 1

        def pace() -> None:
            began, sent = time.monotonic(), 0
            while not is_over:
                due = int((time.monotonic() - began) * rate)
                for _ in range(min(due - sent, 20)):
                    sent += 1
                    if in_flight < _MOST_IN_FLIGHT:
                        gevent.spawn(one)
                    else:
                        self.overrun += 1
                gevent.sleep(1 / rate)

        pacer = gevent.spawn(pace)
        try:
            yield
            is_over = True
            pacer.join()
            with gevent.Timeout(_DRAIN_S, False):
                while in_flight:
                    gevent.sleep(0.02)
        finally:
            pacer.kill()
