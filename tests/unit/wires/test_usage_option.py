"""What is remembered of upstreams that refuse to be asked for usage: little, for a short time."""

import pytest

from app.wires.usage_option import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_KINDS, RefusedOption, names_option


def test_a_refusal_holds_for_its_kind_and_for_a_moment() -> None:
    option = RefusedOption()
    assert option.may_ask("a", 0)
    option.refused("a", 0, 0.1)
    assert not option.may_ask("a", 0.1 + FIRST_PAUSE_S / 2)
    assert option.may_ask("b", 0.2)
    assert option.may_ask("a", 0.1 + FIRST_PAUSE_S)


def test_once_the_pause_is_over_one_request_tries_and_the_others_wait() -> None:
    option = RefusedOption()
    option.refused("a", 0, 0)
    assert [option.may_ask("a", 5), option.may_ask("a", 5)] == [True, False]


def test_each_refusal_doubles_the_pause_up_to_some_minutes() -> None:
    option = RefusedOption()
    now, pauses = 0.0, []
    for _ in range(12):
        option.refused("a", now, now)
        began = now
        while not option.may_ask("a", now):
            now += 0.25
        pauses.append(now - began)
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE_S


def test_requests_refused_together_count_once() -> None:
    option = RefusedOption()
    for number in range(20):
        option.refused("a", asked_at=0.0, now=0.1 + number / 100)
    assert option.may_ask("a", 0.1 + FIRST_PAUSE_S)


def test_a_request_that_is_served_ends_it() -> None:
    option = RefusedOption()
    option.refused("a", 0, 0)
    option.taken("a")
    assert option.may_ask("a", 0.1)


def test_memory_is_bounded() -> None:
    option = RefusedOption()
    for kind in range(MAX_KINDS + 50):
        option.refused(kind, 0, 0)
    assert len(option) == MAX_KINDS
    assert option.may_ask(0, 0.1)
    assert not option.may_ask(MAX_KINDS + 49, 0.1)


@pytest.mark.parametrize("status", [None, 200, 401, 402, 403, 408, 409, 413, 429])
def test_errors_of_other_kinds_are_not_about_it(status: int | None) -> None:
    assert not names_option(status, "stream_options")


@pytest.mark.parametrize("words", ["stream_options", "streamOptions", "include_usage", "#/stream-options"])
def test_the_option_has_many_spellings(words: str) -> None:
    assert names_option(422, f"no such field: {words}")
    assert not names_option(422, "no such field: stream")
