from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.log_filter import FilterError, LogFilter, PageCursor, parse_limit

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)


def test_nothing_given_is_no_filter():
    assert LogFilter.parse({}, NOW) == LogFilter()
    assert LogFilter.parse({"model": " ", "from": "", "unknown": "x"}, NOW) == LogFilter()


def test_everything_given():
    wanted = LogFilter.parse(
        {
            "model": "gpt",
            "user": "ann",
            "key": "wk_1",
            "factoryKey": "pool-1",
            "outcome": "ok",
            "status": "4xx",
            "apiFormat": "openai",
            "from": "2026-11-23",
            "to": "2026-11-23T10:00:00+07:00",
            "q": "r1",
        },
        NOW,
    )
    assert wanted == LogFilter(
        model="gpt",
        user="ann",
        key="wk_1",
        factory_key="pool-1",
        outcome="ok",
        status=(400, 499),
        api_format="openai",
        start=datetime(2026, 11, 23, tzinfo=UTC),
        end=datetime(2026, 11, 23, 3, tzinfo=UTC),
        text="r1",
    )


@pytest.mark.parametrize(("text", "expected"), [("429", (429, 429)), ("5XX", (500, 599))])
def test_status(text, expected):
    assert LogFilter.parse({"status": text}, NOW).status == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-11-23T20:28:30"),
        ("24h", "2026-11-22T20:30"),
        ("7d", "2026-11-16T20:30"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00"),
        ("2026-11-23T10:00:00 07:00", "2026-11-23T03:00"),
        ("2026-11-23 10:00", "2026-11-23T10:00"),
    ],
)
def test_moments(text, expected):
    assert LogFilter.parse({"from": text}, NOW).start == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"outcome": "fine"}, "outcome: takes one of ok, rejected,"),
        ({"apiFormat": "soap"}, "apiFormat: takes one of openai, anthropic"),
        ({"status": "4x"}, "status: takes a status such as 429, or a class such as 4xx"),
        ({"status": "700"}, "status: takes"),
        ({"from": "yesterday"}, "from: takes an ISO 8601 time"),
        ({"to": "999999d"}, "to: takes an ISO 8601 time"),
        ({"from": "1h", "to": "2h"}, "from: has to be before `to`"),
        ({"q": "x" * 201}, "q: takes at most 200 characters"),
        ({"user": "a\0"}, "user: takes no NUL"),
    ],
)
def test_unusable_values_are_named(values, message):
    with pytest.raises(FilterError) as caught:
        LogFilter.parse(values, NOW)
    assert str(caught.value).startswith(message)
    assert caught.value.field in values


def test_limit():
    assert parse_limit(None) == parse_limit("") == 50
    assert parse_limit("200") == 200


@pytest.mark.parametrize("text", ["0", "201", "-1", "1.5", "x", "٣", "9" * 30])
def test_a_limit_out_of_range(text):
    with pytest.raises(FilterError, match="limit: takes a whole number from 1 to 200"):
        parse_limit(text)


@given(st.integers(0, 2**45), st.text(st.characters(exclude_categories=("C", "Z"))))
def test_a_cursor_survives_its_way_through_a_url(created_ms, record_id):
    cursor = PageCursor(created_ms, record_id)
    assert PageCursor.decode(cursor.encode()) == cursor


def test_a_cursor_at_a_record_of_earlier_software():
    cursor = PageCursor(5, "0" * 24, is_native_id=True)
    assert PageCursor.decode(cursor.encode()) == cursor


@given(st.text())
def test_any_other_text_is_no_cursor(text):
    with suppress(FilterError):
        decoded = PageCursor.decode(text)
        assert PageCursor.decode(decoded.encode()) == decoded


@pytest.mark.parametrize(
    "content", ["[1,2,false]", '["1","x",false]', '[1,"x",true]', '[1,"x"]', "{}", "1", "[" * 3000, "null"]
)
def test_a_forged_cursor_is_refused(content):
    from base64 import urlsafe_b64encode

    with pytest.raises(FilterError, match="cursor"):
        PageCursor.decode(urlsafe_b64encode(content.encode()).decode().rstrip("="))
