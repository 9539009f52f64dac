from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.key_states import (
    NEVER,
    KeyState,
    KeyStatus,
    Policy,
    Report,
    Standing,
    Transition,
    is_confirmed,
    merge,
    must_be_shared,
    new_state,
    reset,
    restored,
    returns_at,
    standing,
    transition,
)
from app.core.upstream_outcome import Finding, KeyOutcome

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POLICY = Policy()
HEALTHY, LIMITED, EXHAUSTED, ERROR = KeyStatus
DAY_S = 24 * 3600.0


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def report(outcome: KeyOutcome, sent_s: float, request: str = "r1", cooldown_s: float = 120) -> Report:
    cooldown = cooldown_s if outcome is KeyOutcome.RATE_LIMITED else None
    return Report(Finding(outcome, outcome.value, cooldown), request, at(sent_s))


def after(state: KeyState, *reports: tuple[KeyOutcome, float, float, str]) -> KeyState:
    """The state after (outcome, sent, arrived, request) reports."""
    for outcome, sent_s, arrived_s, request in reports:
        state, _ = transition(state, report(outcome, sent_s, request), at(arrived_s), POLICY)
    return state


NEW = new_state(START)
COOLING = after(NEW, (KeyOutcome.RATE_LIMITED, 5, 10, "r0"))
SPENT = after(NEW, (KeyOutcome.EXHAUSTED, 5, 10, "r0"))
DEAD = after(NEW, (KeyOutcome.BANNED, 5, 10, "r0"))
SUSPECTED = after(NEW, (KeyOutcome.SUSPECT, 5, 10, "r0"))
STATES = {"new": NEW, "cooling": COOLING, "spent": SPENT, "dead": DEAD, "suspected": SUSPECTED}


@pytest.mark.parametrize(
    ("state", "outcome", "sent_s", "status", "until_s", "is_event"),
    [
        # (sent, arrived one second later)
        ("new", KeyOutcome.OK, 20, HEALTHY, None, False),
        ("new", KeyOutcome.CLIENT_FAULT, 20, HEALTHY, None, False),
        ("new", KeyOutcome.NEUTRAL, 20, HEALTHY, None, False),
        ("new", KeyOutcome.FAILED, 20, HEALTHY, None, False),
        ("new", KeyOutcome.RATE_LIMITED, 20, LIMITED, 141, True),
        ("new", KeyOutcome.EXHAUSTED, 20, EXHAUSTED, 21 + DAY_S, True),
        ("new", KeyOutcome.SUSPECT, 20, HEALTHY, None, True),
        ("new", KeyOutcome.BANNED, 20, ERROR, None, True),
        # sent before the last transition: an old story
        ("new", KeyOutcome.RATE_LIMITED, -1, HEALTHY, None, False),
        ("new", KeyOutcome.BANNED, -1, HEALTHY, None, False),
        ("cooling", KeyOutcome.OK, 9, LIMITED, 130, False),
        ("cooling", KeyOutcome.EXHAUSTED, 9, LIMITED, 130, False),
        ("cooling", KeyOutcome.RATE_LIMITED, 9.5, LIMITED, 130.5, False),
        ("spent", KeyOutcome.RATE_LIMITED, 9, EXHAUSTED, 10 + DAY_S, False),
        # sent while it was restricted, by a worker that did not know
        ("cooling", KeyOutcome.OK, 60, LIMITED, 130, False),
        ("cooling", KeyOutcome.FAILED, 60, LIMITED, 130, False),
        ("cooling", KeyOutcome.RATE_LIMITED, 60, LIMITED, 181, False),
        ("cooling", KeyOutcome.EXHAUSTED, 60, EXHAUSTED, 61 + DAY_S, True),
        ("spent", KeyOutcome.OK, 60, EXHAUSTED, 10 + DAY_S, False),
        ("spent", KeyOutcome.EXHAUSTED, 60, EXHAUSTED, 10 + DAY_S, False),
        ("spent", KeyOutcome.RATE_LIMITED, DAY_S, EXHAUSTED, 10 + DAY_S, False),
        # when its time is over
        ("cooling", KeyOutcome.OK, 130, HEALTHY, None, True),
        ("cooling", KeyOutcome.CLIENT_FAULT, 130, LIMITED, 130, False),
        ("cooling", KeyOutcome.RATE_LIMITED, 130, LIMITED, 251, True),
        ("cooling", KeyOutcome.FAILED, 130, LIMITED, 130, False),
        ("spent", KeyOutcome.OK, DAY_S + 10, HEALTHY, None, True),
        ("spent", KeyOutcome.EXHAUSTED, DAY_S + 10, EXHAUSTED, 2 * DAY_S + 11, True),
        ("spent", KeyOutcome.RATE_LIMITED, DAY_S + 10, EXHAUSTED, DAY_S + 131, False),
        ("spent", KeyOutcome.FAILED, DAY_S + 10, EXHAUSTED, DAY_S + 41, False),
        ("spent", KeyOutcome.NEUTRAL, DAY_S + 10, EXHAUSTED, DAY_S + 10, False),
        # for ever
        ("dead", KeyOutcome.OK, 1e7, ERROR, None, False),
        ("dead", KeyOutcome.RATE_LIMITED, 1e7, ERROR, None, False),
    ],
)
def test_the_state_after_a_report(
    state: str, outcome: KeyOutcome, sent_s: float, status: KeyStatus, until_s: float | None, is_event: bool
) -> None:
    before = STATES[state]
    now, it = at(sent_s + 1), report(outcome, sent_s)
    moved, event = transition(before, it, now, POLICY)
    assert (moved.status, moved.cooldown_until) == (status, None if until_s is None else at(until_s))
    assert (event is not None) == is_event
    if event is not None:
        assert (event.from_status, event.to_status, event.at) == (before.status, status, now)
        assert event.request_id == "r1"
        assert must_be_shared(before, moved)
    assert moved.version == before.version


