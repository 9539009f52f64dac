"""Pages dear to draw: a page of now for who asks now and then, few drawings for who asks without pause."""

from hypothesis import given
from hypothesis import strategies as st

from app.server.recent_pages import RecentPages


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), max_size=200), st.integers(1, 5))
def test_no_page_is_old_and_no_second_sees_many_drawings(asked, draws):
    now, drawn = 100.0, []

    def draw():
        drawn.append((kind, now))
        return now

    pages = RecentPages[str, float](draws, lambda: now)
    for kind, pause in asked:
        now += pause
        assert now - pages.get(kind, draw) < 1
    for kind, moment in drawn:
        within = [other for other in drawn if other[0] == kind and moment <= other[1] < moment + 1]
        assert len(within) <= 2 * draws  # two seconds that are counted may be within one that is not


def test_a_page_is_drawn_anew_until_too_many_are_asked_for():
    now = 0.0
    numbers = iter(range(100))
    pages = RecentPages[str, int](2, lambda: now)

    def ask(kind):
        return pages.get(kind, lambda: next(numbers))

    assert [ask("a") for _ in range(4)] == [0, 1, 1, 1]
    assert ask("b") == 2
    now = 0.999
    assert ask("a") == 1
    now = 1.0
    assert ask("a") == 3
