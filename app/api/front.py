"""`/`: the way to the dashboard for browsers, and for programs what there is to ask and where."""

from collections.abc import Callable, Iterable, Iterator

from flask import Blueprint, Flask, Response, jsonify, request
from typing_extensions import TypedDict

from app.api.openapi import operations
from app.api.operation import OPEN, ApiSection, Content
from app.wires.endpoints import ENDPOINTS

_DASHBOARD = "/admin"
_HTML, _JSON = "text/html", "application/json"
_SECTION = "Operations"


class EndpointView(TypedDict):
    """An endpoint, and what it is for in one line."""

    method: str
    path: str
    summary: str


class FrontView(TypedDict):
    """What this is, the endpoints of clients and operators, and where the rest is described."""

    name: str
    endpoints: list[EndpointView]
    docs: str
    openapi: str
    dashboard: str


def front_blueprint(listed: Callable[[], Iterable[EndpointView]]) -> Blueprint:
    """Make `GET /`, open to all: it tells nothing about this installation and asks nobody."""
    routes = Blueprint("front", __name__)
    describe = ApiSection(_SECTION, OPEN)

    @routes.get("/")
    @describe(
        "What there is to ask, and where",
        answers={200: FrontView, 302: Content(_HTML, "For browsers: the way to the dashboard.")},
    )
    def front() -> Response:
        if request.accept_mimetypes.best_match([_JSON, _HTML], _JSON) == _HTML:
            answer = Response(status=302, headers={"Location": request.script_root + _DASHBOARD})
        else:
            answer = jsonify(
                name="Weir",
                endpoints=list(listed()),
                docs="/api/docs",
                openapi="/api/admin/openapi.json",
                dashboard=_DASHBOARD,
            )
        answer.headers["Vary"] = "Accept"
        return answer

    return routes


def listed_endpoints(app: Flask) -> Iterator[EndpointView]:
    """List what clients call, then what operators do; administration is in the OpenAPI document."""
    for endpoint in ENDPOINTS:
        yield EndpointView(method=endpoint.method, path=endpoint.shown_path, summary=endpoint.summary)
    for rule, method, operation in operations(app):
        is_listed = operation.section == _SECTION and not rule.rule.startswith("/api/")
        if is_listed and rule.rule != "/":
            yield EndpointView(method=method, path=rule.rule, summary=operation.summary)
