"""Keys arranged for a quick choice: the same choice as looking at all of them, however they change."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import key_line
from app.core.key_choice import Candidate, Chosen, Limits, Turn, choose, obstacle
from app.core.key_line import KeyLine
from app.core.key_states import KeyState, KeyStatus

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MOMENTS = st.integers(-2, 6).map(lambda seconds: START + timedelta(seconds=10 * seconds))
STATES = st.one_of(
    st.just(KeyState(KeyStatus.HEALTHY, START, START)),
    st.builds(
        KeyState,
        st.sampled_from(KeyStatus),
        st.just(START),
        st.just(START),
        st.one_of(st.none(), MOMENTS),
        last_error=st.sampled_from([None, "server_error"]),
    ),
)
PLACES = range(5)


@st.composite
def candidates(draw: st.DrawFn, place: int) -> Candidate:
    limits = Limits(draw(st.integers(1, 2)), max_in_flight=draw(st.one_of(st.none(), st.integers(0, 2))))
    return Candidate(
        f"k{place}",
        draw(STATES),
        draw(st.integers(0, 3)),
        draw(st.one_of(st.none(), MOMENTS)),
        may_probe=draw(st.booleans()),
        limits=limits,
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_choice_is_that_of_a_search_through_all(data: st.DataObject) -> None:
    keys = [data.draw(candidates(place)) for place in PLACES[: data.draw(st.integers(1, len(PLACES)))]]
    line, turn = KeyLine(keys), Turn()
    for _ in range(data.draw(st.integers(1, 12))):
        for place in data.draw(st.sets(st.integers(0, len(keys) - 1), max_size=2)):
            keys[place] = data.draw(candidates(place))
            line.changed(place)
        now = data.draw(MOMENTS)  # the clock may also be set back
        tried = data.draw(st.frozensets(st.sampled_from([key.key_id for key in keys]), max_size=1))
        quick = choose(keys, now, turn, tried, line.search)
        assert quick == choose(keys, now, turn, tried)
        if isinstance(quick, Chosen):
            turn = quick.turn


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The keys that are looked at."""
    seen: list[str] = []

    def counted(candidate: Candidate, now: datetime) -> object:
        seen.append(candidate.key_id)
        return obstacle(candidate, now)

    monkeypatch.setattr(key_line, "obstacle", counted)
    return seen


@pytest.mark.parametrize("status", [KeyStatus.HEALTHY, KeyStatus.ERROR, KeyStatus.EXHAUSTED])
@pytest.mark.parametrize("size", [10, 3000])
def test_a_choice_looks_at_few_keys_of_a_large_pool(looks: list[str], size: int, status: KeyStatus) -> None:
    """All but three busy, dead, or without money."""
    state = KeyState(status, START, START, START + timedelta(hours=1))
    up = replace(state, status=KeyStatus.HEALTHY)
    keys = [
        Candidate(f"k{place}", up if place < 3 else state, in_flight=1 + (place >= 3))
        for place in range(size)
    ]
    line, turn = KeyLine(keys), Turn()
    choose(keys, START, turn, search=line.search)
    looks.clear()
    for _ in range(100):
        choice = choose(keys, START, turn, search=line.search)
        assert isinstance(choice, Chosen)
        turn, place = choice.turn, keys.index(choice.candidate)
        keys[place] = replace(choice.candidate, in_flight=1)
        line.changed(place)
    assert len(looks) <= 300
