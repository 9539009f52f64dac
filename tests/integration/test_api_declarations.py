"""Declared routes: requests are checked against the declaration, and OpenAPI and the page tell it."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import flask
import pytest
from flask import Blueprint, Flask, Response, jsonify
from pydantic import Field
from typing_extensions import TypedDict

from app import __version__
from app.api.answers import handle_errors
from app.api.docs import docs_blueprint
from app.api.openapi import openapi_document
from app.api.operation import MAX_BODY_BYTES, OPEN, ApiSection, Body, Content, Query
from app.api.parameters import AdminPeriod, Cursor, Limit
from app.statistics.periods import ADMIN_PERIODS
from tests.support.admin_api import admin_app

describe = ApiSection("Things")


class ThingQuery(Query):
    period: AdminPeriod = "all"
    limit: Limit = 50
    cursor: Cursor = None
    start: str | None = Field(None, alias="from", description="Not earlier.")


class ThingBody(Body):
    name: Annotated[str, Field(min_length=1, max_length=5)]
    amount: Decimal = Decimal(0)
    count: int | None = None
    is_on: bool = True


class ThingView(TypedDict):
    """A thing."""

    name: str
    parts: "list[PartView]"


class PartView(TypedDict):
    """A part of a thing."""

    number: Annotated[int, Field(description="Which one.")]
    of: str | None


def thing_app() -> Flask:
    app = Flask("test", static_folder=None)
    routes = Blueprint("things", __name__, url_prefix="/api/admin")
    handle_errors(routes)

    @routes.get("/things/<thing_id>")
    @describe("One thing", answers=ThingView, errors={404: "There is none."})
    def thing(thing_id: str, query: ThingQuery) -> Response:
        """With its parts."""
        shown = {"id": thing_id, "period": query.period, "limit": query.limit, "from": query.start}
        return jsonify(shown)

    @routes.post("/things")
    @describe("Make a thing", answers={201: ThingView})
    def make_thing(body: ThingBody) -> tuple[Response, int]:
        return jsonify(name=body.name, amount=str(body.amount)), 201

    @routes.put("/text")
    @describe("Take lines", answers={200: Content("text/csv", "Lines.")})
    def take_text(body: str) -> Response:
        return Response(body.upper(), content_type="text/csv")

    @routes.get("/plain")
    @describe("Takes nothing", answers=dict[str, int])
    def plain() -> Response:
        return jsonify({})

    @routes.get("/open")
    @ApiSection("Probes", OPEN)("Anybody's", answers=dict[str, int])
    def probe() -> Response:
        return jsonify({})

    app.register_blueprint(routes)
    app.register_blueprint(docs_blueprint(lambda: openapi_document(app)))
    return app


@pytest.fixture
def client():
    return thing_app().test_client()


def test_parameters_are_read_and_empty_ones_count_as_left_out(client):
    assert client.get("/api/admin/things/a?period=24h&limit=7&from=x&cursor=").json == {
        "id": "a",
        "period": "24h",
        "limit": 7,
        "from": "x",
    }
    assert client.get("/api/admin/things/a?limit=&period=").json["limit"] == 50


@pytest.mark.parametrize(
    ("query", "parameter", "says"),
    [
        ("limit=0", "limit", "greater than or equal to 1 (got '0')"),
        ("limit=201", "limit", "less than or equal to 200"),
        ("limit=many", "limit", "valid integer"),
        ("limit=1&limit=2", "limit", "given more than once"),
        ("period=fortnight", "period", "unknown period 'fortnight'"),
        ("modl=gpt", "modl", "is not known; this takes period, limit, cursor, from"),
        ("start=1", "start", "is not known"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(client, query, parameter, says):
    answer = client.get(f"/api/admin/things/a?{query}")
    assert answer.status_code == 400
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["parameter"] == parameter
    assert says in answer.json["error"]
    assert answer.json["error"].startswith(f"{parameter}: ")
    assert answer.json["details"][0]["parameter"] == parameter


def test_an_unknown_period_names_the_valid_ones(client):
    answer = client.get("/api/admin/things/a?period=fortnight&limit=0")
    assert answer.json["valid_periods"] == list(ADMIN_PERIODS)
    assert [problem["parameter"] for problem in answer.json["details"]] == ["period", "limit"]


def test_a_route_without_parameters_takes_none_but_a_probe_takes_any(client):
    answer = client.get("/api/admin/plain?a=1")
    assert (answer.status_code, answer.json["error"]) == (400, "a: is not known; this takes none")
    assert client.get("/api/admin/open?a=1").status_code == 200


def test_a_body_is_read_exactly(client):
    answer = client.post(
        "/api/admin/things", data='{"name":"x","amount":0.1}', content_type="application/json"
    )
    assert (answer.status_code, answer.json) == (201, {"name": "x", "amount": "0.1"})


@pytest.mark.parametrize(
    ("body", "parameter", "says"),
    [
        ('{"name":"x"', None, "the body is not JSON"),
        ("", None, "the body is not JSON"),
        ("\xff", None, "the body is not JSON"),
        ("[" * 5000, None, "the body is not JSON"),
        ("[]", None, "the body takes a JSON object"),
        ("{}", "name", "name: is required"),
        ('{"name":7}', "name", "valid string"),
        ('{"name":"secret"}', "name", "at most 5 characters"),
        ('{"name":"x","amount":"secret"}', "amount", "amount: "),
        ('{"name":"x","amount":NaN}', "amount", "amount: "),
        ('{"name":"x","colour":"secret"}', "colour", "is not known; this takes name, amount, count, is_on"),
        ('{"name":"x","name":"secret"}', "name", "name: is given more than once"),
        ('{"name":"x","count":true}', "count", "count: takes neither true nor false"),
        ('{"name":"x","amount":false}', "amount", "amount: takes neither true nor false"),
        ('{"name":"x","is_on":0}', "is_on", "is_on: takes true or false"),
        ('{"name":"x","is_on":"secret"}', "is_on", "is_on: takes true or false"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_without_being_repeated(client, body, parameter, says):
    answer = client.post("/api/admin/things", data=body.encode("latin-1"), content_type="application/json")
    assert answer.status_code == 400
    assert answer.json.get("parameter") == parameter
    assert says in answer.json["error"]
    assert "secret" not in answer.text


def test_a_body_of_another_type_or_too_large_is_refused(client):
    answer = client.post("/api/admin/things", data='{"name":"x"}', content_type="text/plain")
    assert (answer.status_code, answer.json["error"]) == (
        415,
        "send the body as application/json, and say so in Content-Type",
    )
    large = client.put("/api/admin/text", data=b"x" * (MAX_BODY_BYTES + 1), content_type="text/plain")
    assert large.status_code == 413
    assert large.json["error"]


def test_a_text_body(client):
    assert client.put("/api/admin/text", data="ä\n", content_type="text/plain; charset=utf-8").text == "Ä\n"
    answer = client.put("/api/admin/text", data=b"\xff", content_type="text/plain")
    assert (answer.status_code, answer.json["error"]) == (400, "the body is not UTF-8 text")


def test_the_description_follows_from_the_declarations(client):
    spec = client.get("/api/admin/openapi.json").json
    assert spec["openapi"].startswith("3.1")
    assert spec["info"]["version"] == __version__
    one = spec["paths"]["/api/admin/things/{thing_id}"]["get"]
    assert (one["summary"], one["description"], one["operationId"]) == (
        "One thing",
        "With its parts.",
        "thing",
    )
    # It is in no table of permissions, so it takes an owner.
    assert one["security"] == [{"adminToken": []}, {"adminUser": ["owner", "admin"]}]
    parameters = {parameter["name"]: parameter for parameter in one["parameters"]}
    assert list(parameters) == ["thing_id", "period", "limit", "cursor", "from"]
    assert parameters["period"]["schema"]["anyOf"][0]["enum"] == list(ADMIN_PERIODS)
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
    assert parameters["cursor"]["schema"] == {"type": "string"}
    assert parameters["from"]["description"] == "Not earlier."
    assert list(one["responses"]) == ["200", "400", "401", "403", "404", "429", "503"]
    schemas = spec["components"]["schemas"]
    assert schemas["ThingView"]["properties"]["parts"]["items"] == {"$ref": "#/components/schemas/PartView"}
    assert schemas["PartView"]["properties"]["number"]["description"] == "Which one."
    made = spec["paths"]["/api/admin/things"]["post"]
    assert made["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ThingBody")
    assert schemas["ThingBody"]["required"] == ["name"]
    assert {"413", "415"} < set(made["responses"])
    assert list(spec["paths"]["/api/admin/text"]["put"]["requestBody"]["content"]) == ["text/plain"]
    assert list(spec["paths"]["/api/admin/text"]["put"]["responses"]["200"]["content"]) == ["text/csv"]
    assert spec["paths"]["/api/admin/open"]["get"]["security"] == []


_NO_MONEY = re.compile(r"(?i)latency|ttft|share|percent|uptime|success_rate|hours|quantity|factor")
_NO_AMOUNT = {"DifferenceView.expected", "DifferenceView.found"}
"""What verify finds: of any unit."""


def _is_number(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "number" or any(map(_is_number, schema.get("anyOf", ())))


def _exact_names(name: str) -> set[str]:
    known = {
        "creditsBurned": "costNanoUsd",
        "creditsCost": "costNanoUsd",
        "total_credits_used": "creditsUsedNanoUsd",
        "total_ref_credits": "refCreditsNanoUsd",
    }
    base = name.removeprefix("total_").removesuffix("Usd")
    return {f"{base}NanoUsd", known.get(name, "")}


def test_every_amount_that_is_answered_is_there_in_nano_dollars_too(tmp_path: Path) -> None:
    nobody = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    with admin_app(nobody, "none", tmp_path) as app:
        schemas = openapi_document(app)["components"]["schemas"]
    seen = 0
    for title, schema in schemas.items():
        fields = schema.get("properties", {})
        for name, field in fields.items():
            # What is sent may be a decimal of any number of digits.
            is_answer = not title.endswith("Body")
            if not (is_answer and _is_number(field)) or _NO_MONEY.search(name):
                continue
            if f"{title}.{name}" in _NO_AMOUNT:
                continue
            seen += 1
            assert _exact_names(name) & set(fields), f"{title}.{name} has no exact amount beside it"
    assert seen > 25


def test_page_and_description_are_made_once():
    made = []

    def document():
        made.append(None)
        return {
            "tags": [],
            "paths": {},
            "components": {"schemas": {}},
            "info": {"description": "", "version": ""},
        }

    app = Flask("test")
    app.register_blueprint(docs_blueprint(document))
    drawn = []
    flask.template_rendered.connect(lambda *_, **__: drawn.append(None), app, weak=False)
    for path in ("/api/docs", "/api/admin/openapi.json"):
        first, again = (app.test_client().get(path) for _ in range(2))
        assert first.data == again.data
        assert first.headers["Content-Type"] == again.headers["Content-Type"]
    assert (len(made), len(drawn)) == (1, 1)


def test_the_page_shows_every_operation_and_needs_nothing_from_elsewhere(client):
    answer = client.get("/api/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in answer.text
    assert " style=" not in answer.text
    links = re.findall(r'(?:href|src)="([^"]*)"', answer.text)
    assert all(link.startswith(("#", "/")) for link in links)
    targets = set(re.findall(r'id="([^"]*)"', answer.text))
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    for link in links:
        if link.startswith("/"):
            with client.get(link) as found:
                assert found.status_code == 200
    for said in ("One thing", "/api/admin/things/{thing_id}", "With its parts.", "Which one.", "ThingBody"):
        assert said in answer.text
