"""The request log's pages over a real database."""

import json
import re
from datetime import timedelta
from html import unescape

import pytest

from app.accounts.client_keys import ClientKeyStore
from app.admin import Page
from app.admin.request_pages import request_pages
from app.api.admin.request_logs import export_response
from app.pricing.model_table import ModelTable
from app.records.request_logs import RequestLogStore
from tests.support.dashboard import NOON, DashboardWorld, SetClock

ACCOUNT = "No money <b>left</b> & so on"
TOLD = "The upstream refused the proxy's own account."


@pytest.fixture
def admin(database):
    world = DashboardWorld(database)
    logs = RequestLogStore(database)
    pages = request_pages(logs, ModelTable(()), export_response, SetClock(), NOON.tzinfo)
    world.more_pages = [Page("Requests", "Requests", "requests.table", pages)]
    return world.admin()


def said(browser, path: str) -> str:
    text = browser.get(path).text
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", text)))


def test_a_record_says_why_in_words(admin, database) -> None:
    record = {"createdAt": NOON, "outcome": "upstream_error", "errorType": "upstream_account"}
    database.request_logs.insert_many(
        [
            {"_id": "r1", **record, "errorMessage": ACCOUNT, "toldMessage": TOLD},
            {"_id": "r2", **record, "errorMessage": "no tool"},
            {"_id": "r3", **record},
        ]
    )
    assert f"Why: “{ACCOUNT}”" in said(admin, "/requests/r1")
    assert f"The client was told: “{TOLD}”" in said(admin, "/requests/r1")
    assert "<b>left" not in admin.get("/requests/r1").text
    assert "The client was told: “no tool”" in said(admin, "/requests/r2")
    assert "was told" not in said(admin, "/requests/r3")


def test_a_model_that_is_not_known_is_found_by_its_name(admin, database) -> None:
    unknown = {"createdAt": NOON, "outcome": "rejected", "model": None}
    database.request_logs.insert_many(
        [{"_id": "r1", **unknown, "requestedModel": "Vendor/New"}, {"_id": "r2", **unknown}]
    )
    for filter_ in ("model=Vendor/New", "q=vendor/n"):
        table = admin.get(f"/requests?{filter_}").text
        assert 'data-id="r1"' in table
        assert 'data-id="r2"' not in table
        assert "Vendor/New" in admin.get(f"/requests/export?format=csv&{filter_}").text
    assert "/admin/requests?model=Vendor/New" in unescape(admin.get("/requests/r1").text)


def insert(database, number: int, **more) -> None:
    document = {
        "_id": f"r{number}",
        "createdAt": NOON - timedelta(hours=number),
        "outcome": "ok",
        "statusCode": 200,
        "userId": "ann",
        "userKeyId": "wk_1",
        "model": "gpt",
        "costNanoUsd": 10**7 * number,
        "latencyMs": 1000,
    }
    database.request_logs.insert_one(document | more)


def rows(browser, query: str = "") -> list[str]:
    return re.findall(r'<tr data-id="(\w+)"', browser.get(f"/requests?{query}").text)


def links(browser, path: str) -> list[str]:
    return unescape(" ".join(re.findall(r'href="([^"]*)"', browser.get(path).text))).split()


def test_views_count_and_lead_to_what_they_count(admin, database) -> None:
    insert(database, 1)
    insert(database, 2, outcome="rejected", statusCode=429, errorMessage="Too many requests")
    insert(database, 30, outcome="upstream_error", statusCode=502, latencyMs=20_000)
    text = said(admin, "/requests")
    assert "All 3" in text
    for view in ("Failed 2", "Refused 1", "Slow 1", "Expensive 1", "Retried 0"):
        assert view in text
    assert rows(admin, "view=failed") == ["r2", "r30"]
    assert "Failed 1" in said(admin, "/requests?view=failed&period=today")
    assert rows(admin, "view=failed&period=yesterday&user=ann") == ["r30"]
    assert "Too many requests" in said(admin, "/requests?view=refused")


def test_sums_and_facets_are_those_of_the_question(admin, database) -> None:
    for number in range(1, 4):
        insert(database, number, model="gpt" if number < 3 else "claude", clientName="curl/8.5.0")
    page = said(admin, "/requests?model=gpt")
    assert "Cost$0.03" in page
    assert "claude" not in page
    found = links(admin, "/requests?period=today")
    assert "/admin/requests?model=claude&period=today" in found
    assert any("client=curl" in link and "period=today" in link for link in found)


def test_bars_lead_to_their_time(admin, database) -> None:
    insert(database, 1)
    insert(database, 5)
    page = admin.get("/requests?user=ann").text
    bars = re.findall(r'<th scope="row" class="nowrap"><a href="/admin/requests\?([^"]*)"', page)
    assert [shown for bar in bars if (shown := rows(admin, unescape(bar)))] == [["r1"], ["r5"]]
    drawn = json.loads(re.search(r'application/json">(.*?)</script>', page)[1])
    assert len(drawn["starts"]) == len(bars)
    assert drawn["here"] == drawn["requests"] == "/admin/requests?user=ann"


