"""Requests to answers: routing, credentials, behaviour rules, and the tally around every exchange."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from simulator import anthropic_format, media, openai_format, responses_format
from simulator.account import Account
from simulator.answer import FIXED_CREATED, count_prompt, make_answer
from simulator.call import (
    ANTHROPIC,
    Call,
    CallError,
    decode_body,
    endpoint_of,
    format_of,
    model_id_of,
    read_call,
)
from simulator.catalog import DEFAULT_MODELS, model_document, model_list
from simulator.errors import error_body
from simulator.events import Event, dress
from simulator.faults import FAULTS
from simulator.gates import Gates
from simulator.grammar import GrammarError
from simulator.kept import KeptObjects
from simulator.keys import KeyBook
from simulator.plan import JSON, SSE, Plan, base_headers
from simulator.play import Player
from simulator.prompt_cache import LEAST, PromptCache
from simulator.refusals import REFUSALS, refuse, status_script
from simulator.rules import Rules
from simulator.script import Data, End, Head, Script
from simulator.tally import CLIENT_GONE, Entry, Tally
from simulator.tokens import Tokens
from simulator.usage import announces
from simulator.wire import BadRequestError, PeerGoneError, Request, Wire

_CACHE_SIZE = 512
_CACHED_BODY = 64 * 1024
_COUNTS = ("messages/count_tokens", "responses/input_tokens")
_CACHED_SCRIPT = 256 * 1024

Control = Callable[[Request], Script]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An answer ready to play, with what the tally says about the call."""

    script: Script
    model: str
    stream: bool
    include_usage: bool | None
    fault: str
    units: dict[str, float] = field(default_factory=dict)
    tier: str = ""
    kept: dict[str, Any] | None = None


