"""Large JSON answers, however they are cut: what is small is read, what is large is counted."""

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.slim_body import MAX_KEPT, SlimBody, from_ends

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.dictionaries(st.text(max_size=6), VALUES, max_size=6)


def read(data: bytes, cuts: list[int] | None = None) -> SlimBody:
    slim = SlimBody()
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
    for start, end in pairwise(places):
        slim.feed(data[start:end])
    return slim


@given(BODIES, st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from([None, 2]), st.booleans())
def test_a_small_body_is_what_it_was_however_it_is_cut(
    body: dict[str, Any], cuts: list[int], indent: int | None, is_ascii: bool
) -> None:
    data = json.dumps(body, indent=indent, ensure_ascii=is_ascii).encode()
    slim = read(data, cuts)
    assert json.loads(slim.slim()) == body
    lists = {name: len(value) for name, value in body.items() if isinstance(value, list)}
    plain = {name: count for name, count in lists.items() if name.isalnum() and name.isascii()}
    assert {name: slim.counts[name] for name in plain} == plain


def test_what_is_large_is_counted_and_gone_and_every_cut_gives_the_same() -> None:
    body = {
        "data": [{"embedding": [0.5] * 5000, "index": i} for i in range(3)],
        "model": "m",
        "text": 'x"\\' * MAX_KEPT,
        "big": {"a": ["]}" * MAX_KEPT]},
        "usage": {"prompt_tokens": 8},
    }
    data = json.dumps(body).encode()
    wanted = {"data": [], "model": "m", "text": "", "big": {}, "usage": {"prompt_tokens": 8}}
    for step in (1, 7, 1024, len(data)):
        slim = SlimBody()
        for start in range(0, len(data), step):
            slim.feed(data[start : start + step])
        assert json.loads(slim.slim()) == wanted
        assert slim.counts == {"data": 3}


@pytest.mark.parametrize("data", [b"", b"[1,2]", b'{"a":1', b'{"a":"', b"<html>", b'"x"', b"7"])
def test_what_is_no_whole_object_stays_none(data: bytes) -> None:
    assert read(data).slim() == data


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_anything_may_come(data: bytes, cuts: list[int]) -> None:
    assert len(read(data, cuts).slim()) <= 1024 + len(data)


def test_memory_does_not_grow_with_the_body() -> None:
    slim, piece = SlimBody(), b"[0.25,0.5]," * 700
    slim.feed(b'{"usage":{"prompt_tokens":1},"data":[')
    tracemalloc.start()
    for _ in range(100):
        slim.feed(piece)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()
    slim.feed(b"[]]}")
    assert json.loads(slim.slim()) == {"usage": {"prompt_tokens": 1}, "data": []}
    assert slim.counts == {"data": 100 * 700 + 1}


@pytest.mark.parametrize(
    ("large", "left"), [("x" * 90_000, ""), ('\\"usage\\":{' * 9_000, ""), ([{"usage": 1}] * 9_000, [{}])]
)
@pytest.mark.parametrize("is_last", [True, False])
def test_the_members_at_both_ends_of_a_large_one_are_an_object(large: Any, left: Any, is_last: bool) -> None:
    body = {"type": "done", "large": large, "usage": {"n": 1}} | ({} if is_last else {"size": "a"})
    data = json.dumps(body).encode()
    found = from_ends(data[:20_000], data[-20_000:])
    assert found is not None
    assert json.loads(found) == body | {"large": left}
    assert from_ends(data[:20_000], data[-20_000:-1]) is None


@pytest.mark.parametrize("large", [{"a": "x" * 90_000}, {"a": [1] * 90_000, "usage": {"n": 1}}])
def test_where_an_object_is_large_its_ends_do_not_tell(large: Any) -> None:
    data = json.dumps({"large": large, "usage": {"n": 1}}).encode()
    assert from_ends(data[:20_000], data[-20_000:]) is None
