"""What an administrator wants to know of requests, and in how few steps the page tells it."""

import json
import re
from datetime import UTC, datetime, time, timedelta

import pytest
from playwright.sync_api import expect

from app.accounts.client_keys import ClientKeyStore
from tests.support.axe import problems
from tests.support.chromium import NARROW, Watched

ACME, LONG = "acme-corp", "customer-" + "x" * 180
RTL, CJK = "شركة الاختبار العربية", "株式会社とても長い名前の顧客" * 4
HOSTILE = "<b data-xss onclick='window.pwned=1'>\u202eevil</b>"
ALL = tuple(f"task-{n:02}" for n in range(1, 7))
REASONS = ("The model's answer was cut.", "You sent too many requests.", "The upstream is overloaded.")


@pytest.fixture(scope="module")
def acme(site):
    """Requests of yesterday: three of acme failed, one was dear; some of customers with odd names."""
    database = site.weir.database
    midnight = datetime.combine(datetime.now(site.zone).date(), time.min, tzinfo=site.zone).astimezone(UTC)
    key = ClientKeyStore(database).add(ACME, now=midnight, more={"keyName": "production backend"})

    def document(number, **more):
        return {
            "_id": f"task-{number:02}",
            "createdAt": midnight - timedelta(hours=1, minutes=number),
            "userId": ACME,
            "userKeyId": key.key_id,
            "factoryKeyId": "env-1",
            "model": "gpt-5",
            "endpoint": "chat",
            "outcome": "ok",
            "statusCode": 200,
            "costNanoUsd": 1_000_000 * number,
            "latencyMs": 900,
            "attempts": [{"factoryKeyId": "env-1", "statusCode": 200, "latencyMs": 900}],
        } | more

    endings = ("upstream_truncated", "rejected", "upstream_error")
    made = [
        document(n, outcome=outcome, errorType=outcome, errorMessage=reason)
        for n, (outcome, reason) in enumerate(zip(endings, REASONS, strict=True), start=1)
    ]
    made += [document(4), document(5, costNanoUsd=3_000_000_000), document(6, costNanoUsd=2_000_000_000)]
    made += [
        document(
            n, userId=name, userKeyId=f"wk_{n:040}", model=name, outcome="internal_error", errorMessage=name
        )
        for n, name in enumerate((LONG, RTL, CJK, HOSTILE), start=10)
    ]
    database["request_logs"].insert_many(made)
    yield key
    database["request_logs"].delete_many({"_id": {"$in": [item["_id"] for item in made]}})
    database["user_keys"].delete_one({"_id": key.key_id})


def shows(page, *records):
    """Wait until the table has these records and no others."""
    expect(page.locator("#log tbody tr")).to_have_count(len(records))
    assert [row.get_attribute("data-id") for row in page.locator("#log tbody tr").all()] == list(records)


def test_yesterdays_failures_of_a_user_and_why_in_three_steps(admin, acme):
    page = admin.page
    page.goto("/admin/requests")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Failed").click()
    page.wait_for_url("**view=failed**")  # the page before has a range, too
    page.locator("#range").click()
    page.locator("#period-yesterday").click()
    page.wait_for_url("**period=yesterday**")
    page.locator("#facet-user").get_by_role("link", name=ACME).click()
    shows(page, "task-01", "task-02", "task-03")
    for reason in REASONS:
        expect(page.locator("#log")).to_contain_text(reason)
    expect(page.locator("#sums")).to_contain_text("3")
    assert {"view=failed", "period=yesterday", f"user={ACME}"} <= set(page.url.partition("?")[2].split("&"))


def test_the_dearest_requests_in_one_step(admin, acme):
    page = admin.page
    page.goto("/admin/requests")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Expensive").click()
    expect(page.locator("#log tbody tr").nth(0)).to_have_attribute("data-id", "task-05")
    expect(page.locator("#log tbody tr").nth(1)).to_have_attribute("data-id", "task-06")
    page.get_by_role("columnheader", name="Latency").get_by_role("link").click()
    expect(page.get_by_role("columnheader", name="Latency")).to_have_attribute("aria-sort", "descending")


def test_requests_are_read_one_after_the_other_by_keyboard(admin, acme):
    page = admin.page
    page.goto(f"/admin/requests?user={ACME}&outcome=failed")
    link = page.locator("[data-id=task-01] .record-link")
    link.focus()
    page.keyboard.press("Enter")
    drawer = page.locator("#drawer")
    expect(drawer.locator("#record")).to_have_attribute("data-id", "task-01")
    expect(drawer.locator("#error-message")).to_contain_text(REASONS[0])
    for key, record in (
        ("j", "task-02"),
        ("ArrowRight", "task-03"),
        ("k", "task-02"),
        ("ArrowLeft", "task-01"),
    ):
        page.keyboard.press(key)
        expect(drawer.locator("#record")).to_have_attribute("data-id", record)
    page.keyboard.press("k")  # there is none before the first
    expect(drawer.locator("#record")).to_have_attribute("data-id", "task-01")
    assert problems(page) == []
    page.keyboard.press("j")
    expect(drawer.locator("#record")).to_have_attribute("data-id", "task-02")
    page.keyboard.press("Escape")
    expect(drawer).not_to_be_visible()
    expect(page.locator("[data-id=task-02] .record-link")).to_be_focused()
    assert page.url.endswith(f"user={ACME}&outcome=failed")


def test_the_page_of_a_record_has_the_same_keys_and_doors(admin, acme):
    page = admin.page
    page.goto(f"/admin/requests/task-02?user={ACME}")
    page.keyboard.press("j")
    page.wait_for_url(f"**/requests/task-03?user={ACME}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/requests/task-02?user={ACME}")
    page.locator("#record dl").get_by_role("link", name="production backend").click()
    shows(page, *ALL)
    assert f"user={ACME}" in page.url


