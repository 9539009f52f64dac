"""axe finds nothing, on any page, in light and in dark; and all of them fit a phone."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.support.chromium import NARROW, Watched

_TAGS = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


def addresses(page, site):
    """Every page of the navigation, and those without a place in it."""
    page.goto("/admin/")
    links = page.locator("nav[aria-label=Pages] a").all()
    retried = next(record for record in site.weir.records() if len(record.get("attempts", ())) > 1)
    site.settle()
    month = f"/admin/billing/{datetime.now(ZoneInfo('Asia/Ho_Chi_Minh')):%Y-%m}"
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
    ]


def problems(page):
    found = Axe().run(page, options=_TAGS).response["violations"]
    return [(issue["id"], node["html"][:200]) for issue in found for node in issue["nodes"]]


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
