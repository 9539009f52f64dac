"""Which way a request goes to the upstream: through which proxy, or directly; and how proxies fare.

A key goes through the proxies that are bound to it, the smallest priority number first, in turn among
equals. Should none of them be usable, it goes through proxies nobody is bound to, then through those of other
keys, and then directly if the operator allows that.

Health is a value that every report turns into the next one. Only a check made in the background brings a
failed proxy back, so that no request has to find out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

CHECK_INTERVAL_S = 60.0
"""How often a proxy is checked that gives no cause for concern, in seconds."""
# The most proxies one attempt tries until it reaches the upstream: each may cost a connect timeout.
MAX_PROXIES = 3
DIRECT = None
"""What stands for no proxy in a plan."""

_FIRST_COOLDOWN_S = 5.0

Tiers = tuple[tuple[str, ...], ...]
"""Proxy ids, the preferred ones first; those within one tier are as good as each other."""


class ProxyKind(StrEnum):
    """The protocol spoken with a proxy."""

    HTTP = "http"
    SOCKS5 = "socks5"


class ProxyStatus(StrEnum):
    """What the last that was heard of a proxy says. One that is `UNKNOWN` is used until it fails."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProxyEndpoint:
    """How a proxy is reached. Without a user name it is used without credentials."""

    kind: ProxyKind
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a proxy: `fail_count` failures in a row, the last word being of `checked_at`."""

    status: ProxyStatus = ProxyStatus.UNKNOWN
    fail_count: int = 0
    checked_at: datetime | None = None
    latency_ms: int | None = None
    last_error: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether requests may go through it."""
        return self.status is not ProxyStatus.UNHEALTHY


@dataclass(frozen=True, slots=True)
class Binding:
    """A proxy that a key is to go through; a smaller `priority` (1 to 10) comes first."""

    proxy_id: str
    key_id: str
    priority: int = 1


def succeeded(health: Health, now: datetime, latency_ms: int | None = None) -> Health:
    """Return the health after the upstream was reached through the proxy."""
    known_ms = health.latency_ms if latency_ms is None else latency_ms
    return Health(ProxyStatus.HEALTHY, 0, now, known_ms)


def failed(health: Health, now: datetime, reason: str) -> Health:
    """Return the health after a failure. What fails during a cooldown belongs to the failure before."""
    if not health.is_usable and not is_check_due(health, now):
        return health
    return replace(
        health,
        status=ProxyStatus.UNHEALTHY,
        fail_count=health.fail_count + 1,
        checked_at=now,
        last_error=reason,
    )


def cooldown_s(fail_count: int) -> float:
    """Return how long a proxy is left alone after `fail_count` failures in a row, in seconds."""
    doublings = min(max(fail_count - 1, 0), 10)
    return min(_FIRST_COOLDOWN_S * 2.0**doublings, CHECK_INTERVAL_S)


def is_check_due(health: Health, now: datetime) -> bool:
    """Return whether it is time to look at the proxy again."""
    if health.checked_at is None or health.status is ProxyStatus.UNKNOWN:
        return True
    wait_s = CHECK_INTERVAL_S if health.is_usable else cooldown_s(health.fail_count)
    return now >= health.checked_at + timedelta(seconds=wait_s)


def latest(mine: Health, stored: Health, stored_since: datetime | None) -> Health:
    """Return the newer of what this process and the store know; `stored_since` is when an operator set it."""
    moments = [moment for moment in (stored.checked_at, stored_since) if moment is not None]
    if mine.checked_at is None or any(moment >= mine.checked_at for moment in moments):
        return stored
    return mine


def tiers_of(key_id: str, proxy_ids: Sequence[str], bindings: Iterable[Binding]) -> Tiers:
    """Return the proxies for a key, the preferred first, of those in use and by the active bindings."""
    mine: dict[str, int] = {}
    taken: set[str] = set()
    for binding in bindings:
        taken.add(binding.proxy_id)
        if binding.key_id == key_id:
            mine[binding.proxy_id] = min(binding.priority, mine.get(binding.proxy_id, binding.priority))
    bound = [proxy_id for proxy_id in proxy_ids if proxy_id in mine]
    tiers = [
        tuple(proxy_id for proxy_id in bound if mine[proxy_id] == priority)
        for priority in sorted({mine[proxy_id] for proxy_id in bound})
    ]
    tiers.append(tuple(proxy_id for proxy_id in proxy_ids if proxy_id not in taken))
    tiers.append(tuple(proxy_id for proxy_id in proxy_ids if proxy_id in taken and proxy_id not in mine))
    return tuple(tier for tier in tiers if tier)


def plan(
    tiers: Tiers, is_usable: Callable[[str], bool], turn: int, *, allow_direct: bool
) -> tuple[str | None, ...]:
    """Return the ways to try one after the other for one attempt; `turn` counts the key's attempts.

    Where neither a usable proxy nor the direct way is left, failed proxies are tried after all: refusing
    without trying would be no better.
    """
    ordered = _in_turn(tiers, is_usable, turn)[:MAX_PROXIES]
    if allow_direct:
        return (*ordered, DIRECT)
    return tuple(ordered or _in_turn(tiers, lambda _: True, turn)[:MAX_PROXIES])


def _in_turn(tiers: Tiers, is_usable: Callable[[str], bool], turn: int) -> list[str]:
    ordered: list[str] = []
    for tier in tiers:
        usable = [proxy_id for proxy_id in tier if is_usable(proxy_id)]
        start = turn % len(usable) if usable else 0
        ordered += usable[start:] + usable[:start]
    return ordered
