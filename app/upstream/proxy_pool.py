"""The outbound proxies as a worker sees them: a view in memory that requests read, refreshed behind them.

What requests find out about proxies is kept in the view at once and written to the store by the next refresh.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pymongo.errors import PyMongoError

from app.common.clock import now_ms
from app.periodic import FailureLog, StopEvent, every
from app.upstream.proxies import ProxyStore, StoredProxy
from app.upstream.proxy_bindings import BindingStore, StoredBinding
from app.upstream.proxy_choice import (
    Binding,
    Health,
    ProxyEndpoint,
    Tiers,
    failed,
    is_check_due,
    latest,
    plan,
    succeeded,
    tiers_of,
)
from app.upstream.proxy_transport import ProxyAdapter

REFRESH_S = 2.0
_MAX_TURNS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """A way to the upstream: through a proxy, or directly, without an adapter of its own."""

    proxy_id: str | None = None
    adapter: ProxyAdapter | None = None


DIRECT = Route()


@dataclass(slots=True)
class _PooledProxy:
    endpoint: ProxyEndpoint
    health: Health
    adapter: ProxyAdapter


@dataclass(slots=True)
class _View:
    """Proxies in use and bindings of one moment. The tiers of each key are worked out when first needed."""

    proxies: Mapping[str, _PooledProxy] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    tiers: dict[str, Tiers] = field(default_factory=dict)


class ProxyPool:
    """Routes for upstream keys, and the health of the proxies on them."""

    def __init__(
        self,
        proxies: ProxyStore,
        bindings: BindingStore,
        *,
        allow_direct: bool = True,
        now: Callable[[], datetime] = now_ms,
        make_adapter: Callable[[ProxyEndpoint], ProxyAdapter] = ProxyAdapter,
    ) -> None:
        self.allow_direct = allow_direct
        self._store = proxies
        self._binding_store = bindings
        self._now = now
        self._make_adapter = make_adapter
        self._view = _View()
        self._turns: defaultdict[str, int] = defaultdict(int)
        self._unwritten: dict[str, Health] = {}
        self._problems: dict[str, str] = {}
        self._reading = FailureLog(
            log, "proxies cannot be read, the last list stays", "proxies can be read again"
        )

    # -- for requests: no I/O ---------------------------------------------------------------------------

    def routes(self, key_id: str) -> list[Route]:
        """Return the ways for a request with this key, in the order to try them; empty if there is none."""
        view = self._view
        if not view.proxies:
            return [DIRECT] if self.allow_direct else []
        tiers = view.tiers.get(key_id)
        if tiers is None:
            tiers = view.tiers[key_id] = tiers_of(key_id, tuple(view.proxies), view.bindings)
        turn = self._turns[key_id]
        self._turns[key_id] = turn + 1
        ways = plan(
            tiers,
            lambda proxy_id: view.proxies[proxy_id].health.is_usable,
            turn,
            allow_direct=self.allow_direct,
        )
        return [DIRECT if way is None else Route(way, view.proxies[way].adapter) for way in ways]

    def note_failure(self, proxy_id: str, reason: str) -> None:
        """Note that a proxy failed to connect."""
        pooled = self._view.proxies.get(proxy_id)
        if pooled is not None:
            self._settle(proxy_id, pooled, failed(pooled.health, self._now(), reason))

    def note_success(self, proxy_id: str) -> None:
        """Note that a proxy connected."""
        pooled = self._view.proxies.get(proxy_id)
        if pooled is not None and not (pooled.health.is_usable and pooled.health.checked_at):
            self._settle(proxy_id, pooled, succeeded(pooled.health, self._now()))

    # -- for the background -----------------------------------------------------------------------------

    def due(self) -> list[tuple[str, ProxyAdapter]]:
        """Return the proxies it is time to check."""
        now = self._now()
        return [
            (proxy_id, pooled.adapter)
            for proxy_id, pooled in self._view.proxies.items()
            if is_check_due(pooled.health, now)
        ]

    def note_check(self, proxy_id: str, latency_ms: int | None, reason: str | None) -> None:
        """Note what a check found: how long it took, or else why it failed."""
        pooled = self._view.proxies.get(proxy_id)
        if pooled is None:  # deleted or disabled meanwhile
            return
        if reason is None:
            self._settle(proxy_id, pooled, succeeded(pooled.health, self._now(), latency_ms))
        else:
            self._settle(proxy_id, pooled, failed(pooled.health, self._now(), reason))

    def refresh(self) -> None:
        """Write what was found out, and read proxies and bindings anew; without a store the view stays."""
        try:
            self._write()
            proxies = tuple(self._store.list())
            bindings = tuple(self._binding_store.list())
        except PyMongoError as error:
            self._reading.note_failure(error)
            return
        self._reading.note_success()
        self._report_problems(proxies)
        self._show(proxies, bindings)

    def run(self, stop: StopEvent, interval_s: float = REFRESH_S) -> None:
        """Refresh now and then every `interval_s`, until `stop` is set."""
        # One odd document must not end this: nobody would notice.
        failures = FailureLog(log, "proxies cannot be refreshed", "proxies are refreshed again")
        every(stop, interval_s, self.refresh, failures, is_at_once=True)

    def close(self) -> None:
        """Close the connections through all proxies."""
        for pooled in self._view.proxies.values():
            pooled.adapter.close()

    def hosts(self) -> set[str]:
        """Return the hosts of the proxies in use."""
        return {pooled.endpoint.host for pooled in self._view.proxies.values()}

    def health(self) -> dict[str, Health]:
        """Return the health of every proxy in use."""
        return {proxy_id: pooled.health for proxy_id, pooled in self._view.proxies.items()}

    def _settle(self, proxy_id: str, pooled: _PooledProxy, health: Health) -> None:
        before, pooled.health = pooled.health, health
        if health is before:
            return
        self._unwritten[proxy_id] = health
        if not health.is_usable and before.is_usable:
            log.warning("proxy %s is not used for now: %s", proxy_id, health.last_error)
        elif health.is_usable and not before.is_usable:
            log.info("proxy %s is used again", proxy_id)

    def _write(self) -> None:
        for proxy_id, health in list(self._unwritten.items()):
            self._store.set_health(proxy_id, health)
            if self._unwritten.get(proxy_id) is health:  # nothing newer came while this was written
                del self._unwritten[proxy_id]

    def _show(self, proxies: Iterable[StoredProxy], bindings: Iterable[StoredBinding]) -> None:
        known = dict(self._view.proxies)
        shown: dict[str, _PooledProxy] = {}
        for stored in proxies:
            if stored.endpoint is None or not stored.is_active:
                continue
            pooled = known.get(stored.proxy_id)
            if pooled is None or pooled.endpoint != stored.endpoint:
                adapter = self._make_adapter(stored.endpoint)
                shown[stored.proxy_id] = _PooledProxy(stored.endpoint, stored.health, adapter)
            else:
                pooled.health = latest(pooled.health, stored.health, stored.updated_at)
                shown[stored.proxy_id] = known.pop(stored.proxy_id)
        active = tuple(stored.binding for stored in bindings if stored.is_active)
        self._view = _View(shown, active)
        if len(self._turns) > _MAX_TURNS:  # keys come and go; where one begins its turn does not matter
            self._turns.clear()
        for gone in known.values():
            gone.adapter.close()

    def _report_problems(self, proxies: Iterable[StoredProxy]) -> None:
        found = {proxy.proxy_id: proxy.problem for proxy in proxies if proxy.problem and proxy.is_active}
        for proxy_id, problem in found.items():
            if self._problems.get(proxy_id) != problem:
                log.error("proxy %s is left out: %s", proxy_id, problem)
        self._problems = found
