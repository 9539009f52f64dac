"""What pages are asked is in the address, and links say it again."""

from datetime import UTC, datetime

import pytest

from app.admin.question import NAMES, Question, last_months, period_title
from app.common.cursor import FilterError
from app.statistics.periods import UnknownPeriodError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def asked(**parameters: str) -> Question:
    return Question.parse(parameters)


def test_what_is_no_part_of_the_question_and_what_is_empty_is_left_out():
    question = asked(user=" ann ", model="", cursor="x", period="7d", csrf_token="y")
    assert question.given == {"period": "7d", "user": "ann"}
    assert question.filters == {"user": "ann"}


def test_two_times_go_before_a_period_as_a_form_sends_both():
    question = Question.parse({"period": "7d", "from": "24h", "user": "ann"})
    assert question.given == {"from": "24h", "user": "ann"}
    period = question.period(NOW, UTC, "30d")
    assert (period.name, period.start.isoformat()) == (None, "2026-11-22T12:00:00+00:00")


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({}, {"period": "7d", "user": "ann"}),
        ({"model": "gpt-5"}, {"period": "7d", "user": "ann", "model": "gpt-5"}),
        ({"user": None}, {"period": "7d"}),
        ({"period": "month"}, {"period": "month", "user": "ann"}),
        ({"from": "24h"}, {"from": "24h", "user": "ann"}),
        ({"period": None}, {"user": "ann"}),
    ],
)
def test_a_link_asks_the_same_but_for_its_changes(changes, asks):
    link = asked(period="7d", user="ann").link(**changes)
    assert {name: value for name, value in link.items() if value is not None} == asks
    assert set(link) == set(NAMES)  # url_for is told what not to ask, too


def test_a_period_takes_the_place_of_two_times():
    link = Question.parse({"from": "24h", "to": "1h"}).link(period="today")
    assert (link["period"], link["from"], link["to"]) == ("today", None, None)


def test_filters_are_chips():
    [user, outcome] = asked(user="ann", outcome="failed", period="7d").chips()
    assert (user.name, user.title, user.value) == ("user", "User", "ann")
    assert outcome.title == "Outcome"
    assert asked(user="ann", outcome="failed").without("user")["user"] is None


def test_a_page_has_its_own_range_until_one_is_asked_for():
    assert asked().period(NOW, UTC, "24h").name == "24h"
    assert asked().range_title("24h") == "Last 24 hours"
    assert not asked(user="ann").has_range
    with pytest.raises(UnknownPeriodError):
        asked(period="soon").period(NOW, UTC, "24h")
    with pytest.raises(FilterError):
        Question.parse({"from": "soon"}).period(NOW, UTC, "24h")


@pytest.mark.parametrize(
    ("name", "title"),
    [("1h", "Last hour"), ("30d", "Last 30 days"), ("last_month", "Last month"), ("2026-11", "November 2026"),
     ("2026-11-23", "2026-11-23"), ("all", "Ever")],
)  # fmt: skip
def test_ranges_are_said_in_words(name, title):
    assert period_title(name) == title


def test_two_times_are_said_as_they_were_given():
    assert Question.parse({"from": "2026-11-01"}).range_title("24h") == "2026-11-01 to now"
    assert Question.parse({"to": "2026-11-01"}).range_title("24h") == "The beginning to 2026-11-01"


def test_the_last_months_are_those_of_the_zone_newest_first():
    months = last_months(NOW, UTC)
    assert len(months) == 12
    assert months[0] == ("2026-11", "Nov 2026")
    assert months[-1] == ("2025-12", "Dec 2025")
