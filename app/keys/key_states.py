"""The state of an upstream key, and how reports of attempts change it.

    healthy ──429──▶ rate_limited ──time──▶ usable ──success──▶ healthy
       │  ╰─failures in a row─▶ rate_limited ("ejected"; each further failure doubles the time)
       ├─no money─▶ exhausted ──time──▶ one probe at a time ──success──▶ healthy
       ╰─refused to two clients, or to the pool's own probe─▶ error ──probe, operator's reset──▶ healthy

What one client's requests meet may be about those requests. So a refusal is a suspicion (`suspected_by`)
until another client's request, or a probe of the pool itself (`PROBE`), meets it too; a limit, or the end of
the money, that only one client has met (`limited_by`) does not keep others from the key when they have no
better one, also where another key has served that request: its limits may be wider, its balance larger. And
it takes more failures to eject a key that only one client has met, unless another key has served the request.
A ban that rests on the word of clients alone, however many, is no proof either: until a probe, or another key
that serves the same request, confirms it, the key stays a last resort for everybody.

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

from app.keys.upstream_outcome import CAPPED, FAILURE_REASONS, Finding, KeyOutcome

NEVER = datetime.max.replace(tzinfo=UTC)

PROBE = "\x00probe"
"""The client of the pool's own requests: no user has such a name."""

_SEVERAL = "\x00several"
_UNTOLD = frozenset({"unauthorized", "forbidden"})
_FIRST_PROBE, _LAST_PROBE = timedelta(minutes=1), timedelta(hours=1)
_FRESH = timedelta(minutes=10)  # an older suspicion is nothing to build on


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

    Those that only one client has met may be its own doing; but it may be the only one there is.
    `probe_after_s` is longer than any cooldown, or a cooldown would outlive the end of the money in `merge`.
    A limit without an end lasts `limit_s`, each time twice as long that it is met again right after it,
    up to `max_limit_s`; that of the last usable key `last_limit_s` at most.
    """

    probe_after_s: float = 24 * 3600.0
    limit_s: float = 5.0
    max_limit_s: float = 120.0
    last_limit_s: float = 10.0
    eject_after: int = 5
    eject_after_alone: int = 20
    eject_s: float = 30.0
    max_eject_s: float = 300.0


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of a key.

    `cooldown_until` is set for `rate_limited` and `exhausted` only. `since` is when the status was last
    entered (anew), `updated_at` when anything changed that other workers should know.
    `consecutive_failures` and who met them (`failed_by`) are this worker's own. `suspected_by` is the client
    whose request the key refused, `limited_by` the one that met the restriction, while it is the only one;
    of a ban that only clients have met it says that they are several.
    `version` grows with every word of an operator.
    """

    status: KeyStatus
    since: datetime
    updated_at: datetime
    cooldown_until: datetime | None = None
    consecutive_failures: int = 0
    suspected_by: str | None = None
    last_error: str | None = None
    version: int = 0
    limited_by: str | None = None
    failed_by: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What came of one attempt: by which request of which client, and when it was sent (by our clock)."""

    finding: Finding
    request_id: str
    sent_at: datetime
    client: str


@dataclass(frozen=True, slots=True)
class Transition:
    """An event for the audit: equal statuses are a suspicion, its end, or a restriction that begins anew."""

    from_status: KeyStatus
    to_status: KeyStatus
    why: str
    request_id: str | None
    at: datetime


class Availability(Enum):
    """Whether a key may serve now."""

    USABLE = "usable"
    HALF_OPEN = "half_open"  # for one trial request at a time
    RESTRICTED = "restricted"


def availability(state: KeyState, now: datetime) -> Availability:
    """Return whether the key may serve at `now`."""
    if state.status is KeyStatus.HEALTHY:
        return Availability.USABLE
    if returns_at(state) > now:
        return Availability.RESTRICTED
    return Availability.USABLE if state.status is KeyStatus.RATE_LIMITED else Availability.HALF_OPEN


def returns_at(state: KeyState) -> datetime:
    """Return when the restriction is over: `NEVER` by itself for `error`, long ago for a healthy key."""
    if state.status is KeyStatus.ERROR:
        return NEVER
    return state.cooldown_until or state.since


def is_ejected(state: KeyState) -> bool:
    """Return whether the key waits for its failures, not because the upstream has said so."""
    return state.status is KeyStatus.RATE_LIMITED and state.last_error in FAILURE_REASONS


def is_doubted(state: KeyState, client: str, now: datetime) -> bool:
    """Return whether the key has refused this client lately, who had then better get another key."""
    return state.suspected_by == client and now - state.updated_at <= _FRESH


def is_hearsay(state: KeyState, client: str) -> bool:
    """Return whether only one other client has met the key's restriction, or nobody has proved its ban."""
    return state.limited_by not in (None, client)


