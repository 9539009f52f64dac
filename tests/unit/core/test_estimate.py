"""Estimates for answers whose true usage will never be known."""

from app.core.estimate import ESTIMATED, estimate_usage
from app.core.usage import Usage


def test_nothing_seen_is_estimated_from_the_request_and_the_events() -> None:
    usage = estimate_usage(None, request_bytes=401, content_events=7)
    assert (usage.input_tokens, usage.output_tokens) == (101, 7)
    assert ESTIMATED in usage.flags


def test_input_the_upstream_told_is_kept() -> None:
    seen = Usage(input_tokens=300, cache_read_input_tokens=600, output_tokens=1)
    usage = estimate_usage(seen, request_bytes=4000, content_events=12)
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (300, 600, 12)
    assert ESTIMATED in usage.flags


def test_input_that_was_all_cached_is_known_input() -> None:
    usage = estimate_usage(Usage(cache_read_input_tokens=5), request_bytes=4000, content_events=1)
    assert usage.input_tokens == 0


def test_output_the_upstream_told_is_not_lowered() -> None:
    seen = Usage(input_tokens=9, output_tokens=50)
    assert estimate_usage(seen, request_bytes=100, content_events=12) is seen


def test_flags_of_what_was_seen_are_kept() -> None:
    seen = Usage(input_tokens=9, flags=frozenset({"bad_usage"}))
    assert estimate_usage(seen, request_bytes=1, content_events=1).flags == {"bad_usage", ESTIMATED}
