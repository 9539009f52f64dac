"""OhMyGPT's management API: the balance of the account, and what its keys have used of their caps.

With prices it keeps books, too: each answer adds to the used fee of its key.
"""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import msgspec

from simulator.prices import cost_usd
from simulator.script import Script
from simulator.tokens import Tokens
from simulator.wire import Request

_PREFIX = "/api/v1/user/admin/"


class Account:
    """What the management API says. Without a management key there is no such API."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._facts: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all of it."""
        with self._lock:
            self._facts = {"tokens": {}}

    def put(self, facts: dict[str, Any]) -> None:
        """Set some of ``management_key``, ``balance``, ``free_balance``, ``tokens`` and ``masks``.

        ``tokens`` are fields by key, added to those that are there; with ``masks`` keys are listed masked.
        ``prices`` (USD per million tokens by the names of `Tokens`, by model) make books be kept: in
        ``units_per_usd`` (1) to a dollar. ``drift`` has by key how much too high, as a share: 0.1 is ten
        per cent; ``elsewhere`` is added to what keys have used, by key.
        """
        with self._lock:
            tokens = {**self._facts["tokens"], **facts.get("tokens", {})}
            for key, fee in facts.get("elsewhere", {}).items():
                tokens[key] = _used(tokens.get(key, {}), Decimal(str(fee)))
            self._facts = {**self._facts, **facts, "tokens": tokens}

    def is_capped(self, key: str) -> bool:
        """Whether the key has used up its own cap."""
        token = self._facts["tokens"].get(key, {})
        cap = float(token.get("max_fee") or 0)
        return cap > 0 and float(token.get("used_fee") or 0) >= cap

    def charge(self, key: str, model: str, tokens: Tokens) -> None:
        """Add what an answer costs to the used fee of its key, if books are kept."""
        with self._lock:
            prices = self._facts.get("prices", {}).get(model)
            if prices is None:
                return
            factor = Decimal(str(self._facts.get("units_per_usd", 1)))
            factor *= 1 + Decimal(str(self._facts.get("drift", {}).get(key, 0)))
            token = self._facts["tokens"].get(key, {})
            self._facts["tokens"][key] = _used(token, cost_usd(prices, tokens) * factor)

    def answer(self, request: Request) -> Script | None:
        """Answer a request to the management API; None for any other."""
        wanted = self._facts.get("management_key")
        if not request.path.startswith(_PREFIX) or wanted is None:
            return None
        if request.header("authorization") != f"Bearer {wanted}":
            return _told(401, "Unauthorized", None)  # under status 200, as the real one does
        name = request.path.removeprefix(_PREFIX)
        if request.method == "POST" and name == "balance":
            return _told(
                200, "", {part: self._facts.get(part, "0.00") for part in ("balance", "free_balance")}
            )
        if request.method == "POST" and name == "get-api-tokens":
            return _told(200, "", [self._token(key, facts) for key, facts in self._facts["tokens"].items()])
        return _told(404, f"Cannot {request.method} {request.path}", None)

    def _token(self, key: str, facts: dict[str, Any]) -> dict[str, Any]:
        usual = {"remark": "", "used_times": 0, "used_fee": "0", "max_fee": None, "expired_at": None}
        flags = {"permissions": [], "is_admin": False, "is_disabled": False}
        shown = f"{key[:8]}****{key[-4:]}" if self._facts.get("masks") else key
        return {**usual, **flags, **facts, "key": shown}


def _used(token: dict[str, Any], fee: Decimal) -> dict[str, Any]:
    """Return a token that has used so much more, and was used once more."""
    used = Decimal(str(token.get("used_fee") or 0)) + fee
    return {**token, "used_fee": f"{used:f}", "used_times": token.get("used_times", 0) + 1}


def _told(status: int, message: str, data: object) -> Script:
    return Script.body(msgspec.json.encode({"statusCode": status, "message": message, "data": data}))
