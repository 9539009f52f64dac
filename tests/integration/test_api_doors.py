"""Every route of the application: who is let in, and that no secret is ever in an answer."""

import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask import Flask
from werkzeug.routing import Rule

from app.accounts.login_tries import TRIES_PER_ADDRESS
from app.accounts.rate_window import WINDOW_S, window_start
from app.accounts.users import UserStore, hash_password
from app.api.openapi import openapi_document, operations
from app.api.operation import ADMIN, OPEN, USER
from app.factory import EXTENSION
from tests.support.admin_api import Admin, admin_app
from tests.support.seeded import SECRETS, seed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

OPEN_PATHS = {
    "/",
    "/health",
    "/ready",
    "/metrics",
    "/api/docs",
    "/api/docs/static/<path:filename>",
    "/api/admin/openapi.json",
}
"""Open to all, and nothing else is."""


@pytest.fixture
def app(database, mongo_uri, tmp_path) -> Iterator[Flask]:
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        yield app


def rules(app: Flask) -> Iterator[tuple[Rule, str]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule, method


def is_admins(path: str) -> bool:
    is_api = path.startswith(("/api/admin", "/keys/status", "/reload"))
    return is_api and path not in OPEN_PATHS


def is_client_api(rule: Rule) -> bool:
    return rule.endpoint.startswith("client.")


def url_of(rule: Rule) -> str:
    values = dict.fromkeys(rule.arguments, "x")
    return str(rule.build(values, append_unknown=False)[1])  # type: ignore[index]


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


def test_every_admin_route_refuses_strangers_and_users_who_are_no_admins(app, database):
    UserStore(database).add("ann", now=NOW, password=hash_password("right password"))
    client, tried, began = app.test_client(), 0, time.time()
    guesses = []
    # A password takes tenths of a second to check: ann's is checked for one route of each blueprint, which
    # guards all of its routes in one place, and the others are asked without a password.
    blueprints = set()
    for rule, method in rules(app):
        if not is_admins(rule.rule):
            continue
        tried += 1
        url = url_of(rule)
        assert client.open(url, method=method).status_code == 401, (method, url)
        wrong = {"Authorization": "Bearer wk_wrong"}
        guesses.append(client.open(url, method=method, headers=wrong).status_code)
        assert guesses[-1] in (401, 429), (method, url)
        blueprint = rule.endpoint.partition(".")[0]
        if blueprint not in blueprints:
            blueprints.add(blueprint)
            place = {"REMOTE_ADDR": f"192.0.2.{len(blueprints)}"}
            right = basic("ann", "right password")
            answer = client.open(url, method=method, headers=right, environ_base=place)
            assert answer.status_code == 403, (method, url)
    assert tried >= 40
    minutes = window_start(time.time()) // WINDOW_S - window_start(began) // WINDOW_S + 1
    assert guesses[0] == 401
    assert guesses.count(401) <= minutes * TRIES_PER_ADDRESS  # each begins with as many tries again
    assert len(blueprints) >= 3


def test_what_is_open_is_listed_here(app):
    for rule, _method in rules(app):
        is_guarded = is_admins(rule.rule) or rule.rule.startswith(("/api/user/", "/admin"))
        assert is_guarded or is_client_api(rule) or rule.rule in OPEN_PATHS, rule.rule


def test_every_route_beside_the_client_api_and_the_pages_is_described_for_who_may_use_it(app):
    described = {(rule.rule, method): operation for rule, method, operation in operations(app)}
    for rule, method in rules(app):
        is_page = rule.rule.startswith(("/admin", "/api/docs")) or rule.rule == "/api/admin/openapi.json"
        if is_page or is_client_api(rule):
            continue
        operation = described[rule.rule, method]
        access = ADMIN if is_admins(rule.rule) else USER if rule.rule.startswith("/api/user") else OPEN
        assert operation.access == access, rule.rule
        assert operation.summary


def test_operations_are_told_apart_by_their_names(app):
    document = openapi_document(app)
    names = [
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(names) == len(set(names))


def test_no_answer_holds_a_secret(app, database):
    admin = Admin(app)
    seed(admin, database)
    stored = [database.ohmygpt_keys.find_one({"_id": "x"})["apiKey"]]
    read = 0
    for rule, method in rules(app):
        if method != "GET" or rule.rule.startswith("/api/docs/static"):
            continue
        for headers in ({}, admin.headers):
            answer = admin.client.get(url_of(rule), headers=headers)
            assert answer.status_code < 500 or answer.status_code == 503, rule.rule
            text = answer.get_data(as_text=True)
            for name, secret in SECRETS.items():
                assert secret not in text, (rule.rule, name)
            for secret in stored:
                assert secret not in text, rule.rule
            if rule.rule.startswith("/api/admin/users"):
                assert "holds" not in text
                assert "applied" not in text
            read += answer.status_code == 200
    assert read >= 25
    assert app.extensions[EXTENSION].database.admin_audit.count_documents({}) == 5
