"""The address of the client instead of the one of the proxy in front, where that proxy is trusted."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from app.accounts.client_address import Network, client_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def with_client_addresses(served: "WSGIApplication", trusted: tuple[Network, ...]) -> "WSGIApplication":
    """Take each request to come from the client that a `trusted` proxy says it speaks for."""
    if not trusted:
        return served

    def corrected(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["REMOTE_ADDR"] = client_address(
            environ.get("REMOTE_ADDR"), environ.get("HTTP_X_FORWARDED_FOR"), trusted
        )
        return served(environ, start_response)

    return corrected
