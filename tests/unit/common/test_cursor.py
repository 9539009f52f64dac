import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.common.cursor import FilterError, PageCursor


def forged(content: str) -> str:
    return urlsafe_b64encode(content.encode()).decode().rstrip("=")


@given(st.integers(0, 2**45), st.text(st.characters(exclude_categories=("C", "Z"))))
def test_a_cursor_survives_its_way_through_a_url(created_ms, record_id):
    cursor = PageCursor(created_ms, record_id)
    assert PageCursor.decode(cursor.encode()) == cursor


def test_a_cursor_at_a_record_of_earlier_software():
    cursor = PageCursor(5, "0" * 24, is_native_id=True)
    assert PageCursor.decode(cursor.encode()) == cursor


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=("Cs",))))
def test_a_cursor_of_another_order_survives_too(key, name):
    cursor = PageCursor(key, name, order="spend")
    assert PageCursor.decode(cursor.encode(), "spend") == cursor


def test_a_cursor_is_one_of_its_order_alone():
    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(PageCursor(1.0, "ann", order="spend").encode(), "credits")
    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(PageCursor(1.0, "ann", order="spend").encode())
    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(PageCursor(1, "x").encode(), "spend")


def test_where_the_newest_come_first_there_is_no_order_in_it():
    text = PageCursor(5, "x").encode()
    assert json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4))) == [5, "x", False]


def test_no_cursor_is_the_first_page():
    assert PageCursor.parse(None) is PageCursor.parse("") is None
    assert PageCursor.parse(PageCursor(5, "x").encode()) == PageCursor(5, "x")


@given(st.text(), st.sampled_from(["", "spend"]))
def test_any_other_text_is_no_cursor(text, order):
    with suppress(FilterError):
        decoded = PageCursor.decode(text, order)
        assert PageCursor.decode(decoded.encode(), order) == decoded


@pytest.mark.parametrize(
    "content",
    [
        *("[1,2,false]", '["1","x",false]', '[1,"x",true]', '[1,"x"]', "{}", "1", "[" * 3000, "null"),
        *('[-1,"x",false]', '[1.5,"x",false]', '[true,"x",false]', '[1,"x",0]', '[1,"\\ud800",false]'),
        *('[1,"x",false,""]', '[1,"x",false,"spend"]', f'[{2**47},"x",false]', '[1,"x",false,[]]'),
    ],
)
def test_a_forged_cursor_is_refused(content):
    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(forged(content))


@pytest.mark.parametrize(
    "key", ["1", "NaN", "1e999", "-Infinity", "1" + "0" * 400, '"1"', "null", "true", "[]"]
)
def test_a_forged_cursor_of_another_order_is_refused(key):
    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(forged(f'[{key},"ann",false,"spend"]'), "spend")