class Upstream:
    """The provider being played, all but the listening socket. May be changed from any thread."""

    def __init__(
        self,
        *,
        models: Sequence[str] = DEFAULT_MODELS,
        keys: Mapping[str, str] | None = None,
        seed: int = 0,
        clock: Callable[[], float] | None = None,
        tally: Tally | None = None,
        max_body: int = 32 * 1024 * 1024,
    ) -> None:
        self.tally = tally or Tally()
        self.keys = KeyBook(keys, seed)
        self.gates = Gates()
        self.kept = KeptObjects()
        self.prompts = PromptCache()
        self.scripts: dict[str, Script] = {}
        self.connections = 0
        self.control: Control | None = None
        self._first_models = self.models = tuple(models)
        self.account = Account()
        self._clock = clock
        self._max_body = max_body
        self.rules = Rules()
        self._cache: OrderedDict[tuple[str, str, str | None], _Prepared] = OrderedDict()

    def reset(self, *, keep_scripts: bool = False) -> None:
        """Forget tally, gates, rules and key states, and scripts unless they are to be kept."""
        self.tally.reset()
        self.gates.clear()
        self.prompts.clear()
        self.keys.clear()
        self.kept.clear()
        self.rules.clear()
        self.models = self._first_models
        self.account.clear()
        if not keep_scripts:
            self.scripts.clear()

    def serve(self, sock: socket.socket, _address: object) -> None:
        """Answer the requests of one connection until either side ends it."""
        self.connections += 1
        try:
            wire = Wire(sock)
            while (request := wire.read_request()) is not None:
                if not self._answer(wire, request):
                    wire.finish()
                    return
        except BadRequestError as error:
            _refuse_bytes(sock, str(error))
        except (PeerGoneError, OSError):
            pass
        finally:
            self.connections -= 1
            sock.close()

    def _answer(self, wire: Wire, request: Request) -> bool:
        if self.control is not None and request.path.startswith("/_sim"):
            Player(wire, Tally().begin(request), self.gates).play(self.control(request))
            return request.keep_alive
        entry = self.tally.begin(request)
        end = CLIENT_GONE
        try:
            script = self._script_for(request, entry)
            self.tally.begun()
            end, keep = Player(wire, entry, self.gates).play(script)
        finally:
            if entry.key is not None and entry.spent is not None:
                self.account.charge(entry.key, entry.model, entry.spent)
            self.tally.settle(entry, end)
        return keep and request.keep_alive

    def _script_for(self, request: Request, entry: Entry) -> Script:
        endpoint = endpoint_of(request.path)
        wire_format = format_of(request, endpoint)
        if (told := self.account.answer(request)) is not None:
            return told
        verdict = self.keys.judge(request, wire_format)
        if verdict.key is not None and self.account.is_capped(verdict.key):
            message = f"Incorrect API key provided: {verdict.key[:8]}***"
            verdict = verdict._replace(refusal=status_script(wire_format, 401, message=message))
        entry.key = verdict.key
        if verdict.refusal is not None:
            _note_model(request, entry)
            return verdict.refusal
        try:
            if (kept := self.kept.answer(request, verdict.key or "", entry)) is not None:
                return kept
            if endpoint.startswith("models"):
                return self._models_answer(request, endpoint, wire_format)
            prepared = self._prepare(request, entry, endpoint, verdict.spec)
        except CallError as error:
            return _error(wire_format, error.status, error.message, error.kind, error.param)
        except GrammarError as error:
            return _error(wire_format, 400, str(error))
        entry.model, entry.stream = prepared.model, prepared.stream
        entry.include_usage, entry.fault = prepared.include_usage, prepared.fault
        entry.spent, entry.units, entry.tier = prepared.script.tokens, prepared.units, prepared.tier
        if prepared.kept is not None:
            self.kept.remember(entry.key or "", prepared.model, prepared.kept)
        return prepared.script

    def _prepare(self, request: Request, entry: Entry, endpoint: str, key_spec: str | None) -> _Prepared:
        if request.method != "POST":
            raise CallError(405 if endpoint else 404, f"Invalid URL ({request.method} {request.path})")
        body: dict[str, object] | None = None
        override = key_spec
        if self.rules:
            body = decode_body(request, self._max_body)
            override = self.rules.next_for(body.get("model")) or key_spec
        how = f"{endpoint} {request.header('content-encoding')} {request.header('content-type')}"
        cache_key = (how, entry.body_sha256, override)
        cacheable = self._clock is None and len(request.body) <= _CACHED_BODY
        if cacheable and (found := self._cache.get(cache_key)) is not None:
            self._cache.move_to_end(cache_key)
            return found
        call = read_call(request, body or decode_body(request, self._max_body), endpoint, override)
        entry.model, entry.stream, entry.include_usage = call.model, call.stream, call.include_usage
        entry.fault = call.options.fault
        if call.options.script:
            return self._scripted(call)
        if not endpoint or endpoint.startswith("models"):
            raise CallError(404, f"Invalid URL (POST {request.path})")
        _check_fault(call.options.fault)
        script = refuse(call, entry.key or "")
        units: dict[str, float] = {}
        kept: dict[str, Any] | None = None
        if script is None:
            self._look_into_cache(call, entry.key or "")
            if endpoint in _COUNTS:
                script = _counted(call)
            else:
                script, units, kept = self._generated(call)
        prepared = _Prepared(
            *(script, call.model, call.stream, call.include_usage, call.options.fault),
            units=units,
            tier=call.options.tier,
            kept=kept,
        )
        is_keys_own = call.options.cache or call.options.fault.startswith("leak")
        if cacheable and not is_keys_own and script.size <= _CACHED_SCRIPT:
            self._cache[cache_key] = prepared
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return prepared

    def _look_into_cache(self, call: Call, key: str) -> None:
        """Have the prompt counted by what the key's cache has of it, if the call is to go by that."""
        options = call.options
        if not options.cache or call.endpoint in _COUNTS:
            return
        prompt, cached = self.prompts.read(key, call.model, call.body, options.cache)
        if call.format == ANTHROPIC:
            kept = prompt if call.uses_cache and prompt >= LEAST else 0
            cached = min(cached, kept)
            call.options = replace(options, prompt=prompt, cached=cached, write=kept - cached)
        else:
            call.options = replace(options, prompt=prompt, cached=cached)

    def _scripted(self, call: Call) -> _Prepared:
        script = self.scripts.get(call.options.script)
        if script is None:
            raise CallError(404, f"simulator: no script named {call.options.script!r}")
        return _Prepared(script, call.model, call.stream, call.include_usage, f"script:{call.options.script}")

    def _generated(self, call: Call) -> tuple[Script, dict[str, float], dict[str, Any] | None]:
        """Return an answer, what it costs beside tokens, and what can be asked for later under its id."""
        options = call.options
        created = FIXED_CREATED if self._clock is None else int(self._clock())
        answer = make_answer(call, created)
        writer: Any = anthropic_format if call.format == ANTHROPIC else openai_format
        if call.endpoint.startswith("responses"):
            writer = responses_format
        units: dict[str, float] = {}
        if options.searches and writer is not openai_format:
            units["web_search"] = options.searches
        tokens: Tokens | None = answer.tokens
        if (write := media.WRITERS.get(call.endpoint)) is not None:
            parts, content_type, tokens, units = write(answer, call)
            if content_type == SSE:
                parts = dress(parts, options)
        elif call.stream:
            parts, content_type = dress(writer.stream_events(answer, call), options), SSE
        else:
            told = None if options.usage == "never" else announces(answer.tokens, options.shape)
            parts, content_type = [Event(writer.plain_body(answer, call), told)], JSON
        plan = Plan(call.format, options, content_type, parts, tokens)
        if options.fault in FAULTS:
            FAULTS[options.fault].apply(plan, call)
        is_kept = call.endpoint == "responses" and not options.fault and call.body.get("store") is not False
        kept = msgspec.json.decode(responses_format.plain_body(answer, call)) if is_kept else None
        return plan.script(), units, kept

    def _models_answer(self, request: Request, endpoint: str, wire_format: str) -> Script:
        if request.method not in ("GET", "HEAD"):
            raise CallError(405, f"Method {request.method} is not allowed here")
        if endpoint == "models":
            document = model_list(self.models, wire_format, request.params())
        else:
            model = model_id_of(endpoint)
            if model not in self.models:
                raise CallError(404, f"The model '{model}' does not exist")
            document = model_document(model, wire_format)
        return _json(wire_format, 200, msgspec.json.encode(document), no_body=request.method == "HEAD")


