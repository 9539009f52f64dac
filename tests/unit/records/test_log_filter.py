from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from app.common.cursor import FilterError
from app.records.log_filter import LogFilter, parse_limit

NOW = datetime(2026, 11, 23, 20, 30, tzinfo=UTC)


def test_nothing_given_is_no_filter():
    assert LogFilter.parse({}, NOW, UTC) == LogFilter()
    assert LogFilter.parse({"model": " ", "from": "", "unknown": "x"}, NOW, UTC) == LogFilter()


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
            "endUser": "e",
            "session": "s",
            "client": "curl/8.5.0",
            "tag": "t",
        },
        NOW,
        UTC,
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
        end_user="e",
        session="s",
        client="curl/8.5.0",
        tag="t",
    )


@pytest.mark.parametrize(("text", "expected"), [("429", (429, 429)), ("5XX", (500, 599))])
def test_status(text, expected):
    assert LogFilter.parse({"status": text}, NOW, UTC).status == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-11-23T20:28:30"),
        ("24h", "2026-11-22T20:30"),
        ("7d", "2026-11-16T20:30"),
        ("2026-11-23T10:00:00Z", "2026-11-23T10:00"),
        ("2026-11-23T10:00:00 07:00", "2026-11-23T03:00"),
        ("2026-11-23 10:00", "2026-11-23T10:00"),
        ("1w", "2026-11-16T20:30"),
        ("Today", "2026-11-23"),
        ("yesterday", "2026-11-22"),
        ("3.11.2026", "2026-11-03"),
        ("27.11.2026 09:30", "2026-11-27T09:30"),
    ],
)
def test_moments(text, expected):
    assert LogFilter.parse({"from": text}, NOW, UTC).start == datetime.fromisoformat(expected).replace(
        tzinfo=UTC
    )


def test_several_outcomes_parts_of_names_and_least_amounts():
    wanted = LogFilter.parse(
        {
            "outcome": "rejected, ok",
            "user~": "acme",
            "model~": "gpt",
            "minCostUsd": "0.05",
            "minLatencyMs": "900",
        },
        NOW,
        UTC,
    )
    assert (wanted.outcome, wanted.user_part, wanted.model_part) == (("rejected", "ok"), "acme", "gpt")
    assert (wanted.min_cost_nano, wanted.min_latency_ms) == (50_000_000, 900)
    failed = LogFilter.parse({"outcome": "failed", "minCostUsd": "0"}, NOW, UTC)
    assert (len(failed.outcome), "ok" in failed.outcome, failed.min_cost_nano) == (9, False, None)


def test_a_view_stands_for_parameters_and_gives_way_to_those_given():
    assert LogFilter.parse({"view": "failed"}, NOW, UTC) == LogFilter.parse({"outcome": "failed"}, NOW, UTC)
    assert LogFilter.parse({"view": "retried"}, NOW, UTC) == LogFilter(min_attempts=2)
    assert LogFilter.parse({"view": "slow", "minLatencyMs": "60000"}, NOW, UTC).min_latency_ms == 60_000
    assert LogFilter.parse({"view": "expensive", "outcome": " "}, NOW, UTC).min_cost_nano == 100_000_000


def test_days_are_those_of_the_zone():
    kolkata = ZoneInfo("Asia/Kolkata")  # where it is the 24th already
    assert LogFilter.parse({"from": "yesterday", "to": "today"}, NOW, kolkata) == LogFilter.parse(
        {"from": "2026-11-23", "to": "24.11.2026"}, NOW, kolkata
    )


def test_times_without_a_zone_are_in_that_of_statistics():
    wanted = LogFilter.parse({"from": "2026-11-23", "to": "2026-11-23T10:00Z"}, NOW, ZoneInfo("Asia/Kolkata"))
    assert (wanted.start, wanted.end) == (
        datetime(2026, 11, 22, 18, 30, tzinfo=UTC),
        datetime(2026, 11, 23, 10, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"outcome": "fine"}, "outcome: takes failed, or one or several of ok, rejected,"),
        ({"outcome": "ok,fine"}, "outcome: takes failed, or one or several of ok, "),
        ({"minCostUsd": "-1"}, "minCostUsd: takes an amount in USD"),
        ({"minLatencyMs": "1.5"}, "minLatencyMs: takes a whole number"),
        ({"apiFormat": "soap"}, "apiFormat: takes one of openai, anthropic"),
        ({"status": "4x"}, "status: takes a status such as 429, or a class such as 4xx"),
        ({"status": "700"}, "status: takes"),
        ({"from": "tomorrow"}, "from: takes a date or time such as 2026-11-23, 23.11.2026"),
        ({"from": "31.11.2026"}, "from: takes a date or time"),
        ({"to": "999999d"}, "to: takes a date or time"),
        ({"view": "odd"}, "view: takes one of failed, refused, slow, expensive, retried"),
        ({"minAttempts": "two"}, "minAttempts: takes a whole number of attempts"),
        ({"from": "1h", "to": "2h"}, "from: has to be before `to`"),
        ({"q": "x" * 201}, "q: takes at most 200 characters"),
        ({"user": "a\0"}, "user: takes no NUL"),
    ],
)
def test_unusable_values_are_named(values, message):
    with pytest.raises(FilterError) as caught:
        LogFilter.parse(values, NOW, UTC)
    assert str(caught.value).startswith(message)
    assert caught.value.field in values


def test_limit():
    assert parse_limit(None) == parse_limit("") == 50
    assert parse_limit("200") == 200


@pytest.mark.parametrize("text", ["0", "201", "-1", "1.5", "x", "٣", "9" * 30])
def test_a_limit_out_of_range(text):
    with pytest.raises(FilterError, match="limit: takes a whole number from 1 to 200"):
        parse_limit(text)
