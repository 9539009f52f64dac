"""The client API's routes: each once, and one view for both ways to it, Flask's and the one past it."""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, has_request_context
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.api.application import Application
from app.api.client import ClientView
from app.exchange.exchange import Answer
from app.settings import ROOT
from app.wires.endpoints import CHAT, ENDPOINTS, FORWARDED, Endpoint
from tests.support.admin_api import admin_app

SECRET = "kT9vXq2mLw8ZrB4nHs6Yd1Pf"
KNOWN = {"Authorization": f"Bearer {SECRET}"}
PER_CALL = ("X-Request-Id", "Request-Id", "X-Ratelimit-Remaining", "X-Ratelimit-Reset")

ROWS = pytest.mark.parametrize("row", ENDPOINTS, ids=lambda row: row.route or row.name)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    nobody = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    with admin_app(nobody, "none", tmp_path_factory.mktemp("var"), proxy_api_key=SECRET) as app:
        yield app


def name_of(row: Endpoint) -> str:
    return f"client.{row.route or row.name}"


def path_of(row: Endpoint) -> str:
    return row.shown_path.replace("{id}", "gpt-5").replace("{item_id}", "msg_1")


def methods_at(path: str) -> list[str]:
    """The methods of all rows that a path belongs to: an id may look like anything."""
    patterns = [(row.method, re.sub(r"<path:\w+>", ".+", row.path)) for row in ENDPOINTS]
    patterns = [(method, re.sub(r"<\w+>", "[^/]+", pattern)) for method, pattern in patterns]
    return sorted({method for method, pattern in patterns if re.fullmatch(pattern, path)})


def environ(method: str, path: str, headers: dict[str, str] = KNOWN, **more: Any) -> dict[str, Any]:
    return EnvironBuilder(path=path, method=method, headers=headers).get_environ() | more


def by_flask(app: Flask, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, Any]:
    """What Flask's own dispatch answers."""
    return run_wsgi_app(lambda *call: Flask.__call__(app, *call), environ)


def test_flask_routes_lists_each_endpoint_exactly_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), "routes"],
        cwd=tmp_path,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    listed = [tuple(line.split()) for line in done.stdout.splitlines() if line.startswith("client.")]
    assert sorted(listed) == sorted((name_of(row), row.method, row.path) for row in ENDPOINTS)
    assert list(tmp_path.iterdir()) == [], "it has made something"


@ROWS
def test_each_endpoint_is_one_rule_and_one_view(app: Flask, row: Endpoint) -> None:
    rules = [
        rule for rule in app.url_map.iter_rules() if rule.rule == row.path and row.method in rule.methods
    ]
    assert [rule.endpoint for rule in rules] == [name_of(row)]
    view = app.view_functions[name_of(row)]
    assert isinstance(view, ClientView)
    assert view.endpoint is row


@ROWS
def test_both_ways_call_the_registered_view(
    app: Flask, row: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool, dict[str, str]]] = []

    def answer(environ: dict[str, Any], **parameters: str) -> Answer:
        calls.append((environ["weir.test"], has_request_context(), parameters))
        return Answer(201, [("X-Test", "yes"), ("Content-Type", "text/plain")], [b"an", b"swer"])

    monkeypatch.setitem(app.view_functions, name_of(row), ClientView(row, answer))
    for way in (app, by_flask):
        asked = environ(row.method, path_of(row), **{"weir.test": "kept"})
        body, status, headers = run_wsgi_app(app, asked) if way is app else by_flask(app, asked)
        assert (b"".join(body), status.partition(" ")[0], headers["X-Test"]) == (b"answer", "201", "yes")
    parameters = {"id": "gpt-5"} if row.has_parameters else {}
    parameters |= {"item_id": "msg_1"} if "item_id" in row.path else {}
    past_flask = row.goes_upstream or not row.has_parameters
    assert calls == [("kept", not past_flask, parameters), ("kept", True, parameters)]