def test_a_late_limit_never_shortens_a_longer_cooldown() -> None:
    long, _ = transition(NEW, report(KeyOutcome.RATE_LIMITED, 1, cooldown_s=3600), at(2), POLICY)
    assert transition(long, report(KeyOutcome.RATE_LIMITED, 1, cooldown_s=5), at(3), POLICY) == (long, None)


def test_two_refusals_of_one_request_count_once_and_another_request_confirms() -> None:
    assert SUSPECTED.suspected_by == "r0"
    assert standing(SUSPECTED, at(11)) is Standing.USABLE
    assert after(SUSPECTED, (KeyOutcome.SUSPECT, 11, 12, "r0")) == SUSPECTED
    confirmed, event = transition(SUSPECTED, report(KeyOutcome.SUSPECT, 6, "r2"), at(12), POLICY)
    assert (confirmed.status, confirmed.suspected_by, confirmed.last_error) == (ERROR, None, "suspect")
    assert event == Transition(HEALTHY, ERROR, "suspect", "r2", at(12))


def test_only_a_success_that_is_newer_than_the_suspicion_clears_it() -> None:
    for outcome, sent_s in ((KeyOutcome.OK, 9), (KeyOutcome.CLIENT_FAULT, 20), (KeyOutcome.FAILED, 20)):
        assert after(SUSPECTED, (outcome, sent_s, 21, "r2")).suspected_by == "r0"
    cleared, event = transition(SUSPECTED, report(KeyOutcome.OK, 10, "r2"), at(21), POLICY)
    assert cleared == replace(NEW, updated_at=at(21))
    assert event == Transition(HEALTHY, HEALTHY, "cleared", "r2", at(21))
    # The status did not change, so a limit from before still counts.
    assert after(cleared, (KeyOutcome.RATE_LIMITED, 15, 22, "r3")).status is LIMITED


