"""The client API: OpenAI and Anthropic endpoints, each a few lines from WSGI to the gateway and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed, NotFound

from app.api.model_list import ModelList
from app.api.own_usage import OwnUsage
from app.exchange.admission import too_large
from app.exchange.exchange import NO_PACE, Answer, ClientCall
from app.exchange.handler import Gateway
from app.exchange.ports import ClientWatch, Clock
from app.logs import current_request
from app.server.cross_origin import CrossOrigin
from app.server.request_head import headers_of
from app.wires import errors
from app.wires.endpoints import (
    BILLING_SUBSCRIPTION,
    BILLING_USAGE,
    ENDPOINTS,
    GET_MODEL,
    LIST_MODELS,
    UNKNOWN,
    USAGE,
    Endpoint,
    format_of_call,
    is_of_api,
    is_spoken,
)
from app.wires.errors import Refusal, invalid_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_NONE: Mapping[str, str] = {}
# Under these, programs that are no clients of the API send keys, too.
_OTHERS = ("/api/", "/admin")
_BASE_URLS = (
    "A base URL ends in /v1 for OpenAI's clients, and before it for Anthropic's; GET / lists all paths."
)
_STATUS_LINES = {status.value: f"{status.value} {status.phrase.upper()}" for status in HTTPStatus}


class ClientView:
    """The view of an endpoint. Flask calls it; whoever has the request's environment can do without Flask.

    `answer(environ, **parameters)` serves a request; the parameters are those of the endpoint's path.
    """

    __slots__ = ("answer", "endpoint")

    def __init__(self, endpoint: Endpoint, answer: Callable[..., Answer]) -> None:
        self.endpoint = endpoint
        self.answer = answer

    def __call__(self, **parameters: str) -> Response:
        """Serve Flask's current request."""
        return render(self.answer(request.environ, **parameters))


class ClientApi:
    """The endpoints as views, and the refusal of what else is under their path.

    `watch` makes the watch over a client's socket (None where there is none).
    """

    def __init__(
        self,
        gateway: Gateway,
        models: ModelList,
        usage: OwnUsage,
        clock: Clock,
        watch: Callable[[Any], ClientWatch],
        cross_origin: CrossOrigin,
    ) -> None:
        self._gateway = gateway
        self._clock = clock
        self._watch = watch
        self._cross_origin = cross_origin
        self._local: dict[Endpoint, Callable[..., bytes]] = {
            LIST_MODELS: lambda call, caller: models.listing(call.wire_format, _query(call), caller),
            GET_MODEL: lambda call, caller, **path: models.one(call.wire_format, path["id"], caller),
            USAGE: lambda _, caller: usage.usage(caller),
            BILLING_SUBSCRIPTION: lambda _, caller: usage.subscription(caller),
            BILLING_USAGE: lambda _, caller: usage.billed(caller),
        }

    def blueprint(self) -> Blueprint:
        """Return the routes, one for each row of the table."""
        routes = Blueprint("client", __name__)
        for endpoint in ENDPOINTS:
            serving = self._forwarding if endpoint.goes_upstream else self._answering
            routes.add_url_rule(
                endpoint.path,
                endpoint.route or endpoint.name,
                ClientView(endpoint, serving(endpoint)),
                methods=[endpoint.method],
                # OPTIONS is one more wrong method: Flask would answer it, without credential and record.
                provide_automatic_options=False,
            )
        return routes

    def is_asked(self, error: NotFound | MethodNotAllowed) -> bool:
        """Whether Flask's current request, which has no route, is a client's: by its path, or how it asks."""
        if is_of_api(request.path):
            return True
        is_others = request.path.startswith(_OTHERS) or isinstance(error, MethodNotAllowed)
        return not is_others and is_spoken(headers_of(request.environ))

    def refuse_unrouted(self, error: NotFound | MethodNotAllowed) -> Response:
        """Answer Flask's current request, to which none of the routes belongs."""
        headers = headers_of(request.environ)
        answer = self._cross_origin.preflight(request.method, headers) or self._refuse(error)
        return render(self._cross_origin.share(answer, headers))

    def _refuse(self, error: NotFound | MethodNotAllowed) -> Answer:
        call, method, path = self._call(UNKNOWN, request.environ), request.method, request.path
        methods = error.valid_methods if isinstance(error, MethodNotAllowed) else None
        # Flask takes HEAD wherever it takes GET.
        allowed = ", ".join(sorted(set(methods or ()) - {"HEAD"}))
        # The reasons, which are recorded, are without the path: people put secrets into those.
        if not allowed:
            told, reason = f"There is no {method} {path[:200]} here. {_BASE_URLS}", "There is no such path."
            return self._gateway.refuse_unrouted(call, Refusal(errors.UNKNOWN_PATH, told, reason=reason))
        rest = f"takes {allowed}, not {method}."
        refusal = Refusal(errors.WRONG_METHOD, f"{path[:200]} {rest}", reason=f"The path {rest}")
        answer = self._gateway.refuse_unrouted(call, refusal)
        answer.headers.append(("Allow", allowed))
        return answer

    def _forwarding(self, endpoint: Endpoint) -> Callable[..., Answer]:
        """Return what serves an endpoint whose requests go upstream; all of them, so it looks nothing up."""
        make_call, forward, share = self._call, self._gateway.forward, self._cross_origin.share

        def answer(environ: "WSGIEnvironment", **parameters: str) -> Answer:
            call = make_call(endpoint, environ, parameters)
            return share(forward(call, endpoint), call.headers)

        return answer

    def _answering(self, endpoint: Endpoint) -> Callable[..., Answer]:
        """Return what serves an endpoint that the proxy answers itself."""
        make_body = self._local[endpoint]

        def answer(environ: "WSGIEnvironment", **parameters: str) -> Answer:
            call = self._call(endpoint, environ)
            answered = self._gateway.answer_locally(
                call, endpoint, lambda caller: make_body(call, caller, **parameters)
            )
            return self._cross_origin.share(answered, call.headers)

        return answer

    def _call(
        self, endpoint: Endpoint, environ: "WSGIEnvironment", parameters: Mapping[str, str] = _NONE
    ) -> ClientCall:
        request_id = self._clock.new_request_id()
        current_request.request_id.set(request_id)
        path, headers = environ["PATH_INFO"], headers_of(environ)
        return ClientCall(
            request_id=request_id,
            accepted_at=self._clock.utcnow(),
            accepted=self._clock.monotonic(),
            path=path,
            query=environ.get("QUERY_STRING", ""),
            wire_format=format_of_call(path, headers) if endpoint.is_either_format else endpoint.wire_format,
            headers=headers,
            read_body=lambda limit, took: read_body(environ, limit, took),
            body_pieces=lambda limit: body_pieces(environ, limit),
            watch=self._watch(environ.get("gunicorn.socket")),
            ends_by_close=environ.get("SERVER_PROTOCOL") in ("HTTP/0.9", "HTTP/1.0"),
            stream=environ.get("weir.stream"),
            pace=environ.get("weir.pace") or NO_PACE,
            parameters=parameters,
            address=environ.get("REMOTE_ADDR"),
            scheme=environ["wsgi.url_scheme"],
        )


