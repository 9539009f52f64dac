"""What is done with users and their keys, in a browser; each task with the steps it takes at most."""

import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from playwright.sync_api import expect

from app.accounts.users import UserStore
from app.common.clock import now_ms
from tests.support.axe import problems
from tests.support.chromium import NARROW, Watched

CROWD = 120


class Steps:
    """Counts what a person does."""

    def __init__(self, page) -> None:
        self.page = page
        self.taken = 0

    def click(self, what) -> None:
        self.taken += 1
        what.click()

    def fill(self, what, text: str) -> None:
        self.taken += 1
        what.fill(text)


@pytest.fixture(scope="module")
def crowd(site):
    """More users than a page shows."""
    users = UserStore(site.weir.database)
    for number in range(CROWD):
        users.add(f"crowd-{number:03}", now=now_ms(), credits_usd=Decimal(number))


@pytest.fixture
def steps(browser, site, cookies):
    """An administrator whose forms may be refused: of that alone the browser may complain."""
    window = Watched(browser, site.weir.url)
    window.context.add_cookies(cookies)
    yield Steps(window.page)
    window.close()
    assert [line for line in window.complaints if "status of 400" not in line] == []


def make_user(page, name: str) -> str:
    """Make a user; the secret of the first key."""
    page.goto("/admin/customers")
    page.locator("#new-user > summary").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Credit in USD").fill("5")
    page.keyboard.press("Enter")
    secret = page.locator("#secret code").inner_text()
    page.get_by_role("link", name="Done").click()
    return secret


def test_what_was_typed_is_kept_when_a_user_cannot_be_made(steps, site):
    page = steps.page
    page.goto("/admin/customers")
    steps.click(page.locator("#new-user > summary"))
    form = page.get_by_role("form", name="New user")
    form.get_by_label("Name", exact=True).fill("no name")
    form.get_by_label("Credit in USD").fill("7")
    form.get_by_role("button", name="Create the user and a key").click()
    expect(form.get_by_label("Name", exact=True)).to_have_value("no name")
    expect(form.get_by_label("Name", exact=True)).to_be_focused()
    expect(form.get_by_label("Credit in USD")).to_have_value("7")
    expect(form.locator("#username-error")).to_contain_text("takes 1 to 64 letters")
    form.get_by_label("Name", exact=True).fill("a-name")
    form.get_by_role("button", name="Create the user and a key").click()
    expect(page.locator("#secret")).to_be_visible()
    assert site.api("users/a-name")["credits"] == 7


def test_credit_is_given_in_four_steps_and_too_much_is_not_taken(steps, site):
    page, name = steps.page, site.users[0].name
    before = site.api(f"users/{name}")["credits"]
    page.goto(f"/admin/customers/{name}")
    steps.click(page.locator("#credit > summary"))
    form = page.get_by_role("form", name="Give credit")
    steps.fill(form.get_by_label("Amount in USD"), "2.5")
    steps.fill(form.get_by_label("Reason"), "invoice 17")
    steps.click(form.get_by_role("button", name="Give credit"))
    expect(page.get_by_role("status").first).to_contain_text(f"{name} has")
    expect(page.locator("#ledger tbody tr").first).to_contain_text("Credit given")
    assert site.api(f"users/{name}")["credits"] == pytest.approx(before + 2.5)
    assert steps.taken == 4
    page.locator("#debit > summary").click()
    form = page.get_by_role("form", name="Take credit")
    form.get_by_label("Amount in USD").fill("100000")
    form.get_by_label("Reason").fill("a mistake")
    form.get_by_role("button", name="Take credit").click()
    dialog = page.get_by_role("dialog", name="Take credit")
    expect(dialog.get_by_role("alert")).to_contain_text("is left to take away")
    expect(form.get_by_label("Reason")).to_have_value("a mistake")
    assert site.api(f"users/{name}")["credits"] == pytest.approx(before + 2.5)


