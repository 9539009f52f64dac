"""What the overview says is what the API says and what the upstream has counted."""

import re

import pytest
from playwright.sync_api import expect

from app.core.periods import ADMIN_PERIODS


def text(page, selector):
    return page.locator(selector).inner_text()


def test_an_administrator_logs_in_and_out(stranger, site):
    page = stranger.page
    page.goto("/admin/log?outcome=ok")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Admin token").fill("wrong")
    page.get_by_role("button", name="Log in with the token").click()
    expect(page.get_by_role("alert")).to_have_text("That is not the admin token.")
    page.get_by_label("Admin token").fill(site.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Request log")).to_be_visible()
    assert page.url.endswith("/admin/log?outcome=ok")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    page.goto("/admin/")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    stranger.told = [line for line in stranger.told if "401" not in line]  # the wrong token was to be refused


def test_the_numbers_are_those_of_the_api_and_of_the_upstream(admin, site):
    page = admin.page
    page.goto("/admin/?period=24h")
    rows = {row["model"]: row for row in site.api("model-stats", period="24h")["models"]}
    total = site.api("metrics", period="24h")
    assert text(page, "#requests") == f"{total['total_requests']:,}"
    assert text(page, "#tokens") == f"{total['tokens_used']:,}"
    assert float(text(page, "#success-rate").rstrip(" %\xa0")) == total["success_rate"]
    shown = {
        cells[0]: cells
        for row in page.locator("#models tbody tr").all()
        if (cells := row.locator("th, td").all_inner_texts())
    }
    assert rows.keys() == shown.keys() - {"no known model"}
    for model, row in rows.items():
        cells = shown[model]
        counts = ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens")
        assert cells[1] == f"{row['requestCount']:,}"
        assert cells[5:9] == [f"{row[name]:,}" for name in counts]
        cost = page.locator("#models tbody tr", has_text=model).locator("td").nth(2).locator("span")
        assert float(cost.get_attribute("title").lstrip("$")) == pytest.approx(row["creditsBurned"], abs=1e-9)
    spent = {"inputTokens": 0, "outputTokens": 0, "cacheWriteTokens": 0, "cacheHitTokens": 0}
    for entry in site.upstream.tally():
        for field, name in zip(spent, ("fresh", "output", "cache_write_5m", "cache_read"), strict=True):
            spent[field] += (entry["announced"] or {}).get(name, 0)
    for field, name in (
        ("inputTokens", "Fresh input"),
        ("outputTokens", "Output"),
        ("cacheHitTokens", "Cache hits"),
    ):
        value = page.locator(".tokens .col", has_text=name).first.locator("dd").inner_text()
        assert value == f"{spent[field]:,} tokens"


def test_every_period_has_its_button(admin, site):
    page = admin.page
    page.goto("/admin/")
    for period in ADMIN_PERIODS:
        page.get_by_role("navigation", name="Period").get_by_role("link", name=period, exact=True).click()
        expect(page.locator(f"#period-{period}")).to_have_attribute("aria-current", "true")
        assert page.url.endswith(f"?period={period}")
        assert text(page, "#requests") == f"{site.api('metrics', period=period)['total_requests']:,}"


def test_charts_say_what_they_show(admin, site):
    page = admin.page
    page.goto("/admin/?period=1h")
    requests = site.api("metrics", period="1h")["total_requests"]
    assert page.locator("#chart-requests svg").get_attribute("aria-label") == f"Requests: {requests} in all"
    points = page.locator("#chart-requests .bar title").all_text_contents()
    assert sum(int(re.search(r": (\d+) –", point)[1]) for point in points) == requests
    for name in ("requests", "cost", "errors", "latency"):
        assert page.locator(f"#chart-{name} svg").bounding_box()["height"] > 100
    colours = page.locator("#chart-cost .rect").evaluate_all(
        "rects => rects.map(r => getComputedStyle(r).fill)"
    )
    assert len(set(colours)) == 2
    assert "rgb(0, 0, 0)" not in colours


def test_keys_are_shown_with_their_state_and_never_whole(admin, site):
    page = admin.page
    page.goto("/admin/")
    row = page.locator("#pool tbody tr", has_text="env-1")
    expect(row).to_contain_text("exhausted")
    expect(row.locator("time")).to_contain_text("in ")
    for secret in site.weir.environment["OHMYGPT_API_KEYS"].split(","):
        assert secret not in page.content()
    assert "upstream keys are out of money or refused" in text(page, "#condition")


def test_the_page_refreshes_by_itself_and_leaves_the_rest_alone(admin, site):
    page = admin.page
    page.clock.install()
    page.goto("/admin/?period=24h")
    before = int(text(page, "#requests").replace(",", ""))
    page.evaluate("document.querySelector('#models th[scope=row]').closest('.table-responsive').focus()")
    page.evaluate("window.scrollTo(0, 300)")
    page.locator("#period-24h").evaluate("element => { element.dataset.same = 'yes' }")
    site.chat(site.users[0])
    site.settle()
    page.clock.run_for(10_500)
    expect(page.locator("#requests")).to_have_text(f"{before + 1:,}")
    assert page.evaluate("window.scrollY") == 300
    assert page.locator("#period-24h").get_attribute("data-same") == "yes"
    page.get_by_label("Every 10 s").uncheck()
    site.chat(site.users[0])
    site.settle()
    page.clock.run_for(30_000)
    expect(page.locator("#requests")).to_have_text(f"{before + 1:,}")
    expect(page.locator("#live-state")).to_have_text("Paused.")


def test_the_theme_follows_the_system_until_one_is_chosen(admin):
    page = admin.page
    page.emulate_media(color_scheme="dark")
    page.goto("/admin/")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Auto").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")


def test_it_works_with_the_keyboard_alone(stranger, site):
    page = stranger.page
    page.goto("/admin/login")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(site.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview", exact=True)).to_be_visible()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "period-7d":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#period-7d")).to_have_attribute("aria-current", "true")


def test_nothing_but_the_refreshing_needs_scripts(browser, site, cookies):
    context = browser.new_context(base_url=site.weir.url, java_script_enabled=False)
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto("/admin/?period=1h")
    assert page.locator("#requests").inner_text() != "0"
    page.get_by_role("link", name="Log", exact=True).click()
    page.get_by_label("Outcome").select_option("rejected")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#log tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    context.close()
