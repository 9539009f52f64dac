"""Web pages of other origins: which may call the client API, and what they may read."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
from flask import Response
from flask.testing import FlaskClient

from app.wires.endpoints import ENDPOINTS
from tests.support.admin_api import admin_app

CHAT = "https://chat.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-a"}
SECRET = "kT9vXq2mLw8ZrB4nHs6Yd1Pf"
KNOWN = {"Authorization": f"Bearer {SECRET}"}
NOBODY = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"

ClientOf = Callable[..., FlaskClient]

EVERYTHING = [
    *((row.method, row.shown_path.replace("{id}", "gpt-5")) for row in ENDPOINTS),
    ("GET", "/v1/models/no-such"),
    ("POST", "/v1/nothing"),
    ("GET", "/v1/chat/completions"),
    ("FOO", "/v1/messages"),
    ("OPTIONS", "/v1/messages"),
    ("HEAD", "/v1/models"),
]
"""Calls of every kind, with or without a route; without a key, or a body, some are refused."""


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No id is known, and none looked for in a database that is not there: that takes half a second each."""
    monkeypatch.setattr("app.objects.known_objects._LOOKS_S", (0.0,))
    monkeypatch.setattr("app.objects.object_store.ObjectStore.find", lambda *_: [])


@pytest.fixture(scope="module")
def client_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientOf]:
    """The whole application with these origins."""
    with ExitStack() as opened:

        @cache
        def of(*origins: str) -> FlaskClient:
            settings = {"cors_origins": origins, "proxy_api_key": SECRET}
            app = opened.enter_context(admin_app(NOBODY, "none", tmp_path_factory.mktemp("var"), **settings))
            return app.test_client()

        yield of


def shared(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control")}


def test_an_origin_that_was_named_may_call_and_read(client_of: ClientOf) -> None:
    client = client_of(CHAT, "https://other.example.com")
    for path in ("/v1/chat/completions", "/v1/models", "/v1/models/gpt-5", "/v1/nothing", "/v1"):
        preflight = client.options(path, headers={"Origin": CHAT, **PREFLIGHT})
        assert preflight.status_code == 204
        assert preflight.headers["Access-Control-Allow-Origin"] == CHAT
        assert preflight.headers["Access-Control-Allow-Methods"] == "DELETE, GET, POST"
        assert preflight.headers["Access-Control-Allow-Headers"] == "authorization, x-a"
        assert preflight.headers["Vary"] == "Origin"


@pytest.mark.parametrize("headers", [{}, KNOWN], ids=["unknown", "known"])
@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_answers_of_every_kind_may_be_read(
    client_of: ClientOf, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client_of(CHAT).open(path, method=method, headers={"Origin": CHAT, **headers})
    assert answer.headers.getlist("Access-Control-Allow-Origin") == [CHAT]
    assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]
    assert answer.headers.getlist("Vary") == ["Origin"]


@pytest.mark.parametrize(
    "origin",
    ["https://chat.example.com.evil.test", "http://chat.example.com", "https://chat.example.com:444", "null",
     "https://evilchat.example.com", "HTTPS://CHAT.EXAMPLE.COM", "https://chat.example.com/", "*", ""],
)  # fmt: skip
def test_no_other_origin_may(client_of: ClientOf, origin: str) -> None:
    client = client_of(CHAT)
    preflight = client.options("/v1/models", headers={"Origin": origin, **PREFLIGHT, **KNOWN})
    assert preflight.status_code == 405, "handled as any other request"
    assert not shared(preflight)
    for method, path in EVERYTHING:
        answer = client.open(path, method=method, headers={"Origin": origin, **KNOWN})
        assert not shared(answer)
        assert answer.headers["Vary"] == "Origin"


def test_a_program_that_is_no_page_is_told_nothing(client_of: ClientOf) -> None:
    answer = client_of(CHAT).get("/v1/models", headers=KNOWN)
    assert not shared(answer)
    assert answer.headers["Vary"] == "Origin"


def test_any_origin_may_where_that_was_asked_for_and_cookies_never(client_of: ClientOf) -> None:
    client = client_of("*")
    for answer in (
        client.options("/v1/models", headers={"Origin": "https://a.test", **PREFLIGHT}),
        client.get("/v1/models", headers={"Origin": "https://a.test"}),
        client.post("/v1/messages", headers={"Origin": "https://a.test"}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert "Vary" not in answer.headers


def test_nothing_is_shared_unless_configured_nor_outside_the_client_api(client_of: ClientOf) -> None:
    for method, path in (("OPTIONS", "/v1/models"), *EVERYTHING):
        answer = client_of().open(path, method=method, headers={"Origin": CHAT, **PREFLIGHT})
        assert not shared(answer)
        assert "Vary" not in answer.headers
    for path in ("/api/admin/users", "/health", "/v10/models", "/nothing"):
        assert not shared(client_of(CHAT).get(path, headers={"Origin": CHAT}))
        assert not shared(client_of(CHAT).options(path, headers={"Origin": CHAT, **PREFLIGHT}))


def test_header_names_that_are_none_are_not_repeated(client_of: ClientOf) -> None:
    wanted = {**PREFLIGHT, "Access-Control-Request-Headers": "a: b; <x>"}
    preflight = client_of(CHAT).options("/v1/models", headers={"Origin": CHAT, **wanted})
    assert preflight.status_code == 204
    assert "Access-Control-Allow-Headers" not in preflight.headers
