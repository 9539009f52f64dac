"""Finding things and getting about by the keyboard alone."""

import re

from playwright.sync_api import expect

from tests.support.chromium import Watched


def find(page, text: str):
    page.keyboard.press("Control+k")
    page.keyboard.type(text)
    return page.locator("#palette-list [role=option]")


def focused(page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.id"))


def test_a_request_a_key_and_a_user_are_found_by_what_is_pasted(admin, site):
    page = admin.page
    user = site.users[0]
    for text, leads_to in (
        (site.ids[0], f"/admin/requests/{site.ids[0]}"),
        (user.name, f"/admin/customers/{user.name}"),
        (user.key[-4:], "/admin/keys/wk_"),
        (f"{user.key[:8]}...{user.key[-4:]}", "/admin/keys/wk_"),
        ("env-2", "/admin/upstream"),
        ("claude-sonnet-4-5", "/admin/requests?model=claude-sonnet-4-5"),
    ):
        page.goto("/admin/")
        options = find(page, text)
        expect(options.first).to_have_attribute("data-url", re.compile("^" + re.escape(leads_to)))
        expect(options.first).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url, leads_to=leads_to: leads_to in url)


def test_an_action_opens_its_form_filled_in_and_does_nothing_by_itself(admin, site):
    page, name = admin.page, site.users[1].name
    before = site.api(f"users/{name}")
    page.goto("/admin/")
    options = find(page, f"give credit {name} 25 for the outage")
    expect(options.first).to_contain_text(f"Give 25 USD to {name}")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/admin/customers/{name}?*")
    form = page.get_by_role("form", name="Give credit")
    expect(form.get_by_label("Amount in USD")).to_have_value("25")
    expect(form.get_by_label("Reason")).to_have_value("the outage")
    assert site.api(f"users/{name}") == before


def test_the_palette_is_a_combobox_that_arrows_go_through(admin):
    page = admin.page
    page.goto("/admin/")
    page.keyboard.press("/")
    box = page.get_by_role("combobox", name="Find, or say what to do")
    expect(box).to_be_focused()
    options = page.locator("#palette-list [role=option]")
    expect(options.nth(2)).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    assert box.get_attribute("aria-activedescendant") == options.nth(1).get_attribute("id")
    page.keyboard.press("ArrowUp")
    expect(options.first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def test_without_scripts_a_page_finds_the_same(browser, site, cookies):
    context = Watched(browser, site.weir.url, java_script_enabled=False).context
    context.add_cookies(cookies)
    page = context.new_page()
    page.goto("/admin/")
    page.get_by_role("link", name="Find").click()
    page.get_by_label("Id, key, user, model; or what to do").fill(site.users[0].name)
    page.get_by_role("button", name="Find").click()
    page.locator(".hits a").first.click()
    expect(page.get_by_role("heading", name=site.users[0].name)).to_be_visible()
    context.close()


def test_rows_and_places_are_reached_by_single_keys(admin, site):
    page = admin.page
    page.goto("/admin/requests")
    links = [
        row.get_by_role("link").first.get_attribute("href") for row in page.locator("#log tbody tr").all()
    ]
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert focused(page) == links[place]
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    # The two keys belong together if they come within 1.5 s: those of the page's own clock.
    page.evaluate("() => { const now = Date.now(); Date.now = () => now; }")
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_url("**/admin/customers")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("g r")
    dialog.get_by_label("Use single-key shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("?")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog", name="Find")).to_be_visible()
    expect(dialog).to_be_hidden()


def test_keys_that_are_typed_into_a_field_stay_there(admin):
    page = admin.page
    page.goto("/admin/customers")
    field = page.get_by_label("Name contains")
    field.focus()
    page.keyboard.type("g/j?k")
    expect(field).to_have_value("g/j?k")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_the_first_request_is_fewer_than_eight_tab_stops_away(admin):
    page = admin.page
    page.goto("/admin/requests")
    first = page.locator("#log tbody tr").first.get_by_role("link").first.get_attribute("href")
    stops = 0
    while focused(page) != "#log":
        page.keyboard.press("Tab")
        stops += 1
        assert stops < 8
    page.keyboard.press("Enter")
    while focused(page) != first:
        page.keyboard.press("Tab")
        stops += 1
        assert stops < 8, "the first request is too far away"
