"""What goes on in all workers at this moment, put together from what each tells of itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from app.metrics import metric_names as names
from app.metrics.status import WorkerStatus, across_workers

_MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of a moment, of at most a second ago.

    `ended` has the requests that each worker, by its process id, has seen end; how it grows is the rate.
    `requests` are those forwarded that have not ended, the oldest first, at most `_MOST_LISTED` of
    `in_flight`; times are ISO 8601.
    """

    in_flight: int = 0
    workers: int = 0
    is_store_up: bool = True
    written: int = 0
    ended: Mapping[int, float] = field(default_factory=dict)
    requests: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, states: Iterable[WorkerStatus]) -> Self:
        """Add up what the workers tell."""
        states = list(states)
        told = [(state.pid, state.traffic) for state in states if state.traffic is not None]
        requests = [request for _, traffic in told for request in traffic.requests]
        requests.sort(key=lambda request: str(request.get("createdAt")))
        return cls(
            in_flight=int(across_workers(names.IN_FLIGHT, states)),
            workers=len(states),
            is_store_up=bool(across_workers(names.STORE_UP, states)),
            written=sum(traffic.written for _, traffic in told),
            ended={pid: traffic.ended for pid, traffic in told},
            requests=tuple(requests[:_MOST_LISTED]),
        )

    def ended_since(self, earlier: Mapping[int, float]) -> float:
        """Return how many requests have ended since; a worker that has come since counts from its start."""
        return sum(max(0.0, count - earlier.get(pid, count)) for pid, count in self.ended.items())
