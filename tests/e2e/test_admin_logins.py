"""Logins of admins through the real server, over workers and hosts: strangers keep nobody out or in."""

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from app.accounts.login_tries import TRIES_PER_ADDRESS
from app.store.embedded_mongo import EmbeddedMongo
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

TOKEN = "token-of-the-login-tests"
PASSWORD = "correct horse battery"
SHARED = {"ADMIN_TOKEN": TOKEN, "SECRET_KEY": "one-secret-of-both-hosts", "WEB_CONCURRENCY": "2"}


def ask(weir: WeirProcess, authorization: str, address: str | None = None) -> requests.Response:
    """Ask for the pool's state, on a connection of its own."""
    headers = {"Authorization": authorization, "Connection": "close"}
    if address is not None:
        headers["X-Forwarded-For"] = address
    return requests.get(f"{weir.url}/keys/status", headers=headers, timeout=90)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def add_admin(weir: WeirProcess, token: str, name: str) -> None:
    made = requests.post(
        f"{weir.url}/api/admin/users",
        json={"username": name, "role": "admin", "password": PASSWORD},
        headers={"Authorization": f"Bearer {token}"},
        timeout=90,
    )
    assert made.status_code == 201, made.text


def test_a_flood_of_wrong_logins_keeps_nobody_out(weir: WeirProcess) -> None:
    token = weir.admin_token
    add_admin(weir, token, "boss")
    with ThreadPoolExecutor(24) as threads:
        wrong = [threads.submit(ask, weir, basic(f"nobody-{number}", "x")) for number in range(48)]
        right = [
            threads.submit(ask, weir, basic("boss", PASSWORD)),
            threads.submit(ask, weir, f"Bearer {token}"),
        ]
        assert [answer.result().status_code for answer in right] == [200, 200]
        answers = [answer.result() for answer in wrong]
    refused = [answer for answer in answers if answer.status_code == 429]
    # A minute may end in between, and begin with as many more tries.
    assert 48 - 2 * TRIES_PER_ADDRESS <= len(refused) <= 48 - TRIES_PER_ADDRESS
    assert {answer.status_code for answer in answers} == {401, 429}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
    with ThreadPoolExecutor(16) as threads:  # a program that sends its password with every call
        calls = list(threads.map(lambda _: ask(weir, basic("boss", PASSWORD)).status_code, range(32)))
    assert calls == [200] * 32
    guesses = [ask(weir, f"Bearer guess-{number}").status_code for number in range(60)]
    assert guesses.count(429) >= 60 - 2 * TRIES_PER_ADDRESS
    assert ask(weir, f"Bearer {token}").status_code == 200


@pytest.fixture
def hosts(upstream: UpstreamProcess, own_mongo: EmbeddedMongo, tmp_path: Path):
    """Two hosts of two workers each on one database, behind a trusted proxy."""
    shared = {**SHARED, "MONGODB_URI": own_mongo.uri, "TRUSTED_PROXIES": "127.0.0.1"}
    with (
        WeirProcess(tmp_path / "one", upstream.url, **shared) as one,
        WeirProcess(tmp_path / "two", upstream.url, **shared) as two,
    ):
        yield one, two


def logged_in(weir: WeirProcess, **fields: str) -> requests.Session:
    browser = requests.Session()
    page = browser.get(f"{weir.url}/admin/login", timeout=90).text
    browser.post(f"{weir.url}/admin/login", data={"csrf_token": form_token(page), **fields}, timeout=90)
    return browser


def form_token(page: str) -> str:
    found = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def is_in(weir: WeirProcess, cookie: str) -> bool:
    """Whether the cookie opens the dashboard, for whatever worker gets the connection."""
    headers = {"Cookie": f"weir_admin={cookie}", "Connection": "close"}
    answers = [
        requests.get(f"{weir.url}/admin/", headers=headers, allow_redirects=False, timeout=90).status_code
        for _ in range(6)
    ]
    assert set(answers) in ({200}, {303})
    return answers[0] == 200


def test_sessions_and_tries_are_the_same_for_workers_and_hosts(
    hosts: tuple[WeirProcess, WeirProcess],
) -> None:
    one, two = hosts
    add_admin(one, TOKEN, "boss")

    with_token, by_name = logged_in(one, token=TOKEN), logged_in(one, username="boss", password=PASSWORD)
    for browser in (with_token, by_name):
        assert all(is_in(host, browser.cookies["weir_admin"]) for host in hosts)

    stolen = with_token.cookies["weir_admin"]
    page = with_token.get(f"{one.url}/admin/", timeout=90)
    assert with_token.cookies["weir_admin"] == stolen  # one cookie all through the session
    out = with_token.post(
        f"{one.url}/admin/logout",
        data={"csrf_token": form_token(page.text)},
        allow_redirects=False,
        timeout=90,
    )
    assert out.status_code == 303
    assert not any(is_in(host, stolen) for host in hosts)

    stolen = by_name.cookies["weir_admin"]
    changed = requests.put(
        f"{two.url}/api/admin/users/boss/password",
        json={"password": "another horse battery"},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=90,
    )
    assert changed.status_code == 200
    assert not any(is_in(host, stolen) for host in hosts)

    # The owner's place is known now; then strangers guess from many.
    assert ask(one, basic("boss", "another horse battery"), "198.51.100.1").status_code == 200
    guesses = [ask(one, basic("boss", "x"), f"203.0.113.{number}").status_code for number in range(12)]
    assert set(guesses) <= {401, 429}
    with ThreadPoolExecutor(12) as threads:
        flood = [
            threads.submit(ask, two, basic("boss", "x"), f"203.0.113.{number}") for number in range(100, 136)
        ]
        assert ask(two, basic("boss", "another horse battery"), "198.51.100.1").status_code == 200
        assert {answer.result().status_code for answer in flood} <= {401, 429}
