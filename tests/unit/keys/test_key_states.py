from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_states import (
    NEVER,
    PROBE,
    Availability,
    KeyState,
    KeyStatus,
    Policy,
    Report,
    Transition,
    availability,
    capped,
    is_confirmed,
    is_doubted,
    is_ejected,
    is_hearsay,
    is_refused,
    learned,
    merge,
    must_be_shared,
    new_state,
    next_probe,
    reset,
    restored,
    returns_at,
    transition,
    uncapped,
)
from app.keys.upstream_outcome import BEGUN, Finding, KeyOutcome

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POLICY = Policy()
HEALTHY, LIMITED, EXHAUSTED, ERROR = KeyStatus
DAY_S = 24 * 3600.0
SAYS_NO = Finding(KeyOutcome.CLIENT_FAULT, "client_fault")
SAYS_YES = Finding(KeyOutcome.OK, "ok")
REFUSED = Finding(KeyOutcome.SUSPECT, "unauthorized")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def report(
    outcome: KeyOutcome, sent_s: float, request: str = "r1", cooldown_s: float = 120, client: str = ""
) -> Report:
    cooldown = cooldown_s if outcome is KeyOutcome.RATE_LIMITED else None
    return Report(
        Finding(outcome, outcome.value, cooldown), request, at(sent_s), client or f"user of {request}"
    )


def after(state: KeyState, *reports: tuple[KeyOutcome, float, float, str]) -> KeyState:
    """The state after (outcome, sent, arrived, request) reports."""
    for outcome, sent_s, arrived_s, request in reports:
        state, _ = transition(state, report(outcome, sent_s, request), at(arrived_s), POLICY)
    return state


NEW = new_state(START)
COOLING = after(NEW, (KeyOutcome.RATE_LIMITED, 5, 10, "r0"))
SPENT = after(NEW, (KeyOutcome.EXHAUSTED, 5, 10, "r0"))
DEAD = after(NEW, (KeyOutcome.BANNED, 5, 9, "r0"), (KeyOutcome.BANNED, 5, 10, "r1"))
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
        ("new", KeyOutcome.BANNED, 20, HEALTHY, None, True),
        ("new", KeyOutcome.MODEL_LIMITED, 20, HEALTHY, None, False),
        ("suspected", KeyOutcome.BANNED, 20, ERROR, None, True),
        ("suspected", KeyOutcome.SUSPECT, 20, ERROR, None, True),
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


def test_refusals_of_one_client_count_once_and_another_client_confirms() -> None:
    assert SUSPECTED.suspected_by == "user of r0"
    assert availability(SUSPECTED, at(11)) is Availability.USABLE
    again = report(KeyOutcome.BANNED, 11, "r5", client="user of r0")
    assert transition(SUSPECTED, again, at(12), POLICY) == (SUSPECTED, None)
    confirmed, event = transition(SUSPECTED, report(KeyOutcome.SUSPECT, 6, "r2"), at(12), POLICY)
    assert (confirmed.status, confirmed.suspected_by, confirmed.last_error) == (ERROR, None, "suspect")
    assert event == Transition(HEALTHY, ERROR, "suspect", "r2", at(12))


def test_only_a_success_that_is_newer_than_the_suspicion_clears_it() -> None:
    for outcome, sent_s in ((KeyOutcome.OK, 9), (KeyOutcome.CLIENT_FAULT, 20), (KeyOutcome.FAILED, 20)):
        assert after(SUSPECTED, (outcome, sent_s, 21, "r2")).suspected_by == "user of r0"
    cleared, event = transition(SUSPECTED, report(KeyOutcome.OK, 10, "r2"), at(21), POLICY)
    assert cleared == replace(NEW, updated_at=at(21))
    assert event == Transition(HEALTHY, HEALTHY, "cleared", "r2", at(21))
    # The status did not change, so a limit from before still counts.
    assert after(cleared, (KeyOutcome.RATE_LIMITED, 15, 22, "r3")).status is LIMITED


def test_a_probe_can_be_suspected_too() -> None:
    doubted = after(SPENT, (KeyOutcome.SUSPECT, DAY_S + 10, DAY_S + 11, "r1"))
    assert (doubted.status, doubted.suspected_by) == (EXHAUSTED, "user of r1")
    assert after(doubted, (KeyOutcome.OK, DAY_S + 10, DAY_S + 12, "r2")).status is EXHAUSTED
    assert after(doubted, (KeyOutcome.OK, DAY_S + 12, DAY_S + 13, "r2")).status is HEALTHY
    assert after(doubted, (KeyOutcome.SUSPECT, DAY_S + 12, DAY_S + 13, "r2")).status is ERROR


