"""Months, statements, closing and prices, on the pages of the dashboard."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from io import BytesIO

import pytest

from app.accounts.users import UserStore
from app.admin import billing
from app.admin.application import Page
from app.admin.billing import BillingSources, billing_pages
from app.admin.prices import price_pages
from app.admin.request_pages import request_pages
from app.api.admin.request_logs import export_response
from app.api.downloads import csv_download
from app.api.statement_files import statement_file
from app.billing import month_figures
from app.billing.statements import Statements
from app.management.audit import AuditLog
from app.management.price_history import PriceHistory
from app.management.statements import StatementAdmin
from app.persistence.booking import Booking
from app.pricing.model_table import ModelTable
from app.records.request_logs import RequestLogStore
from tests.contract.booking_world import sequenced
from tests.support.dashboard import PASSWORD, DashboardWorld

OCTOBER = datetime(2026, 10, 20, 9, tzinfo=UTC)
FINE = {"consistent": True, "differenceCount": 0, "pendingCount": 0}
TABLE = '[[models]]\nid = "gpt-5"\ninput = 1\noutput = 10\n'


@pytest.fixture
def world(database, monkeypatch) -> DashboardWorld:
    """Three users who used something in October; November, which runs, has one request."""
    monkeypatch.setattr(month_figures, "_PAUSE_S", 0)
    world = DashboardWorld(database)
    world.report = dict(FINE)
    for name in ("ann", "bob", "ελένη/<b>"):
        UserStore(database).add(name, now=OCTOBER - timedelta(days=5))
    booking = Booking(database, "w1")
    booking.apply(
        [
            sequenced(number, user_id=user, model="gpt-5", created_at=OCTOBER, cost_nano_usd=cost)
            for number, (user, cost) in enumerate(
                [("ann", 1_250_000_000), ("ann", 7), ("bob", 2_000_000_000), ("ελένη/<b>", 3)], 1
            )
        ]
    )
    booking.apply([sequenced(5, user_id="ann", model="gpt-5", created_at=world.clock.now, cost_nano_usd=9)])
    statements = Statements(database, UTC)
    statements.ensure_indexes()
    sources = BillingSources(
        admin=StatementAdmin(statements, AuditLog(database)),
        stats=world.stats,
        verify=lambda: world.report,
        csv=csv_download,
        statement_file=statement_file,
    )
    table = ModelTable.from_toml(TABLE)
    prices = PriceHistory(database, lambda: table)
    logs = RequestLogStore(database)
    requests = request_pages(logs, table, export_response, world.clock, UTC, prices)
    world.more_pages = [
        Page("Requests", "Requests", "requests.table", requests),
        Page("Billing", "Months", "billing.months", billing_pages(sources, world.clock)),
        Page("Billing", "Prices", "prices.versions", price_pages(prices, world.stats, world.clock, UTC)),
    ]
    return world


def words(answer) -> str:
    """What a page says, without its markup."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def test_months_are_listed_with_what_they_come_to(world):
    page = world.admin().get("/billing")
    said = words(page)
    assert re.search(r"2026-11 running \$0\.00 ?0000 1 ", said)
    assert re.search(r"2026-10 to be closed \$3\.25 ?0000 4 ", said)
    assert 'title="$3.25000001"' in page.text


def test_a_month_leads_to_each_statement(world):
    browser = world.admin()
    page = browser.get("/billing/2026-10")
    links = re.findall(r'href="(/admin/billing/2026-10/of/[^"]+)"', page.text)
    assert len(links) == 3
    assert "ελένη/<b>" in words(browser.get(unescape(links[2]).removeprefix("/admin")))
    said = words(browser.get("/billing/2026-10/of/ann"))
    for part in ("Charges by model", "$1.250000007", "Closing balance -$1.250000007", "2026-10-20"):
        assert part in said
    assert browser.get("/billing/2026-10/of/nobody").status_code == 404
    assert browser.get("/billing/2026-13").status_code == 404


def test_a_months_pages_have_every_user(world, monkeypatch):
    monkeypatch.setattr(billing, "USERS_AT_ONCE", 2)
    browser = world.admin()
    first = browser.get("/billing/2026-10").text
    more = unescape(re.search(r'href="/admin(/billing/2026-10\?cursor=[^"]+)"', first)[1])
    assert "ann" in words(browser.get("/billing/2026-10"))
    assert "ελένη" in words(browser.get(more))
    assert "1 of" not in words(browser.get("/billing/2026-10?search=bob"))
    assert "No user's name contains “zed”" in words(browser.get("/billing/2026-10?search=zed"))


