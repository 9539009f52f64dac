"""What administrators come for, each from Home, in how many steps: clicks, fields filled, keys pressed."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from simulator.launcher import ROOT, wait_until
from tests.support.chromium import Watched
from tests.support.site import CHAT_MODEL, Site
from tests.support.upstream_process import UpstreamProcess


class Person:
    """Somebody in front of Home who does one thing after the other, and counts."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page, self.site = page, site
        self.user = site.users[0].name
        self.hint = f"sk-weir-...{site.users[0].key[-4:]}"
        self.steps = 0

    def click(self, name: str, role: str = "link", within: str = "main") -> None:
        self.on(self.page.locator(within).get_by_role(role, name=name, exact=True).first)

    def on(self, what: Locator) -> None:
        self.steps += 1
        what.click()

    def go(self, place: str) -> None:
        self.click(place, within="nav[aria-label=Pages]")

    def open(self, name: str) -> None:
        """Press what opens a dialog or asks first."""
        self.on(self.page.locator("summary", has_text=re.compile(f"^{re.escape(name)}$")).first)

    def fill(self, label: str, text: str) -> None:
        self.steps += 1
        self.page.locator("dialog[open]").get_by_label(label, exact=True).fill(text)

    def choose(self, label: str, option: str) -> None:
        self.steps += 1
        self.page.get_by_role("main").get_by_label(label, exact=True).select_option(option)

    def send(self, name: str) -> None:
        self.click(name, "button", "dialog[open]")

    def show_period(self, name: str) -> None:
        self.on(self.page.locator("#range"))
        self.on(self.page.get_by_role("navigation", name="Period").get_by_role("link", name=name, exact=True))

    def find(self, text: str, first: str) -> None:
        """Say it to the palette, and take what it offers first."""
        self.press("Control+k")
        self.steps += 1
        self.page.get_by_role("combobox", name="Find, or say what to do").fill(text)
        expect(self.page.locator("#palette-list [role=option]").first).to_contain_text(first)
        self.press("Enter")

    def press(self, key: str) -> None:
        self.steps += 1
        self.page.keyboard.press(key)

    def sees(self, text: str, where: str = "main") -> None:
        expect(self.page.locator(where).first).to_contain_text(text)

    def open_user(self) -> None:
        self.go("Customers")
        self.click(self.user)

    def open_key(self) -> None:
        self.go("Customers")
        self.click("Client keys")
        self.click(self.hint)


def add_past(site: Site) -> None:
    """Have the first user fail once yesterday, and have it served last month, whatever day it is."""
    record = site.weir.database["request_logs"].find_one({"_id": site.ids[0]})
    assert record is not None
    midnight = datetime.now(site.zone).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    failed = {
        "_id": "yesterdays-failure",
        "requestId": "yesterdays-failure",
        "createdAt": midnight - timedelta(hours=2),
        "outcome": "upstream_truncated",
        "errorType": "upstream_truncated",
        "errorMessage": "The answer was cut.",
    }
    # Before yesterday also on the first of a month.
    at = midnight.astimezone(site.zone).replace(day=1).astimezone(UTC) - timedelta(days=3)
    served = {"_id": "last-months-request", "requestId": "last-months-request", "createdAt": at}
    past = [SequencedRecord(1, record | failed), SequencedRecord(2, record | served)]
    assert Booking(site.weir.database, "past").apply(past).dead == ()


def add_user(who: Person) -> None:
    who.go("Customers")
    who.open("New user")
    who.fill("Name", "new-customer")
    who.fill("Credit in USD", "5")
    who.send("Create the user and a key")
    who.sees("sk-weir-", "#secret")


def add_key(who: Person) -> None:
    who.open_user()
    who.open("New key")
    who.fill("Name", "production")
    who.send("Create the key")
    who.sees("sk-weir-", "#secret")


def give_credit(who: Person) -> None:
    who.open_user()
    who.open("Give credit")
    who.fill("Amount in USD", "2.5")
    who.fill("Reason", "invoice 17")
    who.send("Give credit")
    who.sees("invoice 17", "#ledger")


def give_credit_in_a_sentence(who: Person) -> None:
    who.find(f"give credit {who.user} 1.5 for the outage", f"Give 1.5 USD to {who.user}")
    who.send("Give credit")
    who.sees("the outage", "#ledger")