def test_the_table_is_in_the_order_of_a_column(admin, database) -> None:
    for number in (2, 3, 1):
        insert(database, number)
    assert rows(admin) == ["r1", "r2", "r3"]
    assert rows(admin, "sort=-cost") == ["r3", "r2", "r1"]
    assert rows(admin, "sort=<b>") == ["r1", "r2", "r3"]


def test_columns_are_chosen_and_kept(admin, database) -> None:
    insert(database, 1, sessionId="the-session")
    assert "the-session" not in said(admin, "/requests")
    answer = admin.get("/requests/columns?column=session&column=cost&user=ann")
    assert answer.status_code == 303
    assert re.search("columns=cost(,|%2C)session", answer.location)
    assert "user=ann" in answer.location
    page = admin.get("/requests?user=ann", follow_redirects=True)
    assert "the-session" in page.text
    assert "columns=cost" in page.request.url
    assert 'class="col-model' not in page.text
    admin.get("/requests/columns?default=1")
    assert 'class="col-model' in admin.get("/requests").text


def test_a_key_is_found_and_shown_by_its_name(admin, database) -> None:
    key = ClientKeyStore(database).add("ann", now=NOON, more={"keyName": "production <backend>"})
    insert(database, 1, userKeyId=key.key_id)
    insert(database, 2)
    for text in ("production", key.hint.replace("...", "%2E%2E%2E"), key.hint[-4:], key.key_id):
        assert rows(admin, f"key={text}") == ["r1"]
    assert "production <backend>" in said(admin, "/requests")
    assert "production &lt;backend&gt;" in admin.get("/requests/r1").text


def test_a_key_without_a_name_is_called_by_what_is_shown_of_it(admin, database) -> None:
    key = ClientKeyStore(database).add("ann", now=NOON)
    insert(database, 1, userKeyId=key.key_id)
    assert f">{key.hint}</a>" in admin.get("/requests").text
    assert key.hint in said(admin, "/requests/r1")


def test_a_record_has_the_requests_beside_it(admin, database) -> None:
    for number in range(1, 5):
        insert(database, number, userId="bob" if number == 3 else "ann")
    beside = re.findall(r'rel="(prev|next)" href="([^"]*)"', admin.get("/requests/r2?user=ann").text)
    assert beside == [("prev", "/admin/requests/r1?user=ann"), ("next", "/admin/requests/r4?user=ann")]
    by_cost = re.findall(r'rel="(prev|next)" href="([^"]*)"', admin.get("/requests/r4?sort=-cost").text)
    assert by_cost == [("next", "/admin/requests/r3?sort=-cost")]


def test_every_value_of_a_record_is_a_door(admin, database) -> None:
    insert(database, 1, sessionId="s-1", endUser="eve", tags=["a", "b c"], factoryKeyId="env-1")
    found = links(admin, "/requests/r1?period=today")
    for query in ("session=s-1&period=today", "endUser=eve&period=today", "factoryKey=env-1&period=today",
                  "tag=b+c&period=today", "status=200&period=today"):  # fmt: skip
        assert f"/admin/requests?{query}" in found
    assert "/admin/requests?session=s-1" in found  # all of the session, whatever else was asked


def test_expired_is_not_nothing(admin, database) -> None:
    database.request_logs.create_index("createdAt", expireAfterSeconds=30 * 86_400)
    insert(database, 1)
    text = said(admin, "/requests?from=2026-10-01&to=2026-10-31")
    assert "Records are kept for 30 days" in text
    assert "from=2026-10-01" in " ".join(links(admin, "/requests?from=2026-10-01&to=2026-10-31"))
    assert "kept for" not in said(admin, "/requests?from=yesterday")


def test_a_time_that_cannot_be_read_is_told_beside_its_field(admin) -> None:
    answer = admin.get("/requests?from=soon")
    assert answer.status_code == 400
    assert re.search(r'name="from"[^>]*aria-describedby="from-problem"', answer.text)
    assert re.search(r'id="from-problem">from: takes a date or time', unescape(answer.text))


def test_too_much_to_count_is_said_and_rows_are_shown(admin, database, monkeypatch) -> None:
    insert(database, 1)
    monkeypatch.setattr(RequestLogStore, "breakdown", lambda *_: None)
    assert "take too long to count" in said(admin, "/requests")
    assert rows(admin) == ["r1"]


def test_a_part_that_was_counted_is_called_a_part(admin, database, monkeypatch) -> None:
    monkeypatch.setattr("app.records.request_logs.BROKEN_DOWN", 2)
    for number in range(1, 6):
        insert(database, number)
    text = said(admin, "/requests")
    assert "at least 2" in text
    assert "these figures cover those since" in text
    assert rows(admin, "sort=-cost") == ["r2", "r1"]
