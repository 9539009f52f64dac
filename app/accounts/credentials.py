"""Client keys and secrets: how they look, which header they come in, how much of one may be shown."""

import hashlib
import hmac
import secrets
import string
from enum import Enum

CLIENT_KEY_PREFIX = "sk-weir-"
KEY_ID_PREFIX = "wk_"

_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40  # 238 bits: a plain hash of it cannot be searched
_ID_HEX_LENGTH = 40

_SHOWN_HEAD = 8
_SHOWN_TAIL = 4
_SHOWN_FRACTION = 3


class CredentialProblem(Enum):
    """Why a request carries no usable credential."""

    MISSING = "missing"
    CONFLICT = "conflict"


def extract_credential(authorization: str | None, api_key: str | None) -> str | CredentialProblem:
    """Take the client key out of the values of `Authorization` and `x-api-key` (None: header absent).

    The scheme `Bearer` is taken in any case. Another scheme is no client key and counts as absent. Both
    headers with the same key are fine, since some SDKs send both; different keys are a conflict, because
    picking one would bill a user who may not be meant.
    """
    bearer = _bearer_token(authorization)
    plain = (api_key or "").strip()
    if bearer and plain and bearer != plain:
        return CredentialProblem.CONFLICT
    return bearer or plain or CredentialProblem.MISSING


def _bearer_token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def new_client_key() -> str:
    """Make a fresh client key, from the operating system's random source."""
    return CLIENT_KEY_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def hash_client_key(secret: str) -> str:
    """Return the id a client key is stored under: it identifies the key without giving it away.

    A fast hash is enough: the keys are random, so there is no dictionary to try, and the check is made for
    every request.
    """
    digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
    return KEY_ID_PREFIX + digest[:_ID_HEX_LENGTH]


def is_key_id(text: str) -> bool:
    """Return whether this is an id as `hash_client_key` makes them, and so never a key itself."""
    return text.startswith(KEY_ID_PREFIX)


def public_key_id(stored_id: str) -> str:
    """Return an id that can be shown: older deployments store client keys under the keys themselves."""
    return stored_id if is_key_id(stored_id) else hash_client_key(stored_id)


def derived_secret(secret: str, purpose: str) -> str:
    """Derive a secret for one purpose: one that leaks gives away neither `secret` nor the other purposes'."""
    return hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256).hex()


def mask(secret: str) -> str:
    """Shorten a secret for showing: first 8, `...`, last 4; never more than a third of a short one."""
    budget = min(len(secret) // _SHOWN_FRACTION, _SHOWN_HEAD + _SHOWN_TAIL)
    tail = budget * _SHOWN_TAIL // (_SHOWN_HEAD + _SHOWN_TAIL)
    return f"{secret[: budget - tail]}...{secret[len(secret) - tail :]}"


def name_digest(name: str) -> str:
    """Return the digest under which tries to log in as `name` are counted.

    Of a name that is too long, or a secret given by mistake, nothing else is kept.
    """
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shown_key_id(key_id: str) -> str:
    """Return a client key's id as it may be shown.

    Ids made by this product (`wk_…`, `user:…`, `env`) are no secrets. Existing deployments stored the key
    itself as its id: of those no more is shown than of any secret (first eight, `...`, last four).
    """
    if key_id == "env" or is_key_id(key_id) or key_id.startswith("user:"):
        return key_id
    return mask(key_id)
