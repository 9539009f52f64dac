"""Which key a conversation prefers: the same everywhere, fair to all keys, and not at any price."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_choice import (
    MOST_BY_PREFERENCE,
    Candidate,
    CandidateIndex,
    Chosen,
    KeyRequest,
    KeyWish,
    Limits,
    NoKey,
    Turn,
    choose,
)
from app.keys.key_pool import SharedKeyPool
from app.keys.key_states import KeyState, KeyStatus, new_state
from app.keys.lease import Lease

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
UP = new_state(NOW)
DEAD = KeyState(KeyStatus.ERROR, NOW, NOW)
SPENT = KeyState(KeyStatus.EXHAUSTED, NOW, NOW, NOW)  # a trial is due
RANDOM = Random(7)
LOTS = {f"k{number}": RANDOM.getrandbits(64) for number in range(30)}
CONVERSATIONS = [RANDOM.getrandbits(64) for _ in range(4000)]
NUMBERS = st.integers(0, 2**64 - 1)


def keys(count: int, **changed: Candidate) -> list[Candidate]:
    found = [Candidate(key_id, UP, lot=lot) for key_id, lot in list(LOTS.items())[:count]]
    return [changed.get(candidate.key_id, candidate) for candidate in found]


def wish(conversation: int, tried: frozenset[str] = frozenset()) -> KeyRequest:
    return KeyRequest("ann", "m", tried, KeyWish(conversation))


def preferred(candidates: list[Candidate], conversation: int, tried: frozenset[str] = frozenset()) -> str:
    choice = choose(candidates, NOW, Turn(), wish(conversation, tried))
    assert isinstance(choice, Chosen)
    return choice.candidate.key_id


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 1, 3, 1, 2)])
def test_each_key_is_preferred_by_its_part_of_the_conversations(weights: tuple[int, ...]) -> None:
    candidates = [
        Candidate(f"k{place}", UP, lot=LOTS[f"k{place}"], limits=Limits(weight=weight))
        for place, weight in enumerate(weights)
    ]
    counts = Counter(preferred(candidates, conversation) for conversation in CONVERSATIONS)
    for place, weight in enumerate(weights):
        part = len(CONVERSATIONS) * weight / sum(weights)
        assert counts[f"k{place}"] == pytest.approx(part, rel=0.15)


def test_a_lost_key_moves_its_own_conversations_alone_and_to_all_others() -> None:
    whole, without = keys(6), keys(6, k2=Candidate("k2", DEAD, lot=LOTS["k2"]))
    moved = Counter[str]()
    for conversation in CONVERSATIONS:
        before, after = preferred(whole, conversation), preferred(without, conversation)
        if before == "k2":
            moved[after] += 1
        else:
            assert after == before
        assert preferred(whole, conversation, frozenset({"k2"})) == after  # a further attempt goes there, too
    assert set(moved) == {"k0", "k1", "k3", "k4", "k5"}
    assert min(moved.values()) > sum(moved.values()) / 5 * 0.6


@given(NUMBERS, st.permutations(range(8)), st.booleans())
def test_the_order_of_the_keys_does_not_matter(number: int, order: list[int], knows_it: bool) -> None:
    straight = keys(8)
    index = CandidateIndex([straight[place] for place in order])
    for _ in range(1 + knows_it):
        choice = index.choose(NOW, Turn(), wish(number))
        assert isinstance(choice, Chosen)
        assert choice.candidate.key_id == preferred(straight, number)


def test_hosts_that_are_given_the_keys_in_another_order_agree() -> None:
    secrets = [f"sk-upstream-{number}" for number in range(9)]
    pools = [SharedKeyPool(secrets, start=3), SharedKeyPool(secrets[::-1])]
    used = set()
    for conversation in CONVERSATIONS[:40]:
        leases = [pool.acquire(frozenset(), wish=KeyWish(conversation)) for pool in pools]
        assert all(isinstance(lease, Lease) for lease in leases)
        here, there = (lease.key.secret for lease in leases if isinstance(lease, Lease))
        assert here == there
        used.add(here)
        for pool, lease in zip(pools, leases, strict=True):
            assert isinstance(lease, Lease)
            pool.release(lease)
    assert len(used) > 5


@dataclass
class Load:
    running: int
    weight: int


@given(st.lists(st.builds(Load, st.integers(0, 40), st.integers(1, 3)), min_size=2, max_size=8), NUMBERS)
def test_no_key_gets_much_more_than_its_part_because_it_is_preferred(loads: list[Load], number: int) -> None:
    candidates = [
        Candidate(f"k{place}", UP, load.running, limits=Limits(weight=load.weight), lot=LOTS[f"k{place}"])
        for place, load in enumerate(loads)
    ]
    key_id = preferred(candidates, number)
    chosen = loads[int(key_id.removeprefix("k"))]
    all_running, weights = 1 + sum(load.running for load in loads), sum(load.weight for load in loads)
    part = ceil(1.25 * all_running * chosen.weight / weights)
    assert chosen.running < max(MOST_BY_PREFERENCE, part)
    idle = [Candidate(c.key_id, UP, limits=c.limits, lot=c.lot) for c in candidates]
    first = preferred(idle, number)
    if loads[int(first.removeprefix("k"))].running < MOST_BY_PREFERENCE:
        assert key_id == first


def test_a_thousand_requests_alike_are_shared() -> None:
    pool = SharedKeyPool([f"sk-{number}" for number in range(10)])
    leases = [pool.acquire(frozenset(), wish=KeyWish(CONVERSATIONS[0])) for _ in range(1000)]
    counts = Counter(lease.key.key_id for lease in leases if isinstance(lease, Lease))
    assert sum(counts.values()) == 1000
    assert len(counts) >= 8
    assert max(counts.values()) <= 125


def test_preferences_leave_the_turn_to_the_others() -> None:
    turn = Turn(3, 1)
    choice = CandidateIndex(keys(6)).choose(NOW, turn, wish(CONVERSATIONS[1]))
    assert isinstance(choice, Chosen)
    assert choice.turn == turn


def test_a_key_on_trial_gets_one_of_its_conversations_at_a_time() -> None:
    conversation = next(number for number in CONVERSATIONS if preferred(keys(4), number) == "k1")
    choice = choose(keys(4, k1=Candidate("k1", SPENT, lot=LOTS["k1"])), NOW, Turn(), wish(conversation))
    assert isinstance(choice, Chosen)
    assert (choice.candidate.key_id, choice.is_probe) == ("k1", True)
    busy = keys(4, k1=Candidate("k1", SPENT, 1, lot=LOTS["k1"]))
    assert preferred(busy, conversation) != "k1"


def test_limits_of_a_key_go_before_preferences() -> None:
    conversation = next(number for number in CONVERSATIONS if preferred(keys(4), number) == "k1")
    full = Candidate("k1", UP, 2, limits=Limits(max_in_flight=2), lot=LOTS["k1"])
    second = preferred(keys(4, k1=full), conversation)
    assert second != "k1"
    assert preferred(keys(4, k1=Candidate("k1", DEAD, lot=LOTS["k1"])), conversation) == second
    none = choose(keys(1, k0=Candidate("k0", DEAD)), NOW, Turn(), wish(conversation))
    assert isinstance(none, NoKey)


def test_a_new_weight_counts_at_once_and_few_conversations_are_remembered() -> None:
    index = CandidateIndex(keys(3))
    for conversation in CONVERSATIONS:
        index.choose(NOW, Turn(), wish(conversation))
    heavy = Candidate("k0", UP, limits=Limits(weight=1000), lot=LOTS["k0"])
    index.put(0, heavy)
    chosen = [index.choose(NOW, Turn(), wish(conversation)) for conversation in (*CONVERSATIONS, *range(500))]
    counts = Counter(choice.candidate.key_id for choice in chosen if isinstance(choice, Chosen))
    assert counts["k0"] > 4400
