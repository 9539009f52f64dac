"""The page Usage over real sums: what it says is what the API says, filtered, compared, and as CSV."""

import csv
import re
from datetime import timedelta
from html import unescape

import pytest

from app.admin import Page
from app.admin import usage_pages as usage_pages_module
from app.admin.request_pages import request_pages
from app.admin.usage_pages import WORDS, usage_pages
from app.api.admin.request_logs import export_response
from app.api.downloads import csv_download
from app.common.money import NANO
from app.persistence.booking import Booking
from app.pricing.model_table import ModelTable
from app.records.records import Attribution, Outcome
from app.records.request_logs import RequestLogStore
from app.statistics.stats_store import StatsStore
from tests.contract.booking_world import sequenced
from tests.support.dashboard import NOON, DashboardWorld, SetClock

LEGACY_KEY = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.fixture
def admin(database):
    world = DashboardWorld(database)
    pages = usage_pages(StatsStore(database), csv_download, SetClock(), NOON.tzinfo)
    logs = request_pages(RequestLogStore(database), ModelTable(()), export_response, SetClock(), NOON.tzinfo)
    world.more_pages = [
        Page("Usage", "Usage", "usage.usage", pages),
        Page("Requests", "Requests", "requests.table", logs),
    ]
    return world.admin()


@pytest.fixture
def booked(database):
    """Two users, two models, three days; yesterday half as dear as today, and one request that failed."""
    records = [
        sequenced(
            number,
            user_id=user,
            user_key_id=LEGACY_KEY if user == "bob" else "wk_" + "a" * 40,
            model=model,
            created_at=NOON - timedelta(days=days, minutes=5),
            outcome=Outcome.UPSTREAM_ERROR if (user, days) == ("bob", 0) else Outcome.OK,
            attribution=Attribution(
                "<b>someone", f"s{days}", "curl", ("beta", "paid")[: 1 + (user == "ann")]
            ),
            cost_nano_usd=cents * NANO // 100,
            input_tokens=100,
            output_tokens=10,
        )
        for number, (user, model, days, cents) in enumerate(
            [("ann", "gpt-5", 0, 200), ("ann", "claude", 0, 100), ("bob", "gpt-5", 0, 50),
             ("ann", "gpt-5", 1, 100), ("bob", "claude", 2, 25)], 1,
        )
    ]  # fmt: skip
    assert Booking(database, "w1").apply(records).dead == ()