def start(answer: Answer, start_response: "StartResponse") -> Iterable[bytes]:
    """Begin to send the answer without Flask; returns its body, which is to be closed."""
    try:
        start_response(_STATUS_LINES.get(answer.status) or f"{answer.status} UNKNOWN", answer.headers)
    except BaseException:
        # The server refuses to begin the answer: nobody else ends the request.
        if (close := getattr(answer.body, "close", None)) is not None:
            close()
        raise
    return answer.body


def render(answer: Answer) -> Response:
    """Make the response Flask sends: with the body object itself, so that its `close()` is called."""
    return _AnswerResponse(answer.body, status=answer.status, headers=answer.headers, direct_passthrough=True)


class _AnswerResponse(Response):
    """Ends the request also when the server refuses to begin the answer, since then nobody else does."""

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            return super().__call__(environ, start_response)
        except BaseException:
            self.close()
            raise


def _query(call: ClientCall) -> dict[str, str]:
    """Return the parameters of the query; the first value counts where one is given twice."""
    return dict(reversed(parse_qsl(call.query, keep_blank_values=True)))


_PIECE = 256 * 1024


def read_body(environ: Mapping[str, Any], limit: int, took: Callable[[int], None]) -> bytes:
    """Read the request body, at most `limit` + 1 bytes; raises what `body_pieces` does.

    `took` is told of each piece before it is kept, and may raise.
    """
    pieces: list[bytes] = []
    for piece in body_pieces(environ, limit):
        took(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_pieces(environ: Mapping[str, Any], limit: int) -> Iterator[bytes]:
    """Yield the request body as it comes, at most `limit` + 1 bytes of it.

    Raises a `Refusal` for one that says it is larger, and for one that does not come.
    """
    declared = environ.get("CONTENT_LENGTH") or ""
    expected = int(declared) if declared.isdigit() else None
    if expected is not None and expected > limit:
        raise too_large(limit)
    read = environ["wsgi.input"].read
    left = limit + 1 if expected is None else expected
    while left > 0 and (piece := _read_piece(read, min(left, _PIECE))):
        yield piece
        left -= len(piece)
    if expected is not None and left > 0:
        raise invalid_body("The request body is shorter than its Content-Length.")


def _read_piece(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        return read(size)
    except TimeoutError:
        raise Refusal(errors.REQUEST_TIMEOUT, "The rest of the request body did not come.") from None
    except Exception:  # noqa: BLE001  each server has exceptions of its own for bad framing
        raise invalid_body("The request body broke off or is badly framed.") from None
