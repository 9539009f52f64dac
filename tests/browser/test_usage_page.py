"""Usage: from a question to its figures, its requests and its file, in a browser."""

import csv

from playwright.sync_api import expect


def test_use_is_grouped_narrowed_and_led_to_its_requests(admin, site):
    page = admin.page
    page.goto("/admin/usage?period=1h")
    page.get_by_label("By", exact=True).select_option("user")
    page.get_by_label("Metric").select_option("requests")
    page.get_by_role("button", name="Show", exact=True).last.click()
    page.wait_for_url("**by=user**")
    rows = page.locator("#usage tbody tr")
    expected = {row["key"]: row for row in site.api("usage", by="user", period="1h")["rows"]}
    assert {row.locator("th").inner_text() for row in rows.all()} == set(expected)
    expect(page.locator("#chart-requests canvas")).to_be_visible()
    user = site.users[0].name
    rows.filter(has_text=user).locator("th a").click()
    expect(page.locator(".chip", has_text=user)).to_be_visible()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="View requests").click()
    expect(page.locator("#log tbody tr")).to_have_count(expected[user]["requestCount"])
    assert f"user={user}" in page.url
    assert "period=1h" in page.url


def test_the_file_has_what_the_table_shows(admin, site):
    page = admin.page
    page.goto("/admin/usage?period=1h&by=model&then=user&compare=yes")
    with page.expect_download() as started:
        page.get_by_role("link", name="the table").click()
    heads, *lines = csv.reader(started.value.path().read_text().splitlines())
    assert len(lines) == page.locator("#usage tbody tr").count()
    total = site.api("metrics", period="1h")
    assert sum(int(line[heads.index("costNanoUsd")]) for line in lines) == total["costNanoUsd"]
    assert sum(int(line[heads.index("requests")]) for line in lines) == total["total_requests"]