def _check_fault(name: str) -> None:
    if name and not name.isdigit() and name not in FAULTS and name not in REFUSALS:
        raise GrammarError(f"simulator: unknown fault {name!r}; GET /_sim/faults lists them")


def _counted(call: Call) -> Script:
    prompt = call.options.prompt if call.options.prompt >= 0 else count_prompt(call.size)
    own = {} if call.format == ANTHROPIC else {"object": "response.input_tokens"}
    return _json(call.format, 200, msgspec.json.encode({**own, "input_tokens": prompt}))


def _json(wire_format: str, status: int, body: bytes, *, no_body: bool = False) -> Script:
    head = Head(status, tuple(base_headers(wire_format, JSON)), "length", len(body), flush=False)
    return Script((head, Data(b"" if no_body else body), End()))


def _error(wire_format: str, status: int, message: str, kind: str = "", param: str | None = None) -> Script:
    if param is None:
        return status_script(wire_format, status, message=message, kind=kind)
    return _json(wire_format, status, error_body(wire_format, status, message, kind, param))


def _note_model(request: Request, entry: Entry) -> None:
    """Note in the tally which model a refused request was for, if that can be read."""
    try:
        body = decode_body(request, _CACHED_BODY)
    except CallError:
        return
    model = body.get("model")
    entry.model = model if isinstance(model, str) else ""
    entry.stream = body.get("stream") is True


def _refuse_bytes(sock: socket.socket, message: str) -> None:
    body = error_body("openai", 400, message)
    head = Head(400, (("Content-Type", JSON), ("Connection", "close")), "length", len(body))
    try:
        sock.sendall(head.render("") + body)
    except OSError:
        return