def test_files_have_the_whole_month_and_statement(world):
    browser = world.admin()
    month = browser.get("/billing/2026-10/users.csv")
    assert month.headers["Content-Disposition"] == 'attachment; filename="statements-2026-10.csv"'
    assert len(month.text.splitlines()) == 4
    assert "1.250000007" in browser.get("/billing/2026-10/of/ann?as=csv").text
    printed = browser.get("/billing/2026-10/of/ann?as=html")
    assert "unsafe-inline" in printed.headers["Content-Security-Policy"]
    assert "<script" not in printed.text


def test_closing_freezes_a_month(world, database):
    browser = world.admin()
    answer = browser.post("/billing/2026-10/close", "/billing/2026-10")
    assert answer.headers["Location"] == "/admin/billing/2026-10"
    page = browser.get("/billing/2026-10")
    said = words(page)
    for part in ("closed", "by admin-token", "everything agreed", "SHA-256"):
        assert part in said
    assert "Close the month" not in said
    late = sequenced(6, user_id="ann", model="gpt-5", created_at=OCTOBER, cost_nano_usd=11)
    Booking(database, "w1").apply([late])
    assert "$1.250000007" in words(browser.get("/billing/2026-10/of/ann"))
    november = words(browser.get("/billing/2026-11/of/ann"))
    assert "Booked late into closed months -$0.000000011" in november
    assert database.admin_audit.find_one({"action": "statements.close"})["target"] == "month:2026-10"


def test_a_month_that_does_not_agree_is_closed_only_when_asked_to(world, database):
    world.report = {"consistent": False, "differenceCount": 2, "pendingCount": 0}
    browser = world.admin()
    refused = browser.post("/billing/2026-10/close", "/billing/2026-10")
    assert refused.status_code == 200
    assert "2026-10 was not closed: verify finds 2 differences" in words(refused)
    assert '<details class="form-dialog" id="close" open>' in refused.text
    assert database.statements.count_documents({}) == 0
    assert browser.post("/billing/2026-10/close", "/billing/2026-10", anyway="y").status_code == 303
    assert "2 differences" in words(browser.get("/billing/2026-10"))


def test_a_running_month_cannot_be_closed(world):
    browser, month = world.admin(), f"{world.clock.now:%Y-%m}"
    assert "Close the month" not in words(browser.get(f"/billing/{month}"))


def test_a_month_that_has_not_begun_is_not_called_running(world):
    browser, month = world.admin(), f"{world.clock.now:%Y-%m}"
    assert "running" in words(browser.get(f"/billing/{month}"))
    for page in ("/billing/2099-11", "/billing/2099-11/of/ann"):
        said = words(browser.get(page))
        assert "not begun" in said
        assert "running" not in said
    assert "2099-11 has not begun yet" in words(browser.post("/billing/2099-11/close", "/billing/2026-10"))


def test_another_table_is_compared_with_what_was_charged(world):
    browser = world.admin()

    def preview(text: bytes, since: str = "60d"):
        fields = {"table": (BytesIO(text), "models.toml"), "since": since}
        return browser.post("/billing/prices", "/billing/prices", **fields)

    assert "What the other table would have charged" in words(preview(TABLE.replace("10", "20").encode()))
    assert "is required" in words(preview(b""))
    assert "input: " in words(preview(TABLE.replace("1\n", '"much"\n', 1).encode()))
    assert "is not UTF-8 text" in words(preview(b"\xff\xfe"))
    assert "takes a date or time" in words(preview(TABLE.encode(), "long ago"))
    assert "takes a time of the last ten years" in words(preview(TABLE.encode(), "1h".replace("1", "999999")))


def test_prices_are_listed_and_searched(world):
    browser = world.admin()
    said = words(browser.get("/billing/prices"))
    assert ModelTable.from_toml(TABLE).version in said
    assert "gpt-5" in said
    assert "No model has a name like that" in words(browser.get("/billing/prices?search=claude"))


def test_the_palette_leads_to_a_month_that_is_to_be_closed(world):
    for role in ("owner", "viewer"):
        world.add_user(f"the-{role}", role=role)
        browser = world.browser()
        browser.log_in(username=f"the-{role}", password=PASSWORD)
        answer = browser.get("/search?find=close 2026-10", headers={"Accept": "application/json"})
        (hit,) = answer.json["hits"]
        assert (hit["title"], hit["url"]) == ("Close 2026-10", "/admin/billing/2026-10")
        assert "2026-10" in words(browser.get("/billing/2026-10"))
