"""Merging the usage objects of one stream: overwritten, never added up, and zeros replace nothing."""

from typing import Any

import pytest

from app.wires.usage import UsageMerger
from tests.unit.wires.metering import ANT, OAI, counts, merged, prompt, wire

START = {
    "input_tokens": 300,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
    "output_tokens": 1,
}


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        wire(
            21,
            [
                {"input_tokens": 300, "cache_read_input_tokens": 600, "output_tokens": 1},
                {"output_tokens": 50},
            ],
            (300, 600, 0, 50),
        ),
        wire(22, [START, {**START, "output_tokens": 50}], (300, 600, 100, 50)),
        wire(
            23,
            [START, {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 50}],
            (300, 600, 100, 50),
        ),
        wire(
            24,
            [
                {"input_tokens": 5000, "output_tokens": 1},
                {"input_tokens": 200, "cache_read_input_tokens": 4800, "output_tokens": 7},
            ],
            (200, 4800, 0, 7),
        ),
        wire(
            22,
            [START, {"input_tokens": None, "output_tokens": 50}],
            (300, 600, 100, 50),
            id="nulls-say-nothing",
        ),
        wire(23, [START, {"output_tokens": 0}], (300, 600, 100, 1), id="zero-output-stays"),
        wire(
            23,
            [
                {"input_tokens": 300, "cache_creation": {"ephemeral_1h_input_tokens": 30}},
                {"input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 50},
            ],
            (300, 0, 30, 50),
            id="zeros-do-not-undo-a-split-without-its-total",
        ),
        wire(
            24,
            [START, {"input_tokens": 0, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 100}],
            (0, 900, 100, 1),
            id="a-zero-beside-a-positive-counts",
        ),
        wire(
            22,
            [START, {"output_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}],
            (300, 600, 100, 9),
            id="an-alias-of-zero-says-nothing",
        ),
    ],
)
def test_messages_streams(raws: list[Any], expected: tuple[int, ...]) -> None:
    assert counts(merged(ANT, *raws)) == expected


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        wire(25, [prompt(5, n, 5 + n) for n in (1, 2, 3)], (5, 0, 0, 3)),
        wire(26, [prompt(9, 2, 11)] * 2, (9, 0, 0, 2)),
        wire(27, [prompt(9, 2, 11), None], (9, 0, 0, 2)),
        wire(27, [prompt(9, 2, 11), prompt(0, 0, 0)], (9, 0, 0, 2), id="zeros-at-the-end"),
        wire(27, [prompt(0, 0, 0), prompt(9, 2, 11)], (9, 0, 0, 2), id="zeros-at-the-start"),
        wire(
            31,
            [prompt(10, 1, 14, cached_tokens=3), prompt(10, 4, 17)],
            (10, 3, 0, 4),
            id="a-new-total-proves",
        ),
        wire(
            31,
            [prompt(10, 4, 17, cached_tokens=3), prompt(10, 4)],
            (10, 3, 0, 4),
            id="same-numbers-keep-the-total",
        ),
        wire(
            31,
            [prompt(10, 4, 17, cached_tokens=3), prompt(10, 5)],
            (7, 3, 0, 5),
            id="other-numbers-drop-the-total",
        ),
    ],
)
def test_chat_streams(raws: list[Any], expected: tuple[int, ...]) -> None:
    assert counts(merged(OAI, *raws)) == expected


@pytest.mark.parametrize(
    ("update", "five_minutes", "one_hour"),
    [
        ({"cache_creation_input_tokens": 100}, 70, 30),
        ({"cache_creation_input_tokens": 50}, 20, 30),
        ({"cache_creation_input_tokens": 10}, 0, 10),
        ({"cache_creation_input_tokens": 0}, 0, 0),
        ({"cache_creation_input_tokens": 200}, 170, 30),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 0}}, 40, 0),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}, 100, 0),
        (
            {
                "cache_creation_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 9},
            },
            0,
            9,
        ),
    ],
)
def test_corrected_cache_writes(update: dict[str, Any], five_minutes: int, one_hour: int) -> None:
    usage = merged(ANT, START, {"input_tokens": 1, **update})
    assert usage is not None
    assert usage.cache_creation_5m_input_tokens == five_minutes
    assert usage.cache_creation_1h_input_tokens == one_hour


def test_inclusive_input_stays_inclusive() -> None:
    raws = (
        {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}},
        {"input_tokens": 9, "output_tokens": 2},
    )
    assert counts(merged(OAI, *raws)) == (5, 4, 0, 2)


def test_raw_usage() -> None:
    merger = UsageMerger()
    assert merger.raw is None
    merger.add({"input_tokens": 1}, is_start=True)
    assert merger.raw == {"input_tokens": 1}
    merger.add({"output_tokens": 2})
    assert merger.raw == {"output_tokens": 2, "message_start": {"input_tokens": 1}}