def test_a_probe_can_be_suspected_too() -> None:
    doubted = after(SPENT, (KeyOutcome.SUSPECT, DAY_S + 10, DAY_S + 11, "r1"))
    assert (doubted.status, doubted.suspected_by) == (EXHAUSTED, "r1")
    assert after(doubted, (KeyOutcome.OK, DAY_S + 10, DAY_S + 12, "r2")).status is EXHAUSTED
    assert after(doubted, (KeyOutcome.OK, DAY_S + 12, DAY_S + 13, "r2")).status is HEALTHY
    assert after(doubted, (KeyOutcome.SUSPECT, DAY_S + 12, DAY_S + 13, "r2")).status is ERROR


def test_failures_in_a_row_eject_and_each_further_one_doubles_the_time() -> None:
    state, now = NEW, 0.0
    for _ in range(4):
        state = after(state, (KeyOutcome.FAILED, now, now + 1, "r"))
        now += 1
    assert (state.status, state.consecutive_failures) == (HEALTHY, 4)
    assert not must_be_shared(NEW, state)
    waits = []
    for _ in range(6):
        state, event = transition(state, report(KeyOutcome.FAILED, now), at(now), POLICY)
        assert event is not None
        assert state.cooldown_until is not None
        waits.append((state.cooldown_until - at(now)).total_seconds())
        now += waits[-1]
    assert waits == [30, 60, 120, 240, 300, 300]
    assert after(state, (KeyOutcome.OK, now, now, "r")) == replace(NEW, since=at(now), updated_at=at(now))


@pytest.mark.parametrize("outcome", [KeyOutcome.OK, KeyOutcome.CLIENT_FAULT, KeyOutcome.RATE_LIMITED])
def test_an_answer_ends_a_row_of_failures(outcome: KeyOutcome) -> None:
    failed = after(NEW, *((KeyOutcome.FAILED, n, n, "r") for n in range(4)))
    assert after(failed, (outcome, 9, 9, "r")).consecutive_failures == 0


def test_the_last_usable_key_is_not_ejected_and_then_stands_close_to_it() -> None:
    state = NEW
    for n in range(20):
        state, event = transition(state, report(KeyOutcome.FAILED, n), at(n), POLICY, is_last_usable=True)
        assert event is None
    assert (state.status, state.consecutive_failures) == (HEALTHY, 4)
    ejected = after(state, (KeyOutcome.FAILED, 30, 30, "r"))
    assert ejected.cooldown_until == at(60)


def test_an_operators_reset_ends_everything_and_outlives_what_came_before_it() -> None:
    for state in STATES.values():
        fresh, event = reset(state, at(50))
        assert standing(fresh, at(50)) is Standing.USABLE
        assert event == Transition(state.status, HEALTHY, "reset", None, at(50))
        assert merge(fresh, state) == merge(state, fresh) == fresh
        assert after(fresh, (KeyOutcome.BANNED, 49, 60, "r")) == fresh
        # even by a host whose clock is behind, and by one that adds the key anew
        assert merge(reset(fresh, at(-100))[0], fresh).since == at(-100)
        assert merge(new_state(at(51)), fresh).since == at(51)


def test_standing_follows_time() -> None:
    assert standing(COOLING, at(129.9)) is Standing.RESTRICTED
    assert standing(COOLING, at(130)) is Standing.USABLE
    assert standing(SPENT, at(DAY_S)) is Standing.RESTRICTED
    assert standing(SPENT, at(DAY_S + 10)) is Standing.HALF_OPEN
    assert standing(DEAD, at(1e8)) is Standing.RESTRICTED
    assert returns_at(DEAD) == NEVER


def test_stored_states_come_back() -> None:
    full = restored(
        "exhausted",
        anchor=SPENT.updated_at,
        since=SPENT.since,
        cooldown_until=SPENT.cooldown_until,
        last_error=SPENT.last_error,
        version=SPENT.version,
        policy=POLICY,
    )
    assert full == SPENT
    assert restored("healthy", anchor=START, cooldown_until=at(9), policy=POLICY).cooldown_until is None
    assert restored("error", anchor=START, last_error="x", policy=POLICY).last_error == "x"
    assert restored("rate_limited", anchor=START, policy=POLICY).cooldown_until == at(30)
    assert restored("exhausted", anchor=START, policy=POLICY).cooldown_until == at(DAY_S)
    odd = restored("using_failover", anchor=START, policy=POLICY)
    assert (odd.status, odd.last_error) == (ERROR, "unknown status using_failover")