def is_doubtful(state: KeyState, now: datetime) -> bool:
    """Return whether the upstream itself is to be asked about the key: it is suspected, or banned."""
    is_suspected = state.suspected_by is not None and now - state.updated_at <= _FRESH
    return is_suspected or state.status is KeyStatus.ERROR


def next_probe(state: KeyState) -> datetime:
    """Return when to ask about a doubtful key: the longer it has been banned, the less often."""
    banned_for = state.updated_at - state.since if state.status is KeyStatus.ERROR else timedelta()
    return state.updated_at + min(max(banned_for, _FIRST_PROBE), _LAST_PROBE)


def new_state(now: datetime) -> KeyState:
    """Make the state of a key an operator has just added."""
    return KeyState(KeyStatus.HEALTHY, now, now, version=_version(now))


def reset(state: KeyState, now: datetime) -> tuple[KeyState, Transition]:
    """Make the state of a key that an operator or the probe found fine: it beats all earlier states."""
    fresh = KeyState(KeyStatus.HEALTHY, now, now, version=max(state.version + 1, _version(now)))
    return fresh, Transition(state.status, KeyStatus.HEALTHY, "reset", None, now)


def is_refused(state: KeyState) -> bool:
    """Return whether the key was refused for no reason that was told, as one whose cap is used up may be."""
    return state.last_error in _UNTOLD and (state.status is KeyStatus.ERROR or state.suspected_by is not None)


def capped(state: KeyState, now: datetime, policy: Policy) -> tuple[KeyState, Transition]:
    """Make the state of a refused key whose cap turns out to be used up."""
    until = now + timedelta(seconds=policy.probe_after_s)
    version = max(state.version + 1, _version(now))
    moved = KeyState(KeyStatus.EXHAUSTED, now, now, until, last_error=CAPPED.reason, version=version)
    return moved, Transition(state.status, KeyStatus.EXHAUSTED, CAPPED.reason, None, now)


def uncapped(state: KeyState, now: datetime) -> tuple[KeyState, Transition] | None:
    """Make the state of a key whose cap is not used up; None where the key was not away for that."""
    if state.status is not KeyStatus.EXHAUSTED or state.last_error != CAPPED.reason:
        return None
    fresh, event = reset(state, now)
    return fresh, replace(event, why="cap raised")


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
    """Restore a state from its stored fields, some of which other programs may have left out.

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
    """Choose which of two states of a key everybody keeps; commutative, associative, idempotent."""
    return max(mine, stored, key=_rank)


def learned(mine: KeyState, stored: KeyState, now: datetime) -> KeyState:
    """Return what a worker knows of a key, by its own state and another's: the `merge` of both.

    A restriction in force that two workers have met, each for a client of its own, is hearsay to nobody: a
    merge alone would forget one of the two.
    """
    merged = merge(mine, stored)
    if merged.limited_by is None or not _is_same_restriction(mine, stored, now):
        return merged
    return (
        merged if mine.limited_by == stored.limited_by else replace(merged, limited_by=None, updated_at=now)
    )


def _is_same_restriction(mine: KeyState, stored: KeyState, now: datetime) -> bool:
    return (
        mine.status is stored.status is not KeyStatus.HEALTHY
        and mine.version == stored.version
        and is_ejected(mine) == is_ejected(stored)
        and min(returns_at(mine), returns_at(stored)) > now
    )


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
        state.limited_by or "",
        state.failed_by or "",
        state.cooldown_until is not None,
        state.suspected_by is not None,
        state.last_error is not None,
        state.limited_by is not None,
        state.failed_by is not None,
    )


def must_be_shared(before: KeyState, after: KeyState) -> bool:
    """Return whether other workers should know of the change: all of it but the worker's own count."""
    return before is not after and _without_count(before) != _without_count(after)


