"""What an administrator wants of upstream keys and proxies, and in how many steps: clicks and sent forms."""

import re

import pytest
import requests
from playwright.sync_api import expect

from tests.support.chromium import Watched

KEY = "sk-upstream-extra-0123456789"


@pytest.fixture
def tidy(site):
    """Take away what a test has added: others count what there is."""
    yield
    headers = {"Authorization": f"Bearer {site.token}"}
    added = ("ohmygpt/keys/extra", "ohmygpt/keys/stand-in", "ohmygpt/backup-keys/stand-in", "proxies/proxy-1")
    for path in added:
        requests.delete(f"{site.weir.url}/api/admin/{path}", headers=headers, timeout=60)


def dollars(cell) -> str:
    return cell.locator("span[title]").get_attribute("title")


def opened(page, title: str):
    """Open a dialog by its button."""
    page.locator("summary", has_text=title).click()
    return page.get_by_role("dialog", name=title)


def test_what_each_key_spent_and_failed_takes_one_step(admin, site):
    page = admin.page
    page.goto("/admin/?period=7d")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Upstream").click()  # 1
    told = {row["factoryKey"]: row for row in site.api("usage", by="factoryKey", period="7d")["rows"]}
    for key_id in ("env-1", "env-2", "env-3"):
        row, known = page.locator("#pool tbody tr", has_text=key_id), told[key_id]
        nano = round(float(dollars(row.locator("[data-label=Cost]")).lstrip("$")) * 1e9)
        assert nano == known["costNanoUsd"]
        requests_link = row.locator("[data-label=Requests] a")
        expect(requests_link).to_have_text(str(known["requestCount"]))
        failed = known["errorCount"] - known["rejectedCount"]
        expect(row.locator("[data-label=Failed] a")).to_have_text(str(failed))
    number = page.locator("#pool tbody tr", has_text="env-2").locator("[data-label=Requests] a")
    count = int(number.inner_text())
    number.click()
    expect(page.locator("#log tbody tr")).to_have_count(count)


def test_why_a_key_is_out_of_use_and_which_request_met_it_takes_two_steps(admin, site):
    page = admin.page
    page.goto("/admin/")
    page.locator("#condition").get_by_role("link", name="env-1: out of money").click()  # 1
    facts = page.locator("main .facts")
    expect(facts).to_contain_text("out of money")
    expect(facts).to_contain_text("no money left")
    expect(facts.locator("div", has_text="Back").locator("time")).to_contain_text("in ")
    expect(page.locator(".strip")).to_have_attribute("aria-label", re.compile("healthy .*out of money"))
    page.locator("#events tbody tr").last.get_by_role("link").click()  # 2
    page.wait_for_url("**/admin/requests/**")
    assert page.url.split("?")[0].rsplit("/", 1)[1] in site.ids


def test_a_key_is_added_limited_paused_and_deleted(admin, site, tidy):
    page = admin.page
    page.goto("/admin/upstream?period=24h")
    dialog = opened(page, "Add a key")
    dialog.get_by_label("Name").fill("not a name")
    dialog.get_by_label("Key", exact=True).fill(KEY)
    dialog.get_by_role("button", name="Add the key").click()
    expect(dialog.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_label("Name")).to_have_value("not a name")
    dialog.get_by_label("Name").fill("extra")
    dialog.get_by_label("Key", exact=True).fill(KEY)
    dialog.get_by_role("button", name="Add the key").click()
    expect(page.get_by_role("status").first).to_contain_text("extra (sk-ups...789) is in the pool")
    assert "period=24h" in page.url, "the range stays"
    assert KEY not in page.content()
    page.locator("#pool").get_by_role("link", name="extra", exact=True).click()
    dialog = opened(page, "Limits")
    dialog.get_by_label("Weight").fill("0")
    dialog.get_by_label("Requests at a time").fill("0")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.locator("input:invalid")).to_have_count(1)  # the browser itself refuses it
    dialog.get_by_label("Weight").fill("2")
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("main .facts")).to_contain_text("paused")
    told = site.api("ohmygpt/keys/extra")
    assert (told["weight"], told["rpm"], told["maxInFlight"]) == (2, None, 0)
    page.locator("summary", has_text="Delete").click()
    page.get_by_role("button", name="Yes, delete extra").click()
    expect(page.locator("#pool")).not_to_contain_text("extra")
    admin.told = [line for line in admin.told if "400" not in line]  # the bad name was to be refused


def test_bad_lines_of_an_import_are_named_and_nothing_is_lost(browser, site, cookies, tidy):
    context = Watched(browser, site.weir.url, java_script_enabled=False).context
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto("/admin/upstream")
    page.get_by_text("Import backup keys", exact=True).click()
    form = page.get_by_role("form", name="Import backup keys")
    form.get_by_label("or lines").fill(f"stand-in|{KEY}\nnonsense\n")
    form.get_by_role("button", name="Import").click()
    expect(form).to_contain_text("line 2: is not id|key")
    expect(form.get_by_label("or lines")).to_have_value(re.compile("nonsense"))
    assert "stand-in" not in [key["id"] for key in site.api("ohmygpt/backup-keys")["keys"]]
    form.get_by_label("or lines").fill(f"stand-in|{KEY}")
    form.get_by_role("button", name="Import").click()
    expect(page.locator("#spares tbody")).to_contain_text("stand-in")
    context.close()


def test_a_proxy_is_added_bound_checked_and_said_on_home_when_it_is_dead(admin, site, tidy):
    page = admin.page
    page.goto("/admin/upstream/proxies")
    dialog = opened(page, "Add a proxy")
    dialog.get_by_label("Name").fill("Berlin")
    dialog.get_by_label("Host").fill("127.0.0.1")
    dialog.get_by_label("Port").fill("1")
    dialog.get_by_role("button", name="Add the proxy").click()
    dialog = opened(page, "Bind a key")
    dialog.get_by_label("Upstream key").select_option("env-1")
    dialog.get_by_label("Proxy").select_option(label="Berlin (proxy-1)")
    dialog.get_by_role("button", name="Bind").click()
    expect(page.locator("#bindings tbody")).to_contain_text("env-1")
    page.get_by_role("link", name="Berlin").first.click()
    page.get_by_role("button", name="Check now").click()
    expect(page.get_by_role("status").first).to_contain_text("The upstream is not reached through proxy-1")
    page.goto("/admin/")
    condition = page.locator("#condition")
    expect(condition).to_contain_text("1 of 1 proxy cannot be used.")
    condition.get_by_role("link", name="Proxy Berlin").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Berlin")
