"""What becomes of clients' paths that were written a little differently."""

import re

from app.wires.endpoints import API, ENDPOINTS

_SLASHES = re.compile(r"/{2,}")
_KNOWN = sorted(
    {endpoint.fixed_path.removeprefix(API) for endpoint in ENDPOINTS if endpoint.path.startswith(API)},
    key=len,
    reverse=True,
)
_IN_FRONT = (API, "/openai", "/anthropic")
"""What base URLs have in front of endpoints: here, and at others who speak one of the formats."""
_ANY_IN_FRONT = f"(?:{'|'.join(map(re.escape, _IN_FRONT))})"
_ANY_KNOWN = "|".join(map(re.escape, _KNOWN))
_ENDPOINT = re.compile(
    # A base URL may be that of an endpoint, to which the client adds the endpoint's path. A model's name may
    # be anything, also a path.
    rf"{_ANY_IN_FRONT}*(?:(?P<pasted>(?!/models)(?:{_ANY_KNOWN}))(?:{API})?(?=(?P=pasted)))?"
    rf"(?P<endpoint>{_ANY_KNOWN})(?P<rest>/.*)?",
    re.IGNORECASE | re.DOTALL,
)
_WITH_PARAMETERS = {
    endpoint.fixed_path.removeprefix(API) for endpoint in ENDPOINTS if endpoint.has_parameters
}


def corrected_path(path: str) -> str:
    """Return the usual path of an endpoint for the slips people make in base URLs; others as they are.

    Slashes too many, `/v1` twice or not at all, the endpoint twice, another vendor's prefix, another case, a
    parameter or a blank at the end. What is under `/v1` and no endpoint becomes plain as well, so that it is
    refused there like anything else.
    """
    plain = _SLASHES.sub("/", path).rstrip("/ \t")
    found = _ENDPOINT.fullmatch(plain)
    if found is None or found["endpoint"].lower() not in _WITH_PARAMETERS:
        parent, _, last = plain.rpartition("/")
        plain = f"{parent}/{last.partition(';')[0]}".rstrip("/")
        found = _ENDPOINT.fullmatch(plain)
    if found is not None:
        return f"{API}{found['endpoint'].lower()}{found['rest'] or ''}"
    start = plain[: len(API) + 1].lower()
    return API + plain[len(API) :] if start in (API, f"{API}/") else path
