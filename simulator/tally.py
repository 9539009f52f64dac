"""The simulator's own books: one entry per request, running totals, and the last requests in full."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from simulator.tokens import Tokens
from simulator.wire import Request

OPEN, FINISHED, CUT, CLIENT_GONE = "open", "finished", "cut", "client_gone"

_SELECTED = (
    "accept",
    "accept-encoding",
    "anthropic-beta",
    "authorization",
    "connection",
    "content-encoding",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-api-key",
    "x-request-id",
    "x-stainless-retry-count",
)
_TOKEN_FIELDS = tuple(item.name for item in fields(Tokens))


@dataclass(slots=True)
class Entry:
    """What happened to one request.

    ``spent`` is what the whole answer costs, ``announced`` what the bytes sent so far said (None: nothing
    yet), ``units`` what it costs beside text tokens, ``tier`` the service tier it is answered in (empty: the
    usual one), ``chunks`` the events (or plain bodies) sent, ``end`` one of open, finished, cut, client_gone.
    ``status`` is 0 until a status line was sent. ``began`` (the request had been read) and ``ended`` are
    seconds of the epoch; ``ended`` is 0 while it is open.
    """

    seq: int
    method: str
    path: str
    query: str
    body_sha256: str
    body_length: int
    header_names: tuple[str, ...]
    headers: dict[str, str]
    anthropic_version: str | None
    model: str = ""
    key: str | None = None
    stream: bool = False
    include_usage: bool | None = None
    fault: str = ""
    request_id: str = ""
    status: int = 0
    chunks: int = 0
    bytes_out: int = 0
    spent: Tokens | None = None
    announced: Tokens | None = None
    units: dict[str, float] = field(default_factory=dict)
    tier: str = ""
    end: str = OPEN
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    epoch: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for JSON."""
        document = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "epoch"}
        for name in ("spent", "announced"):
            document[name] = document[name].as_dict() if document[name] else None
        return document


@dataclass(frozen=True, slots=True)
class Seen:
    """One request in full; ``body`` is cut at 64 KiB (``Entry.body_length`` has the true length)."""

    seq: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class Total:
    """Sums over one model."""

    requests: int = 0
    by_end: dict[str, int] = field(default_factory=dict)
    by_status: dict[int, int] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOKEN_FIELDS, 0))
    announced: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOKEN_FIELDS, 0))


class Tally:
    """Thread-safe: the server writes from its own thread, tests read and wait from theirs."""

    def __init__(self, keep_requests: int = 1000, keep_entries: int = 50_000, body_cap: int = 65_536) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep_entries)
        self._seen: deque[Seen] = deque(maxlen=keep_requests)
        self._totals: dict[str, Total] = {}
        self._name_tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._body_cap = body_cap
        self._changed = threading.Condition()
        self._seq = 0
        self._ended = 0
        self._epoch = 0

    def begin(self, request: Request) -> Entry:
        """Open an entry for a request that was read whole."""
        names = tuple(name for name, _ in request.headers)
        with self._changed:
            self._seq += 1
            names = self._name_tuples.setdefault(names, names)
            entry = Entry(
                seq=self._seq,
                method=request.method,
                path=request.path,
                query=request.query,
                body_sha256=hashlib.sha256(request.body).hexdigest(),
                body_length=len(request.body),
                header_names=names,
                headers={name: request.fields[name] for name in _SELECTED if name in request.fields},
                anthropic_version=request.header("anthropic-version"),
                request_id=f"req_sim_{self._seq:08d}",
                epoch=self._epoch,
            )
            self._entries.append(entry)
            body = request.body[: self._body_cap]
            self._seen.append(Seen(self._seq, request.method, request.target, request.headers, body))
        return entry

    def settle(self, entry: Entry, end: str) -> None:
        """Close an entry and add it to the totals."""
        with self._changed:
            entry.end, entry.ended = end, time.time()
            if entry.epoch != self._epoch:
                return  # begun before a reset: no longer part of these books
            self._ended += 1
            total = self._totals.setdefault(entry.model, Total())
            total.requests += 1
            total.by_end[end] = total.by_end.get(end, 0) + 1
            total.by_status[entry.status] = total.by_status.get(entry.status, 0) + 1
            for tokens, sums in ((entry.spent, total.spent), (entry.announced, total.announced)):
                if tokens is not None:
                    for name in _TOKEN_FIELDS:
                        sums[name] += getattr(tokens, name)
            self._changed.notify_all()

    @property
    def count(self) -> int:
        """Requests received since the last reset."""
        return self._seq

    @property
    def ended(self) -> int:
        """Requests whose answer is over, whatever the ending."""
        return self._ended

    def entries(self, since: int = 0) -> list[Entry]:
        """Return entries with ``seq`` > ``since``, oldest first. They are live: an open one still changes."""
        with self._changed:
            return [entry for entry in self._entries if entry.seq > since]

    def requests(self, since: int = 0) -> list[Seen]:
        """Return the last requests in full, with ``seq`` > ``since``."""
        with self._changed:
            return [seen for seen in self._seen if seen.seq > since]

    def totals(self) -> dict[str, dict[str, Any]]:
        """Sum up all ended requests per model; exact even when old entries were dropped."""
        with self._changed:
            return {
                model: {
                    "requests": total.requests,
                    "by_end": dict(total.by_end),
                    "by_status": {str(status): count for status, count in total.by_status.items()},
                    "spent": dict(total.spent),
                    "announced": dict(total.announced),
                }
                for model, total in self._totals.items()
            }

    def wait_ended(self, count: int, timeout_s: float = 90.0) -> list[Entry]:
        """Block until ``count`` requests are over and return all entries; `TimeoutError` after that."""
        return self._wait(lambda: self._ended >= count, timeout_s, f"{count} ended requests")

    def wait_begun(self, count: int, timeout_s: float = 90.0) -> list[Entry]:
        """Block until ``count`` requests were received."""
        return self._wait(lambda: self._seq >= count, timeout_s, f"{count} requests")

    def begun(self) -> None:
        """Tell the waiters that a request was received."""
        with self._changed:
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget everything; numbering starts at 1 again."""
        with self._changed:
            self._entries.clear()
            self._seen.clear()
            self._totals.clear()
            self._seq = self._ended = 0
            self._epoch += 1

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> list[Entry]:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not done():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"no {what} within {timeout_s} s: {self._seq} begun, {self._ended} ended"
                    )
                self._changed.wait(left)
            return list(self._entries)
