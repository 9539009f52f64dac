"""Every route of the dashboard and the admin API, for every role: who is let in, and who is not."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape

import pytest
from flask import Flask
from werkzeug.routing import Rule

from app.accounts.roles import ROLES, Permission, grants
from app.accounts.users import PasswordHash, UserStore
from app.api.openapi import operations
from app.api.operation import ADMIN
from app.factory import DASHBOARD
from app.management.permissions import ROUTES
from tests.support.admin_api import Admin, admin_app
from tests.support.dashboard import PASSWORD, Browser
from tests.support.seeded import seed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
# One round: it is derived for each of some hundred requests.
HASHED = PasswordHash(hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), b"00", 1, 64).hex(), "00", 1)
CREDIT = {"credit-amount": "1", "credit-reason": "test"}
PERSONAL = (Permission.OPEN, Permission.ENTER, Permission.OWN)


@pytest.fixture
def app(database, mongo_uri, tmp_path) -> Iterator[Flask]:
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        seed(Admin(app), database)
        database.request_logs.update_one({"_id": "x"}, {"$set": {"costNanoUsd": 0}})
        for role in ROLES:
            UserStore(database).add(f"the-{role}", now=NOW, role=role, password=HASHED)
        yield app


def pages(app: Flask) -> Iterator[tuple[str, Rule]]:
    for rule in app.extensions[DASHBOARD].url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule


def admin_routes(app: Flask) -> Iterator[tuple[str, Rule]]:
    for rule, method, operation in operations(app):
        if operation.access == ADMIN:
            yield method, rule


def path_of(rule: Rule) -> str:
    values = dict.fromkeys(rule.arguments, "x")
    values |= {"place": "pool"} if "place" in values else {}
    return str(rule.build(values, append_unknown=False)[1])  # type: ignore[index]


def logged_in(app: Flask, role: str) -> Browser:
    browser = Browser(app.extensions[DASHBOARD].test_client())
    assert browser.log_in(username=f"the-{role}", password=PASSWORD).status_code == 303
    return browser


def contents(database) -> dict[str, list[dict]]:
    """Everything that is stored, but for what is noted of logins, limits and sessions."""
    passing = ("dashboard_logouts", "rate_limits")
    names = sorted(name for name in database.list_collection_names() if name not in passing)
    return {name: list(database[name].find({}, {"loginNetworks": False}).sort("_id", 1)) for name in names}


def test_every_route_is_classified_and_nothing_else_is(app):
    found = {(method, f"/admin{rule.rule}") for method, rule in pages(app)}
    found |= {(method, rule.rule) for method, rule in admin_routes(app)}
    hint = "list it in app/management/permissions.py: until then it takes an owner"
    assert sorted(found - set(ROUTES)) == [], hint
    assert sorted(set(ROUTES) - found) == [], "there is no such route (any more)"


def test_no_route_that_changes_something_takes_reading_alone():
    changing = [route for route, permission in ROUTES.items() if permission is Permission.READ]
    assert {method for method, _ in changing} == {"GET"}


@pytest.mark.parametrize("role", [role for role in ROLES if grants(role, Permission.READ)])
def test_pages_let_in_whom_the_role_lets_and_nothing_is_changed_by_others(app, database, role):
    browser = logged_in(app, role)
    token, before = browser.csrf_token("/"), contents(database)
    tried = 0
    for method, rule in pages(app):
        wanted = ROUTES[method, f"/admin{rule.rule}"]
        if wanted in PERSONAL or grants(role, wanted):
            continue
        path = path_of(rule)
        answer = browser.get(path) if method == "GET" else browser.bare_post(path, csrf_token=token)
        assert answer.status_code == 403, (method, path)
        assert "Your role does not allow this" in answer.text
        tried += 1
    assert contents(database) == before
    assert tried or role in ("owner", "admin")
    for method, rule in pages(app):
        if method == "GET" and grants(role, ROUTES[method, f"/admin{rule.rule}"]):
            assert browser.get(path_of(rule)).status_code in (200, 302, 303, 404), rule.rule
    if grants(role, Permission.BILL):
        given = browser.post("/customers/x/credit", "/", **CREDIT)
        assert given.status_code == 303
        assert database.usersNew.find_one({"_id": "x"})["credits"] == 7


def test_no_form_is_taken_without_the_token_of_its_session(app, database):
    browser = logged_in(app, "owner")
    forged, before = logged_in(app, "owner").csrf_token("/"), contents(database)
    assert forged != browser.csrf_token("/")
    for method, rule in pages(app):
        for fields in ({}, {"csrf_token": forged}) if method == "POST" else ():
            answer = browser.bare_post(path_of(rule), **fields)
            assert answer.status_code == 400, rule.rule
            assert "nothing was done" in answer.text, rule.rule
    assert contents(database) == before
    assert browser.get("/").status_code == 200, "not even logged out"


@pytest.mark.parametrize("role", ROLES)
def test_windows_follow_what_the_role_may_see_and_no_page_of_ones_own(app, role):
    browser, views = logged_in(app, role), app.extensions[DASHBOARD].view_functions
    followed = set()
    for method, rule in pages(app):
        if method != "GET":
            continue
        wanted = ROUTES[method, f"/admin{rule.rule}"]
        may = getattr(views[rule.endpoint], "is_live", False) and grants(role, wanted)
        answer = browser.get("/live", query_string={"page": path_of(rule)})
        refusal = 404 if grants(role, Permission.READ) else 403
        assert answer.status_code == (200 if may else refusal), rule.rule
        if may:
            assert answer.json["parts"]
            followed.add(rule.rule)
    assert followed == ({"/", "/requests"} if grants(role, Permission.READ) else set())


@pytest.mark.parametrize("role", ROLES)
def test_the_admin_api_lets_in_whom_the_role_lets_and_nothing_is_changed_by_others(app, database, role):
    credentials = b64encode(f"the-{role}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    client, refused = app.test_client(), 0
    client.get("/api/admin/health", headers=headers)
    before = contents(database)
    for method, rule in admin_routes(app):
        may = grants(role, ROUTES[method, rule.rule])
        if may and method != "GET":
            continue  # what an owner's empty body comes to is for the tests of each route
        if may and rule.rule == "/reload":
            continue
        answer = client.open(path_of(rule), method=method, headers=headers)
        assert (answer.status_code == 403) is not may, (method, rule.rule, answer.text)
        refused += not may
        if not may:
            assert "does not allow this" in answer.json["error"]
    assert contents(database) == before
    assert refused or role in ("owner", "admin")


@pytest.mark.parametrize("role", [role for role in ROLES if grants(role, Permission.READ)])
def test_pages_show_no_form_that_would_be_refused(app, role):
    browser = logged_in(app, role)
    urls = app.extensions[DASHBOARD].url_map.bind("")
    shown = set()
    for method, rule in pages(app):
        if method != "GET" or not grants(role, ROUTES[method, f"/admin{rule.rule}"]):
            continue
        for form in re.findall(r"<form[^>]*>", browser.get(path_of(rule)).text):
            if 'method="post"' not in form:
                continue
            action = unescape(re.search(r'action="([^"?]*)', form)[1])  # type: ignore[index]
            found, _ = urls.match(action.removeprefix("/admin"), method="POST", return_rule=True)
            wanted = ROUTES["POST", f"/admin{found.rule}"]
            assert wanted in PERSONAL or grants(role, wanted), (rule.rule, action)
            shown.add(wanted)
    assert (Permission.MANAGE in shown) is grants(role, Permission.MANAGE)
    assert (Permission.BILL in shown) is grants(role, Permission.BILL)


def test_a_page_that_nobody_classified_takes_an_owner(app):
    dashboard = app.extensions[DASHBOARD]
    dashboard.add_url_rule("/new", "new", lambda: "of all users")
    assert logged_in(app, "viewer").get("/new").status_code == 403
    assert logged_in(app, "billing").get("/new").status_code == 403
    assert logged_in(app, "owner").get("/new").text == "of all users"


def test_the_audit_log_says_who_did_it_with_which_role(app, database):
    logged_in(app, "billing").post("/customers/x/credit", "/", **CREDIT)
    entry = database.admin_audit.find_one(sort=[("_id", -1)])
    assert (entry["actor"], entry["role"], entry["via"]) == ("the-billing", "billing", "dashboard")
    assert "the-billing billing" in re.sub(
        r"<[^>]*>", "", logged_in(app, "viewer").get("/settings/audit").text
    )
    credentials = b64encode(f"the-admin:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    assert app.test_client().post("/api/admin/users/x/disable", headers=headers).status_code == 200
    listed = Admin(app).get("/audit?limit=1")["entries"][0]
    assert (listed["actor"], listed["role"], listed["via"]) == ("the-admin", "owner", "api")


def test_a_session_ends_with_the_role(app, database):
    browser = logged_in(app, "owner")
    UserStore(database).set_fields("the-owner", {"role": "viewer"})
    assert browser.get("/customers").status_code == 303
    assert logged_in(app, "owner").get("/customers").status_code == 200


def test_owner_and_admin_are_one_role(app, database):
    browser = logged_in(app, "admin")
    UserStore(database).set_fields("the-admin", {"role": "owner"})
    assert browser.get("/customers").status_code == 200
    for name in ("the-owner", "the-admin"):
        assert Admin(app)("POST", f"/users/{name}/disable").status_code in (200, 409)
    assert [user.username for user in UserStore(database).list() if user.is_active and user.role == "owner"]
