"""The control endpoints under `/_sim`: what a test in another process uses instead of the Python objects."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import gevent
import msgspec

from simulator.faults import FAULTS
from simulator.plan import JSON
from simulator.refusals import REFUSALS
from simulator.script import Script, script_from_json
from simulator.upstream import Upstream
from simulator.wire import Request

_POLL_S = 0.005
_LONGEST_WAIT_S = 90.0

Listen = Callable[[bool, float | None], None]


class Controller:
    """Answers control requests; every answer is JSON, a mistake is a 400 ``{"error": …}``."""

    def __init__(self, upstream: Upstream, listen: Listen) -> None:
        self._upstream = upstream
        self._listen = listen
        self._routes: dict[tuple[str, str], Callable[[Request], Any]] = {
            ("GET", ""): self._index,
            ("GET", "tally"): self._tally,
            ("GET", "totals"): lambda request: upstream.tally.totals(),
            ("GET", "requests"): self._requests,
            ("GET", "faults"): lambda request: fault_docs(),
            ("POST", "reset"): self._reset,
            ("POST", "scripts"): self._scripts,
            ("POST", "keys"): self._keys,
            ("GET", "keys"): lambda request: upstream.keys.states(),
            ("POST", "behave"): self._behave,
            ("POST", "listen"): self._set_listen,
            ("POST", "models"): self._set_models,
            ("POST", "account"): self._set_account,
        }

    def __call__(self, request: Request) -> Script:
        """Answer one control request."""
        name = request.path.removeprefix("/_sim").strip("/")
        try:
            if name.startswith("gates/"):
                return _json(200, self._gate(request, unquote(name.removeprefix("gates/"))))
            route = self._routes.get((request.method, name))
            if route is None:
                return _json(404, {"error": f"no {request.method} {request.path}", **self._index(request)})
            return _json(200, route(request))
        except TimeoutError as error:
            return _json(408, {"error": str(error)})
        except (ValueError, KeyError, TypeError, AttributeError, msgspec.DecodeError) as error:
            return _json(400, {"error": f"{type(error).__name__}: {error}"})

    def _index(self, request: Request) -> dict[str, Any]:
        names = [f"{method} /_sim/{name}" for method, name in self._routes]
        return {
            "endpoints": [*names, "GET /_sim/gates/NAME", "POST /_sim/gates/NAME"],
            "connections": self._upstream.connections,
        }

    def _tally(self, request: Request) -> dict[str, Any]:
        params, tally = request.params(), self._upstream.tally
        wanted_ended, wanted_begun = int(params.get("ended", 0)), int(params.get("begun", 0))
        _poll(
            lambda: tally.ended >= wanted_ended and tally.count >= wanted_begun,
            float(params.get("timeout_s", 10)),
            "so many requests",
        )
        entries = tally.entries(int(params.get("since", 0)))
        return {
            "entries": [entry.as_dict() for entry in entries],
            "count": tally.count,
            "ended": tally.ended,
            "connections": self._upstream.connections,
        }

    def _requests(self, request: Request) -> dict[str, Any]:
        seen = self._upstream.tally.requests(int(request.params().get("since", 0)))
        return {
            "requests": [
                {
                    "seq": item.seq,
                    "method": item.method,
                    "target": item.target,
                    "headers": item.headers,
                    "body_base64": base64.b64encode(item.body).decode(),
                }
                for item in seen
            ]
        }

    def _reset(self, request: Request) -> dict[str, Any]:
        self._upstream.reset(keep_scripts=bool(_document(request).get("keep_scripts", False)))
        return {"ok": True}

    def _scripts(self, request: Request) -> dict[str, Any]:
        document = _document(request)
        name = str(document["name"])
        self._upstream.scripts[name] = script_from_json(document)
        return {"name": name, "model": f"script:{name}"}

    def _keys(self, request: Request) -> dict[str, str]:
        for key, state in _document(request).items():
            self._upstream.keys.set(key, str(state))
        return self._upstream.keys.states()

    def _set_models(self, request: Request) -> dict[str, Any]:
        self._upstream.models = tuple(map(str, _document(request)["models"]))
        return {"models": list(self._upstream.models)}

    def _set_account(self, request: Request) -> dict[str, Any]:
        self._upstream.account.put(_document(request))
        return {"ok": True}

    def _behave(self, request: Request) -> dict[str, Any]:
        document = _document(request)
        times = document.get("times")
        self._upstream.rules.add(str(document["model"]), str(document["spec"]), times and int(times))
        return {"ok": True}

    def _set_listen(self, request: Request) -> dict[str, Any]:
        document = _document(request)
        off_s = document.get("off_s")
        self._listen(bool(document.get("on", False)), None if off_s is None else float(off_s))
        return {"ok": True}

    def _gate(self, request: Request, name: str) -> dict[str, Any]:
        gates = self._upstream.gates
        if request.method == "POST":
            gates.open(name)
        else:
            params = request.params()
            count = int(params.get("count", 0))
            _poll(
                lambda: gates.arrived(name) >= count,
                float(params.get("timeout_s", 10)),
                "arrival at the gate",
            )
        return {"name": name, "open": gates.is_open(name), "arrived": gates.arrived(name)}


def fault_docs() -> dict[str, str]:
    """Return every built-in fault and what it does."""
    docs = {name: doc for name, (doc, _) in REFUSALS.items()}
    docs |= {name: fault.doc for name, fault in FAULTS.items()}
    return {"400 … 599": "that status, native", **docs}


def _document(request: Request) -> dict[str, Any]:
    if not request.body:
        return {}
    document = msgspec.json.decode(request.body)
    if not isinstance(document, dict):
        raise TypeError("the body is not a JSON object")
    return document


def _json(status: int, document: object) -> Script:
    return Script.body(msgspec.json.encode(document), status=status, content_type=JSON)


def _poll(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + min(timeout_s, _LONGEST_WAIT_S)
    while not done():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no {what} in time")
        gevent.sleep(_POLL_S)
