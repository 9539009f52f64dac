"""Getting into the dashboard, staying in, and being thrown out."""

from urllib.parse import parse_qs, urlsplit

import pytest

from app import __version__
from app.accounts.login_tries import TRIES_PER_ADDRESS, TRIES_PER_NAME_AND_ADDRESS
from app.accounts.users import hash_password
from tests.support.dashboard import PASSWORD, TOKEN, Away, DashboardWorld


@pytest.fixture
def world(database):
    return DashboardWorld(database)


def test_who_is_not_logged_in_is_sent_to_the_login_and_back_afterwards(world):
    browser = world.browser()
    sent = browser.get("/?period=7d")
    assert sent.status_code == 303
    assert sent.location == "/admin/login?next=/admin/?period%3D7d"
    assert 'value="/admin/?period=7d"' in browser.get("/login?next=/admin/?period%3D7d").text
    assert browser.log_in(token=TOKEN, next="/admin/?period=7d").location == "/admin/?period=7d"


def test_a_page_that_does_not_exist_tells_a_stranger_nothing(world):
    assert world.browser().get("/no-such-page").status_code == 303
    assert world.admin().get("/no-such-page").status_code == 404


def test_the_foot_of_a_page_tells_the_version(world):
    assert f"Weir {__version__}</span>" in world.admin().get("/").text.partition("<footer")[2]


def test_the_script_of_a_page_is_told_to_log_in_again(world):
    assert world.browser().get("/", headers={"X-Weir-Live": "1"}).status_code == 401


def test_the_token_opens_the_dashboard(world):
    admin = world.admin()
    assert admin.is_in
    assert "admin-token" in admin.get("/").text


@pytest.mark.parametrize("token", ["wrong", TOKEN + "x", TOKEN[:-1], "\udcff" * 3])
def test_another_token_does_not(world, token):
    browser = world.browser()
    refused = browser.log_in(token=token.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    assert refused.status_code == 401
    assert "nor the admin token" in refused.text
    assert not browser.is_in


def test_without_a_token_nothing_opens_the_dashboard_as_its_holder(world):
    world.token = ""
    assert world.browser().log_in(token="").status_code == 400
    assert world.browser().log_in(token=" ").status_code == 401


def test_an_admin_user_logs_in_with_name_and_password(world):
    world.add_user("root")
    browser = world.browser()
    assert browser.log_in(username="root", password=PASSWORD).status_code == 303
    assert browser.is_in


def test_wrong_passwords_and_unknown_names_are_answered_alike(world):
    world.add_user("root")
    wrong = world.browser().log_in(username="root", password="wrong")
    unknown = world.browser().log_in(username="nobody", password=PASSWORD)
    assert wrong.status_code == unknown.status_code == 401
    for page in (wrong, unknown):
        assert "The user name or the password is wrong." in page.text
        assert "wrong" not in page.text.replace("is wrong.", "")  # a password is not sent back


def test_a_user_without_a_role_gets_to_their_own_pages_and_no_further(world):
    world.add_user("ann", role="user")
    browser = world.browser()
    sent = browser.log_in(username="ann", password=PASSWORD, role="admin")
    assert (sent.status_code, sent.location) == (303, "/admin/me")
    assert not browser.is_in
    assert world.users.get("ann").role == "user"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda world: world.users.set_active("root", False), id="disabled"),
        pytest.param(
            lambda world: world.database["usersNew"].update_one({"_id": "root"}, {"$set": {"role": "user"}}),
            id="demoted",
        ),
        pytest.param(
            lambda world: world.users.set_password("root", hash_password("another one")),
            id="another password",
        ),
        pytest.param(lambda world: world.database["usersNew"].delete_one({"_id": "root"}), id="deleted"),
    ],
)
def test_a_session_ends_with_what_it_was_opened_with(world, change):
    world.add_user("root")
    browser = world.browser()
    browser.log_in(username="root", password=PASSWORD)
    assert browser.is_in
    change(world)
    assert not browser.is_in


def test_a_session_of_the_token_ends_when_the_token_changes(world):
    cookie = world.admin().cookie()
    assert world.browser().with_cookie(cookie).is_in
    world.token = "another token"
    assert not world.browser().with_cookie(cookie).is_in


def test_a_session_signed_with_another_key_is_none(world):
    cookie = world.admin().cookie()
    world.session_key = "another key"
    assert not world.browser().with_cookie(cookie).is_in


