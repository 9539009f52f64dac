"""Pages that are looked at follow what happens, and leave alone what somebody is doing."""

import re

import pytest
from playwright.sync_api import expect

SOON_MS = 60_000
"""The stream looks every second; the rest is for machines that are busy."""


# A row is fresh until the table is drawn the next time, which may be before it is looked at.
NOTE_FRESH = """() => {
    window.wereFresh = new Set();
    new MutationObserver(() => {
        for (const row of document.querySelectorAll("#log tr.fresh")) window.wereFresh.add(row.dataset.id);
    }).observe(document.body, { childList: true, subtree: true });
}"""


def rows(page):
    return page.locator("#log tbody tr")


def count(page) -> int:
    return int(page.locator("#requests").inner_text().replace(",", ""))


def test_new_requests_appear_by_themselves_and_the_focus_stays(admin, site):
    page = admin.page
    page.goto("/admin/requests")
    link = rows(page).first.get_by_role("link").first
    held = link.get_attribute("href")
    link.focus()
    page.evaluate(NOTE_FRESH)
    new = site.chat(site.users[0])
    expect(rows(page).first).to_have_attribute("data-id", new, timeout=SOON_MS)
    assert page.evaluate("document.activeElement.getAttribute('href')") == held
    assert page.evaluate("id => window.wereFresh.has(id)", new)


def test_a_filtered_page_follows_what_fits_its_filter(admin, site):
    page = admin.page
    page.goto(f"/admin/requests?user={site.users[0].name}&outcome=ok")
    expect(rows(page).first).to_be_visible()
    site.chat(site.users[1])
    new = site.chat(site.users[0])
    expect(rows(page).first).to_have_attribute("data-id", new, timeout=SOON_MS)


def test_figures_follow_while_scrolling_and_what_is_open_stay(admin, site):
    page = admin.page
    page.goto("/admin/?period=24h")
    before = count(page)
    page.evaluate("window.scrollTo(0, 300)")
    page.locator("#range").evaluate("element => { element.dataset.same = 'yes' }")
    site.chat(site.users[0])
    expect(page.locator("#requests")).to_have_text(f"{before + 1:,}", timeout=SOON_MS)
    page.wait_for_function("window.scrollY === 300")  # also once what is under way, shown above, is over
    assert page.locator("#range").get_attribute("data-same") == "yes"


def test_live_stays_off_when_it_was_switched_off(admin, site):
    page = admin.page
    page.goto("/admin/requests")
    page.get_by_label("Live").uncheck()
    expect(page.locator("#live-state")).to_have_text("Paused.")
    first = rows(page).first.get_attribute("data-id")
    page.reload()
    expect(page.get_by_label("Live")).not_to_be_checked()
    expect(page.locator("#live-state")).to_have_text("Paused.")
    new = site.chat(site.users[0])
    site.settle()
    watcher = admin.context.new_page()
    watcher.goto("/admin/requests")
    expect(rows(watcher).first).to_have_attribute("data-id", new, timeout=SOON_MS)
    assert rows(page).first.get_attribute("data-id") == first
    page.get_by_label("Live").check()
    expect(rows(page).first).to_have_attribute("data-id", new, timeout=SOON_MS)


def test_a_hidden_window_is_not_told(admin, site):
    page = admin.page
    with page.expect_request(lambda request: "/admin/live" in request.url) as begun:
        page.goto("/admin/requests")
    with page.expect_event("requestfailed", predicate=lambda request: request.url == begun.value.url):
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { value: true, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
    with page.expect_request(lambda request: "/admin/live" in request.url):
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", { value: false, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )


def test_a_request_under_way_is_listed_with_who_sent_it(admin, site):
    page = admin.page
    site.upstream.behave("gpt-5", "chunks=4000,delay_ms=100", times=1)
    page.goto("/admin/")
    with site.streaming(site.users[0]) as request_id:
        row = page.locator(f'#in-flight tr[data-id="{request_id}"]')
        expect(row).to_contain_text(site.users[0].name, timeout=SOON_MS)
        expect(row).to_contain_text("gpt-5")
        expect(page.locator("[data-now=inFlight]").first).not_to_have_text("0")
    expect(row).to_have_count(0, timeout=SOON_MS)


def test_logging_out_elsewhere_ends_what_is_followed(stranger, site):
    stranger.log_in(site.token)
    page, other = stranger.page, stranger.context.new_page()
    page.goto("/admin/requests")
    expect(rows(page).first).to_be_visible()
    other.goto("/admin/")
    other.locator(".account summary").click()
    other.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Client key or admin token")).to_be_visible(timeout=SOON_MS)
    # A stream that began anew in that moment was refused.
    stranger.told = [line for line in stranger.told if "401" not in line]


def test_without_a_place_for_one_more_stream_the_page_asks_now_and_then(admin, site):
    page = admin.page
    page.route(re.compile(r"/admin/live\?"), refuse_streams)
    page.goto("/admin/requests")
    expect(rows(page).first).to_be_visible()
    new = site.chat(site.users[0])
    expect(rows(page).first).to_have_attribute("data-id", new, timeout=SOON_MS)
    admin.told = [line for line in admin.told if "503" not in line]


def refuse_streams(route) -> None:
    if "text/event-stream" in (route.request.headers.get("accept") or ""):
        route.fulfill(status=503, body="too many", headers={"Retry-After": "30"})
    else:
        route.continue_()


@pytest.mark.parametrize("path", ["/admin/customers", "/admin/upstream"])
def test_pages_that_are_not_live_open_no_stream(admin, path):
    streams = []
    admin.page.on("request", lambda request: streams.append(request.url) if "/live?" in request.url else None)
    admin.page.goto(path, wait_until="networkidle")
    assert streams == []
