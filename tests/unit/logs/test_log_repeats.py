"""No kind of line fills the log, and no line that is left out is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from app.logs.log_repeats import MOST_LINES, WINDOW_S, Repeats

LINES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0, 0.001, 0.1, 20, -5])), max_size=400)


@given(LINES, st.sampled_from([1, 40, 60]))
def test_every_line_is_written_or_counted(lines, times):
    repeats, now, written, summed = Repeats[str](), 1000.0, 0, 0
    for kind, pause in lines:
        now += pause
        for _ in range(times):
            is_written, sums = repeats.take(kind, now)
            written += is_written
            summed += sum(count for _, count in sums)
    summed += sum(count for _, count in repeats.due())
    assert written + summed == times * len(lines)
    assert repeats.due() == []


def test_a_kind_is_written_so_often_in_a_minute():
    repeats = Repeats[str]()
    taken = [repeats.take("a", 0.5)[0] for _ in range(3 * MOST_LINES)]
    assert taken == [True] * MOST_LINES + [False] * 2 * MOST_LINES
    assert repeats.take("b", 1.0) == (True, [])
    assert repeats.take("b", 0.5 + WINDOW_S) == (True, [("a", 2 * MOST_LINES)])
    assert repeats.take("a", 0.5 + WINDOW_S) == (True, [])


def test_kinds_without_end_share_what_is_written():
    repeats = Repeats[int]()
    written = sum(repeats.take(kind, 1.0)[0] for kind in range(10_000))
    assert written < 1000
    assert repeats.due() == [(None, 10_000 - written)]
