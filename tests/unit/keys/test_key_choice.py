from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.keys.key_choice import (
    ANY_KEY,
    Candidate,
    CandidateIndex,
    Chosen,
    KeyRequest,
    KeyWish,
    Limits,
    NoKey,
    Shortage,
    Turn,
    choose,
    usable_count,
)
from app.keys.key_states import KeyState, KeyStatus, Policy, Report, new_state, reset, transition
from app.keys.upstream_outcome import Finding, KeyOutcome

START = datetime(2026, 11, 23, 12, 0, 15, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def tried(ids: str) -> KeyRequest:
    return KeyRequest(tried=frozenset(ids))


def state_of(status: KeyStatus, until_s: float | None = None) -> KeyState:
    return KeyState(status, START, START, None if until_s is None else at(until_s))


UP = new_state(START)
COOLING = state_of(KeyStatus.RATE_LIMITED, 30)
SPENT = state_of(KeyStatus.EXHAUSTED, 3600)
DUE = state_of(KeyStatus.EXHAUSTED, 0)
DEAD = state_of(KeyStatus.ERROR)
EARLIER = state_of(KeyStatus.RATE_LIMITED, 20)
FAST = Candidate("q", UP, rate_full_until=at(45))


def chosen_ids(candidates: list[Candidate], count: int, turn: Turn = Turn()) -> str:  # noqa: B008
    ids = []
    for _ in range(count):
        choice = choose(candidates, START, turn)
        assert isinstance(choice, Chosen)
        ids.append(choice.candidate.key_id)
        turn = choice.turn
    return "".join(ids)


def test_idle_keys_serve_in_turn() -> None:
    keys = [Candidate(key_id, UP) for key_id in "abc"]
    assert chosen_ids(keys, 7) == "abcabca"
    assert chosen_ids(keys, 3, Turn(7)) == "bca"


def test_the_least_busy_key_comes_first() -> None:
    keys = [Candidate("a", UP, in_flight=2), Candidate("b", UP, in_flight=1), Candidate("c", UP, in_flight=1)]
    assert chosen_ids(keys, 4) == "bcbc"


def test_a_weight_is_a_share_of_the_turns_and_of_the_load() -> None:
    assert chosen_ids([Candidate("a", UP, limits=Limits(weight=2)), Candidate("b", UP)], 6) == "aabaab"
    busy = [Candidate("a", UP, in_flight=3, limits=Limits(weight=2)), Candidate("b", UP, in_flight=1)]
    assert chosen_ids(busy, 2) == "bb"
    busy[0] = Candidate("a", UP, in_flight=1, limits=Limits(weight=2))
    assert chosen_ids(busy, 2) == "aa"


def test_restricted_tried_and_full_keys_are_passed_over() -> None:
    full = Candidate("f", UP, in_flight=2, limits=Limits(max_in_flight=2))
    slow = Candidate("s", UP, in_flight=5, rate_full_until=START, limits=Limits(max_in_flight=6))
    keys = [Candidate("c", COOLING), Candidate("x", SPENT), Candidate("d", DEAD), full, FAST, slow]
    assert chosen_ids(keys, 2) == "ss"
    assert isinstance(choose(keys, START, Turn(), tried("s")), NoKey)


def test_a_half_open_key_gets_one_probe_at_a_time() -> None:
    keys = [Candidate("a", UP, in_flight=1), Candidate("p", DUE)]
    choice = choose(keys, START, Turn())
    assert isinstance(choice, Chosen)
    assert (choice.candidate.key_id, choice.is_probe) == ("p", True)
    for probed in (Candidate("p", DUE, in_flight=1), Candidate("p", DUE, may_probe=False)):
        choice = choose([keys[0], probed], START, Turn())
        assert isinstance(choice, Chosen)
        assert (choice.candidate.key_id, choice.is_probe) == ("a", False)
        alone = choose([probed], START, Turn())
        assert alone == NoKey(Shortage.BUSY, {Shortage.BUSY: 1}, at(1))


@pytest.mark.parametrize(
    ("candidates", "reason", "retry_at", "is_brief", "text"),
    [
        ([], Shortage.NO_KEYS, None, False, "there is none"),
        ([Candidate("d", DEAD)], Shortage.ERROR, None, False, "1 error"),
        (
            [Candidate("d", DEAD), Candidate("x", SPENT)],
            Shortage.EXHAUSTED,
            at(3600),
            False,
            "1 exhausted, 1 error",
        ),
        (
            [Candidate("x", SPENT), Candidate("c", COOLING)],
            Shortage.COOLING,
            at(30),
            True,
            "1 cooling, 1 exhausted",
        ),
        ([Candidate("c", COOLING), Candidate("e", EARLIER)], Shortage.COOLING, at(20), True, "2 cooling"),
        ([Candidate("c", COOLING), FAST], Shortage.BUSY, at(45), True, "1 busy, 1 cooling"),
        ([Candidate("t", UP), Candidate("d", DEAD)], Shortage.ALL_TRIED, at(1), True, "1 all_tried, 1 error"),
    ],
)
def test_a_shortage_is_explained(
    candidates: list[Candidate], reason: Shortage, retry_at: datetime | None, is_brief: bool, text: str
) -> None:
    shortage = choose(candidates, START, Turn(), tried("t"))
    assert isinstance(shortage, NoKey)
    assert (shortage.reason, shortage.retry_at, shortage.is_brief) == (reason, retry_at, is_brief)
    assert str(shortage) == f"no upstream key can serve: {text}"


def test_usable_keys_are_those_that_need_no_trial() -> None:
    assert usable_count([Candidate("a", UP), Candidate("p", DUE), Candidate("c", COOLING)], START) == 1
    assert usable_count([Candidate("c", COOLING)], at(30)) == 1


IDS = "abc"
# Mostly what keeps keys alive: a run in which all are dead shows nothing.
ARRIVALS = st.sampled_from([*KeyOutcome, *3 * [KeyOutcome.OK, KeyOutcome.RATE_LIMITED, KeyOutcome.EXHAUSTED]])
POLICY = Policy(probe_after_s=200, eject_after=2, eject_s=20, max_eject_s=60)


@dataclass
class Sent:
    key_id: str
    request_id: str
    sent_at: datetime
    is_ours: bool = True


@dataclass
class Model:
    """What a person would keep on paper about a key: until when it rests, what it rests for, who runs."""

    rests_until: float = 0.0
    is_dead: bool = False
    is_spent: bool = False
    running: int = 0
    limits: Limits = field(default_factory=Limits)

    def is_open(self, now_s: float) -> bool:
        if self.is_dead or now_s < self.rests_until:
            return False
        if self.is_spent and self.running:
            return False
        return self.limits.max_in_flight is None or self.running < self.limits.max_in_flight


class KeysInUse(RuleBasedStateMachine):
    """Requests, their late and unordered reports, time and resets, against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.turn = Turn()
        self.states = dict.fromkeys(IDS, UP)
        self.models = {key_id: Model() for key_id in IDS}
        self.models["c"].limits = Limits(max_in_flight=2)
        self.flying: list[Sent] = []
        self.count = 0
        self.roster = CandidateIndex(self.candidates())

    now = property(lambda self: at(self.now_s))

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(key_id, self.states[key_id], model.running, limits=model.limits, lot=ord(key_id) << 50)
            for key_id, model in self.models.items()
        ]

    @rule(
        ids=st.frozensets(st.sampled_from(IDS), max_size=2),
        conversation=st.none() | st.integers(0, 2**64 - 1),
    )
    def send(self, ids: frozenset[str], conversation: int | None) -> None:
        for index, candidate in enumerate(self.candidates()):
            if candidate != self.roster.candidates[index]:
                self.roster.put(index, candidate)
        wanted = KeyRequest("ann", tried=ids, wish=KeyWish(conversation))
        choice = self.roster.choose(self.now, self.turn, wanted)
        assert choice == choose(self.candidates(), self.now, self.turn, wanted)
        is_open = {i: model for i, model in self.models.items() if i not in ids and model.is_open(self.now_s)}
        if isinstance(choice, NoKey):
            assert not is_open, "a usable key was passed over"
            return
        key_id = choice.candidate.key_id
        if is_open:
            assert key_id in is_open, "a restricted, tried or full key was used"
            fewest = min(model.running for model in is_open.values())
            assert is_open[key_id].running == fewest or conversation is not None
            assert choice.is_probe == self.models[key_id].is_spent
        else:  # the last resort: a key of which clients alone say that it is dead
            model = self.models[key_id]
            assert (model.is_dead, key_id in ids) == (True, False)
            assert model.limits.max_in_flight is None or model.running < model.limits.max_in_flight
        self.turn = choice.turn
        self.models[key_id].running += 1
        self.count += 1
        self.flying.append(Sent(key_id, f"r{self.count}", self.now))

    @rule(key_id=st.sampled_from(IDS))
    def another_worker_sends(self, key_id: str) -> None:
        """It may not know yet that the key rests."""
        self.count += 1
        self.flying.append(Sent(key_id, f"r{self.count}", self.now, is_ours=False))

    @precondition(lambda self: self.recoveries_s)
    @rule(before_s=st.sampled_from([0.0, 0.0, 0.001]))
    def wait_for_a_recovery(self, before_s: float) -> None:
        self.now_s = max(self.now_s, min(self.recoveries_s) - before_s)

    @rule(seconds=st.sampled_from([0.5, 5, 25, 120, 250]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), outcome=ARRIVALS, cooldown_s=st.sampled_from([10.0, 100.0]))
    def arrive(self, data: st.DataObject, outcome: KeyOutcome, cooldown_s: float) -> None:
        sent = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        before = self.states[sent.key_id]
        finding = Finding(outcome, "x", cooldown_s if outcome is KeyOutcome.RATE_LIMITED else None)
        is_last = usable_count(self.candidates(), self.now) == 1
        # Limits are everybody's here, so that what rests is never used; what needs several clients has them.
        is_limit = outcome in (KeyOutcome.RATE_LIMITED, KeyOutcome.EXHAUSTED)
        client = "ann" if is_limit else sent.request_id
        after, event = transition(
            before,
            Report(finding, sent.request_id, sent.sent_at, client),
            self.now,
            POLICY,
            is_last_usable=is_last,
        )
        self.states[sent.key_id] = after
        model = self.models[sent.key_id]
        model.running -= sent.is_ours
        self.check_step(model, before, after, sent, outcome)
        if event is not None:
            assert (event.from_status, event.to_status) == (before.status, after.status)
        model.is_dead = after.status is KeyStatus.ERROR
        model.is_spent = after.status is KeyStatus.EXHAUSTED
        model.rests_until = ((after.cooldown_until or START) - START).total_seconds()

    def check_step(
        self, model: Model, before: KeyState, after: KeyState, sent: Sent, outcome: KeyOutcome
    ) -> None:
        """A rest only gets longer, unless a success of a request sent after it ends it; death is final."""
        sent_s = (sent.sent_at - START).total_seconds()
        if model.is_dead:
            assert after == before
        elif after.status is KeyStatus.HEALTHY:
            was_proven = outcome is KeyOutcome.OK and sent_s >= model.rests_until
            assert was_proven or before.status is KeyStatus.HEALTHY
        elif after.status is KeyStatus.ERROR:
            assert outcome in (KeyOutcome.BANNED, KeyOutcome.SUSPECT)
        else:
            assert after.cooldown_until is not None
            assert after.cooldown_until >= at(model.rests_until)
            assert after.cooldown_until <= max(at(model.rests_until), at(self.now_s + 200))

    @rule(key_id=st.sampled_from(IDS))
    def operator_resets(self, key_id: str) -> None:
        self.states[key_id], _ = reset(self.states[key_id], self.now)
        model = self.models[key_id]
        self.models[key_id] = Model(running=model.running, limits=model.limits)

    @rule()
    def everything_comes_back(self) -> None:
        """Let the time of every restriction pass: all but dead keys serve, in turn, each as often."""
        when = at(self.now_s + 1000)
        idle = [Candidate(key_id, state) for key_id, state in self.states.items()]
        wanted = KeyRequest("ann")
        alive = [key_id for key_id, model in self.models.items() if not model.is_dead]
        turn, served = self.turn, Counter[str]()
        for _ in range(3 * len(alive)):
            choice = choose(idle, when, turn, wanted)
            assert isinstance(choice, Chosen)
            served[choice.candidate.key_id] += 1
            turn = choice.turn
        assert served == dict.fromkeys(alive, 3)

    @property
    def recoveries_s(self) -> list[float]:
        return [m.rests_until for m in self.models.values() if not m.is_dead and m.rests_until > self.now_s]

    @invariant()
    def counts_are_right(self) -> None:
        flying = Counter(sent.key_id for sent in self.flying if sent.is_ours)
        assert all(model.running == flying[key_id] >= 0 for key_id, model in self.models.items())
        assert all(state.consecutive_failures >= 0 for state in self.states.values())


TestKeysInUse = KeysInUse.TestCase
TestKeysInUse.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


EJECTED = replace(COOLING, last_error="server_error")
LIMITED = replace(COOLING, last_error="rate_limited")


def test_an_ejected_key_is_the_last_resort() -> None:
    both = [Candidate("a", EJECTED), Candidate("b", LIMITED)]
    assert chosen_ids(both, 2) == "aa"
    assert chosen_ids([*both, Candidate("c", UP)], 2) == "cc"
    choice = choose([*both, Candidate("c", UP)], START, Turn(), tried("c"))
    assert isinstance(choice, Chosen)
    assert (choice.candidate.key_id, choice.is_probe) == ("a", False)
    nothing = choose(both, START, Turn(), tried("a"))
    assert isinstance(nothing, NoKey)
    assert (nothing.reason, nothing.retry_at) == (Shortage.COOLING, at(30))


def test_the_last_resort_has_its_limits_too() -> None:
    busy = Candidate("a", EJECTED, in_flight=1, limits=Limits(max_in_flight=1))
    nothing = choose([busy], START, Turn())
    assert isinstance(nothing, NoKey)
    assert nothing.reason is Shortage.COOLING


MOMENTS = st.integers(-2, 5).map(lambda count: at(20 * count))
CANDIDATES = st.builds(
    Candidate,
    st.just(""),
    st.one_of(
        st.just(UP),
        st.builds(
            KeyState,
            st.sampled_from(KeyStatus),
            st.just(START),
            st.just(START),
            st.none() | MOMENTS,
            last_error=st.sampled_from([None, "server_error"]),
        ),
    ),
    in_flight=st.integers(0, 3),
    rate_full_until=st.none() | MOMENTS,
    may_probe=st.booleans(),
    limits=st.builds(Limits, st.integers(1, 3), st.none(), st.none() | st.integers(0, 3)),
    is_shared=st.booleans(),
)


@given(
    st.lists(CANDIDATES, max_size=6), st.lists(st.tuples(MOMENTS, st.integers(0, 5), CANDIDATES), max_size=12)
)
def test_a_roster_chooses_as_if_it_looked_at_every_candidate(
    first: list[Candidate], changes: list[tuple[datetime, int, Candidate]]
) -> None:
    """At any moments, the clock being set back among them."""
    candidates = [named(candidate, index) for index, candidate in enumerate(first)]
    roster, turn = CandidateIndex(candidates), Turn(4)
    for now, index, candidate in changes:
        wanted = tried("b") if candidate.is_shared else ANY_KEY
        choice = roster.choose(now, turn, wanted)
        assert choice == choose(candidates, now, turn, wanted)
        if isinstance(choice, Chosen):
            turn = choice.turn
        if index < len(candidates):
            candidates[index] = named(candidate, index)
            roster.put(index, candidates[index])


def named(candidate: Candidate, index: int) -> Candidate:
    return msgspec.structs.replace(candidate, key_id="abcdef"[index])
