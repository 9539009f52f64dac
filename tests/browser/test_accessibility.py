"""axe finds nothing, on any page, in light and in dark; and all of them fit a phone."""

from datetime import datetime

import pytest
from playwright.sync_api import expect

from tests.support.axe import problems
from tests.support.chromium import NARROW, WIDE, Watched


def addresses(page, site):
    """Every page of the navigation, and those without a place in it."""
    page.goto("/admin/")
    links = page.locator("nav[aria-label=Pages] a").all()
    retried = next(record for record in site.weir.records() if len(record.get("attempts", ())) > 1)
    site.settle()
    month = f"/admin/billing/{datetime.now(site.zone):%Y-%m}"
    return [
        *[link.get_attribute("href") for link in links],
        "/admin/?period=1h",
        "/admin/requests?status=bad",
        "/admin/requests?q=nothing-fits-this",
        f"/admin/requests/{retried['_id']}",
        "/admin/requests/no-such-record",
        "/admin/no-such-page",
        month,
        f"{month}/of/{site.users[0].name}",
        "/admin/billing/prices",
        "/admin/upstream/keys/env-1",
        "/admin/upstream/models",
    ]


def test_what_is_wrong_with_a_page_is_found(browser):
    window = Watched(browser, "about:blank")
    page = window.page
    page.set_content('<main><h1 style="color: #ccc; background: #fff">Pale</h1><img src="data:,"></main>')
    assert {rule for rule, _ in problems(page)} >= {"color-contrast", "document-title", "image-alt"}
    window.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(browser, site, cookies, scheme):
    window = Watched(browser, site.weir.url, scheme=scheme)
    page = window.page
    page.goto("/admin/login")
    found = {"/admin/login": problems(page)}
    window.context.add_cookies(cookies)
    for address in addresses(page, site):
        page.goto(address)
        found[address] = problems(page)
    window.close()
    assert {address: issues for address, issues in found.items() if issues} == {}


def test_no_page_is_wider_than_a_phone(browser, site, cookies):
    window = Watched(browser, site.weir.url, size=NARROW)
    page = window.page
    window.context.add_cookies(cookies)
    widths = {}
    for address in addresses(page, site):
        page.goto(address)
        widths[address] = page.evaluate("document.documentElement.scrollWidth")
    window.close()
    assert {address: width for address, width in widths.items() if width > NARROW[0]} == {}


def opened(page, name):
    """Open what stands above a page."""
    if name == "palette":
        page.goto("/admin/")
        page.keyboard.press("Control+k")
        page.keyboard.type("env")
        expect(page.locator("#palette-list [role=option]").first).to_be_visible()
    elif name == "keys":
        page.goto("/admin/")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    elif name == "dialog":
        page.goto("/admin/upstream#add-pool")
        expect(page.get_by_role("dialog", name="Add a key")).to_be_visible()
    else:
        page.goto("/admin/upstream")
        page.locator("#add-pool summary").click()
        dialog = page.get_by_role("dialog", name="Add a key")
        dialog.get_by_label("Name").fill("env-9")
        dialog.get_by_label("Key", exact=True).fill("sk-upstream-0123456789")
        dialog.get_by_role("button", name="Add the key").click()
        expect(dialog.get_by_text("are kept for OHMYGPT_API_KEYS")).to_be_visible()
        expect(dialog.get_by_label("Name")).to_have_value("env-9")


@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)])
def test_what_opens_above_a_page_is_accessible(browser, site, cookies, scheme, size):
    window = Watched(browser, site.weir.url, scheme=scheme, size=size)
    window.context.add_cookies(cookies)
    found = {}
    for name in ("palette", "keys", "dialog", "dialog with an error"):
        opened(window.page, name)
        found[name] = problems(window.page)
    window.close()
    assert {name: issues for name, issues in found.items() if issues} == {}