def test_limits_and_a_budget_are_given_in_four_steps_and_shown(steps, site):
    page = steps.page
    make_user(page, "limited")
    steps.click(page.locator("#edit-limits > summary"))
    form = page.get_by_role("form", name="Limits and budgets")
    steps.fill(form.get_by_label("Requests a minute"), "7")
    steps.fill(form.get_by_label("Budgets"), "10/month 1/fortnight")
    form.get_by_role("button", name="Save").click()
    expect(form.locator("#budgets-error")).to_contain_text("takes one of")
    expect(form.get_by_label("Requests a minute")).to_have_value("7")
    form.get_by_label("Budgets").fill("10/month")
    steps.click(form.get_by_role("button", name="Save"))
    expect(page.get_by_role("group", name="Budgets").locator("tbody tr")).to_contain_text("a month")
    assert site.api("users/limited")["rpm"] == 7
    assert steps.taken == 4


def test_credit_ends_when_it_is_said_to(steps, site):
    page = steps.page
    make_user(page, "ending")
    page.locator("#edit-settings > summary").click()
    form = page.get_by_role("form", name="Settings")
    form.get_by_label("Credit valid until").fill("2030-01-31T10:00")
    form.get_by_role("button", name="Save").click()
    expect(page.locator("#figures")).to_contain_text("valid until 2030-01-31 10:00:00")
    end = datetime(2030, 1, 31, 10, tzinfo=site.zone).astimezone(UTC)
    assert site.api("users/ending")["expiresAt"] == f"{end:%Y-%m-%dT%H}:00:00.000Z", "of the page's zone"