@ROWS
@pytest.mark.parametrize("headers", [{}, KNOWN], ids=["unknown", "known"])
def test_both_ways_give_the_same_answer(app: Flask, row: Endpoint, headers: dict[str, str]) -> None:
    answers = []
    for way in (run_wsgi_app, by_flask):
        body, status, fields = way(app, environ(row.method, path_of(row), headers))
        said = b"".join(body).replace(fields["X-Request-Id"].encode(), b"")
        answers.append((status, sorted(item for item in fields if item[0].title() not in PER_CALL), said))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO", "POST"]
)
@ROWS
def test_a_wrong_method_is_a_405_that_says_the_right_one(app: Flask, row: Endpoint, method: str) -> None:
    right = methods_at(path_of(row))
    if method in right or (method == "HEAD" and "GET" in right):
        return
    allowed = ", ".join(right)
    answer = app.test_client().open(path_of(row), method=method, headers=KNOWN)
    assert (answer.status_code, answer.headers.getlist("Allow")) == (405, [allowed])
    if method != "HEAD":
        assert answer.get_json()["error"]["message"] == f"{path_of(row)} takes {allowed}, not {method}."


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "FOO"])
@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/chat", "/v1/a%0Ab", "/v1//x/../y"])
def test_what_is_no_endpoint_is_a_404_without_allow(app: Flask, path: str, method: str) -> None:
    answer = app.test_client().open(path, method=method, headers=KNOWN)
    assert (answer.status_code, answer.headers.get("Allow")) == (404, None)
    assert answer.get_json()["error"]["code"] == "not_found"
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/keys/status", "/api/admin/metrics"])
def test_a_wrong_method_elsewhere_is_told_the_right_ones(app: Flask, path: str) -> None:
    answer = app.test_client().put(path)
    assert (answer.status_code, answer.mimetype) == (405, "application/json")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("path", ["/", "/health", "/api/admin/nothing", "/admin/nothing"])
@pytest.mark.parametrize("headers", [KNOWN, {}, {"anthropic-version": "2023-06-01"}])
def test_other_paths_are_not_the_client_apis(app: Flask, path: str, headers: dict[str, str]) -> None:
    answer = app.test_client().put(path, headers=headers)
    assert answer.status_code in (303, 401, 404, 405)
    assert "X-Request-Id" not in answer.headers


@pytest.mark.parametrize("path", ["/v10/models", "/nothing"])
def test_an_unknown_path_is_refused_in_the_format_of_whoever_asks(app: Flask, path: str) -> None:
    client = app.test_client()
    assert isinstance(client.put(path).get_json()["error"], str)
    known = client.put(path, headers=KNOWN).get_json()
    assert (known["error"]["type"], known["error"]["code"]) == ("invalid_request_error", "not_found")
    anthropics = client.put(path, headers={"anthropic-version": "2023-06-01"}).get_json()
    assert (anthropics["type"], anthropics["error"]["type"]) == ("error", "not_found_error")


class Pace:
    """Counts who gives way."""

    given = 0

    def give_way(self) -> None:
        self.given += 1

    def rest(self) -> None:
        """Nobody waits."""


@pytest.mark.parametrize(
    ("method", "path", "gives_way"),
    [
        *((row.method, path_of(row), not row.goes_upstream) for row in ENDPOINTS),
        *(("GET", row.path, True) for row in FORWARDED if "GET" not in methods_at(row.path)),
        ("POST", "/v1//chat/completions/", False),
        ("POST", "/v1/nothing", True),
        ("GET", "/health", True),
    ],
)
def test_requests_that_go_upstream_come_first(app: Flask, method: str, path: str, gives_way: bool) -> None:
    pace = Pace()
    run_wsgi_app(app, environ(method, path, **{"weir.pace": pace}))
    assert pace.given == gives_way


class Body:
    """A body that knows whether it was closed."""

    is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"never sent"

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("way", [Application, Flask])
def test_an_answer_that_the_server_refuses_to_begin_is_closed(
    app: Flask, way: type[Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Body()
    view = ClientView(CHAT, lambda _environ: Answer(200, [("Bad", "header")], body))
    monkeypatch.setitem(app.view_functions, name_of(CHAT), view)

    def refuse(*_: Any) -> Any:
        raise ValueError("no such header")

    with pytest.raises(ValueError, match="no such header"):
        way.__call__(app, environ("POST", CHAT.path), refuse)
    assert body.is_closed


@pytest.mark.parametrize(
    ("method", "path"), [("GET", CHAT.path), ("POST", "/v1/nothing"), ("GET", "/nothing")]
)
def test_a_refusal_leaves_hardly_anything_to_the_collector_of_cycles(
    app: Flask, method: str, path: str
) -> None:
    def ask() -> None:
        body, _, _ = run_wsgi_app(app, environ(method, path))
        assert b"".join(body)

    ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            ask()
        # Looking for a route leaves eight, of werkzeug's; an exception that is kept would leave a hundred.
        assert gc.collect() < 20 * 20
    finally:
        gc.enable()