def cells(page, row: int = 0) -> list[str]:
    """What a line of the table says."""
    table = page.text.partition('id="usage"')[2].partition("<tbody>")[2]
    line = table.split("<tr>")[row + 1]
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)
    return [unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", cell))).strip() for cell in found]


def lines(answer) -> list[list[str]]:
    return list(csv.reader(answer.text.splitlines()))


@pytest.mark.usefixtures("booked")
def test_the_table_is_by_what_was_asked_the_dearest_first(admin):
    page = admin.get("/usage?by=user&period=7d")
    assert cells(page)[:5] == ["ann", "$4.00", "84.2 %", "3", "0"]
    assert cells(page, 1)[:5] == ["bob", "$0.75", "15.8 %", "2", "1"]
    two = admin.get("/usage?by=user&then=model&period=7d")
    assert cells(two)[:3] == ["ann", "gpt-5", "$3.00"]
    assert 'class="spark"' in page.text
    assert "user=ann" in page.text


@pytest.mark.usefixtures("booked")
def test_filters_that_sums_know_restrict_them_and_others_are_named(admin):
    page = admin.get("/usage?by=model&user=bob&period=7d")
    assert cells(page)[:2] == ["gpt-5", "$0.50"]
    assert cells(page, 1)[:2] == ["claude", "$0.25"]
    assert "$0.75 in all" in page.text
    assert "cannot be filtered" not in page.text
    assert (
        "Usage cannot be filtered by outcome, session here" in admin.get("/usage?outcome=ok&session=s0").text
    )


@pytest.mark.usefixtures("booked")
def test_a_period_is_compared_with_the_one_before(admin):
    page = admin.get("/usage?by=user&period=today&compare=yes")
    ann = cells(page)
    assert ann[1] == "$3.00"
    assert ann[10:12] == ["$1.00", "▲ 200.0 %"]
    assert cells(page, 1)[10:12] == ["$0.00", "–"]


@pytest.mark.usefixtures("booked")
def test_the_csv_is_what_is_shown_to_the_nano_dollar(admin):
    answer = admin.get("/usage/export?by=user&then=model&period=7d")
    assert answer.mimetype == "text/csv"
    assert 'filename="usage-user-20261116-20261123.csv"' in answer.headers["Content-Disposition"]
    heads, first, *others = lines(answer)
    assert heads[:4] == ["user", "model", "costNanoUsd", "costSharePercent"]
    assert first[:3] == ["ann", "gpt-5", "3000000000"]
    assert len(others) == 3
    of_chart = lines(admin.get("/usage/export?of=chart&metric=requests&by=user&period=7d&bucket=day"))
    assert of_chart[0] == ["start", "ann", "bob"]
    assert of_chart[-1] == ["2026-11-23T00:00:00+00:00", "2", "1"]
    assert len(of_chart) == 9


@pytest.mark.usefixtures("booked")
def test_keys_of_earlier_software_are_not_shown(admin):
    for path in ("/usage?by=key&period=7d", "/usage/export?by=key&period=7d",
                 "/usage/export?of=chart&by=key&period=7d"):  # fmt: skip
        text = admin.get(path).text
        assert LEGACY_KEY not in text
        assert "sk-troll" in text


@pytest.mark.parametrize(
    ("query", "says"),
    [("period=soon", "unknown period"), ("from=soon", "takes a"), ("cursor=x", "cursor"),
     ("period=30d&bucket=5m", "takes one of auto, hour, day")],
)  # fmt: skip
def test_what_cannot_be_shown_is_explained(admin, query, says):
    page = admin.get(f"/usage?{query}")
    assert page.status_code == 400
    assert says in page.text
    if "cursor" not in query:
        assert admin.get(f"/usage/export?{query}").status_code == 400


def test_without_requests_it_says_so(admin):
    assert "No requests in this time." in admin.get("/usage").text


@pytest.mark.parametrize("query", ["metric=x&by=y&then=z", "then=model&by=model"])
def test_choices_that_are_not_known_count_as_not_made(admin, query):
    assert admin.get(f"/usage?{query}").status_code == 200


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize("metric", ["cost", "requests", "tokens", "output", "failures", "refusals", "success",
                                    "latency", "cache"])  # fmt: skip
def test_every_metric_is_drawn(admin, metric):
    assert f'id="chart-{metric}"' in admin.get(f"/usage?metric={metric}&period=7d").text


@pytest.mark.usefixtures("booked")
def test_what_only_records_say_is_counted_from_them(admin):
    page = admin.get("/usage?by=session&period=7d")
    assert cells(page)[:4] == ["s0", "$3.50", "73.7 %", "3"]
    assert "Counted from the records themselves" in page.text
    assert "/admin/requests?session=s0&amp;period=7d" in page.text
    assert cells(admin.get("/usage?by=session&then=model&user=bob&period=7d"))[:3] == ["s0", "gpt-5", "$0.50"]
    tags = admin.get("/usage?by=tag&period=7d")
    assert cells(tags)[:2] == ["beta", "$4.75"]
    assert cells(tags, 1)[:2] == ["paid", "$4.00"]
    assert "counts once for each" in tags.text
    assert cells(admin.get("/usage?by=model&then=user&tag=paid&period=7d"))[0] == "gpt-5"
    assert cells(admin.get("/usage?by=endUser&period=7d"))[0] == "<b>someone"
    assert lines(admin.get("/usage/export?by=client&period=7d"))[1][:2] == ["curl", "4750000000"]


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize("by", WORDS)
def test_every_group_is_shown_alone_and_beside_another(admin, by):
    other = "user" if by != "user" else "tag"
    for query in (f"by={by}", f"by={by}&then={other}", f"by={other}&then={by}&compare=yes"):
        page = admin.get(f"/usage?{query}&period=7d")
        assert page.status_code == 200, query
        assert cells(page)[0], query
        assert admin.get(f"/usage/export?{query}&period=7d").status_code == 200
    for link in re.findall(r'href="/admin(/requests\?[^"]*)"[^>]*>View', admin.get(f"/usage?by={by}").text):
        assert 'data-id="' in admin.get(unescape(link)).text


@pytest.mark.usefixtures("booked")
def test_long_tables_have_pages_which_together_are_all(admin, monkeypatch):
    monkeypatch.setattr(usage_pages_module, "ROWS", 2)
    path, names = "/usage?by=user&then=model&period=7d", []
    pages = 0
    while path:
        page = admin.get(path)
        pages += 1
        names += [tuple(cells(page, row)[:2]) for row in range(page.text.count("View</a>"))]
        following = re.search(r'rel="next" href="/admin(/[^"]+)"', page.text)
        path = unescape(following[1]) if following else None
    assert pages == 2
    assert len(names) == len(set(names)) == 4
    assert "3 to 4 of 4" in page.text
    assert "First page" in page.text
    assert len(lines(admin.get("/usage/export?by=user&then=model&period=7d"))) == 5
