from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.records.bson_safe import MAX_DEPTH, MAX_MEMBERS, MAX_TEXT, MAX_VALUES, bson_safe

TEXT = st.text(st.characters() | st.sampled_from("$.\0\ud800"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)
LARGEST = 4 * 1024 * 1024


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def count(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(1 + count(item) for item in inner)


@settings(max_examples=40)
@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_whatever_an_upstream_puts_into_its_usage_fits_a_document(value: dict[str, Any]) -> None:
    safe = bson_safe(value)
    assert safe is not None
    encoded = bson.encode(safe)
    assert len(encoded) < LARGEST
    assert depth_of(safe) <= MAX_DEPTH
    assert count(safe) <= MAX_VALUES
    assert not any(sign in name for name in safe for sign in "$.\0")


def test_plain_usage_is_kept_as_it_is() -> None:
    usage = {
        "prompt_tokens": 9,
        "cost": 0.25,
        "tier": "x",
        "details": {"cached": None, "ok": True},
        "iterations": [{"type": "compaction"}],
    }
    assert bson_safe(usage) == usage
    assert bson_safe(usage) is not usage


def test_no_usage_stays_none() -> None:
    assert bson_safe(None) is None
    assert bson_safe({}) == {}


def test_names_lose_what_databases_give_a_meaning_to() -> None:
    assert bson_safe({"$set": 1, "a.b": 2, "x\0y": 3, "": 4}) == {"_set": 1, "a_b": 2, "xy": 3, "": 4}


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (10**60, "1" + "0" * 39),
    ],
)
def test_integers_beyond_64_bits_become_text(number: int, kept: object) -> None:
    assert bson_safe({"n": number}) == {"n": kept}


def test_an_integer_too_long_to_be_written_out_is_described() -> None:
    assert bson_safe({"n": 1 << 20_000}) == {"n": "integer of 20001 bits"}


def test_unpaired_surrogates_are_replaced() -> None:
    assert bson_safe({"a\ud800": "b\udfff"}) == {"a?": "b?"}


def test_texts_names_and_breadth_are_cut() -> None:
    safe = bson_safe({"t": "x" * 10_000, "n" * 200: 1, "l": list(range(1000))})
    assert safe is not None
    assert len(safe["t"]) == MAX_TEXT
    assert "n" * 100 in safe
    assert safe["l"] == list(range(MAX_MEMBERS))
    assert len(bson_safe({str(n): n for n in range(1000)}) or {}) == MAX_MEMBERS


def test_depth_is_cut() -> None:
    value: Any = "deep"
    for _ in range(500):
        value = {"a": [value]}
    assert depth_of(bson_safe(value)) == MAX_DEPTH


def test_breadth_at_every_level_together_is_bounded() -> None:
    value: Any = "x" * 1000
    for _ in range(3):
        value = [value] * 64
    safe = bson_safe({"a": value, "left out": 1})
    assert count(safe) == MAX_VALUES
    assert len(bson.encode(safe or {})) < LARGEST


def test_values_json_does_not_know_become_text() -> None:
    assert bson_safe({"a": (1, 2), 5: b"x"}) == {"a": "(1, 2)", "5": "b'x'"}  # type: ignore[dict-item]
