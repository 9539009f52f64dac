"""The state of an upstream key, and how reports of attempts change it.

    healthy ──429──▶ rate_limited ──time──▶ usable ──success──▶ healthy
       │  ╰─failures in a row─▶ rate_limited ("ejected"; each further failure doubles the time)
       ├─no money─▶ exhausted ──time──▶ one probe at a time ──success──▶ healthy
       ╰─banned, or refused on two requests─▶ error ──operator's reset only──▶ healthy

Reports arrive late and out of order. Two rules keep an old one from undoing what is known by now:

- what was sent before the last change of status (`since`) changes no status; a 429 may still lengthen a
  cooldown;
- a success lifts a restriction only if it was sent after that had run out.

Workers and hosts keep states of their own and `merge` them. The order is total, so that everybody ends with
the same state whatever they hear first: an operator's word (`version`) before everything, then what holds
longer. A recovery holds from the moment it was made, which is always later than the restriction it lifted.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum

import msgspec

from app.core.upstream_outcome import FAILURE_REASONS, Finding, KeyOutcome

NEVER = datetime.max.replace(tzinfo=UTC)


class KeyStatus(StrEnum):
    """A key's status, under its stored name; an ejected key is `rate_limited`, since it comes back too."""

    HEALTHY = "healthy"
    RATE_LIMITED = "rate_limited"
    EXHAUSTED = "exhausted"
    ERROR = "error"


_SEVERITY = {status: number for number, status in enumerate(KeyStatus)}


