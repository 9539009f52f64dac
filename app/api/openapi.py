"""The OpenAPI description of every route that declares what it takes (`app.api.operation`)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from flask import Flask
from pydantic import BaseModel, TypeAdapter
from werkzeug.routing import Rule

from app import __version__
from app.accounts.roles import ROLES, grants
from app.api.answers import ErrorView
from app.api.operation import ADMIN, JSON, KEY_HEADER, TEXT, USER, Content, DescribedEndpoint, Operation
from app.management.permissions import needed

VERSION = "3.1.0"

_REF = "#/components/schemas/{model}"
_PATH_PART = re.compile(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_SECURITY: Mapping[str, list[dict[str, list[str]]]] = {
    USER: [{"clientKey": []}, {"clientKeyHeader": []}],
}
_SCHEMES = {
    "adminToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "ADMIN_TOKEN.",
    },
    "adminUser": {
        "type": "http",
        "scheme": "basic",
        "description": "A user's name and password; each operation names the roles it takes.",
    },
    "clientKey": {"type": "http", "scheme": "bearer", "description": "The user's own client key."},
    "clientKeyHeader": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_BAD_REQUEST = "A parameter or the body does not fit; `parameter` names the first, `details` all of them."
_REFUSALS: Mapping[str, Mapping[int, str]] = {
    ADMIN: {
        400: _BAD_REQUEST,
        401: "No admin's credentials.",
        403: "The credentials of a user whose role does not allow this.",
        429: "Too many wrong credentials from this address or for this name; a right token is never refused.",
        503: "The database cannot answer, or too many log in at once.",
    },
    USER: {
        400: _BAD_REQUEST,
        401: "No client key that is valid.",
        429: "Too many requests with this key, or too many unknown keys from this address.",
        503: "The database cannot answer.",
    },
}
_BODY_REFUSALS = {413: "The body is larger than 2 MiB.", 415: "The body is of another media type."}

_FIRST_ERROR = 400

_Mode = Literal["validation", "serialization"]


def operations(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    """Yield every declared route and its method, by path."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view: Any = app.view_functions[rule.endpoint]
        if isinstance(view, DescribedEndpoint):
            for method in _METHODS:
                if method in (rule.methods or ()):
                    yield rule, method, view.operation


_KEY_PARAMETER = {
    "name": KEY_HEADER,
    "in": "header",
    "required": False,
    "description": "Any text of your own: a request that is repeated with it takes effect once. With another "
    "amount it is refused (409).",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
}


def openapi_document(app: Flask) -> dict[str, Any]:
    """Return the whole description; what it says follows from the declarations alone."""
    found = list(operations(app))
    schemas, components = _schemas(operation for _, _, operation in found)
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation in found:
        name = app.view_functions[rule.endpoint].__name__
        number = len(_declared_methods(rule))
        operation_id = name if number == 1 else f"{name}_{method.lower()}"
        path = paths.setdefault(_PATH_PART.sub(r"{\1}", rule.rule), {})
        path[method.lower()] = _described(operation, operation_id, method, rule, schemas)
    return {
        "openapi": VERSION,
        "info": {
            "title": "Weir",
            "version": __version__,
            "description": "Administration, statistics and the users' own view of Weir. Errors are "
            "`{error, hint?}` in words. Unknown parameters and fields are refused.",
        },
        "tags": [{"name": name} for name in dict.fromkeys(operation.section for _, _, operation in found)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def _declared_methods(rule: Rule) -> list[str]:
    return [method for method in _METHODS if method in (rule.methods or ())]


class _Schemas:
    """References to the schemas of declared types."""

    def __init__(self, refs: Mapping[tuple[int, _Mode], dict[str, Any]]) -> None:
        self._refs = refs

    def of(self, declared: Any, mode: _Mode) -> dict[str, Any]:
        return self._refs[id(declared), mode]


def _schemas(found: Iterable[Operation]) -> tuple[_Schemas, dict[str, Any]]:
    """Make schemas of all declared types at once, so that what they share is described once."""
    wanted: dict[tuple[int, _Mode], Any] = {(id(ErrorView), "serialization"): ErrorView}
    for operation in found:
        if isinstance(operation.body, type) and issubclass(operation.body, BaseModel):
            wanted[id(operation.body), "validation"] = operation.body
        for answer in operation.answers.values():
            if not isinstance(answer, Content):
                wanted[id(answer), "serialization"] = answer
    inputs = [(key, key[1], TypeAdapter(declared)) for key, declared in wanted.items()]
    by_key, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REF)
    refs = {key: schema for (key, _), schema in by_key.items()}
    return _Schemas(refs), definitions.get("$defs", {})


def _described(
    operation: Operation, operation_id: str, method: str, rule: Rule, schemas: _Schemas
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation_id,
        "tags": [operation.section],
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(rule),
            *_query_parameters(operation),
            *([_KEY_PARAMETER] if operation.takes_key else []),
        ],
        "responses": _responses(operation, schemas),
        "security": _security(operation, method, rule),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is str:
        content: dict[str, Any] = {TEXT: {"schema": {"type": "string"}}}
        described["requestBody"] = {"required": True, "content": content}
    elif operation.body is not None:
        content = {JSON: {"schema": schemas.of(operation.body, "validation")}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _security(operation: Operation, method: str, rule: Rule) -> list[dict[str, list[str]]]:
    """Return who may ask: of users with a role, all roles that have the permission (OpenAPI 3.1, 4.8.30)."""
    if operation.access != ADMIN:
        return _SECURITY.get(operation.access, [])
    wanted = needed(method, rule.rule)
    return [{"adminToken": []}, {"adminUser": [role for role in ROLES if grants(role, wanted)]}]


def _path_parameters(rule: Rule) -> Iterator[dict[str, Any]]:
    for name in _PATH_PART.findall(rule.rule):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    schema = operation.query.model_json_schema()
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    for name, described in schema.get("properties", {}).items():
        member = _plain(described, definitions)
        parameter = {"name": name, "in": "query", "required": name in required}
        if "description" in member:
            parameter["description"] = member.pop("description")
        yield {**parameter, "schema": member}


def _plain(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema as a query string can hold it: none is left out, not `null`."""
    member = {name: value for name, value in schema.items() if name not in ("title", "$ref")}
    if "$ref" in schema:
        member = {**definitions[schema["$ref"].rsplit("/", 1)[-1]], **member}
    choices = [choice for choice in member.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        del member["anyOf"]
        member = {**_plain(choices[0], definitions), **member}
    if member.get("default", ...) is None:
        del member["default"]
    member.pop("title", None)
    return member


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        if isinstance(answer, Content):
            known = responses.setdefault(str(status), {"description": answer.description, "content": {}})
            known["content"][answer.media_type] = {"schema": {"type": "string"}}
        else:
            content = {JSON: {"schema": schemas.of(answer, "serialization")}}
            responses[str(status)] = {"description": _outcome(status), "content": content}
    refusals = {
        **_REFUSALS.get(operation.access, {}),
        **(_BODY_REFUSALS if operation.body is not None else {}),
        **operation.errors,
    }
    error = {JSON: {"schema": schemas.of(ErrorView, "serialization")}}
    for status, reason in sorted(refusals.items()):
        if str(status) not in responses:
            responses[str(status)] = {"description": reason, "content": error}
    return responses


def _outcome(status: int) -> str:
    return "Done." if status < _FIRST_ERROR else "Not done, or not all of it."