def test_a_suspicion_that_nobody_has_confirmed_for_long_is_nothing_to_build_on() -> None:
    assert is_doubted(SUSPECTED, "user of r0", at(600))
    assert not is_doubted(SUSPECTED, "user of r9", at(600))
    renewed = after(SUSPECTED, (KeyOutcome.SUSPECT, 700, 701, "r9"))
    assert (renewed.status, renewed.suspected_by) == (HEALTHY, "user of r9")


def test_the_pools_own_probe_confirms_and_clears_at_once() -> None:
    refused = report(KeyOutcome.SUSPECT, 11, "probe", client=PROBE)
    assert transition(SUSPECTED, refused, at(12), POLICY)[0].status is ERROR
    cleared, event = transition(SUSPECTED, report(KeyOutcome.OK, 11, client=PROBE), at(12), POLICY)
    assert (cleared.status, cleared.suspected_by) == (HEALTHY, None)
    assert event is not None
    # A list of models shows neither money nor room.
    for state, sent_s in ((SPENT, DAY_S + 20), (COOLING, 131)):
        ok = report(KeyOutcome.OK, sent_s, client=PROBE)
        assert transition(state, ok, at(sent_s), POLICY)[0].status is state.status


def test_a_ban_is_looked_into_ever_less_often_and_ends_when_the_key_is_served_again() -> None:
    state, waits = DEAD, []
    for _ in range(9):
        due = next_probe(state)
        waits.append((due - state.updated_at).total_seconds())
        state, event = transition(state, Report(SAYS_NO, "probe", due, PROBE), due, POLICY)
        assert (state.status, event) == (ERROR, None)
    assert waits == [60, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    due = next_probe(state)
    healed, event = transition(state, Report(SAYS_YES, "probe", due, PROBE), due, POLICY)
    assert event == Transition(ERROR, HEALTHY, "probe", None, due)
    assert merge(healed, state) == merge(healed, DEAD) == healed
    assert transition(DEAD, Report(SAYS_YES, "r", due, "ann"), due, POLICY) == (DEAD, None)


@pytest.mark.parametrize("outcome", [KeyOutcome.RATE_LIMITED, KeyOutcome.EXHAUSTED])
def test_a_restriction_is_hearsay_until_a_second_client_meets_it(outcome: KeyOutcome) -> None:
    alone = after(NEW, (outcome, 5, 10, "r0"))
    assert is_hearsay(alone, "user of r1")
    assert not is_hearsay(alone, "user of r0")
    assert after(alone, (outcome, 6, 11, "r0")).limited_by == "user of r0"
    for late_s in (6, 60):  # sent before it was known, or as a last resort
        agreed = after(alone, (outcome, late_s, 61, "r1"))
        assert (agreed.status, agreed.limited_by) == (alone.status, None)
        assert merge(alone, agreed) == agreed
        assert returns_at(agreed) >= returns_at(alone)
    # Another key served that request: it may have wider limits, or a larger balance.
    served = Report(Finding(outcome, "x", is_keys_own=True), "r0", at(5), "user of r0")
    assert transition(alone, served, at(61), POLICY)[0].limited_by == "user of r0"


@pytest.mark.parametrize("outcome", [KeyOutcome.RATE_LIMITED, KeyOutcome.EXHAUSTED])
def test_what_two_workers_have_met_for_a_client_each_is_everybodys(outcome: KeyOutcome) -> None:
    first, second = after(NEW, (outcome, 5, 10, "r0")), after(NEW, (outcome, 5, 11, "r1"))
    agreed = after(first, (outcome, 5, 12, "r2"))
    for mine, stored in permutations((first, second, agreed), 2):
        known = learned(mine, stored, at(12))
        assert known.limited_by is None
        assert returns_at(known) == max(returns_at(mine), returns_at(stored))
        assert merge(known, mine) == merge(known, stored) == known
        assert learned(known, second, at(13)).limited_by is None
    same = after(NEW, (outcome, 5, 11, "r0"))
    assert learned(first, same, at(12)) == merge(first, same)
    over = returns_at(first)
    assert learned(first, second, over) == merge(first, second)
    assert learned(NEW, second, at(12)) == second
    again = replace(second, version=second.version + 1)
    assert learned(first, again, at(12)) == again


def test_a_limit_of_one_client_is_not_confirmed_by_failures() -> None:
    ejected = replace(COOLING, limited_by=None, last_error="server_error")
    assert learned(ejected, COOLING, at(12)) == merge(ejected, COOLING)


def test_a_ban_by_clients_alone_is_hearsay_until_it_is_proved() -> None:
    assert DEAD.status is ERROR
    assert is_hearsay(DEAD, "user of r0")
    assert is_hearsay(DEAD, "somebody else")
    later = at(60)
    for client, finding, is_proof in (
        (PROBE, REFUSED, True),
        ("user of r1", replace(REFUSED, is_keys_own=True), True),
        ("user of r1", REFUSED, False),
        (PROBE, SAYS_NO, False),
    ):
        told, event = transition(DEAD, Report(finding, "r", later, client), later, POLICY)
        assert (told.status, event) == (ERROR, None)
        assert is_hearsay(told, "somebody else") is not is_proof
        assert merge(DEAD, told) == told
    proved, _ = transition(SUSPECTED, Report(REFUSED, "probe", later, PROBE), later, POLICY)
    assert (proved.status, proved.limited_by) == (ERROR, None)


def test_an_ejected_key_that_is_suspected_as_well_stays_one() -> None:
    ejected, failed = NEW, Finding(KeyOutcome.FAILED, "server_error")
    for n in range(1, 6):
        ejected, _ = transition(ejected, Report(failed, "r", at(n), f"user {n}"), at(n), POLICY)
    assert is_ejected(ejected)
    bare = Finding(KeyOutcome.EXHAUSTED, "payment_required", is_proof=False)
    suspected, event = transition(ejected, Report(bare, "r9", at(6), "ann"), at(7), POLICY)
    assert event is not None
    assert (suspected.suspected_by, is_ejected(suspected)) == ("ann", True)


def test_the_bare_word_of_one_client_empties_no_account() -> None:
    bare = Finding(KeyOutcome.EXHAUSTED, "payment_required", is_proof=False)
    doubted, _ = transition(NEW, Report(bare, "r0", at(5), "ann"), at(6), POLICY)
    assert (doubted.status, doubted.suspected_by) == (HEALTHY, "ann")
    assert transition(doubted, Report(bare, "r1", at(7), "ann"), at(8), POLICY)[0] == doubted
    assert transition(doubted, Report(bare, "r1", at(7), "bob"), at(8), POLICY)[0].status is EXHAUSTED
    proof = Report(bare.keys_own(), "r0", at(5), "ann")
    assert transition(doubted, proof, at(8), POLICY)[0].status is EXHAUSTED


def test_a_limit_without_an_end_is_short_and_grows_and_never_keeps_the_last_key_away_for_long() -> None:
    waits: dict[bool, list[float]] = {False: [], True: []}
    for is_last, seconds in waits.items():
        state, now = NEW, 10.0
        for _ in range(7):
            limit = Report(Finding(KeyOutcome.RATE_LIMITED, "rate_limited"), "r", at(now), "ann")
            state, _ = transition(state, limit, at(now), POLICY, is_last_usable=is_last)
            seconds.append((returns_at(state) - at(now)).total_seconds())
            now += seconds[-1]
    assert waits == {False: [5, 10, 20, 40, 80, 120, 120], True: [5, 10, 10, 10, 10, 10, 10]}


def test_it_takes_many_failures_of_one_client_unless_another_key_has_served_the_request() -> None:
    state = NEW
    for n in range(19):
        state, event = transition(state, report(KeyOutcome.FAILED, n, client="ann"), at(n), POLICY)
        assert (state.status, event) == (HEALTHY, None)
    last, _ = transition(state, report(KeyOutcome.FAILED, 60, client="ann"), at(60), POLICY)
    assert (last.status, last.consecutive_failures, returns_at(last)) == (LIMITED, 5, at(90))
    by_another = report(KeyOutcome.FAILED, 60, client="bob")
    assert transition(state, by_another, at(60), POLICY)[0].status is LIMITED
    served = Report(Finding(KeyOutcome.FAILED, "x", is_keys_own=True), "r", at(18), "ann")
    known, event = transition(state, served, at(60), POLICY)
    assert (known.status, event is not None) == (LIMITED, True)
    recovered = after(state, (KeyOutcome.OK, 60, 61, "r"))
    assert transition(recovered, served, at(62), POLICY) == (recovered, None)


def test_failures_in_a_row_eject_and_each_further_one_doubles_the_time() -> None:
    state, now = NEW, 0.0
    for n in range(4):
        state = after(state, (KeyOutcome.FAILED, now, now + 1, f"r{n}"))
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


def test_an_answer_that_has_only_begun_proves_nothing_that_its_end_may_disprove() -> None:
    """A key whose answers all break off is put away although each of them begins well."""
    state, now = NEW, 0.0
    for client in ("ann", "bob", "ann", "bob", "ann"):
        assert state.status is HEALTHY
        for finding in (BEGUN, Finding(KeyOutcome.FAILED, "truncated")):
            state, _ = transition(state, Report(finding, "r", at(now), client), at(now), POLICY)
        now += 1
    assert state.status is LIMITED
    ejected, event = transition(state, Report(BEGUN, "r", at(60), "ann"), at(61), POLICY)
    assert (ejected, event) == (state, None)
    assert transition(state, Report(SAYS_YES, "r", at(60), "ann"), at(61), POLICY)[0].status is HEALTHY
    assert transition(SUSPECTED, Report(BEGUN, "r", at(60), "bob"), at(61), POLICY) == (SUSPECTED, None)


def test_an_answer_that_has_begun_ends_a_limit_and_the_lack_of_money() -> None:
    for state, sent_s in ((COOLING, 130), (SPENT, DAY_S + 10)):
        begun, event = transition(state, Report(BEGUN, "r", at(sent_s), "ann"), at(sent_s + 1), POLICY)
        assert (begun.status, event is not None) == (HEALTHY, True)


@pytest.mark.parametrize("outcome", [KeyOutcome.OK, KeyOutcome.CLIENT_FAULT, KeyOutcome.RATE_LIMITED])
def test_an_answer_ends_a_row_of_failures(outcome: KeyOutcome) -> None:
    failed = after(NEW, *((KeyOutcome.FAILED, n, n, "r") for n in range(4)))
    assert after(failed, (outcome, 9, 9, "r")).consecutive_failures == 0


def test_the_last_usable_key_is_not_ejected_and_then_stands_close_to_it() -> None:
    state = NEW
    for n in range(20):
        state, event = transition(
            state, report(KeyOutcome.FAILED, n, f"r{n}"), at(n), POLICY, is_last_usable=True
        )
        assert event is None
    assert (state.status, state.consecutive_failures) == (HEALTHY, 4)
    ejected = after(state, (KeyOutcome.FAILED, 30, 30, "r"))
    assert ejected.cooldown_until == at(60)


def test_an_operators_reset_ends_everything_and_outlives_what_came_before_it() -> None:
    for state in STATES.values():
        fresh, event = reset(state, at(50))
        assert availability(fresh, at(50)) is Availability.USABLE
        assert event == Transition(state.status, HEALTHY, "reset", None, at(50))
        assert merge(fresh, state) == merge(state, fresh) == fresh
        assert after(fresh, (KeyOutcome.BANNED, 49, 60, "r")) == fresh
        # even by a host whose clock is behind, and by one that adds the key anew
        assert merge(reset(fresh, at(-100))[0], fresh).since == at(-100)
        assert merge(new_state(at(51)), fresh).since == at(51)


def test_standing_follows_time() -> None:
    assert availability(COOLING, at(129.9)) is Availability.RESTRICTED
    assert availability(COOLING, at(130)) is Availability.USABLE
    assert availability(SPENT, at(DAY_S)) is Availability.RESTRICTED
    assert availability(SPENT, at(DAY_S + 10)) is Availability.HALF_OPEN
    assert availability(DEAD, at(1e8)) is Availability.RESTRICTED
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
    assert full == replace(SPENT, limited_by=None)
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
    old = Report(Finding(outcome, "x", 60 if outcome is KeyOutcome.RATE_LIMITED else None), "r9", sent, "u9")
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


# Caps


def test_a_refused_key_whose_cap_is_used_up_is_exhausted_until_the_cap_is_raised() -> None:
    healthy = new_state(at(0))
    suspected, _ = transition(healthy, Report(REFUSED, "r", at(1), "ann"), at(1), POLICY)
    banned, _ = transition(suspected, Report(REFUSED, "r", at(2), PROBE), at(2), POLICY)
    assert banned.status is ERROR
    for refused in (suspected, banned):
        assert is_refused(refused)
        state, event = capped(refused, at(3), POLICY)
        assert (state.status, state.last_error, event.why) == (EXHAUSTED, "capped", "capped")
        assert merge(state, refused) == merge(refused, state) == state
        raised = uncapped(state, at(4))
        assert raised is not None
        assert (raised[0].status, raised[1].why) == (HEALTHY, "cap raised")
        assert merge(raised[0], state) == raised[0]


def test_caps_say_nothing_about_other_states() -> None:
    unpaid = after(new_state(at(0)), (KeyOutcome.EXHAUSTED, 1, 1, "r1"))
    assert unpaid.status is EXHAUSTED
    assert not is_refused(unpaid)
    assert uncapped(unpaid, at(2)) is None
    assert not is_refused(new_state(at(0)))
