"""Addresses that pages had before, for links that people have kept."""

from urllib.parse import quote

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response as AnyResponse

_MOVED = {
    "log": "requests",
    "users": "customers",
    "client-keys": "keys",
    "proxies": "upstream/proxies",
    "audit": "settings/audit",
    "settings": "settings/audit",
}


def moved_pages() -> Blueprint:
    """Make redirections from where pages were to where they are, what is below them and asked included."""
    routes = Blueprint("moved", __name__)

    def to(after: str, rest: str = "") -> AnyResponse:
        below = f"/{quote(rest)}" if rest else ""
        query = f"?{request.query_string.decode('ascii', 'replace')}" if request.query_string else ""
        return redirect(f"{request.script_root}/{after}{below}{query}", code=301)

    for before, after in _MOVED.items():
        routes.add_url_rule(f"/{before}", before, to, defaults={"after": after})
        if before != "settings":
            routes.add_url_rule(f"/{before}/<path:rest>", before, to, defaults={"after": after})
    return routes
