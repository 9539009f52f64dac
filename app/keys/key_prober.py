"""Asking the upstream itself about keys that requests have cast doubt on, in the background.

A request that a key refuses may be to blame itself. `GET /v1/models` with that key cannot: if that is refused
for the key's sake the key is banned at once, if it is served the suspicion is over, and so is a ban.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from gevent.pool import Pool

from app.keys.key_pool import SharedKeyPool
from app.keys.lease import Lease
from app.keys.upstream_outcome import (
    SERVED,
    Finding,
    KeyOutcome,
    RefusedAnswer,
    is_relayed,
    judge,
    of_told_error,
)
from app.periodic import FailureLog, StopEvent, every
from app.upstream.transport import LIST_MODELS, Upstream, UpstreamFailure, UpstreamReply
from app.wires.formats.failures import told_error_in
from app.wires.upstream_errors import MAX_BODY, codes_of, read_error

TICK_S = 1.0
TIMEOUT_S = 5.0
"""How long the upstream may take, to connect and for each part of its answer."""

REQUEST_ID = "probe"
_AT_ONCE = 10
_MOST_PIECES = 16
_SAYS_NOTHING = Finding(KeyOutcome.CLIENT_FAULT, "probe_unanswered")

log = logging.getLogger(__name__)


class KeyProber:
    """Asks about each doubtful key when it is due; nobody waits for it."""

    def __init__(
        self,
        pool: SharedKeyPool,
        upstream: Upstream,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool = pool
        self._upstream = upstream
        self._now = now

    def run(self, stop: StopEvent, interval_s: float = TICK_S) -> None:
        """Ask what is due, again and again, until `stop` is set."""
        failures = FailureLog(log, "upstream keys cannot be probed", "upstream keys are probed again")
        every(stop, interval_s, self.probe_due, failures)

    def probe_due(self) -> None:
        """Ask about every key that is due; return when all have been answered."""
        if leases := self._pool.due_probes():
            Pool(_AT_ONCE).map(self._probe, leases)

    def _probe(self, lease: Lease) -> None:
        try:
            reply = self._upstream.send(LIST_MODELS, lease.key)
            try:
                finding = self._judge(reply)
            finally:
                reply.close()
        except UpstreamFailure:
            finding = _SAYS_NOTHING
        self._pool.report(lease, finding, REQUEST_ID)

    def _judge(self, reply: UpstreamReply) -> Finding:
        body = _start_of(reply)
        error = read_error(body, reply.headers.get("content-type", ""))
        if is_relayed(reply.status):
            return _SAYS_NOTHING if error.is_page else _of_served(body)
        headers = list(reply.headers.items())
        finding = judge(RefusedAnswer(reply.status, headers, error), self._now()).finding
        # A key may be allowed to chat and not to list models.
        is_telling = reply.status == 401 or finding.outcome is KeyOutcome.BANNED
        return finding if is_telling else _SAYS_NOTHING


def _of_served(body: bytes) -> Finding:
    """Return what the body of a status 200 says: some upstreams tell their errors under it."""
    if (told := told_error_in(body)) is None:
        return SERVED
    finding = of_told_error(codes_of(told), is_requests_fault=False)
    return finding if finding.outcome in (KeyOutcome.SUSPECT, KeyOutcome.BANNED) else _SAYS_NOTHING


def _start_of(reply: UpstreamReply) -> bytes:
    pieces: list[bytes] = []
    while len(pieces) < _MOST_PIECES and (piece := reply.read()):
        pieces.append(piece)
    return b"".join(pieces)[:MAX_BODY]