def _without_count(state: KeyState) -> KeyState:
    return replace(state, consecutive_failures=0, failed_by=None)


def is_confirmed(state: KeyState, finding: Finding) -> bool:
    """Return whether the finding says what is known, so that no report of it changes anything."""
    return (
        finding.outcome is KeyOutcome.OK
        and state.status is KeyStatus.HEALTHY
        and (not finding.is_proof or state.suspected_by is None)
        and (not finding.is_proof or (not state.consecutive_failures and state.failed_by is None))
    )


def transition(
    state: KeyState, report: Report, now: datetime, policy: Policy, *, is_last_usable: bool = False
) -> tuple[KeyState, Transition | None]:
    """Return the state after the report, and the event if it is worth one.

    The last usable key is never ejected for failures: when all of them fail the upstream is down, and keys
    that wait would only make the outage longer.
    """
    outcome = report.finding.outcome
    is_stale = report.sent_at < state.since
    if outcome is KeyOutcome.NEUTRAL:
        return state, None
    if state.status is KeyStatus.ERROR:
        return _probed(state, report, now)
    if is_stale:
        return _confirmed_late(state, report, now), None
    if outcome in (KeyOutcome.OK, KeyOutcome.CLIENT_FAULT, KeyOutcome.MODEL_LIMITED):
        return _answered(state, report, now)
    if outcome is KeyOutcome.FAILED:
        return _failed(state, report, now, policy, is_last_usable)
    if outcome is KeyOutcome.RATE_LIMITED:
        return _limited(state, report, now, policy, is_last_usable)
    is_agreed = report.client == PROBE or _is_suspected_by_another(state, report.client, now)
    finding = report.finding
    if outcome is KeyOutcome.EXHAUSTED and (finding.is_proof or finding.is_keys_own or is_agreed):
        return _exhausted(state, report, now, policy)
    if outcome is KeyOutcome.EXHAUSTED or not is_agreed:
        return _suspected(state, report, now)
    return _moved(state, KeyStatus.ERROR, report, now)


def _is_suspected_by_another(state: KeyState, client: str, now: datetime) -> bool:
    return state.suspected_by not in (None, client) and now - state.updated_at <= _FRESH


def _confirmed_late(state: KeyState, report: Report, now: datetime) -> KeyState:
    """Return the state after a report of what was sent before it: it may last longer, or be everybody's."""
    outcome = report.finding.outcome
    if outcome is KeyOutcome.RATE_LIMITED:
        return _lengthened(state, report, now)
    is_same = outcome is KeyOutcome.EXHAUSTED and state.status is KeyStatus.EXHAUSTED
    return _agreed(state, report, now) if is_same else state


