"""`/`: for browsers and programs alike, without a credential and without a database."""

from collections.abc import Iterator

import pytest
from flask import Flask

from app.wires.endpoints import FORWARDED
from tests.support.admin_api import admin_app

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    nobody = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    with admin_app(nobody, "none", tmp_path_factory.mktemp("var")) as app:
        yield app


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_browser_is_led_to_the_dashboard(app: Flask, method: str) -> None:
    answer = app.test_client().open("/", method=method, headers={"Accept": BROWSER})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin")
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json, text/html;q=0.5", "odd"]
)
def test_a_program_gets_the_endpoints(app: Flask, accept: str | None) -> None:
    answer = app.test_client().get("/", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    found = answer.get_json()
    assert found["name"] == "Weir"
    assert all(endpoint.keys() == {"method", "path", "summary"} for endpoint in found["endpoints"])
    listed = {(endpoint["method"], endpoint["path"]) for endpoint in found["endpoints"]}
    assert listed >= {(endpoint.method, endpoint.shown_path) for endpoint in FORWARDED}
    assert listed >= {("GET", "/v1/models"), ("GET", "/health"), ("GET", "/metrics"), ("POST", "/reload")}


def test_what_is_listed_is_there(app: Flask) -> None:
    client = app.test_client()
    found = client.get("/").get_json()
    for endpoint in found["endpoints"]:
        path = endpoint["path"].replace("{id}", "gpt-5")
        # The client API answers its own unknown paths; none of these is one.
        assert client.open(path, method=endpoint["method"]).status_code not in (404, 405), path
    for name in ("docs", "openapi", "dashboard"):
        assert client.get(found[name]).status_code in (200, 303), name


def test_head_tells_what_get_would(app: Flask) -> None:
    answer = app.test_client().head("/")
    assert (answer.status_code, answer.data, answer.mimetype) == (200, b"", "application/json")


def test_unknown_client_paths_stay_what_they_were(app: Flask) -> None:
    answer = app.test_client().get("/v1/nothing")
    assert answer.status_code in (401, 404)
    assert "message" in answer.get_json()["error"]