@pytest.mark.parametrize("part", ["hint", "tail", "name"])
def test_a_key_is_found_by_what_is_shown_of_it(admin, acme, part):
    page = admin.page
    page.goto("/admin/requests")
    page.locator("#add-filter").click()
    text = {"hint": acme.hint, "tail": acme.hint[-4:], "name": "Production"}[part]
    page.get_by_label("Client key", exact=True).fill(text)
    page.get_by_role("button", name="Filter").click()
    shows(page, *ALL)


def test_users_are_suggested_while_a_name_is_typed(admin, site):
    page = admin.page
    page.goto("/admin/requests?outcome=rejected")
    page.locator("#add-filter").click()
    name = site.users[0].name
    with page.expect_response(lambda answer: "/requests/users" in answer.url) as answered:
        page.get_by_label("User", exact=True).press_sequentially(name[:-1])
    assert name in answered.value.json()
    expect(page.locator(f'datalist option[value="{name}"]')).to_have_count(1)


def test_dragging_over_the_bars_asks_for_their_time(admin, acme):
    page = admin.page
    admin.stand_still()
    page.goto(f"/admin/requests?user={ACME}&period=yesterday")
    drawn = json.loads(page.locator("#chart-endings script").text_content())
    box = page.locator("#chart-endings .u-over").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 40, steps=4)
    page.mouse.up()
    page.wait_for_url("**from=**")
    for name, seconds in (("from", drawn["starts"][0]), ("to", drawn["end"])):
        said = page.evaluate("name => new URL(location).searchParams.get(name)", name)
        assert datetime.fromisoformat(said).timestamp() == seconds
    assert page.evaluate("new URL(location).searchParams.get('period')") is None
    shows(page, *ALL)


def test_a_click_on_a_bar_leads_to_its_requests(admin, acme):
    page = admin.page
    admin.stand_still()
    page.goto(f"/admin/requests?user={ACME}&period=yesterday")
    drawn = json.loads(page.locator("#chart-endings script").text_content())
    totals = [sum(values) for values in zip(*(line["values"] for line in drawn["series"]), strict=True)]
    place = totals.index(max(totals))
    box = page.locator("#chart-endings .u-over").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 20)
    page.mouse.click(box["x"] + box["width"] * (place + 0.5) / len(totals), box["y"] + 20)
    page.wait_for_url("**from=**")
    expect(page.locator("#log tbody tr")).to_have_count(max(totals))


def test_columns_are_chosen_and_stay(admin, acme):
    page = admin.page
    page.goto(f"/admin/requests?user={ACME}")
    page.locator("#columns > summary").click()
    page.get_by_label("Column Endpoint").check()
    page.get_by_role("form", name="Columns").get_by_role("button", name="Show").click()
    expect(page.get_by_role("columnheader", name="Endpoint")).to_be_visible()
    page.goto("/admin/requests")
    expect(page.get_by_role("columnheader", name="Endpoint")).to_be_visible()


def test_on_a_phone_each_request_is_a_card_with_its_cost(browser, site, cookies, acme):
    window = Watched(browser, site.weir.url, size=NARROW)
    window.context.add_cookies(cookies)
    page = window.page
    page.goto(f"/admin/requests?user={ACME}&sort=-cost")
    card = page.locator("[data-id=task-05]")
    for part in (card.locator("time"), card.locator(".col-model"), card.locator(".col-outcome"),
                 card.locator(".col-cost")):  # fmt: skip
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW[0]
    expect(card.locator(".col-cost")).to_contain_text("$3.00")
    expect(card.locator(".col-latency")).not_to_be_visible()
    card.locator(".record-link").click()
    expect(page.locator("#drawer #record")).to_have_attribute("data-id", "task-05")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]
    window.close()
    assert window.complaints == []


def test_all_can_be_read_without_scripts(browser, site, cookies, acme):
    window = Watched(browser, site.weir.url, java_script_enabled=False)
    window.context.add_cookies(cookies)
    page = window.page
    page.goto(f"/admin/requests?user={ACME}&period=yesterday")
    page.locator("#data-endings summary").click()
    page.locator(
        "#data-endings tbody tr", has=page.locator("td", has_text=re.compile("[1-9]"))
    ).first.locator("a").click()
    shows(page, *ALL)
    page.locator("[data-id=task-01] .record-link").click()
    expect(page.locator("#error-message")).to_contain_text(REASONS[0])
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#error-message")).to_contain_text(REASONS[1])
    window.close()


@pytest.mark.parametrize("size", [NARROW, (1280, 900)])
def test_names_of_any_kind_are_shown_and_lead_to_their_requests(browser, site, cookies, acme, size):
    window = Watched(browser, site.weir.url, size=size)
    window.context.add_cookies(cookies)
    page = window.page
    page.goto("/admin/requests?outcome=internal_error&period=yesterday")
    shows(page, *(f"task-{n}" for n in range(10, 14)))
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate("[window.pwned, document.querySelectorAll('[data-xss]').length]") == [None, 0]
    assert problems(page) == []
    table = page.locator("#log .scroll").bounding_box()
    for name in ("outcome", "cost"):  # however long the names are, nobody has to scroll for these
        box = page.locator(f"[data-id=task-10] .col-{name}").bounding_box()
        assert box["x"] + box["width"] <= table["x"] + table["width"]
    page.locator("#facet-user").get_by_role("link", name=CJK[:20]).click()
    shows(page, "task-12")
    page.wait_for_load_state()  # until its script runs, the link leads to a page
    page.locator("[data-id=task-12] .record-link").click()
    expect(page.locator("#drawer #error-message")).to_contain_text(CJK[:20])
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    window.close()
    assert window.complaints == []