def _probed(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    """Return a banned key's state after a report, and the event.

    Only the pool's own probe brings the key back, and what the probe says is noted.
    """
    is_refusal = report.finding.outcome in (KeyOutcome.SUSPECT, KeyOutcome.BANNED)
    if is_refusal and report.finding.is_keys_own and state.limited_by is not None:
        return replace(state, limited_by=None, updated_at=now), None
    if report.client != PROBE or report.sent_at < state.since:
        return state, None
    if report.finding.outcome is not KeyOutcome.OK:
        return replace(state, limited_by=None if is_refusal else state.limited_by, updated_at=now), None
    healthy, event = reset(state, now)
    return healthy, replace(event, why="probe")


def _answered(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    """Return the state after a success, or a refusal that shows life, and the event.

    Only a success proves that the key is good. An answer that has only begun ends what the upstream itself
    has spoken of, a limit or the lack of money. It may yet end as answers have that speak against the key.
    """
    has_only_begun = report.finding.outcome is KeyOutcome.OK and not report.finding.is_proof
    if has_only_begun and (state.status is KeyStatus.HEALTHY or is_ejected(state)):
        return state, None
    is_counting = state.consecutive_failures or state.failed_by
    alive = replace(state, consecutive_failures=0, failed_by=None) if is_counting else state
    if state.status is not KeyStatus.HEALTHY and report.client == PROBE:
        return alive, None  # a list of models shows neither money nor room
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
    if report.finding.is_keys_own and not state.consecutive_failures:
        return state, None  # a success has come in between
    failures = state.consecutive_failures + (not report.finding.is_keys_own)
    witness = _witness(state, report)
    limit = policy.eject_after if witness == _SEVERAL else policy.eject_after_alone
    if failures < limit or is_last_usable:
        # Not counted up to the limit: the first failure beside a usable key would be one too many.
        count = min(failures, limit - 1)
        return replace(state, consecutive_failures=count, failed_by=witness), None
    doublings = min(failures - limit, 30)
    seconds = min(policy.eject_s * 2.0**doublings, policy.max_eject_s)
    count = policy.eject_after + doublings
    ejected, event = _moved(state, KeyStatus.RATE_LIMITED, report, now, seconds, count)
    return replace(ejected, failed_by=_SEVERAL), event


def _witness(state: KeyState, report: Report) -> str:
    """Say who has met the failures in a row: one client, or several, or the key alone is to blame."""
    if report.finding.is_keys_own or state.failed_by not in (None, report.client):
        return _SEVERAL
    return report.client


def _limited(
    state: KeyState, report: Report, now: datetime, policy: Policy, is_last_usable: bool
) -> tuple[KeyState, Transition | None]:
    is_over = report.sent_at >= returns_at(state)
    if is_over and state.status is not KeyStatus.EXHAUSTED:
        seconds = _limit_s(state, report, policy, is_last_usable)
        return _moved(state, KeyStatus.RATE_LIMITED, report, now, seconds)
    # Still restricted, or a probe: too fast says nothing about the money, it only has to wait.
    return _lengthened(state, report, now, may_be_probe=is_over), None


def _limit_s(state: KeyState, report: Report, policy: Policy, is_last_usable: bool) -> float:
    if report.finding.cooldown_s is not None:
        return report.finding.cooldown_s
    seconds = policy.limit_s
    if state.status is KeyStatus.RATE_LIMITED and state.cooldown_until and not is_ejected(state):
        seconds = max(seconds, 2 * (state.cooldown_until - state.since).total_seconds())
    return min(seconds, policy.last_limit_s if is_last_usable else policy.max_limit_s)


def _exhausted(
    state: KeyState, report: Report, now: datetime, policy: Policy
) -> tuple[KeyState, Transition | None]:
    if state.status is KeyStatus.EXHAUSTED and report.sent_at < returns_at(state):
        return _agreed(state, report, now), None
    return _moved(state, KeyStatus.EXHAUSTED, report, now, policy.probe_after_s)


def _suspected(state: KeyState, report: Report, now: datetime) -> tuple[KeyState, Transition | None]:
    if is_doubted(state, report.client, now):  # the same client again confirms nothing
        return state, None
    reason = report.finding.reason
    # A restriction keeps its own reason: by that an ejected key is known, which is a last resort.
    error = reason if state.status is KeyStatus.HEALTHY else state.last_error
    suspect = replace(state, suspected_by=report.client, last_error=error, updated_at=now)
    return suspect, Transition(state.status, state.status, f"suspected: {reason}", report.request_id, now)


def _lengthened(state: KeyState, report: Report, now: datetime, *, may_be_probe: bool = False) -> KeyState:
    if state.status is not KeyStatus.RATE_LIMITED and not may_be_probe:
        return state
    return _waiting(_agreed(state, report, now), now, _cooldown_s(report))


def _agreed(state: KeyState, report: Report, now: datetime) -> KeyState:
    """Return the same restriction, no hearsay any more if this is not the client that met it first."""
    if state.limited_by in (None, report.client):
        return state
    return replace(state, limited_by=None, updated_at=now)


def _waiting(state: KeyState, now: datetime, seconds: float) -> KeyState:
    """Return the same restriction, for at least `seconds` from now; never shorter."""
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
    if report.client == PROBE:
        return moved, Transition(state.status, status, reason, report.request_id, now)
    if report.finding.outcome in (KeyOutcome.RATE_LIMITED, KeyOutcome.EXHAUSTED):
        moved = replace(moved, limited_by=report.client)
    elif status is KeyStatus.ERROR and not report.finding.is_keys_own:
        moved = replace(moved, limited_by=_SEVERAL)
    return moved, Transition(state.status, status, reason, report.request_id, now)


def _cooldown_s(report: Report) -> float:
    return report.finding.cooldown_s or 0.0