def yesterdays_failures(who: Person) -> None:
    who.go("Requests")
    who.on(who.page.get_by_role("navigation", name="Views").get_by_role("link", name="Failed"))
    who.page.wait_for_url("**view=failed**")  # the page before has a range, too
    who.show_period("Yesterday")
    who.page.wait_for_url("**period=yesterday**")
    who.click(who.user, within="#facet-user")
    expect(who.page.locator("#log tbody tr")).to_have_count(1)
    who.sees("The answer was cut.", "#log")


def dearest_requests(who: Person) -> None:
    who.go("Requests")
    who.click("Cost", within="#log thead")
    expect(who.page.get_by_role("columnheader", name="Cost")).to_have_attribute("aria-sort", "descending")


def this_month_beside_last(who: Person) -> None:
    who.go("Usage")
    who.choose("By", "user")
    who.choose("Compare with", "the previous period")
    who.click("Show", "button")
    who.page.wait_for_url("**compare=**")
    who.show_period("This month")
    who.page.wait_for_url("**period=month**")
    expect(who.page.locator("main table").last.get_by_role("columnheader", name="Change")).to_be_visible()


def bill_of_a_month(who: Person) -> None:
    who.go("Billing")
    who.on(who.page.locator("main tbody a").nth(1))
    with who.page.expect_download() as file:
        who.click("CSV, a line per user")
    assert who.user in file.value.path().read_text()


def spend_of_a_key(who: Person) -> None:
    who.go("Customers")
    who.click("Client keys")
    expect(who.page.get_by_role("row", name=who.hint)).to_contain_text("$")


def limit_a_key(who: Person) -> None:
    who.open_key()
    who.open("Name, limits and budgets")
    who.fill("Requests a minute", "17")
    who.send("Save")
    who.sees("17")


def budget_of_a_user(who: Person) -> None:
    who.open_user()
    who.open("Limits and budgets")
    who.fill("Budgets", "10/month")
    who.send("Save")
    who.sees("a month", "[aria-label=Budgets]")


def models_of_a_key(who: Person) -> None:
    who.open_key()
    who.open("Name, limits and budgets")
    who.fill("Only these models", CHAT_MODEL)
    who.fill("Accepted until", "2035-01-31T10:00")
    who.send("Save")
    who.sees("2035-01-31")


def price_preview(who: Person) -> None:
    who.go("Billing")
    who.click("Prices")
    who.open("Preview another table")
    who.steps += 1
    who.page.get_by_label("Model table").set_input_files(ROOT / "models.toml")
    who.send("Compare")
    who.sees("Would have been", "#preview-total")


def broken_price_table(who: Person) -> None:
    who.go("Billing")
    who.click("Prices")
    who.open("Preview another table")
    who.steps += 1
    file = {"name": "models.toml", "mimeType": "text/plain", "buffer": b"[[models"}
    who.page.get_by_label("Model table").set_input_files(file)
    who.send("Compare")
    who.sees("TOML", "dialog[open]")


def model_that_is_missing(who: Person) -> None:
    who.go("Billing")
    who.click("Prices")
    who.sees("no-such-model", "section[aria-labelledby=missing-title]")


def second_administrator(who: Person) -> None:
    who.go("Customers")
    who.open("New user")
    who.fill("Name", "second-admin")
    who.open("Limits, budgets, role and more")
    who.steps += 1
    who.page.locator("dialog[open]").get_by_label("Role").select_option("owner")
    who.fill("Password", "a long enough password")
    who.send("Create the user and a key")
    who.sees("sk-weir-", "#secret")
    assert who.site.api("users/second-admin")["role"] == "owner"


def upstream_key_that_fails(who: Person) -> None:
    who.click("env-1: out of money")
    who.sees("no money left", "#events")


def add_upstream_key(who: Person) -> None:
    who.go("Upstream")
    who.open("Add a key")
    who.fill("Name", "key-paris")
    who.fill("Key", "sk-upstream-paris-01234567890")
    who.send("Add the key")
    who.sees("key-paris", "#pool")


def import_backup_keys(who: Person) -> None:
    who.go("Upstream")
    who.open("Import backup keys")
    who.fill("or lines", "spare-9|sk-upstream-spare-9-0123456\nspare 2")
    who.send("Import")
    who.sees("line 2", "dialog[open]")
    who.fill("or lines", "spare-9|sk-upstream-spare-9-0123456")
    who.send("Import")
    who.sees("spare-9", "#spares")