def test_a_session_ends_after_twelve_hours_however_busy_it_is(world):
    admin = world.admin()
    for _ in range(11):
        world.clock.forward(hours=1)
        assert admin.is_in
    world.clock.forward(hours=1, seconds=1)
    assert not admin.is_in


def test_logging_out_ends_every_copy_of_the_session(world):
    admin = world.admin()
    cookie = admin.cookie()
    assert admin.post("/logout", token_from="/").status_code == 303
    assert not admin.is_in
    assert not world.browser().with_cookie(cookie).is_in
    [ended] = world.database["dashboard_logouts"].find()
    assert (ended["expiresAt"] - world.clock.now).total_seconds() == 12 * 3600


def test_logging_out_takes_a_form_of_ours(world):
    admin = world.admin()
    refused = admin.get("/logout")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "OPTIONS, POST")
    assert admin.bare_post("/logout").status_code == 400
    assert admin.is_in


def test_a_session_from_before_the_login_is_dropped(world):
    browser = world.browser()
    token_before = browser.csrf_token("/login")
    planted = browser.cookie()
    browser.log_in(token=TOKEN)
    assert browser.cookie() != planted
    assert not world.browser().with_cookie(planted).is_in
    assert browser.bare_post("/logout", csrf_token=token_before).status_code == 400


def test_a_form_without_its_token_is_refused_in_words(world):
    refused = world.browser().bare_post("/login", token=TOKEN)
    assert refused.status_code == 400
    assert "This form is too old" in refused.text
    assert not world.browser().is_in


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/", "//evil.test/", "/\\evil.test", "\\\\evil.test", "/admin\\@evil.test",
        "evil.test",
        "javascript:alert(1)", "/admin/../..//evil.test/\n", "/adminx", "/v1/models", "http:/admin/", "",
        "///evil.test", "/admin//evil.test/\x00", " /admin/", "//admin/",
    ],
)  # fmt: skip
def test_nobody_is_sent_elsewhere_after_the_login(world, target):
    assert world.browser().log_in(token=TOKEN, next=target).location == "/admin/"


def test_wrong_tries_of_one_address_are_counted_and_the_right_token_passes(world):
    browser = world.browser()
    statuses = [browser.log_in(token="x").status_code for _ in range(TRIES_PER_ADDRESS + 1)]
    assert statuses == [401] * TRIES_PER_ADDRESS + [429]
    refused = browser.log_in(token="x")
    assert int(refused.headers["Retry-After"]) == 30  # the minute's end
    assert "Too many tries. Wait 30 s" in refused.text
    assert browser.log_in(token=TOKEN).status_code == 303
    assert browser.is_in


def test_a_right_password_passes_in_its_turn_and_a_wrong_one_is_refused(world):
    world.add_user("root")
    browser = world.browser()
    wrong = [browser.log_in(username="root", password="x").status_code for _ in range(8)]
    assert wrong == [401] * TRIES_PER_NAME_AND_ADDRESS + [429] * (8 - TRIES_PER_NAME_AND_ADDRESS)
    assert browser.log_in(username="root", password=PASSWORD).status_code == 303
    assert browser.is_in


def test_cookies_are_out_of_reach_of_scripts_and_other_sites(world):
    browser = world.browser()
    token = browser.csrf_token("/login")
    [plain] = [
        value
        for value in browser.bare_post("/login", csrf_token=token, token=TOKEN).headers.getlist("Set-Cookie")
        if value.startswith("weir_admin=")
    ]
    assert {"HttpOnly", "Path=/admin", "SameSite=Lax"} <= set(plain.split("; "))
    assert "Secure" not in plain
    over_tls = world.app().test_client().get("/login", base_url="https://weir.test/admin")
    assert "; Secure;" in over_tls.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/", "/login", "/no-such-page", "/static/weir.css"])
def test_every_answer_forbids_frames_and_foreign_content(world, path):
    headers = world.admin().get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_pages_are_not_kept_by_anybody(world):
    assert world.admin().get("/").headers["Cache-Control"] == "no-store"


def test_while_the_store_is_away_the_token_opens_what_can_be_drawn(world):
    world.accounts = world.ended = world.stats = Away()
    page = world.admin().get("/")
    assert page.status_code == 200
    assert "The database cannot answer: connection refused." in page.text
    assert "Journal, queue and database" in page.text


