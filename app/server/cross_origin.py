"""Letting web pages of other origins call the client API (CORS), for those who configured it.

Also where the server refuses by itself: a page that may not read a refusal sees a network error.
"""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from app.exchange.exchange import Answer
from app.wires.endpoints import ENDPOINTS

ANY = "*"

_EXPOSED = (
    "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, "
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
)
_METHODS = ", ".join(sorted({endpoint.method for endpoint in ENDPOINTS}))
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_,\- ]{1,2000}")
_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([!-~]{1,300})[ \t]*\r\n", re.IGNORECASE)
_PREFLIGHT_MAX_AGE_S = 600


class CrossOrigin:
    """What pages of these origins (`*`: of any) are allowed; without any origin nothing is said of it.

    Pages of other origins can still send simple requests, as any program can: it is the client key that
    protects. Cookies play no part here, so credentials are allowed to nobody, and `*` is no danger. Requests
    are given by their headers, which have lower-case names.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origins)

    def share(self, answer: Answer, headers: Mapping[str, str]) -> Answer:
        """Say on an answer of any kind whether the page that asked may read it; returns that answer."""
        if self._origins:
            origin, is_any = self._allowed(headers), ANY in self._origins
            if origin is not None:
                answer.headers.append(("Access-Control-Allow-Origin", ANY if is_any else origin))
                answer.headers.append(("Access-Control-Expose-Headers", _EXPOSED))
            if not is_any:
                answer.headers.append(("Vary", "Origin"))
        return answer

    def preflight(self, method: str, headers: Mapping[str, str]) -> Answer | None:
        """Return what a page may send, if that is what its browser asks; it still has to be shared."""
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        if not is_preflight or self._allowed(headers) is None:
            return None
        allowed = [("Access-Control-Allow-Methods", _METHODS)]
        wanted = headers.get("access-control-request-headers", "")
        if _HEADER_NAMES.fullmatch(wanted):
            allowed.append(("Access-Control-Allow-Headers", wanted))
        allowed.append(("Access-Control-Max-Age", str(_PREFLIGHT_MAX_AGE_S)))
        return Answer(HTTPStatus.NO_CONTENT, allowed, [])

    @staticmethod
    def headers_of(head: bytes) -> Mapping[str, str]:
        """Return what counts here of a head that could not be read as one: its origin, if it names one."""
        found = _ORIGIN.search(head)
        return {} if found is None else {"origin": found[1].decode("ascii")}

    def _allowed(self, headers: Mapping[str, str]) -> str | None:
        origin = headers.get("origin")
        return origin if origin is not None and (origin in self._origins or ANY in self._origins) else None
