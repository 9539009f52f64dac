"""Which headers travel: an allow-list in each direction (RFC 9110 §7.6.1 and what vendors publish).

Whatever is not listed stays on its side: hop-by-hop headers, cookies, credentials, the operator's account
and rate-limit headers, the names of servers and networks.
"""

import re
from collections.abc import Iterable, Mapping

from app.wires.endpoints import Body, Endpoint
from app.wires.wire_format import WireFormat

TO_UPSTREAM = (
    "accept",
    "user-agent",
    "anthropic-version",
    "anthropic-beta",
    "openai-beta",
)

_TO_CLIENT = frozenset(
    (
        *("content-type", "cache-control", "retry-after", "retry-after-ms", "x-should-retry"),
        # What Codex goes by.
        *("openai-model", "x-models-etag", "x-reasoning-included", "x-codex-turn-state"),
    )
)

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def request_headers(
    client: Mapping[str, str],
    endpoint: Endpoint,
    *,
    default_anthropic_version: str,
    has_body: bool = True,
) -> dict[str, str]:
    """Return the headers sent upstream, without credentials. `client` has lower-case names.

    Answers are asked for uncompressed, since they are relayed byte for byte and metered on the way. A
    body is JSON, whatever the client called it: `curl -d` calls it a form, which is refused.
    """
    headers = {name: value for name in TO_UPSTREAM if (value := client.get(name)) is not None}
    if endpoint.headers:
        headers |= {name: value for name in endpoint.headers if (value := client.get(name)) is not None}
    headers["accept-encoding"] = "identity"
    if endpoint.body is Body.FORM:
        kind = client["content-type"]  # it has the boundary
        is_json = kind.lower().startswith("application/json")
        headers["content-type"] = "application/json" if is_json else kind
    elif endpoint.body is not Body.NONE and has_body:
        headers["content-type"] = "application/json"
    headers.setdefault("accept", "application/json")
    if endpoint.wire_format is WireFormat.ANTHROPIC:
        headers.setdefault("anthropic-version", default_anthropic_version)
    return headers


def response_headers(upstream: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the upstream's headers that a client gets. Its `Connection` header may withdraw any of them.

    A value that is none (RFC 9110 §5.5: control characters) is dropped: the server would refuse to send it.
    """
    kept: list[tuple[str, str]] = []
    withdrawn: set[str] = set()
    for spelling, value in upstream:
        name = spelling.lower()
        if name in _TO_CLIENT:
            if _FIELD_VALUE.fullmatch(value):
                kept.append((name, value))
        elif name == "connection":
            withdrawn.update(token.strip().lower() for token in value.split(","))
    return [pair for pair in kept if pair[0] not in withdrawn] if withdrawn else kept
