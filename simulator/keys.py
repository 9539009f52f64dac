"""Upstream keys and their states."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import NamedTuple

from simulator.grammar import Options, parse_spec
from simulator.refusals import status_script
from simulator.script import Script
from simulator.wire import Request

STATES = "ok, bad, exhausted, limited[:SECONDS], banned, status:NNN, flaky:P, play:OPTIONS"


class KeyVerdict(NamedTuple):
    """What a request's credential leads to: a refusal, or options for the answer, or neither."""

    key: str | None
    refusal: Script | None = None
    spec: str | None = None


class KeyBook:
    """The states of upstream keys. A key without a state has that of ``*``, which is good by default."""

    def __init__(self, states: Mapping[str, str] | None = None, seed: int = 0) -> None:
        self._seed = seed
        self._first = dict(states or {})
        self._states: dict[str, str] = {}
        self._tries: dict[str, int] = {}
        self._lock = threading.Lock()
        self.clear()

    def set(self, key: str, state: str) -> None:
        """Put a key in a state (`STATES`); `ValueError` if there is no such state."""
        _check_state(state)
        with self._lock:
            self._states[key] = state
            self._tries.pop(key, None)

    def states(self) -> dict[str, str]:
        """Return all keys that were given a state."""
        with self._lock:
            return dict(self._states)

    def clear(self) -> None:
        """Put every key in the state it had at the start."""
        with self._lock:
            self._states.clear()
            self._tries.clear()
        for key, state in self._first.items():
            self.set(key, state)

    def judge(self, request: Request, wire_format: str) -> KeyVerdict:
        """Find the credential of a request and what its state does to the answer."""
        bearer, api_key = _bearer(request.header("authorization")), request.header("x-api-key")
        if bearer is not None and api_key is not None and bearer != api_key:
            message = "Both Authorization and x-api-key were given, and they differ"
            return KeyVerdict(None, status_script(wire_format, 401, message=message))
        key = bearer if bearer is not None else api_key
        if not key:
            return KeyVerdict(None, status_script(wire_format, 401, message="No API key provided"))
        with self._lock:
            state = self._states.get(key) or self._states.get("*", "ok")
            self._tries[key] = self._tries.get(key, 0) + 1
            turn = self._tries[key]
        if state == "ok":
            return KeyVerdict(key)
        name, _, value = state.partition(":")
        if name == "play":
            return KeyVerdict(key, spec=value)
        return KeyVerdict(key, self._refusal(name, value, key, turn, wire_format))

    def _refusal(self, name: str, value: str, key: str, turn: int, wire_format: str) -> Script | None:
        if name == "bad":
            return status_script(wire_format, 401, message=f"Incorrect API key provided: {key[:8]}***")
        if name == "exhausted":
            return status_script(wire_format, 402, Options(envelope="ohmygpt"), "balance too low")
        if name == "banned":
            return status_script(wire_format, 403, message="This API key has been disabled")
        if name == "limited":
            message = "Rate limit reached for this API key"
            return status_script(wire_format, 429, Options(retry_after=value or "1"), message)
        if name == "status":
            return status_script(wire_format, int(value))
        return status_script(wire_format, 500) if self._fails(key, turn, float(value)) else None

    def _fails(self, key: str, turn: int, probability: float) -> bool:
        digest = hashlib.sha256(f"{self._seed}:{key}:{turn}".encode()).digest()
        return int.from_bytes(digest[:8]) < probability * 2**64


def _bearer(value: str | None) -> str | None:
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_state(state: str) -> None:
    name, colon, value = state.partition(":")
    if name in ("ok", "bad", "exhausted", "banned") and not colon:
        return
    if name == "limited" and (not colon or value.isdigit()):
        return
    if name == "status" and value.isdigit() and 400 <= int(value) <= 599:
        return
    if name == "play":
        parse_spec(value)
        return
    if name == "flaky":
        try:
            if 0 <= float(value) <= 1:
                return
        except ValueError:
            pass
    raise ValueError(f"unknown key state {state!r}: one of {STATES}")