def test_while_the_store_is_away_a_session_goes_on_and_logins_by_name_say_why_not(world):
    world.add_user("root")
    browser = world.browser()
    browser.log_in(username="root", password=PASSWORD)
    cookie = browser.cookie()
    world.accounts = world.ended = world.stats = Away()
    assert world.browser().with_cookie(cookie).is_in
    refused = world.browser().log_in(username="root", password=PASSWORD)
    assert refused.status_code == 503
    assert "The admin token works" in refused.text


def test_logging_out_while_the_store_is_away_says_what_that_is_worth(world):
    world.ended = Away()
    admin = world.admin()
    assert "stays good until" in admin.post("/logout", token_from="/").text or (
        "stays good until" in admin.get("/login").text
    )
    assert not admin.is_in


def test_the_theme_is_kept_and_a_made_up_one_is_not(world):
    admin = world.admin()
    assert admin.post("/theme", token_from="/", theme="dark", next="/admin/?period=1h").location == (
        "/admin/?period=1h"
    )
    assert 'data-theme="dark"' in admin.get("/").text
    admin.post("/theme", token_from="/", theme='"><script>')
    assert 'data-theme="dark"' in admin.get("/").text
    admin.client.set_cookie("weir_theme", '"><script>', domain="weir.test", path="/admin")
    assert 'data-theme="auto"' in admin.get("/").text


@pytest.mark.parametrize(("path", "status"), [("/login", 413), ("/logout", 303), ("/theme", 413)])
def test_of_a_strangers_form_no_more_is_read_than_a_login_takes(world, path, status):
    browser = world.browser()
    token = browser.csrf_token("/login")
    padding = "x" * (8 * 1024)
    answer = browser.bare_post(path, csrf_token=token, token=TOKEN, next=padding)
    assert answer.status_code == status
    assert not browser.is_in
    assert browser.bare_post("/login", csrf_token=token, token=TOKEN, next="x" * 4000).status_code == 303
    assert browser.bare_post("/theme", csrf_token=browser.csrf_token("/"), next=padding).status_code == 303


def test_a_form_that_comes_after_the_session_says_to_log_in(world):
    stranger = world.browser()
    token = stranger.csrf_token("/login")
    for fields in ({}, {"csrf_token": token}, {"padding": "x" * 9000}):
        answer = stranger.client.post(
            "/logout", data=fields, base_url="http://weir.test/admin",
            headers={"Referer": "http://weir.test/admin/nothing/here?user=a%26b"},
        )  # fmt: skip
        assert answer.status_code == 303
        assert "weir_admin" not in answer.headers.get("Set-Cookie", ""), "whoever is logged in stays so"
        target = answer.headers["Location"].removeprefix("/admin")
        assert target == "/login?unsent=yes"
        page = stranger.get(target).text
        assert "what you sent was not taken" in page
        assert 'id="unsent"' in page


@pytest.mark.parametrize(
    ("referrer", "target"),
    [
        ("http://weir.test/admin/me/keys?user=a%26b", "/admin/me/keys?user=a%26b"),
        ("http://weir.test/admin/me/keys/x/rotate?user=a", "/admin/me/keys/x"),
        ("http://weir.test/admin/login?next=/admin/me", ""),
        ("http://weir.test/elsewhere", ""),
        ("http://[", ""),
        ("javascript:alert(1)", ""),
        (None, ""),
    ],
)
def test_after_the_login_one_is_back_at_the_page_with_the_form(world, referrer, target):
    for path in ("/logout", "/me/keys/new"):
        answer = world.browser().client.post(
            path, base_url="http://weir.test/admin", headers={"Referer": referrer} if referrer else {}
        )
        next_page = parse_qs(urlsplit(answer.headers["Location"]).query).get("next", [""])
        assert next_page == [target], path


def test_a_form_of_an_earlier_session_leads_back_to_itself(world):
    admin = world.admin()
    answer = admin.client.post(
        "/logout", data={"csrf_token": "x"}, base_url="http://weir.test/admin",
        headers={"Referer": "http://weir.test/admin/?period=7d"},
    )  # fmt: skip
    assert answer.status_code == 400
    assert 'id="unsent"' in answer.text
    assert 'href="/admin/?period=7d"' in answer.text
    assert admin.is_in
