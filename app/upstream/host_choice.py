"""Which of several upstream hosts a request goes to, and when one is left alone.

    usable ──a request fails for the host's sake──▶ left alone ──pause──▶ probed ──▶ usable, on trial
                                                        ▲                    │          │
                                                        ╰── twice as long ───┴──────────╯ until it serves one

The hosts are in the operator's order of preference: the first usable one is taken. What counts against a host
is that it cannot be connected to, is silent up to its time-out, or lets a front proxy answer with a page. But
what one request has met may be its own doing, as the time-out of a long answer is. So what has been sent
counts only if the host has answered nothing that was sent later: it was there, then.

Each worker has a view of its own. A wrong view costs a detour: where every host is left alone, all are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from app.upstream.proxy_choice import cooldown_s

HOST_FAILURES: Final = {"unreachable": True, "timeout": False}
"""The failures of the transport (`UpstreamFailure.kind`) that may be the host's, and whether they must be."""

SUSPICIOUS_S: Final = 10.0
"""A client that has waited so long in vain, and leaves, has the host looked at, in seconds."""

_PAGE_STATUSES = frozenset({502, 503, *range(520, 525)})


def is_front_page(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a front proxy answers in place of the host: a web page that says it cannot be reached.

    `headers` have lower-case names. An API tells its own errors as JSON.
    """
    return status in _PAGE_STATUSES and "html" in headers.get("content-type", "").lower()


@dataclass(slots=True)
class HostHealth:
    """How a host fares; moments are of a monotonic clock, in seconds.

    `failures` are those since it last answered a request. `left_until` is set while it is left alone, since
    `left_at`: a probe is due from then on. `answered_of` is when the latest-sent of the requests it has
    answered was sent. `probed_at` is when it was probed last.
    """

    failures: int = 0
    left_at: float = -inf
    left_until: float | None = None
    answered_of: float = -inf
    probed_at: float = -inf
    is_suspected: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether requests go there."""
        return self.left_until is None


class HostChoice:
    """The health of `count` hosts, known by their positions, and the choice among them."""

    def __init__(self, count: int) -> None:
        self.hosts = tuple(HostHealth() for _ in range(count))

    def choose(self, avoiding: frozenset[int] = frozenset()) -> int:
        """Return the host for a request that has met `avoiding` already: the first that may serve it.

        A host that is left alone is better than one that has just failed this very request, and any is better
        than none.
        """
        fallback: int | None = None
        for position, host in enumerate(self.hosts):
            if position in avoiding:
                continue
            if host.left_until is None:
                return position
            if fallback is None:
                fallback = position
        if fallback is not None:
            return fallback
        return next((position for position, host in enumerate(self.hosts) if host.is_usable), 0)

    def has_other(self, position: int, avoiding: frozenset[int]) -> bool:
        """Return whether a request that has met these hosts could go to a further one."""
        return len(avoiding | {position}) < len(self.hosts)

    def note_answer(self, position: int, sent_at: float) -> bool:
        """Note that the host has answered a request; return whether it was left alone until now."""
        host = self.hosts[position]
        if sent_at > host.answered_of:
            host.answered_of = sent_at
        if not host.failures and not host.is_suspected:
            return False
        if sent_at < host.left_at:  # by a connection that was there before
            return False
        was_left = not host.is_usable
        host.failures, host.left_until, host.is_suspected = 0, None, False
        return was_left

    def note_failure(self, position: int, sent_at: float, now: float, *, is_certain: bool) -> bool:
        """Note a failure that may be the host's; return whether the host is left alone from now on.

        It certainly is where no connection came about.
        """
        host = self.hosts[position]
        if not host.is_usable or (sent_at < host.answered_of and not is_certain):
            return False
        self._leave(host, now)
        return True

    def suspect(self, position: int, sent_at: float) -> None:
        """Have the host probed: a client has left that waited for it in vain.

        Not for what was sent before the last probe, so that impatient clients do not cause one each.
        """
        host = self.hosts[position]
        if sent_at > max(host.answered_of, host.probed_at):
            host.is_suspected = True

    def due(self, now: float) -> list[int]:
        """Return the hosts it is time to probe: those left alone for long enough, and those suspected."""
        return [
            position
            for position, host in enumerate(self.hosts)
            if (host.is_suspected if host.left_until is None else now >= host.left_until)
        ]

    def note_probe(self, position: int, now: float, *, is_good: bool) -> bool:
        """Note what a probe has found; return whether the host is used, or left alone, otherwise than before.

        After a good one the failures still count until a request is answered: a host that serves probes only
        is left alone for longer each time.
        """
        host = self.hosts[position]
        was_usable, host.is_suspected, host.probed_at = host.is_usable, False, now
        if is_good:
            host.left_until = None
        else:
            self._leave(host, now)
        return host.is_usable != was_usable

    def _leave(self, host: HostHealth, now: float) -> None:
        host.failures += 1
        host.left_at = now
        host.left_until = now + cooldown_s(host.failures)