def test_a_key_is_found_by_what_is_seen_of_it_changed_rotated_and_ended(steps, site):
    page = steps.page
    secret = make_user(page, "key-holder")
    page.goto("/admin/keys")
    steps.fill(page.get_by_label("User, name, purpose or id contains"), secret[-4:])
    steps.click(page.get_by_role("button", name="Search"))
    steps.click(page.locator("#client-keys tbody tr").filter(has_text="key-holder").get_by_role("link").first)
    steps.click(page.locator("#edit-key > summary"))
    form = page.get_by_role("form", name="Name, limits and budgets")
    steps.fill(form.get_by_label("Name", exact=True), "laptop")
    steps.fill(form.get_by_label("Only these models"), "gpt-*")
    steps.click(form.get_by_role("button", name="Save"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("laptop")
    assert steps.taken == 7
    page.locator("#rotate > summary").click()
    form = page.get_by_role("form", name="Rotate the secret")
    form.get_by_label("Hours").fill("99999")
    form.evaluate("form => { form.noValidate = true; }")
    form.get_by_role("button", name="Create another secret").click()
    expect(form.locator("#hours-error")).to_contain_text("between 0 and")
    expect(form.get_by_label("Hours")).to_have_value("99999")
    form.get_by_label("Hours").fill("2")
    form.get_by_role("button", name="Create another secret").click()
    expect(page.locator("#secret code")).not_to_have_text(secret)
    page.get_by_role("link", name="Done").click()
    expect(page.locator("main")).to_contain_text("A secret before this one is accepted until")
    page.locator("summary", has_text="Revoke").click()
    page.get_by_role("button", name="Yes, revoke it").click()
    page.locator("summary", has_text="Delete").click()
    page.get_by_role("button", name="Yes, delete it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("key-holder")
    expect(page.locator("main")).to_contain_text("This user has no client key.")


def test_what_a_key_spends_leads_to_its_requests(steps, site):
    page, user = steps.page, site.users[0]
    page.goto(f"/admin/customers/{user.name}?period=1h")
    row = page.locator("section[aria-labelledby=keys-title] tbody tr").first
    cells = row.locator("td")
    spent, requests = cells.nth(1).inner_text(), cells.nth(4).inner_text()
    assert Decimal(spent.removeprefix("$")) > 0
    steps.click(cells.nth(4).get_by_role("link"))
    expect(page.locator("#sums")).to_contain_text(requests)
    assert "period=1h" in page.url
    assert "key=wk_" in page.url


def test_every_user_of_many_is_reached_and_the_poorest_come_first(admin, site, crowd):
    page = admin.page
    page.goto("/admin/customers?search=crowd-")
    rows = page.locator("#users tbody tr")
    expect(page.locator(".pager")).to_contain_text(f"1 to 50 of {CROWD} users")
    page.get_by_role("columnheader", name="Balance").get_by_role("link").click()
    page.wait_for_url("**sort=**")
    expect(rows.first).to_contain_text("crowd-000")
    expect(rows.first).to_contain_text("none")
    page.get_by_label("Page", exact=True).fill("3")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(20)
    expect(rows.last).to_contain_text("crowd-119")
    page.get_by_role("link", name="← Previous").click()
    expect(rows.first).to_contain_text("crowd-050")
    page.get_by_role("columnheader", name="Balance").get_by_role("link").click()
    expect(rows.first).to_contain_text("crowd-119")
    with page.expect_download() as started:
        page.get_by_role("link", name="CSV").click()
    lines = started.value.path().read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"crowd-{number:03}" for number in reversed(range(CROWD))
    ]


def test_without_scripts_the_forms_are_on_the_page(browser, site, cookies):
    context = Watched(browser, site.weir.url, java_script_enabled=False).context
    context.add_cookies(cookies)
    page, name = context.new_page(), site.users[1].name
    page.goto(f"/admin/customers/{name}")
    page.locator("#credit > summary").click()
    page.locator("#credit-amount").fill("0")
    page.locator("#credit-reason").fill("nothing")
    page.locator("#credit").get_by_role("button", name="Give credit").click()
    expect(page.locator("#credit-amount-error")).to_have_text("takes more than 0")
    expect(page.locator("#credit-reason")).to_have_value("nothing")
    page.locator("#credit-amount").fill("1")
    page.locator("#credit").get_by_role("button", name="Give credit").click()
    expect(page.locator("#ledger tbody tr").first).to_contain_text("nothing")
    context.close()


def addresses(site) -> list[str]:
    first = site.weir.database["user_keys"].find_one({"name": site.users[0].name})["_id"]
    return [
        "/admin/customers",
        "/admin/customers?state=disabled",
        "/admin/customers?search=crowd-&sort=-left",
        f"/admin/customers/{site.users[0].name}",
        f"/admin/customers/{site.users[0].name}?period=month",
        "/admin/keys?sort=-spend",
        f"/admin/keys/{first}",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_and_their_dialogs_are_accessible(browser, site, cookies, crowd, scheme):
    window = Watched(browser, site.weir.url, scheme=scheme)
    window.context.add_cookies(cookies)
    page, found = window.page, {}

    def look(name: str) -> None:
        found[name] = problems(page)

    for address in addresses(site):
        page.goto(address)
        look(address)
        if "?" in address or scheme == "dark":
            continue  # the same dialogs, in colours that come from the same tokens
        for summary in page.locator("details.form-dialog > summary").all():
            summary.click()
            look(f"{address} {summary.inner_text()}")
            page.keyboard.press("Escape")
    window.close()
    assert {name: issues for name, issues in found.items() if issues} == {}
    assert len(found) > (12 if scheme == "light" else 6)
    assert window.complaints == []


def test_pages_fit_a_phone_and_say_what_each_figure_is(browser, site, cookies, crowd):
    window = Watched(browser, site.weir.url, size=NARROW)
    window.context.add_cookies(cookies)
    page, widths = window.page, {}
    for address in addresses(site):
        page.goto(address)
        widths[address] = page.evaluate("document.documentElement.scrollWidth")
    page.goto("/admin/customers?search=crowd-001")
    cell = page.locator("#users tbody td").first
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Balance"'
    window.close()
    assert {address: width for address, width in widths.items() if width > NARROW[0]} == {}


def test_the_small_line_says_in_words_what_it_shows(admin, site):
    admin.page.goto(f"/admin/customers?search={site.users[0].name}")
    row = admin.page.locator("#users tbody tr").filter(has_text=site.users[0].name)
    label = row.get_by_role("img").get_attribute("aria-label")
    assert re.fullmatch(
        rf"Spend a day of {site.users[0].name} in the last 31 days: \$[\d.]+ in all, most on \d+ \w+", label
    )
