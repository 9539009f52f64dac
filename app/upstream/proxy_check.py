"""Checking proxies in the background, so that no request has to find out which of them work."""

import logging
import socket
from urllib.parse import urlsplit

from gevent.pool import Pool
from pymongo.errors import PyMongoError

from app.common.clock import now_ms
from app.periodic import FailureLog, StopEvent, every
from app.store.driver import store_problem
from app.upstream.hosts import UpstreamHosts
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_pool import ProxyPool
from app.upstream.proxy_transport import ProxyAdapter, RouteFault

TICK_S = 1.0
_AT_ONCE = 10
_LEASE_S = 30.0

log = logging.getLogger(__name__)


class ProxyChecker:
    """Checks each proxy when it is due, as one of all workers on all hosts.

    A check connects to the upstream host that requests go to now through the proxy, and sends no key. While
    the store cannot be asked who is to check, each worker checks for itself.
    """

    def __init__(
        self,
        pool: ProxyPool,
        store: ProxyStore,
        hosts: UpstreamHosts | str,
        *,
        timeout_s: float,
        ca_file: str | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._hosts = UpstreamHosts([hosts]) if isinstance(hosts, str) else hosts
        self._timeout_s = timeout_s
        self._verify: bool | str = ca_file or True

    def run(self, stop: StopEvent, interval_s: float = TICK_S) -> None:
        """Check what is due, again and again, until `stop` is set."""
        failures = FailureLog(log, "proxies cannot be checked", "proxies are checked again")
        every(stop, interval_s, self.check_due, failures)

    def check_due(self) -> None:
        """Check every proxy that is due and that nobody else checks; returns when all are done."""
        mine = [(proxy_id, adapter) for proxy_id, adapter in self._pool.due() if self._claim(proxy_id)]
        if mine:
            Pool(_AT_ONCE).map(lambda one: self._check(*one), mine)

    def _claim(self, proxy_id: str) -> bool:
        try:
            return self._store.claim_check(proxy_id, now=now_ms(), lease_s=_LEASE_S)
        except PyMongoError as error:
            log.debug("checking proxy %s without a claim: %s", proxy_id, store_problem(error))
            return True

    def _check(self, proxy_id: str, adapter: ProxyAdapter) -> None:
        base_url = self._hosts.current
        try:
            latency_ms = adapter.check(base_url, timeout_s=self._timeout_s, verify=self._verify)
        except RouteFault as fault:
            if fault.is_certain or not self._is_upstream_down(base_url):
                self._pool.note_check(proxy_id, None, fault.reason)
        else:
            self._pool.note_check(proxy_id, latency_ms, None)

    def _is_upstream_down(self, base_url: str) -> bool:
        """Return whether the upstream is to blame, not the proxy; asked only if the direct way is allowed."""
        if not self._pool.allow_direct:
            return False
        url = urlsplit(base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            socket.create_connection((url.hostname or "", port), self._timeout_s).close()
        except OSError:
            return True
        return False
