"""Which items of a batch are refused, and that nothing else is lost or done twice."""

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.common.isolation import isolate


class Refused(Exception):
    pass


class Away(Exception):
    pass


class Store:
    """Takes batches that have no bad item; may be away at some calls."""

    def __init__(self, bad: set[int], away_at: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.bad, self.away_at = bad, away_at
        self.calls = 0
        self.events: list[tuple[str, int]] = []

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self.away_at:
            raise Away

    def apply(self, batch: Sequence[int]) -> None:
        self._call()
        if self.bad.intersection(batch):
            raise Refused(sorted(self.bad.intersection(batch)))
        self.events.extend(("applied", item) for item in batch)

    def set_aside(self, item: int, error: Exception) -> None:
        self._call()
        assert isinstance(error, Refused)
        assert error.args == ([item],)
        self.events.append(("aside", item))

    def take(self, pieces: deque[Sequence[int]]) -> None:
        isolate(pieces, self.apply, lambda error: isinstance(error, Refused), self.set_aside)


ITEMS = list(range(20))


@given(bad=st.sets(st.sampled_from(ITEMS)), away_at=st.sets(st.integers(1, 60)))
def test_each_item_is_applied_or_put_aside_once_in_order_whatever_fails_in_between(
    bad: set[int], away_at: set[int]
) -> None:
    store, pieces = Store(bad, away_at), deque[Sequence[int]]([ITEMS])
    while pieces:
        try:
            store.take(pieces)
        except Away:
            assert pieces
    assert store.events == [("aside" if item in bad else "applied", item) for item in ITEMS]


def test_a_batch_without_a_bad_item_is_one_call() -> None:
    store = Store(set())
    store.take(deque([ITEMS]))
    assert store.calls == 1


def test_one_bad_item_costs_a_logarithm() -> None:
    store = Store({777})
    store.take(deque([range(1024)]))
    assert store.calls == 1 + 2 * 10 + 1


def test_what_is_no_refusal_leaves_everything_for_the_next_call() -> None:
    store, pieces = Store(set(), {1}), deque[Sequence[int]]([[1, 2], [3]])
    with pytest.raises(Away):
        store.take(pieces)
    assert list(pieces) == [[1, 2], [3]]
    assert store.events == []


def test_what_could_not_be_put_aside_is_tried_again() -> None:
    store, pieces = Store({1}, {2}), deque[Sequence[int]]([[1]])
    with pytest.raises(Away):
        store.take(pieces)
    assert list(pieces) == [[1]]
    store.take(pieces)
    assert store.events == [("aside", 1)]
