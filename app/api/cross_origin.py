"""Letting web pages of other origins call the client API (CORS), for those who configured it."""

import re
from http import HTTPStatus

from flask import Blueprint, Response, request

ANY = "*"

_EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, "
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_,\- ]{1,2000}")
_PREFLIGHT_MAX_AGE_S = 600


def share_with_origins(routes: Blueprint, origins: frozenset[str]) -> None:
    """Answer preflights of these origins (`*`: of any), and let their pages read the answers.

    Pages of other origins can still send simple requests, as any program can: it is the client key that
    protects. Cookies play no part here, so credentials are allowed to nobody, and `*` is no danger.
    """

    def allowed() -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and (origin in origins or ANY in origins) else None

    def preflight() -> Response | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not is_preflight or allowed() is None:
            return None
        response = Response(status=HTTPStatus.NO_CONTENT)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            response.headers["Access-Control-Allow-Headers"] = wanted
        response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_MAX_AGE_S)
        return response

    def share(response: Response) -> Response:
        origin = allowed()
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = ANY if ANY in origins else origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        if ANY not in origins:
            response.headers.add("Vary", "Origin")
        return response

    routes.before_request(preflight)
    routes.after_request(share)
