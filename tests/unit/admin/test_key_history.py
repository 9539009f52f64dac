"""What an upstream key's changes come to over a range of time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from app.admin.key_history import WIDTH, history_of, key_reason, key_state

START = datetime(2026, 11, 23, tzinfo=UTC)
END = START + timedelta(hours=10)


@dataclass(frozen=True)
class Move:
    """A change of state, so many hours after the start."""

    from_status: str | None
    to_status: str
    hours: float

    @property
    def at(self) -> datetime:
        return START + timedelta(hours=self.hours)


def drawn(history):
    return [(part.status, part.x, part.width) for part in history.stretches]


def test_without_changes_it_was_always_what_it_is():
    history = history_of([], "healthy", START, END)
    assert drawn(history) == [("healthy", 0, WIDTH)]
    assert history.summary == "healthy 100 %"


def test_each_change_begins_a_stretch_and_what_was_before_the_first_follows_from_it():
    moves = [
        Move("error", "healthy", 4),
        Move("healthy", "rate_limited", 6),
        Move("rate_limited", "healthy", 7),
    ]
    history = history_of(reversed(moves), "healthy", START, END)
    assert drawn(history) == [
        ("error", 0, 400),
        ("healthy", 400, 200),
        ("rate_limited", 600, 100),
        ("healthy", 700, 300),
    ]
    assert (history.limited, history.lost) == (1, 0)
    assert history.summary == "healthy 50 %, refused 40 %, rate limited 10 %"


def test_what_happened_after_the_range_says_what_was_in_it():
    history = history_of([Move("healthy", "exhausted", 12)], "exhausted", START, END)
    assert drawn(history) == [("healthy", 0, WIDTH)]
    assert history.lost == 0


def test_before_it_was_known_nothing_is_said():
    history = history_of([], "healthy", START, END, known_from=START + timedelta(hours=5))
    assert drawn(history) == [(None, 0, 500), ("healthy", 500, 500)]
    assert history.summary == "healthy 100 % of the time that is known"
    later = history_of([], "healthy", START, END, known_from=END + timedelta(hours=1))
    assert later.summary == "nothing is known of this time"


def test_a_key_that_is_gone_and_did_nothing_is_not_known():
    assert history_of([], None, START, END).summary == "nothing is known of this time"


@pytest.mark.parametrize("hours", [0.001, 9.999])
def test_what_was_short_is_seen_all_the_same(hours):
    moves = [Move("healthy", "rate_limited", hours), Move("rate_limited", "healthy", hours + 0.0005)]
    history = history_of(moves, "healthy", START, END)
    short = next(part for part in history.stretches if part.status == "rate_limited")
    assert short.width >= 5
    assert short.x + short.width <= WIDTH
    assert history.summary == "healthy 99.9 %, rate limited less than 0.1 %"


def test_going_from_one_loss_to_the_next_is_one_loss():
    moves = [Move("healthy", "error", 1), Move("error", "exhausted", 2), Move("exhausted", "healthy", 3)]
    assert history_of(moves, "healthy", START, END).lost == 1


def test_states_and_reasons_are_said_in_words():
    assert [key_state(status) for status in ("healthy", "rate_limited", "exhausted", "error", "new")] == [
        "healthy", "rate limited", "out of money", "refused", "new",
    ]  # fmt: skip
    assert key_reason("budget_code") == "no money left, by the code of an error"
    assert key_reason("some_new_code") == "some new code"
    assert key_reason("replaced by spare_1") == "replaced by spare_1"
