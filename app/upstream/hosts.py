"""The upstream hosts of OHMYGPT_BASE_URL as a worker uses them: the choice, with clock and log."""

import logging
import time
from collections.abc import Callable, Iterable

from gevent.pool import Pool

from app.periodic import FailureLog, StopEvent, every
from app.upstream.host_choice import SUSPICIOUS_S, HostChoice

TICK_S = 1.0

log = logging.getLogger(__name__)


class UpstreamHosts:
    """Base URLs in order of preference. With a single one there is nothing to choose, and nothing is kept."""

    def __init__(self, urls: Iterable[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.clock = clock
        self._choice = HostChoice(len(self.urls))

    @property
    def are_several(self) -> bool:
        """Whether there is a choice."""
        return len(self.urls) > 1

    @property
    def current(self) -> str:
        """The base URL that requests go to now."""
        return self.urls[self._choice.choose()]

    def choose(self, avoiding: frozenset[int]) -> int:
        """Return the position of the host for a request that these could not serve."""
        return self._choice.choose(avoiding)

    def note_answer(self, position: int, sent_at: float) -> None:
        """Note that a host has answered a request that was sent then."""
        if self._choice.note_answer(position, sent_at):
            log.info("upstream host %d is used again: it has answered", position)

    def note_failure(
        self, position: int, sent_at: float, reason: str, avoiding: frozenset[int], *, is_certain: bool
    ) -> bool:
        """Note a failure that may be the host's; return whether the request may go to another one instead.

        `avoiding` are the hosts it has met before.
        """
        if self._choice.note_failure(position, sent_at, self.clock(), is_certain=is_certain):
            log.warning("upstream host %d is left alone for now: %s", position, reason)
        is_blamed = is_certain or not self._choice.hosts[position].is_usable
        return is_blamed and self._choice.has_other(position, avoiding)

    def note_departure(self, position: int, sent_at: float) -> None:
        """Note that a client has left that was waiting for this host."""
        if self.clock() - sent_at >= SUSPICIOUS_S:
            self._choice.suspect(position, sent_at)

    def usable(self) -> list[bool]:
        """Return for each host whether requests go there; of a single one nothing is known."""
        return [host.is_usable for host in self._choice.hosts] if self.are_several else []

    def due(self) -> list[int]:
        """Return the positions of the hosts it is time to probe."""
        return self._choice.due(self.clock())

    def note_probe(self, position: int, problem: str | None) -> None:
        """Note what a probe has found: None, or what speaks against the host."""
        if not self._choice.note_probe(position, self.clock(), is_good=problem is None):
            return
        if problem is None:
            log.info("upstream host %d is used again: it answers probes", position)
        else:
            log.warning("upstream host %d is left alone for now: %s", position, problem)


class HostProber:
    """Probes the hosts that are left alone, each when it is due; nobody waits for it.

    One round ends before the next begins, so that probes of a host that hangs do not pile up.
    """

    def __init__(self, hosts: UpstreamHosts, probe: Callable[[int], str | None]) -> None:
        self._hosts = hosts
        self._probe = probe

    def run(self, stop: StopEvent, interval_s: float = TICK_S) -> None:
        """Probe what is due, again and again, until `stop` is set."""
        failures = FailureLog(log, "upstream hosts cannot be probed", "upstream hosts are probed again")
        every(stop, interval_s, self.probe_due, failures)

    def probe_due(self) -> None:
        """Probe every host that is due; return when all have been."""
        if due := self._hosts.due():
            Pool(len(due)).map(self._look, due)

    def _look(self, position: int) -> None:
        self._hosts.note_probe(position, self._probe(position))
