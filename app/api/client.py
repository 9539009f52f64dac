"""The client API: OpenAI and Anthropic endpoints, each a few lines from WSGI to the gateway and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

from app.api.model_list import ModelList
from app.core import current_request, errors
from app.core.errors import Refusal, invalid_body
from app.core.ports import ClientWatch, Clock
from app.core.request_body import Endpoint
from app.core.wire_format import WireFormat
from app.exchange.admission import too_large
from app.exchange.exchange import Answer, ClientCall
from app.exchange.handler import Gateway

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_POST_PATHS = {
    Endpoint.CHAT: ("/v1/chat/completions", "/chat/completions", "/v1/v1/chat/completions"),
    Endpoint.MESSAGES: ("/v1/messages", "/messages", "/v1/v1/messages"),
    Endpoint.COUNT_TOKENS: (
        "/v1/messages/count_tokens",
        "/messages/count_tokens",
        "/v1/v1/messages/count_tokens",
    ),
}
"""Paths of the endpoints; people get base URLs wrong in two ways, and both are cheap to tolerate."""

_STATUS_LINES = {status.value: f"{status.value} {status.phrase.upper()}" for status in HTTPStatus}

_ALL_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def client_blueprint(
    gateway: Gateway, models: ModelList, clock: Clock, watch: Callable[[Any], ClientWatch]
) -> Blueprint:
    """The routes clients call. `watch` makes the watch over a client's socket (None where there is none)."""
    routes = Blueprint("client", __name__)

    def call(wire_format: WireFormat) -> ClientCall:
        return _client_call(request.environ, wire_format, clock, watch)

    def forward(endpoint: Endpoint) -> Callable[[], Response]:
        return lambda: render(gateway.forward(call(endpoint.wire_format), endpoint))

    def route(method: str, path: str, name: str, view: Callable[..., Response]) -> None:
        # OPTIONS is one more wrong method: Flask would answer it itself, without credential and record.
        routes.add_url_rule(path, name, view, methods=[method], provide_automatic_options=False)

    for endpoint, paths in _POST_PATHS.items():
        for path in paths:
            route("POST", path, f"{endpoint.name.lower()}:{path}", forward(endpoint))

    def list_models() -> Response:
        wire_format = _models_format(request.environ)
        body = lambda: models.listing(wire_format, request.args)  # noqa: E731
        return render(gateway.answer_locally(call(wire_format), "models", body))

    def get_model(model_id: str) -> Response:
        wire_format = _models_format(request.environ)
        body = lambda: models.one(wire_format, model_id)  # noqa: E731
        return render(gateway.answer_locally(call(wire_format), "models", body))

    for prefix in ("/v1", "", "/v1/v1"):
        route("GET", f"{prefix}/models", f"list_models:{prefix}", list_models)
        route("GET", f"{prefix}/models/<path:model_id>", f"get_model:{prefix}", get_model)

    def unrouted(rest: str = "") -> Response:
        path = request.path.rstrip("/")
        for endpoint, paths in _POST_PATHS.items():
            if path in paths:
                refusal = Refusal(errors.WRONG_METHOD, f"{path} takes POST, not {request.method}.")
                answer = gateway.refuse_unrouted(call(endpoint.wire_format), refusal)
                answer.headers.append(("Allow", "POST"))
                return render(answer)
        refusal = Refusal(errors.UNKNOWN_PATH, f"There is no {request.method} {path[:200]} here.")
        return render(gateway.refuse_unrouted(call(WireFormat.OPENAI), refusal))

    # What no other rule takes: every method on every path under /v1, and the other methods of the rest.
    for path in ("/v1", "/v1/<path:rest>", *(path for paths in _POST_PATHS.values() for path in paths)):
        routes.add_url_rule(path, f"unrouted:{path}", unrouted, methods=_ALL_METHODS)

    return routes


def shortcut(
    app: "WSGIApplication", gateway: Gateway, clock: Clock, watch: Callable[[Any], ClientWatch]
) -> "WSGIApplication":
    """The application with the routes that go upstream answered before it.

    It serves them as well, in the same way; its routing and contexts take a sixth of a request's time.
    """
    endpoints = {path: endpoint for endpoint, paths in _POST_PATHS.items() for path in paths}

    def wsgi(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        endpoint = endpoints.get(environ["PATH_INFO"])
        if endpoint is None or environ["REQUEST_METHOD"] != "POST":
            return app(environ, start_response)
        answer = gateway.forward(_client_call(environ, endpoint.wire_format, clock, watch), endpoint)
        try:
            start_response(_STATUS_LINES.get(answer.status) or f"{answer.status} UNKNOWN", answer.headers)
        except BaseException:
            # The server refuses to begin the answer: nobody else ends the request.
            if (close := getattr(answer.body, "close", None)) is not None:
                close()
            raise
        return answer.body

    return wsgi


def _client_call(
    environ: Mapping[str, Any], wire_format: WireFormat, clock: Clock, watch: Callable[[Any], ClientWatch]
) -> ClientCall:
    request_id = clock.new_request_id()
    current_request.request_id.set(request_id)
    return ClientCall(
        request_id=request_id,
        accepted_at=clock.utcnow(),
        accepted=clock.monotonic(),
        path=environ["PATH_INFO"],
        query=environ.get("QUERY_STRING", ""),
        wire_format=wire_format,
        headers=EnvironHeaders(environ),
        read_body=lambda limit: read_body(environ, limit),
        watch=watch(environ.get("gunicorn.socket")),
        ends_by_close=environ.get("SERVER_PROTOCOL") in ("HTTP/0.9", "HTTP/1.0"),
        stream=environ.get("weir.stream"),
    )


def render(answer: Answer) -> Response:
    """The answer as Flask sends it: the body object itself, so that its `close()` is called."""
    return _AnswerResponse(answer.body, status=answer.status, headers=answer.headers, direct_passthrough=True)


class _AnswerResponse(Response):
    """Ends the request also when the server refuses to begin the answer, since then nobody else does."""

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            return super().__call__(environ, start_response)
        except BaseException:
            self.close()
            raise


def _models_format(environ: Mapping[str, Any]) -> WireFormat:
    """The model list is one path for two SDKs; only Anthropic's sends a version header."""
    return WireFormat.ANTHROPIC if "HTTP_ANTHROPIC_VERSION" in environ else WireFormat.OPENAI


class EnvironHeaders(Mapping[str, str]):
    """The request's headers by lower-case name, read from the WSGI environment without copying it."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return str(self._environ[_environ_key(name)])

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping, but without an exception for what is absent, which is most."""
        value = self._environ.get(_environ_key(name))
        return default if value is None else str(value)

    def __contains__(self, name: object) -> bool:
        return self.get(str(name)) is not None

    def __iter__(self) -> Iterator[str]:
        for key in self._environ:
            if key.startswith("HTTP_"):
                yield key[5:].lower().replace("_", "-")

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _environ_key(name: str) -> str:
    """Where WSGI keeps a header; only names written in this program are asked for."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """The request body, at most `limit` + 1 bytes; a `Refusal` for one that is too large or does not come."""
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    try:
        data: bytes = environ["wsgi.input"].read(limit + 1)
    except TimeoutError:
        raise Refusal(errors.REQUEST_TIMEOUT, "The rest of the request body did not come.") from None
    except Exception:  # noqa: BLE001  each server has exceptions of its own for bad framing
        raise invalid_body("The request body broke off or is badly framed.") from None
    if declared.isdigit() and len(data) < int(declared):
        raise invalid_body("The request body is shorter than its Content-Length.")
    return data