def test_a_reload_does_not_resurrect_a_key_that_was_just_limited() -> None:
    for restricted in (COOLING, SPENT, DEAD):
        for stored in (NEW, SUSPECTED, replace(NEW, updated_at=at(60))):
            assert merge(restricted, stored) == merge(stored, restricted) == restricted


def test_a_recovery_is_told_to_the_others() -> None:
    recovered = after(COOLING, (KeyOutcome.OK, 130, 131, "r"))
    assert merge(COOLING, recovered) == recovered
    assert merge(recovered, SPENT) == SPENT
    probed = after(SPENT, (KeyOutcome.OK, DAY_S + 10, DAY_S + 11, "r"))
    assert merge(SPENT, probed) == probed


def test_the_longer_restriction_wins() -> None:
    longer = after(COOLING, (KeyOutcome.RATE_LIMITED, 60, 61, "r"))
    assert merge(COOLING, longer) == longer
    assert merge(longer, SPENT) == SPENT
    assert merge(SPENT, DEAD) == DEAD


MOMENTS = st.integers(0, 6).map(lambda n: at(n * 40))
OUTCOMES = st.sampled_from(list(KeyOutcome))
STEPS = st.lists(
    st.tuples(OUTCOMES, st.integers(0, 12), st.integers(0, 3), st.sampled_from(["r1", "r2", "r3"])),
    max_size=8,
)
SHORT = Policy(probe_after_s=300, eject_after=2, eject_s=20, max_eject_s=60)


@st.composite
def reachable(draw: st.DrawFn) -> KeyState:
    """A state some worker may be in: any reports, in any order, and resets."""
    state = replace(NEW, version=0)
    now = 0.0
    for outcome, back, forth, request in draw(STEPS):
        now += forth * 40
        it = report(outcome, now - back * 10, request)
        state, _ = transition(state, it, at(now), SHORT)
        if draw(st.integers(0, 9)) == 9:
            state = replace(reset(state, at(now))[0], version=state.version + 1)
    return state


@given(reachable(), reachable(), reachable())
def test_merging_is_commutative_associative_and_idempotent(a: KeyState, b: KeyState, c: KeyState) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, a) == a
    assert merge(a, merge(a, b)) == merge(a, b)
    assert merge(a, b) in (a, b)


@given(reachable(), OUTCOMES, st.integers(0, 12), st.integers(1, 20))
def test_what_a_worker_learns_beats_what_it_knew(
    state: KeyState, outcome: KeyOutcome, back: int, forth: int
) -> None:
    """Or else its own write would be undone by the next reload."""
    now_s = 1000.0 + forth * 40
    moved, event = transition(state, report(outcome, now_s - back * 10, "r9"), at(now_s), SHORT)
    if must_be_shared(state, moved):
        assert merge(state, moved) == moved
        assert moved.updated_at == at(now_s)
    else:
        assert event is None


@given(reachable(), OUTCOMES, st.integers(1, 400))
def test_an_old_report_changes_no_status_and_shortens_nothing(
    state: KeyState, outcome: KeyOutcome, age: int
) -> None:
    sent = state.since - timedelta(seconds=age)
    old = Report(Finding(outcome, "x", 60 if outcome is KeyOutcome.RATE_LIMITED else None), "r9", sent)
    moved, event = transition(state, old, at(2000), SHORT)
    assert (moved.status, event) == (state.status, None)
    assert returns_at(moved) >= returns_at(state)


@given(reachable(), OUTCOMES, st.integers(0, 2000))
def test_what_is_only_confirmed_changes_nothing(state: KeyState, outcome: KeyOutcome, sent_s: int) -> None:
    it = report(outcome, sent_s, "r9")
    if is_confirmed(state, it.finding):
        assert transition(state, it, at(2000), SHORT) == (state, None)
    if outcome is KeyOutcome.OK:
        assert is_confirmed(NEW, it.finding)
