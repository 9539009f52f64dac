"""Estimates for answers whose true usage will never be known."""

import pytest

from app.wires.estimate import (
    BYTES_PER_TOKEN,
    ESTIMATED,
    TOKENS_PER_MEDIUM,
    estimate_usage,
    prompt_bytes,
    stream_tokens,
)
from app.wires.usage import Usage


def test_nothing_seen_is_estimated_from_the_request_and_the_events() -> None:
    usage = estimate_usage(None, request_bytes=401, output_tokens=7)
    assert (usage.input_tokens, usage.output_tokens) == (101, 7)
    assert ESTIMATED in usage.flags


def test_input_the_upstream_told_is_kept() -> None:
    seen = Usage(input_tokens=300, cache_read_input_tokens=600, output_tokens=1)
    usage = estimate_usage(seen, request_bytes=4000, output_tokens=12)
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (300, 600, 12)
    assert ESTIMATED in usage.flags


def test_input_that_was_all_cached_is_known_input() -> None:
    usage = estimate_usage(Usage(cache_read_input_tokens=5), request_bytes=4000, output_tokens=1)
    assert usage.input_tokens == 0


def test_output_the_upstream_told_is_not_lowered() -> None:
    seen = Usage(input_tokens=9, output_tokens=50)
    assert estimate_usage(seen, request_bytes=100, output_tokens=12) is seen


def test_flags_of_what_was_seen_are_kept() -> None:
    seen = Usage(input_tokens=9, flags=frozenset({"bad_usage"}))
    assert estimate_usage(seen, request_bytes=1, output_tokens=1).flags == {
        "bad_usage",
        "output_missing",
        ESTIMATED,
    }


def test_an_event_is_about_a_token_and_padding_counts_nothing() -> None:
    assert stream_tokens(100, 100 * 330) == 100
    assert stream_tokens(0, 0) == 0


def test_large_events_are_more_than_a_token_each() -> None:
    assert stream_tokens(3, 3 * 4512) == 3 * 1000


def test_media_count_as_what_they_cost_and_text_as_it_is() -> None:
    medium = b"A" * 1_000_000
    by_url = b'{"url":"data:image/png;base64,' + medium + b'"}'
    by_source = b'{"type":"base64","data": "' + medium + b'"}'
    for body, count in ((by_url, 1), (by_source, 1), (by_url + by_source + by_url, 3)):
        size = prompt_bytes(b'{"messages":[' + body + b"]}")
        assert 0 < size - count * TOKENS_PER_MEDIUM * 4 < 100 * count
    text = b'{"content":"' + b"word " * 20_000 + b'","data":"short"}'
    assert prompt_bytes(text) == len(text)
    assert prompt_bytes(by_url[:-2]) < 10_000


def test_others_may_go_on_while_a_large_prompt_is_measured() -> None:
    rests: list[None] = []
    text = b'{"messages":["' + b"data" * 200_000 + b'"]}'
    assert prompt_bytes(text, lambda: rests.append(None)) == len(text)
    assert len(rests) > len(text) // (128 * 1024)


def test_of_very_many_marks_some_are_looked_at() -> None:
    medium = b'{"data":"' + b"A" * 100_000 + b'"}'
    few, many = b'"data",' * 100, b'"data",' * 20_000
    assert prompt_bytes(few + medium) < len(medium) // 2
    assert prompt_bytes(many + medium) == len(many + medium)


@pytest.mark.parametrize("before", [0, 1, 64 * 1024 - 3, 64 * 1024 - 1, 64 * 1024, 200_000])
def test_a_medium_is_found_wherever_it_begins(before: int) -> None:
    body = b"x" * before + b'{"data":"' + b"A" * 100_000 + b'"}' + b"y" * 70_000
    assert prompt_bytes(body) == len(body) - 100_000 + TOKENS_PER_MEDIUM * BYTES_PER_TOKEN
