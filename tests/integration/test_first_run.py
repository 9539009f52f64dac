"""From an empty database to an owner who is logged in; and keys that are shown once."""

import re
from html import unescape

import pytest

from app.admin.resources import resource_pages
from app.keys.key_pool import SharedKeyPool
from app.management.administration import build_administration
from app.management.first_steps import FirstStepsStore
from app.persistence.booking import Booking
from app.settings import Settings
from app.store.key_cipher import KeyCipher
from tests.contract.booking_world import sequenced
from tests.support.dashboard import PASSWORD, TOKEN, DashboardWorld


@pytest.fixture
def world(database, tmp_path):
    world = DashboardWorld(database)
    administration = build_administration(Settings(data_dir=tmp_path), database, KeyCipher("secret"))
    world.more_pages = resource_pages(administration, world.customers(administration), world.upstream)
    return world


def test_the_link_makes_an_owner_who_is_logged_in_then(world, database):
    path = f"/setup/{world.first_owner.offer(world.clock.now)}"
    browser = world.browser()
    assert "Become the owner" in browser.get(path).text
    made = browser.post(path, path, username="root", password=PASSWORD)
    assert (made.status_code, made.location) == (303, "/admin/")
    assert browser.is_in
    assert browser.get("/customers").status_code == 200
    assert world.browser().get(path).status_code == 404
    assert world.browser().log_in(username="root", password=PASSWORD).status_code == 303
    entry = database.admin_audit.find_one({"action": "users.add"})
    assert (entry["actor"], entry["target"], entry["outcome"]) == ("setup-link", "user:root", "done")


def test_what_cannot_be_used_is_said_beside_the_field_and_what_was_typed_stays(world):
    path = f"/setup/{world.first_owner.offer(world.clock.now)}"
    browser = world.browser()
    refused = browser.post(path, path, username="no name", password=PASSWORD)
    assert refused.status_code == 400
    assert 'value="no name"' in refused.text
    assert "takes 1 to 64 letters" in refused.text
    weak = browser.post(path, path, username="root", password="password" * 2)
    assert weak.status_code == 400
    assert "password" * 2 not in weak.text
    assert browser.post(path, path, username="root", password=PASSWORD).status_code == 303


def test_another_link_leads_nowhere(world):
    assert world.browser().get("/setup/x").status_code == 404
    world.first_owner.offer(world.clock.now)
    assert world.browser().get("/setup/x").status_code == 404
    assert world.browser().bare_post("/setup/x", username="root", password=PASSWORD).status_code == 400


def test_who_logs_in_as_an_owner_needs_no_link_any_more(world):
    path = f"/setup/{world.first_owner.offer(world.clock.now)}"
    world.add_user("see", role="viewer")
    assert world.browser().log_in(username="see", password=PASSWORD).status_code == 303
    assert world.browser().get(path).status_code == 200
    assert world.browser().log_in(token=TOKEN).status_code == 303
    assert world.browser().get(path).status_code == 404


# The page of a key that was just made


def make_key(browser) -> str:
    answer = browser.post("/customers", "/customers", username="alice", role="user", credits="5")
    assert answer.status_code == 303
    return answer.location.removeprefix("/admin")


def test_a_reload_of_a_new_keys_page_shows_nothing_and_makes_nothing(world, database):
    admin = world.admin()
    page = make_key(admin)
    [secret] = set(re.findall(r"sk-weir-\w{40}", admin.get(page).text))
    again = admin.get(page)
    assert again.status_code == 410
    assert secret not in again.text
    assert "shown already" in again.text
    assert database.user_keys.count_documents({}) == 1


def test_another_session_does_not_see_a_new_key(world):
    admin, other = world.admin(), world.admin()
    page = make_key(admin)
    assert other.get(page).status_code == 410
    assert world.browser().get(page).status_code == 303
    assert re.search(r"sk-weir-\w{40}", admin.get(page).text)


def test_a_new_keys_page_says_how_to_use_it(world):
    admin = world.admin()
    text = unescape(admin.get(make_key(admin)).text)
    [secret] = set(re.findall(r"sk-weir-\w{40}", text))
    assert "http://weir.test/v1" in text
    for said in (
        f'-H "Authorization: Bearer {secret}"',
        f'OpenAI(base_url="http://weir.test/v1", api_key="{secret}")',
        f'Anthropic(base_url="http://weir.test", api_key="{secret}")',
        "export ANTHROPIC_BASE_URL=http://weir.test\n",
        'wire_api = "responses"',
        "OPENAI_API_BASE_URL=http://weir.test/v1\n",
    ):
        assert said in text
    assert 'href="/admin/customers/alice"' in text


# The first steps on Home


def steps_of(browser) -> list[bool]:
    """Which steps Home shows, and whether each is done."""
    list_of_steps = re.search(r'<ol class="steps">(.*?)</ol>', browser.get("/").text, re.DOTALL)
    if list_of_steps is None:
        return []
    return ["done" in step.split("<strong>")[0] for step in list_of_steps[1].split("<li>")[1:]]


def test_the_first_steps_tick_themselves_off_and_go(world, database):
    world.first_steps = FirstStepsStore(database).found
    admin = world.admin()
    assert steps_of(admin) == [False, True, False, False, False]
    make_key(admin)
    assert steps_of(admin) == [False, True, True, True, False]
    world.keys = SharedKeyPool(["sk-upstream-first-0123456789"]).snapshot()
    admin = world.admin()
    assert steps_of(admin) == [True, True, True, True, False]
    rows = [sequenced(1, outcome="upstream_error"), sequenced(2)]
    Booking(database, "w").apply(rows[:1])
    assert steps_of(admin)[-1] is False, "that was not answered"
    Booking(database, "w").apply(rows[1:])
    assert steps_of(admin) == []


def test_windows_that_look_on_see_the_last_step_done(world, database):
    world.first_steps = FirstStepsStore(database).found
    Booking(database, "w").apply([sequenced(1)])
    answer = world.admin().get("/live?page=/", headers={"Accept": "application/json"})
    assert "A request was answered" in answer.json["parts"]["first-steps"]


def test_the_first_steps_are_hidden_in_one_browser(world, database):
    world.first_steps = FirstStepsStore(database).found
    admin, other = world.admin(), world.admin()
    assert admin.post("/first-steps/hide", "/").status_code == 303
    assert steps_of(admin) == []
    assert len(steps_of(other)) == 5


def test_the_staff_is_no_user(world, database):
    world.first_steps = FirstStepsStore(database).found
    world.add_user("root", role="owner")
    world.add_user("see", role="viewer")
    assert steps_of(world.admin())[2] is False
