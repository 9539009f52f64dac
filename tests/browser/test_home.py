"""What the overview says is what the API says and what the upstream has counted."""

import re

import pytest
from playwright.sync_api import expect

from app.admin.question import period_title
from app.statistics.periods import ADMIN_PERIODS
from simulator.launcher import wait_until
from tests.support.chromium import Watched


def text(page, selector):
    return page.locator(selector).inner_text()


def test_an_administrator_logs_in_and_out(stranger, site):
    page = stranger.page
    page.goto("/admin/requests?outcome=ok")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Client key or admin token").fill("wrong")
    page.get_by_role("button", name="Log in with the key").click()
    expect(page.get_by_role("alert")).to_contain_text("nor the admin token.")
    page.get_by_label("Client key or admin token").fill(site.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Requests", exact=True)).to_be_visible()
    assert page.url.endswith("/admin/requests?outcome=ok")
    page.locator(".account summary").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("You are logged out.")).to_be_visible()
    page.goto("/admin/")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    stranger.told = [line for line in stranger.told if "401" not in line]  # the wrong token was to be refused


def test_the_numbers_are_those_of_the_api_and_of_the_upstream(admin, site):
    page = admin.page
    page.goto("/admin/?period=24h")
    models = site.api("model-stats", period="24h")["models"]
    rows = {row["model"]: row for row in models if row["model"] is not None}
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
        cost = page.locator("#models tbody tr", has_text=model).locator("td").nth(2).locator("span[title]")
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
        value = page.locator(".tokens div", has_text=name).first.locator("dd").inner_text()
        assert value == f"{spent[field]:,} tokens"


def test_every_period_has_its_button(admin, site):
    page = admin.page
    page.goto("/admin/")
    for period in ADMIN_PERIODS:
        page.locator("#range").click()
        page.locator(f"#period-{period}").click()
        expect(page.locator("#range")).to_have_text(f"{period_title(period)} ▾")
        assert page.url.endswith(f"?period={period}")
        assert text(page, "#requests") == f"{site.api('metrics', period=period)['total_requests']:,}"


def test_the_question_goes_along_to_every_page(admin, site):
    page = admin.page
    page.goto(f"/admin/requests?period=7d&user={site.users[0].name}")
    shown = page.locator("#log tbody tr").count()
    for place in ("Customers", "Settings", "Requests"):
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=place).click()
        page.wait_for_url(f"**/admin/{place.lower()}**period=7d&user={site.users[0].name}**")
    expect(page.locator("#log tbody tr")).to_have_count(shown)
    page.locator("#log tbody tr").first.get_by_role("link").nth(1).click()  # its model
    page.wait_for_url(lambda url: "period=7d" in url and "model=" in url)


def test_charts_say_what_they_show(admin, site):
    page = admin.page
    page.goto("/admin/?period=1h")
    for name in ("requests", "cost", "latency"):
        assert page.locator(f"#chart-{name} canvas").bounding_box()["height"] > 100
    page.locator("#chart-requests summary").click()
    cells = page.locator("#chart-requests tbody td").all_inner_texts()
    assert sum(map(int, cells)) == site.api("metrics", period="1h")["total_requests"]
    swatches = page.locator("#chart-cost .swatch").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(swatches)) == len(swatches) == 2


def test_a_chart_is_read_with_the_keyboard_and_leads_to_the_requests(admin, site):
    page = admin.page
    admin.stand_still()
    page.goto("/admin/?period=1h")
    plot = page.locator("#chart-requests .plot")
    readout = page.locator("#chart-requests .readout")

    # The script that listens may come after the page.
    def has_read(key: str, words: str) -> bool:
        plot.focus()
        page.keyboard.press(key)
        return words in readout.inner_text()

    wait_until(lambda: has_read("End", "(so far)"), what="the last bar")
    wait_until(
        lambda: "ok" in readout.inner_text() or has_read("ArrowLeft", "ok"), what="a bar with good answers"
    )
    shown = int(re.findall(r"\d+", readout.inner_text())[-1])  # of all, or of the only kind there is
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Requests", exact=True)).to_be_visible()
    assert "from=" in page.url
    assert "period" not in page.url
    expect(page.locator("#log tbody tr")).to_have_count(shown)


def test_dragging_in_a_chart_zooms_into_it(admin):
    page = admin.page
    admin.stand_still()
    page.goto("/admin/?period=24h")
    box = page.locator("#chart-requests .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_url("**/admin/?from=*")
    assert "&to=" in page.url


def test_keys_are_shown_with_their_state_and_never_whole(admin, site):
    page = admin.page
    page.goto("/admin/")
    row = page.locator("#pool tbody tr", has_text="env-1")
    expect(row).to_contain_text("out of money")
    expect(row.locator("time")).to_contain_text("in ")
    for secret in site.weir.environment["OHMYGPT_API_KEYS"].split(","):
        assert secret not in page.content()
    condition = page.locator("#condition")
    expect(condition).to_contain_text("1 of 3 upstream keys is out of money or refused")
    condition.get_by_role("link", name="env-1: out of money").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("env-1")
    expect(page.get_by_role("button", name="Reset")).to_be_visible()


def test_the_theme_follows_the_system_until_one_is_chosen(admin):
    page = admin.page

    html, dark = page.locator("html"), "rgb(15, 19, 24)"

    # A page has its colours when its style sheet has come, a moment after its first lines.
    def is_dark() -> None:
        expect(html).to_have_css("background-color", dark)

    def is_light() -> None:
        expect(html).not_to_have_css("background-color", dark)

    page.emulate_media(color_scheme="dark")
    page.goto("/admin/")
    is_dark()
    page.emulate_media(color_scheme="light")
    is_light()
    page.locator(".account summary").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    is_dark()
    page.emulate_media(media="print")
    is_light()
    page.emulate_media(media="screen")
    page.locator(".account summary").click()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "auto")
    is_light()


def test_it_works_with_the_keyboard_alone(stranger, site):
    page = stranger.page
    page.goto("/admin/login")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(site.token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Home", exact=True)).to_be_visible()
    page.wait_for_load_state()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "range":
            page.keyboard.press("Enter")
        if page.evaluate("document.activeElement.id") == "period-7d":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#range")).to_have_text("Last 7 days ▾")


def test_nothing_but_the_refreshing_needs_scripts(browser, site, cookies):
    context = Watched(browser, site.weir.url, java_script_enabled=False).context
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto("/admin/?period=1h")
    assert page.locator("#requests").inner_text() != "0"
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Requests").click()
    page.locator("#add-filter").click()
    page.get_by_label("Outcome", exact=True).select_option("rejected")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#log tbody tr")).to_have_count(1)
    page.locator(".account summary").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    context.close()