@dataclass(frozen=True, slots=True)
class Policy:
    """How long keys stay away, in seconds, and how many failures in a row are too many.

    `probe_after_s` is longer than any cooldown, or a cooldown would outlive the end of the money in `merge`.
    """

    probe_after_s: float = 24 * 3600.0
    eject_after: int = 5
    eject_s: float = 30.0
    max_eject_s: float = 300.0


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of a key.

    `cooldown_until` is set for `rate_limited` and `exhausted` only. `since` is when the status was last
    entered (anew), `updated_at` when anything changed that other workers should know.
    `consecutive_failures` is this worker's own count. `version` grows with every word of an operator.
    """

    status: KeyStatus
    since: datetime
    updated_at: datetime
    cooldown_until: datetime | None = None
    consecutive_failures: int = 0
    suspected_by: str | None = None
    last_error: str | None = None
    version: int = 0


class Report(msgspec.Struct, frozen=True):
    """What came of one attempt: by which request, and when it was sent (by this process's clock)."""

    finding: Finding
    request_id: str
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    """An event for the audit: equal statuses are a suspicion, its end, or a restriction that begins anew."""

    from_status: KeyStatus
    to_status: KeyStatus
    why: str
    request_id: str | None
    at: datetime


class Standing(Enum):
    """Whether a key may serve now."""

    USABLE = "usable"
    HALF_OPEN = "half_open"  # for one trial request at a time
    RESTRICTED = "restricted"


def standing(state: KeyState, now: datetime) -> Standing:
    """Whether the key may serve at `now`."""
    if state.status is KeyStatus.HEALTHY:
        return Standing.USABLE
    if returns_at(state) > now:
        return Standing.RESTRICTED
    return Standing.USABLE if state.status is KeyStatus.RATE_LIMITED else Standing.HALF_OPEN


def returns_at(state: KeyState) -> datetime:
    """When the state's restriction is over: `NEVER` by itself for `error`, long ago for a healthy key."""
    if state.status is KeyStatus.ERROR:
        return NEVER
    return state.cooldown_until or state.since


def is_ejected(state: KeyState) -> bool:
    """Whether the key waits for its failures, not because the upstream has said so."""
    return state.status is KeyStatus.RATE_LIMITED and state.last_error in FAILURE_REASONS


def new_state(now: datetime) -> KeyState:
    """A key an operator has just added."""
    return KeyState(KeyStatus.HEALTHY, now, now, version=_version(now))


def reset(state: KeyState, now: datetime) -> tuple[KeyState, Transition]:
    """An operator's word that the key is fine; it beats every state known before it, on every host."""
    fresh = KeyState(KeyStatus.HEALTHY, now, now, version=max(state.version + 1, _version(now)))
    return fresh, Transition(state.status, KeyStatus.HEALTHY, "reset", None, now)


def _version(now: datetime) -> int:
    # Milliseconds instead of a plain count: a key that is deleted and added again must not fall behind.
    return int(now.timestamp() * 1000)


def restored(
    status: str,
    *,
    anchor: datetime,
    since: datetime | None = None,
    cooldown_until: datetime | None = None,
    suspected_by: str | None = None,
    last_error: str | None = None,
    version: int = 0,
    policy: Policy,
) -> KeyState:
    """A state from its stored fields, some of which other programs may have left out.

    `anchor` is the document's `updatedAt` or, without one, when this process first saw the key: a restriction
    without an end is counted from there, and a moving anchor would never let it end.
    """
    known = KeyStatus(status) if status in _SEVERITY else KeyStatus.ERROR
    until = None
    if known in (KeyStatus.RATE_LIMITED, KeyStatus.EXHAUSTED):
        default = policy.eject_s if known is KeyStatus.RATE_LIMITED else policy.probe_after_s
        until = cooldown_until or anchor + timedelta(seconds=default)
    error = last_error if known == status else f"unknown status {status[:40]}"
    return KeyState(known, since or anchor, anchor, until, 0, suspected_by, error, version)


def merge(mine: KeyState, stored: KeyState) -> KeyState:
    """The one of two states of a key that everybody keeps; commutative, associative, idempotent."""
    return max(mine, stored, key=_rank)


def _rank(state: KeyState) -> tuple[object, ...]:
    holds_until = state.updated_at if state.status is KeyStatus.HEALTHY else returns_at(state)
    return (
        state.version,
        holds_until,
        _SEVERITY[state.status],
        state.updated_at,
        state.since,
        # Only to make the order total: equal so far means the same change, but for the worker's own count.
        state.suspected_by or "",
        state.consecutive_failures,
        state.last_error or "",
        state.cooldown_until is not None,
        state.suspected_by is not None,
        state.last_error is not None,
    )


def must_be_shared(before: KeyState, after: KeyState) -> bool:
    """Whether other workers should know of the change: all of it but the worker's own count."""
    return before is not after and replace(before, consecutive_failures=0) != replace(
        after, consecutive_failures=0
    )


def is_confirmed(state: KeyState, finding: Finding) -> bool:
    """Whether the finding says what is known, so that no report of it changes anything."""
    return (
        finding.outcome is KeyOutcome.OK
        and state.status is KeyStatus.HEALTHY
        and state.suspected_by is None
        and not state.consecutive_failures
    )


def transition(
    state: KeyState, report: Report, now: datetime, policy: Policy, *, is_last_usable: bool = False
) -> tuple[KeyState, Transition | None]:
    """The state after the report, and the event if it is worth one.

    The last usable key is never ejected for failures: when all of them fail the upstream is down, and keys
    that wait would only make the outage longer.
    """
    outcome = report.finding.outcome
    is_stale = report.sent_at < state.since
    if state.status is KeyStatus.ERROR or outcome is KeyOutcome.NEUTRAL:
        return state, None
    if is_stale:
        return (_lengthened(state, report, now) if outcome is KeyOutcome.RATE_LIMITED else state), None
    if outcome in (KeyOutcome.OK, KeyOutcome.CLIENT_FAULT):
        return _answered(state, report, now)
    if outcome is KeyOutcome.FAILED:
        return _failed(state, report, now, policy, is_last_usable)
    if outcome is KeyOutcome.RATE_LIMITED:
        return _limited(state, report, now)
    if outcome is KeyOutcome.EXHAUSTED:
        return _exhausted(state, report, now, policy)
    if outcome is KeyOutcome.SUSPECT and state.suspected_by in (None, report.request_id):
        return _suspected(state, report, now)
    return _moved(state, KeyStatus.ERROR, report, now)


def _answered(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    """A success, or a refusal that shows life: only a success proves that the key is good."""
    alive = replace(state, consecutive_failures=0) if state.consecutive_failures else state
    proven_from = max(returns_at(state), state.updated_at if state.suspected_by else state.since)
    if report.finding.outcome is not KeyOutcome.OK or report.sent_at < proven_from:
        return alive, None
    if state.status is not KeyStatus.HEALTHY:
        healthy, event = _moved(state, KeyStatus.HEALTHY, report, now)
        return replace(healthy, last_error=None), event
    if state.suspected_by is None:
        return alive, None
    # `since` stays: the status is the one it was, and what was sent under it still counts.
    cleared = replace(alive, suspected_by=None, last_error=None, updated_at=now)
    return cleared, Transition(state.status, state.status, "cleared", report.request_id, now)


def _failed(
    state: KeyState, report: Report, now: datetime, policy: Policy, is_last_usable: bool
) -> tuple[KeyState, Transition | None]:
    if report.sent_at < returns_at(state):
        return state, None  # the key is out of use already
    if state.status is KeyStatus.EXHAUSTED:  # a probe that tells nothing about the money
        return _waiting(state, now, policy.eject_s), None
    failures = state.consecutive_failures + 1
    if failures < policy.eject_after or is_last_usable:
        # Not counted up to the limit: the first failure beside a usable key would be one too many.
        return replace(state, consecutive_failures=min(failures, policy.eject_after - 1)), None
    doublings = min(failures - policy.eject_after, 30)
    seconds = min(policy.eject_s * 2.0**doublings, policy.max_eject_s)
    return _moved(state, KeyStatus.RATE_LIMITED, report, now, seconds, failures)


def _limited(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    is_over = report.sent_at >= returns_at(state)
    if is_over and state.status is not KeyStatus.EXHAUSTED:
        return _moved(state, KeyStatus.RATE_LIMITED, report, now, _cooldown_s(report))
    # Still restricted, or a probe: too fast says nothing about the money, it only has to wait.
    return _lengthened(state, report, now, may_be_probe=is_over), None


def _exhausted(
    state: KeyState, report: Report, now: datetime, policy: Policy
) -> tuple[KeyState, Transition | None]:
    if state.status is KeyStatus.EXHAUSTED and report.sent_at < returns_at(state):
        return state, None
    return _moved(state, KeyStatus.EXHAUSTED, report, now, policy.probe_after_s)


def _suspected(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    if state.suspected_by == report.request_id:  # the same request again confirms nothing
        return state, None
    reason = report.finding.reason
    suspect = replace(state, suspected_by=report.request_id, last_error=reason, updated_at=now)
    return suspect, Transition(state.status, state.status, f"suspected: {reason}", report.request_id, now)


def _lengthened(state: KeyState, report: Report, now: datetime, *, may_be_probe: bool = False) -> KeyState:
    if state.status is KeyStatus.RATE_LIMITED or may_be_probe:
        return _waiting(state, now, _cooldown_s(report))
    return state


def _waiting(state: KeyState, now: datetime, seconds: float) -> KeyState:
    """The same restriction, for at least so long from now; never shorter."""
    until = now + timedelta(seconds=seconds)
    if until <= returns_at(state):
        return state
    return replace(state, cooldown_until=until, updated_at=now)


def _moved(
    state: KeyState,
    status: KeyStatus,
    report: Report,
    now: datetime,
    seconds: float | None = None,
    failures: int = 0,
) -> tuple[KeyState, Transition]:
    until = None if seconds is None else now + timedelta(seconds=seconds)
    reason = report.finding.reason
    moved = KeyState(status, now, now, until, failures, None, reason, state.version)
    return moved, Transition(state.status, status, reason, report.request_id, now)


def _cooldown_s(report: Report) -> float:
    return report.finding.cooldown_s or 0.0
