"""Which upstream host a request goes to, and when one is left alone: pure, with the time as an argument."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.host_choice import HostChoice, is_front_page

NONE: frozenset[int] = frozenset()


def failed(choice: HostChoice, host: int, sent_at: float, now: float, *, is_certain: bool = True) -> bool:
    return choice.note_failure(host, sent_at, now, is_certain=is_certain)


def test_the_first_usable_host_is_taken() -> None:
    choice = HostChoice(3)
    assert choice.choose() == 0
    assert failed(choice, 0, 1, 2)
    assert choice.choose() == 1
    assert failed(choice, 1, 1, 2)
    assert choice.choose() == 2
    assert choice.choose(frozenset({2})) == 0  # left alone, but not yet tried by this request


def test_where_all_are_left_alone_they_are_used_in_order() -> None:
    choice = HostChoice(2)
    failed(choice, 0, 0, 0)
    failed(choice, 1, 0, 0)
    assert choice.choose() == 0
    assert choice.choose(frozenset({0})) == 1
    assert choice.choose(frozenset({0, 1})) == 0


@pytest.mark.parametrize(
    ("position", "avoiding", "expected"),
    [(0, NONE, True), (1, frozenset({0}), False), (0, frozenset({0}), True), (0, frozenset({1}), False)],
)
def test_a_request_goes_to_each_host_once(position: int, avoiding: frozenset[int], expected: bool) -> None:
    assert HostChoice(2).has_other(position, avoiding) is expected


def test_a_host_comes_back_by_a_probe_and_is_on_trial() -> None:
    choice = HostChoice(2)
    failed(choice, 0, 0, 0)
    assert choice.due(4.9) == []
    assert choice.due(5) == [0]
    assert choice.note_probe(0, 5, is_good=True)
    assert choice.choose() == 0
    assert choice.due(5) == []
    # It serves probes only: the pause grows.
    failed(choice, 0, 6, 6)
    assert choice.due(15.9) == []
    assert choice.due(16) == [0]
    choice.note_probe(0, 16, is_good=True)
    assert not choice.note_answer(0, 17)
    failed(choice, 0, 18, 18)
    assert choice.due(23) == [0]


def test_probes_that_fail_become_rarer_up_to_once_a_minute() -> None:
    choice = HostChoice(2)
    failed(choice, 0, 0, 0)
    now, waits = 0.0, []
    for _ in range(7):
        due = choice.hosts[0].left_until
        assert due is not None
        waits.append(due - now)
        now = due
        assert not choice.note_probe(0, now, is_good=False)
    assert waits == [5, 10, 20, 40, 60, 60, 60]


def test_what_fails_while_a_host_is_left_alone_belongs_to_the_failure_before() -> None:
    choice = HostChoice(2)
    failed(choice, 0, 0, 0)
    assert not failed(choice, 0, 1, 3)
    assert choice.hosts[0].left_until == 5


def test_a_long_answer_that_times_out_does_not_count_against_a_host_that_serves() -> None:
    choice = HostChoice(2)
    choice.note_answer(0, 100)
    assert not failed(choice, 0, 50, 350, is_certain=False)
    assert choice.choose() == 0
    assert failed(choice, 0, 101, 401, is_certain=False)
    # But where no connection came about, that is certain.
    other = HostChoice(2)
    other.note_answer(0, 100)
    assert failed(other, 0, 99, 104)


def test_an_answer_lifts_only_what_was_sent_after_the_failure() -> None:
    choice = HostChoice(2)
    failed(choice, 0, 10, 15)
    assert not choice.note_answer(0, 14)
    assert choice.choose() == 1
    assert choice.note_answer(0, 16)
    assert choice.choose() == 0


def test_a_suspected_host_is_probed_at_once_and_used_meanwhile() -> None:
    choice = HostChoice(2)
    choice.suspect(0, 10)
    assert choice.due(10) == [0]
    assert choice.choose() == 0
    assert choice.note_probe(0, 20, is_good=False)
    assert choice.choose() == 1
    choice.note_answer(1, 30)
    choice.suspect(1, 29)  # it has answered a later one
    assert choice.due(21) == []


def test_impatient_clients_do_not_cause_a_probe_each() -> None:
    choice = HostChoice(2)
    choice.suspect(0, 10)
    choice.note_probe(0, 25, is_good=True)
    choice.suspect(0, 24)
    assert choice.due(26) == []
    choice.suspect(0, 26)
    assert choice.due(36) == [0]


@pytest.mark.parametrize(
    ("status", "content_type", "expected"),
    [
        (502, "text/html", True),
        (503, "text/html; charset=UTF-8", True),
        *((status, "text/html", True) for status in range(520, 525)),
        (503, "application/xhtml+xml", True),
        (502, "application/json", False),
        (503, "", False),
        (500, "text/html", False),
        (504, "text/html", False),
        (525, "text/html", False),
        (200, "text/html", False),
    ],
)
def test_what_a_front_proxys_page_is(status: int, content_type: str, expected: bool) -> None:
    assert is_front_page(status, {"content-type": content_type} if content_type else {}) is expected


EVENTS = st.lists(st.tuples(st.sampled_from("afpgs"), st.integers(0, 2), st.floats(0, 20)), max_size=40)


@given(EVENTS, st.sets(st.integers(0, 2)))
def test_there_is_always_a_host_and_every_one_that_is_left_alone_is_probed(
    events: list[tuple[str, int, float]], avoiding: set[int]
) -> None:
    choice, now = HostChoice(3), 0.0
    for kind, host, step in events:
        now += step
        if kind == "a":
            choice.note_answer(host, now)
        elif kind == "f":
            failed(choice, host, now - step, now, is_certain=host == 0)
        elif kind == "s":
            choice.suspect(host, now)
        else:
            choice.note_probe(host, now, is_good=kind == "g")
        chosen = choice.choose(frozenset(avoiding))
        assert 0 <= chosen < 3
        assert chosen not in avoiding or len(avoiding) == 3
        left = {position for position, health in enumerate(choice.hosts) if not health.is_usable}
        assert left <= set(choice.due(now + 60))
        if not avoiding and len(left) < 3:
            assert chosen not in left