def proxy_for_a_key(who: Person) -> None:
    who.go("Upstream")
    who.click("Proxies")
    who.open("Add a proxy")
    who.fill("Name", "berlin")
    who.fill("Host", "127.0.0.1")
    who.fill("Port", "9")
    who.send("Add the proxy")
    who.open("Bind a key")
    who.steps += 2
    dialog = who.page.locator("dialog[open]")
    dialog.get_by_label("Upstream key").select_option("env-3")
    proxy = dialog.get_by_label("Proxy").get_by_role("option", name=re.compile("berlin")).first
    dialog.get_by_label("Proxy").select_option(proxy.get_attribute("value"))
    who.send("Bind")
    who.sees("env-3")


def what_is_in_flight(who: Person) -> None:
    who.site.upstream.behave(CHAT_MODEL, "chunks=4000,delay_ms=100", times=1)
    with who.site.streaming(who.site.users[0]):
        who.sees(who.user, "#in-flight")


def pause_a_key_and_undo(who: Person) -> None:
    who.open_key()
    who.click("Pause", "button")
    who.sees("paused")
    who.click("Accept again", "button")
    who.sees("active")


def disable_a_user_and_undo(who: Person) -> None:
    who.open_user()
    who.open("Disable")
    who.click(f"Yes, disable {who.user}", "button")
    who.sees("disabled")
    who.click("Enable", "button")
    who.sees("active")


def key_by_what_is_shown(who: Person) -> None:
    who.find(who.hint, who.hint)
    who.sees(who.hint)


def who_changed_a_user(who: Person) -> None:
    who.open_user()
    who.click("All in the audit log")
    who.sees("users.", "main tbody")


TASKS: dict[Callable[[Person], None], int] = {
    add_user: 5,
    add_key: 5,
    give_credit: 6,
    give_credit_in_a_sentence: 4,
    yesterdays_failures: 5,
    dearest_requests: 2,
    this_month_beside_last: 6,
    bill_of_a_month: 3,
    spend_of_a_key: 2,
    limit_a_key: 6,
    budget_of_a_user: 5,
    models_of_a_key: 7,
    price_preview: 5,
    broken_price_table: 5,
    model_that_is_missing: 2,
    second_administrator: 7,
    upstream_key_that_fails: 1,
    add_upstream_key: 5,
    import_backup_keys: 6,
    what_is_in_flight: 0,
    proxy_for_a_key: 11,
    pause_a_key_and_undo: 5,
    disable_a_user_and_undo: 5,
    key_by_what_is_shown: 3,
    who_changed_a_user: 3,
}
"""What is done from Home, and in how many steps. Fewer is better: then this is to be mended, too."""


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[tuple[Site, Watched]]:
    """A proxy of this file's own, since tasks change it, and an administrator's window."""
    with UpstreamProcess() as upstream:
        site = Site(tmp_path_factory.mktemp("office"), upstream)
        with site.weir:
            site.prepare()
            add_past(site)
            window = Watched(browser, site.weir.url)
            window.log_in(site.token)
            yield site, window
            window.close()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_a_task_takes_as_many_steps_as_written_down(office, task):
    site, window = office
    window.told.clear()
    window.page.goto("/admin/")
    person = Person(window.page, site)
    task(person)
    assert person.steps == TASKS[task]
    assert [line for line in window.complaints if "status of 400" not in line] == []


def test_the_buttons_of_a_backup_key_stand_in_one_line(office):
    site, window = office
    page, person = window.page, Person(window.page, site)
    page.goto("/admin/upstream")
    person.open("Add a backup key")
    person.fill("Name", "stand-in")
    person.fill("Key", "sk-upstream-stand-in-0123456")
    person.send("Add the key")
    wait_until(lambda: site.api("ohmygpt/backup-keys")["used"], what="a key that is replaced")
    page.reload()
    row = page.locator("#spares tr", has=page.get_by_role("button", name="Restore")).first
    restore = row.get_by_role("button", name="Restore").bounding_box()
    assert row.locator("summary", has_text="Delete").bounding_box()["y"] == restore["y"]


def test_a_month_that_is_open_has_no_count_of_users_yet(office):
    _, window = office
    window.page.goto("/admin/billing")
    users = [cell.inner_text() for cell in window.page.locator("main tbody td:nth-of-type(4)").all()]
    assert users
    assert set(users) == {"–"}
