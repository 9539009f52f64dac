"""What an administrator does with users, keys and proxies, in a browser."""

import re

import pytest
from playwright.sync_api import expect

from tests.support.axe import problems

PAGES = (
    "/admin/customers",
    "/admin/keys",
    "/admin/upstream",
    "/admin/upstream/proxies",
    "/admin/settings/audit",
)


def test_a_user_is_made_credited_and_disabled(admin, site):
    page = admin.page
    page.goto("/admin/customers")
    page.locator("#new-user > summary").click()
    page.get_by_label("Name", exact=True).fill("browser-user")
    page.get_by_label("Credit in USD").fill("5")
    page.keyboard.press("Enter")
    secret = page.locator("#secret code").inner_text()
    assert re.fullmatch(r"sk-weir-\w{40}", secret)
    page.get_by_role("link", name="Done").click()
    page.locator("#credit > summary").click()
    page.get_by_role("form", name="Give credit").get_by_label("Amount in USD").fill("2.50")
    page.get_by_role("form", name="Give credit").get_by_label("Reason").fill("invoice 17")
    page.get_by_role("form", name="Give credit").get_by_role("button", name="Give credit").click()
    expect(page.get_by_role("status").first).to_contain_text("browser-user has $7.50 now, had $5.00.")
    expect(page.locator("#ledger tbody tr").first).to_contain_text("invoice 17")
    page.locator("summary", has_text="Disable").click()
    page.get_by_role("button", name="Yes, disable browser-user").click()
    expect(page.get_by_role("button", name="Enable")).to_be_visible()
    assert site.api("users/browser-user")["credits"] == 7.5
    assert site.api("users/browser-user")["isActive"] is False


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_accessible_and_fit_a_narrow_window(admin, path):
    page = admin.page
    page.goto(path)
    assert problems(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_is_typed_outlives_the_session(stranger, site):
    page = stranger.page
    stranger.log_in(site.token)
    page.goto("/admin/customers?period=7d#new-user")
    form = page.locator("form", has=page.get_by_label("Credit in USD")).first
    form.get_by_label("Name", exact=True).fill("Ann Late")
    form.locator("summary").click()
    form.get_by_label("Password").fill("not to be kept anywhere")
    stranger.context.clear_cookies()
    form.locator("button.primary").click()
    expect(page.locator("#unsent")).to_contain_text("what you sent was not taken")
    assert "not to be kept" not in page.evaluate("JSON.stringify(sessionStorage)")
    page.get_by_label("Client key or admin token").fill(site.token)
    page.get_by_role("button", name="Log in with the key").click()
    expect(page).to_have_url(re.compile("/admin/customers\\?period=7d$"))
    expect(form.get_by_role("status")).to_contain_text("filled in again")
    expect(form.get_by_label("Name", exact=True)).to_have_value("Ann Late")
    expect(form.get_by_label("Password")).to_have_value("")
    assert site.weir.database.usersNew.count_documents({"_id": "Ann Late"}) == 0
    page.reload()
    expect(form.get_by_label("Name", exact=True)).to_have_value("")
