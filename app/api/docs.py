"""The OpenAPI description as JSON, and as a page made here: no script, nothing from another host."""

from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify, render_template

Document = dict[str, Any]

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def docs_blueprint(document: Callable[[], Document]) -> Blueprint:
    """Make `/api/admin/openapi.json` and `/api/docs`, open to all: they tell nothing of this installation."""
    routes = Blueprint(
        "api_docs",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/api/docs/static",
    )

    # Strangers may ask for both, and the page takes 50 ms to draw: each is made once.
    @cache
    def whole() -> Document:
        return document()

    @cache
    def as_json() -> bytes:
        return jsonify(whole()).get_data()

    @cache
    def as_page() -> bytes:
        found = whole()
        return render_template(
            "docs.html", spec=found, sections=_sections(found), resolve=_resolver(found)
        ).encode()

    @routes.get("/api/admin/openapi.json")
    def openapi() -> Response:
        return Response(as_json(), mimetype="application/json")

    @routes.get("/api/docs")
    def page() -> Response:
        response = Response(as_page(), mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return routes


def _sections(document: Document) -> dict[str, list[Document]]:
    """Return the operations by section, each with its path and method."""
    sections: dict[str, list[Document]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            sections[operation["tags"][0]].append({**operation, "path": path, "method": method.upper()})
    return sections


def _resolver(document: Document) -> Callable[[Document], Document]:
    schemas = document["components"]["schemas"]

    def resolve(schema: Document) -> Document:
        """Return the schema itself, where it is a reference to one; `name` is what it is called."""
        if "$ref" not in schema:
            return schema
        name = schema["$ref"].rsplit("/", 1)[-1]
        return {**schemas[name], "name": name}

    return resolve
