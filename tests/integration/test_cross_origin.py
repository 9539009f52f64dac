"""Web pages of other origins: which may call the client API, and what they may read."""

import pytest
from flask import Blueprint, Flask, Response
from flask.testing import FlaskClient

from app.api.cross_origin import share_with_origins

CHAT = "https://chat.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-a"}


def client_of(*origins: str) -> FlaskClient:
    routes = Blueprint("routes", __name__)
    if origins:
        share_with_origins(routes, frozenset(origins))

    @routes.route("/v1/<path:rest>", methods=["GET", "POST", "OPTIONS"], provide_automatic_options=False)
    def answer(rest: str) -> Response:
        return Response("{}", status=401 if rest == "refused" else 200)

    app = Flask("test")
    app.register_blueprint(routes)
    app.add_url_rule("/api/admin/x", "admin", lambda: "{}")
    return app.test_client()


def shared(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("Access-Control")}


def test_an_origin_that_was_named_may_call_and_read() -> None:
    client = client_of(CHAT, "https://other.example.com")
    preflight = client.options("/v1/x", headers={"Origin": CHAT, **PREFLIGHT})
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == CHAT
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization, x-a"
    assert preflight.headers["Vary"] == "Origin"
    for path in ("/v1/x", "/v1/refused"):
        answer = client.post(path, headers={"Origin": CHAT})
        assert answer.headers["Access-Control-Allow-Origin"] == CHAT
        assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://chat.example.com.evil.test", "http://chat.example.com", "https://chat.example.com:444", "null",
     "https://evilchat.example.com", "HTTPS://CHAT.EXAMPLE.COM", "https://chat.example.com/", "*", ""],
)  # fmt: skip
def test_no_other_origin_may(origin: str) -> None:
    client = client_of(CHAT)
    preflight = client.options("/v1/x", headers={"Origin": origin, **PREFLIGHT})
    assert preflight.status_code == 200, "handled as any other request"
    assert not shared(preflight)
    answer = client.get("/v1/x", headers={"Origin": origin})
    assert not shared(answer)
    assert answer.headers["Vary"] == "Origin"


def test_any_origin_may_where_that_was_asked_for_and_cookies_never() -> None:
    client = client_of("*")
    for answer in (
        client.options("/v1/x", headers={"Origin": "https://a.test", **PREFLIGHT}),
        client.get("/v1/x", headers={"Origin": "https://a.test"}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_nothing_is_shared_unless_configured_nor_outside_the_client_api() -> None:
    assert not shared(client_of().options("/v1/x", headers={"Origin": CHAT, **PREFLIGHT}))
    assert not shared(client_of(CHAT).get("/api/admin/x", headers={"Origin": CHAT}))


def test_header_names_that_are_none_are_not_repeated() -> None:
    wanted = {**PREFLIGHT, "Access-Control-Request-Headers": "a: b; <x>"}
    preflight = client_of(CHAT).options("/v1/x", headers={"Origin": CHAT, **wanted})
    assert "Access-Control-Allow-Headers" not in preflight.headers
