"""Finding a request in the log, and why it ended as it did."""

import json

import pytest
from playwright.sync_api import expect


def rows(page):
    return page.locator("#log tbody tr")


def test_a_filter_is_the_address_and_the_form_shows_it(admin, site):
    page = admin.page
    page.goto("/admin/requests")
    page.locator("#add-filter").click()
    page.get_by_label("User", exact=True).fill(site.users[1].name)
    page.get_by_label("Outcome", exact=True).select_option("ok")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(lambda url: f"user={site.users[1].name}" in url and "outcome=ok" in url)
    expected = site.api("request-logs", user=site.users[1].name, outcome="ok")["requests"]
    assert [row.get_attribute("data-id") for row in rows(page).all()] == [item["id"] for item in expected]
    assert "apiFormat" not in page.url  # what a form leaves empty is not asked
    page.reload()
    expect(page.locator(".chip")).to_have_count(2)
    page.get_by_role("link", name="Without Outcome").click()
    page.wait_for_url(lambda url: f"user={site.users[1].name}" in url and "outcome" not in url)
    page.locator("#add-filter").click()
    expect(page.get_by_label("User", exact=True)).to_have_value(site.users[1].name)
    page.get_by_role("link", name="Clear filters").click()
    expect(page.locator(".chip")).to_have_count(0)


@pytest.mark.parametrize(
    "query",
    ["model=gpt-5", "status=4xx", "apiFormat=anthropic", "q=truncated", "factoryKey=env-2", "from=1h",
     "to=1h", "outcome=rejected"],
)  # fmt: skip
def test_every_filter_finds_what_the_api_finds(admin, site, query):
    admin.page.goto(f"/admin/requests?{query}")
    name, value = query.split("=")
    expected = site.api("request-logs", **{name: value})["requests"]
    assert [row.get_attribute("data-id") for row in rows(admin.page).all()] == [
        item["id"] for item in expected
    ]


def test_times_without_a_zone_are_those_of_the_page(admin, site):
    page = admin.page
    page.goto("/admin/requests")
    newest = rows(page).first.locator("time").inner_text()
    page.goto(f"/admin/requests?to={newest}")
    assert rows(page).count() < len(site.ids)
    expect(page.locator("footer")).to_contain_text(site.zone.key)


def test_a_filter_that_makes_no_sense_is_explained_where_it_is(admin):
    page = admin.page
    page.goto("/admin/requests?status=bad")
    expect(page.get_by_role("alert")).to_contain_text("takes a status such as 429")
    expect(page.get_by_label("Status", exact=True)).to_have_value("bad")
    admin.told = [line for line in admin.told if "400" not in line]  # the status of such a page


def test_pages_are_turned_without_losing_the_filter(admin, site):
    page = admin.page
    page.goto("/admin/requests?limit=4&user=" + site.users[0].name)
    seen = []
    while True:
        seen += [row.get_attribute("data-id") for row in rows(page).all()]
        older = page.get_by_role("link", name="Older")
        if older.count() == 0:
            break
        first = rows(page).first.get_attribute("data-id")
        older.click()
        expect(rows(page).first).not_to_have_attribute("data-id", first)
        page.wait_for_load_state()
    everything = site.api("request-logs", user=site.users[0].name, limit="200")["requests"]
    assert seen == [item["id"] for item in everything]


def test_the_records_of_a_filter_are_downloaded(admin, site):
    page = admin.page
    page.goto("/admin/requests?outcome=ok&model=gpt-5")
    for form in ("CSV", "JSONL"):
        with page.expect_download() as started:
            page.get_by_role("link", name=form, exact=True).click()
        assert started.value.suggested_filename == f"request-logs.{form.lower()}"
        lines = started.value.path().read_text().splitlines()
        expected = [item["id"] for item in site.api("request-logs", outcome="ok", model="gpt-5")["requests"]]
        if form == "CSV":
            ids = [line.split(",")[0] for line in lines[1:]]
        else:
            ids = [json.loads(line)["requestId"] for line in lines]
        assert ids == expected[::-1]


def test_a_record_says_what_it_cost_and_which_keys_were_tried(admin, site):
    page = admin.page
    retried = next(record for record in site.weir.records() if len(record["attempts"]) > 1)
    page.goto(f"/admin/requests/{retried['_id']}")
    expect(page.locator("#reason")).to_contain_text("received a complete answer")
    attempts = page.locator("section", has=page.get_by_role("heading", name="Attempts")).locator("tbody tr")
    expect(attempts).to_have_count(len(retried["attempts"]))
    expect(attempts.first).to_contain_text("env-1")
    expect(attempts.first).to_contain_text(retried["attempts"][0]["error"])
    bars = page.locator(".timeline rect")
    assert bars.count() == len(retried["attempts"])
    for bar in bars.all():
        assert bar.bounding_box()["width"] > 1
    dollars = f"{retried['costNanoUsd'] / 1e9:.9f}".rstrip("0")
    expect(page.get_by_role("heading", name="Cost")).to_contain_text(dollars)
    expect(page.get_by_text("With today's prices")).to_have_count(0)
    expect(page.locator("pre").first).to_contain_text("prompt_tokens")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("rejected", "The model is not in the model table."),
        ("upstream_truncated", "ended before its end"),
        ("upstream_error", "answered with an error"),
    ],
)
def test_a_record_says_why_it_failed(admin, site, outcome, words):
    page = admin.page
    page.goto(f"/admin/requests?outcome={outcome}")
    rows(page).first.locator(".record-link").click()
    expect(page.locator("#reason")).to_contain_text(words)
    page.get_by_role("link", name="that ended like this").click()
    page.wait_for_url(f"**outcome={outcome}")


def test_an_id_is_copied_by_a_button(admin, site):
    page = admin.page
    admin.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/admin/requests/{site.ids[0]}")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == site.ids[0]


def test_a_record_that_is_not_there_is_explained(admin):
    admin.page.goto("/admin/requests/no-such-id")
    expect(admin.page.get_by_role("heading")).to_have_text("No such request")
    admin.told = [line for line in admin.told if "404" not in line]
