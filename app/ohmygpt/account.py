"""OhMyGPT's management API: the balance, and the keys it knows. Pure reading of its answers.

Its shapes are known from the vendor's documentation and from one program each, and have not been seen live
(docs/ohmygpt.md): so whatever is missing or of another type is unknown, and nothing else of the answer is
lost. A refusal comes with status 200 and another `statusCode` inside.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from app.keys.key_account import KeyAccount
from app.upstream.transport import PLAIN, UpstreamRequest

_HEADERS = {**PLAIN, "Content-Type": "application/json"}
ASK_BALANCE: Final = UpstreamRequest("POST", "/api/v1/user/admin/balance", "", _HEADERS, b"{}")
ASK_TOKENS: Final = UpstreamRequest("POST", "/api/v1/user/admin/get-api-tokens", "", _HEADERS, b"{}")
MAX_BODY: Final = 16 * 1024 * 1024
"""The largest answer that is read, in bytes: OhMyGPT allows 5,000 keys."""

_MOST_TOKENS = 10_000
_MOST = Decimal(10) ** 18
_MAX_DIGITS = 40
_GOOD = 200
_MASK = re.compile(r"[*•…]+|\.{3,}|x{4,}")
_LEAST_SHOWN = 4
_MILLISECONDS = 10**11


class AccountError(ValueError):
    """The answer tells nothing; the message is one line for an operator, without what was sent."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What the account has left, in OhMyGPT's units; None for what is not told."""

    balance: Decimal | None = None
    free_balance: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A key as the management API lists it: `key` whole or masked."""

    key: str = field(repr=False)
    account: KeyAccount


def read_balance(body: bytes) -> Balance:
    """Read the answer to `ASK_BALANCE`; raises `AccountError`."""
    data = _data(body)
    found = Balance(_amount(data.get("balance")), _amount(data.get("free_balance")))
    if found.balance is None:
        raise AccountError("its answer has no balance that can be read")
    return found


def read_tokens(body: bytes) -> list[Token]:
    """Read the answer to `ASK_TOKENS`; raises `AccountError`. What is no key is left out."""
    data = _data(body)
    lists = [value for value in data.values() if isinstance(value, list)]
    if not lists:
        raise AccountError("its answer has no list of keys")
    entries = [entry for entry in max(lists, key=len)[:_MOST_TOKENS] if isinstance(entry, dict)]
    named = [(entry.get("key"), entry) for entry in entries]
    return [Token(key, _account(entry)) for key, entry in named if isinstance(key, str) and key]


def match(tokens: list[Token], secrets: Mapping[str, str]) -> dict[str, KeyAccount]:
    """Find out which token is which key of the pool, given by id and secret; return what is told of each.

    A token that is listed whole is known by itself, with or without `sk-`. One that is listed masked is known
    by its beginning and end, where these are of one key alone.
    """
    by_secret = {name: store_id for store_id, secret in secrets.items() for name in _spellings(secret)}
    found: dict[str, KeyAccount] = {}
    for token in tokens:
        owner = by_secret.get(token.key)
        if owner is None and (parts := _shown_parts(token.key)) is not None:
            start, end = parts
            fits = {store_id for name, store_id in by_secret.items() if _fits(name, start, end)}
            owner = fits.pop() if len(fits) == 1 else None
        if owner is not None:
            found[owner] = token.account
    return found


def _fits(name: str, start: str, end: str) -> bool:
    return len(name) > len(start) + len(end) and name.startswith(start) and name.endswith(end)


def _shown_parts(masked: str) -> tuple[str, str] | None:
    parts = _MASK.split(masked[:600])
    if len(parts) != 2 or min(map(len, parts)) < _LEAST_SHOWN:
        return None
    return parts[0], parts[1]


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    yield secret.removeprefix("sk-") if secret.startswith("sk-") else f"sk-{secret}"


def _data(body: bytes) -> Mapping[str, Any]:
    """Return the `data` of an answer; a bare list is under the name `data`."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AccountError("its answer is not JSON") from None
    if not isinstance(document, dict):
        raise AccountError("its answer is no object")
    status = document.get("statusCode", _GOOD)
    if status != _GOOD:
        shown = str(status)[:10] if isinstance(status, int | str) else "of another kind"
        raise AccountError(f"it refuses the management key (statusCode {shown})")
    data = document.get("data")
    if isinstance(data, list):
        return {"data": data}
    if not isinstance(data, dict):
        raise AccountError("its answer has no data")
    return data


def _account(entry: Mapping[str, Any]) -> KeyAccount:
    cap = _amount(entry.get("max_fee"))
    return KeyAccount(
        used_fee=_amount(entry.get("used_fee")),
        max_fee=cap if cap is not None and cap > 0 else None,
        expires_at=_moment(entry.get("expired_at")),
        is_disabled=entry.get("is_disabled") in (True, 1),
    )


def _amount(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip() if not isinstance(value, str) or len(value) <= _MAX_DIGITS else ""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) < _MOST else None


def _moment(value: object) -> datetime | None:
    """Read a date, or seconds or milliseconds since 1970."""
    try:
        if isinstance(value, str) and not value.isdigit():
            found = datetime.fromisoformat(value[:_MAX_DIGITS])
            return found.replace(tzinfo=found.tzinfo or UTC)
        number = float(value) if isinstance(value, int | float | str) else 0.0
        if not number or value is True:
            return None
        return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
    except (ValueError, OverflowError, OSError):
        return None
