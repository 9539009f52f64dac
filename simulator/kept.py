"""What the simulated provider keeps under an id: responses, conversations, message batches.

Each belongs to the key that made it; another key hears that there is nothing of that id. Background responses
and batches go on by being asked: `queued`, `in_progress`, then their end. What they do is told by their
metadata (of a batch, by the `metadata.user_id` of each request, in the same words divided by commas):

    polls=2          ended at the third look (default 1)
    input=30 output=12
    status=incomplete|failed|cancelled        how it ends (default completed)
    late=1           cancelled first, completed at the look after
    gone=1           404 from the first look on
    result=errored|expired|canceled           what comes of one request of a batch
    cost=0.0001      what its usage says it cost, in USD
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from simulator.answer import FIXED_CREATED
from simulator.call import ANTHROPIC, OPENAI, CallError
from simulator.plan import JSON, SSE, base_headers
from simulator.script import Close, Data, End, Head, Script
from simulator.tally import Entry
from simulator.tokens import Tokens
from simulator.wire import Request

_MOST = 10_000
_PREFIX = "/v1/"


@dataclass(slots=True)
class _Kept:
    """One object: whose it is, what it is like, and how often it was looked at."""

    object_id: str
    key: str
    kind: str
    model: str = ""
    does: Mapping[str, str] = field(default_factory=dict)
    looks: int = 0
    is_cancelled: bool = False
    is_background: bool = True
    document: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def tokens(self) -> Tokens:
        return _tokens(self.does)

    @property
    def polls(self) -> int:
        return int(self.does.get("polls", 1))

    @property
    def has_ended(self) -> bool:
        return self.looks > self.polls or self.is_cancelled


class KeptObjects:
    """Makes and shows them; thread-safe, and bounded: the oldest are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._made = 0

    def clear(self) -> None:
        """Forget all; ids go on, so that none comes twice."""
        with self._lock:
            self._kept.clear()

    def remember(self, key: str, model: str, document: dict[str, Any]) -> None:
        """Keep a response that was answered at once: of those to one body, which share an id, the first."""
        object_id = document["id"]
        with self._lock:
            if object_id not in self._kept:
                done = {"polls": "0"}
                self._put(_Kept(object_id, key, "response", model, done, 1, document=document))

    def answer(self, request: Request, key: str, entry: Entry) -> Script | None:
        """Answer a request for something kept, or that makes it; None if it is none. Raises `CallError`."""
        path = request.path.removeprefix(_PREFIX).strip("/").split("/")
        with self._lock:
            if path[:2] == ["messages", "batches"]:
                return self._batches(request, path[2:], key, entry)
            if path[0] == "responses":
                return self._responses(request, path[1:], key, entry)
            if path[0] == "conversations":
                return self._conversations(request, path[1:], key)
        return None

    # -- responses ----------------------------------------------------------------------------------------

    def _responses(self, request: Request, rest: list[str], key: str, entry: Entry) -> Script | None:
        if not rest:
            return self._create_response(request, key, entry)
        if len(rest) == 1 and rest[0] in ("input_tokens", "compact"):
            return None
        kept = self._find(rest[0], key, "response", f"Response with id '{rest[0]}' not found.")
        kept.looks += 1
        entry.model = kept.model
        if kept.does.get("gone"):
            raise CallError(404, f"Response with id '{kept.object_id}' not found.")
        if request.method == "DELETE":
            del self._kept[kept.object_id]
            return _document({"id": kept.object_id, "object": "response.deleted", "deleted": True})
        if rest[1:] == ["cancel"]:
            kept.is_cancelled = not kept.has_ended
            return _document(_response(kept))
        if rest[1:] == ["input_items"]:
            item = {"id": f"msg_{kept.object_id[5:]}", "type": "message", "role": "user", "content": []}
            return _document({"object": "list", "data": [item], "has_more": False})
        if request.params().get("stream") == "true":
            kept.looks = max(kept.looks, kept.polls + 1)
            return _events(kept, int(request.params().get("starting_after", -1)))
        return _document(_response(kept))

    def _create_response(self, request: Request, key: str, entry: Entry) -> Script | None:
        body = _body(request)
        for name in ("previous_response_id", "conversation"):
            if isinstance(named := body.get(name), str) and named in self._kept:
                self._find(named, key, None, f"{name} '{named}' not found.")
        does = {str(name): str(value) for name, value in (body.get("metadata") or {}).items()}
        is_background = body.get("background") is True
        if not (is_background or "input" in does):
            return None
        kept = self._new("response", "resp", key, str(body.get("model")), does)
        kept.is_background = is_background
        kept.looks = 0 if is_background else kept.polls + 1
        entry.model, entry.spent = kept.model, kept.tokens
        entry.stream = body.get("stream") is True
        if entry.stream:
            kept.looks = kept.polls + 1
            return _events(kept, -1, cut_after=int(does["cut"]) if "cut" in does else None)
        return _document(_response(kept))

    # -- conversations ------------------------------------------------------------------------------------

    def _conversations(self, request: Request, rest: list[str], key: str) -> Script:
        if not rest:
            kept = self._new("conversation", "conv", key, "", {})
        else:
            kept = self._find(rest[0], key, "conversation", f"Conversation with id '{rest[0]}' not found.")
        if request.method == "DELETE" and len(rest) == 1:
            del self._kept[kept.object_id]
            deleted = {"id": kept.object_id, "object": "conversation.deleted", "deleted": True}
            return _document(deleted)
        if len(rest) > 1:
            return _document({"object": "list", "data": [], "has_more": False})
        return _document({"id": kept.object_id, "object": "conversation", "created_at": FIXED_CREATED})

    # -- batches ------------------------------------------------------------------------------------------

    def _batches(self, request: Request, rest: list[str], key: str, entry: Entry) -> Script:
        if not rest and request.method == "GET":
            data = [_batch(kept, request) for kept in self._kept.values() if kept.kind == "batch"]
            return _document({"data": data, "has_more": False}, ANTHROPIC)
        if not rest:
            kept = self._create_batch(request, key, entry)
        else:
            kept = self._find(rest[0], key, "batch", "Not found")
        if request.method == "DELETE":
            del self._kept[kept.object_id]
            return _document({"id": kept.object_id, "type": "message_batch_deleted"}, ANTHROPIC)
        if rest[1:] == ["results"]:
            return _results(kept)
        if rest[1:] == ["cancel"]:
            kept.is_cancelled = True
        elif rest:
            kept.looks += 1
        return _document(_batch(kept, request), ANTHROPIC)

    def _create_batch(self, request: Request, key: str, entry: Entry) -> _Kept:
        requests = _body(request).get("requests")
        if not isinstance(requests, list) or not requests:
            raise CallError(400, "requests: Field required")
        kept = self._new("batch", "msgbatch", key, "", _spec(requests[0]))
        kept.requests = requests
        spent = [_tokens(_spec(item)) for item in requests if "result" not in _spec(item)]
        fresh, output = sum(item.fresh for item in spent), sum(item.output for item in spent)
        entry.spent = Tokens(fresh=fresh, output=output)
        entry.model = str(requests[0]["params"]["model"])
        return kept

    # -- all ----------------------------------------------------------------------------------------------

    def _new(self, kind: str, prefix: str, key: str, model: str, does: Mapping[str, str]) -> _Kept:
        self._made += 1
        kept = _Kept(f"{prefix}_sim{self._made:08d}", key, kind, model, does)
        self._put(kept)
        return kept

    def _put(self, kept: _Kept) -> None:
        self._kept[kept.object_id] = kept
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def _find(self, object_id: str, key: str, kind: str | None, message: str) -> _Kept:
        kept = self._kept.get(object_id)
        if kept is None or kept.key != key or (kind is not None and kept.kind != kind):
            raise CallError(404, message)
        return kept


def _tokens(does: Mapping[str, str]) -> Tokens:
    return Tokens(fresh=int(does.get("input", 30)), output=int(does.get("output", 12)))


def _spec(item: dict[str, Any]) -> dict[str, str]:
    told = str(item.get("params", {}).get("metadata", {}).get("user_id", ""))
    return dict(part.partition("=")[::2] for part in told.split(",") if "=" in part)


def _body(request: Request) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        raise CallError(400, "could not parse the JSON body of your request") from None
    return document if isinstance(document, dict) else {}


def _response(kept: _Kept) -> dict[str, Any]:
    if kept.document:
        return kept.document
    status = _status(kept)
    told = status in ("completed", "incomplete") or (status == "failed" and "output" in kept.does)
    tokens = kept.tokens
    usage = {
        "input_tokens": tokens.fresh,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.fresh + tokens.output,
    }
    item = {
        "id": f"msg_{kept.object_id[5:]}",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "word " * tokens.output, "annotations": []}],
    }
    failure = {"code": "server_error", "message": "The model failed"}
    return {
        "id": kept.object_id,
        "object": "response",
        "created_at": FIXED_CREATED,
        "status": status,
        "background": kept.is_background,
        "error": failure if status == "failed" else None,
        "model": kept.model,
        "output": [item] if status in ("completed", "incomplete") else [],
        "usage": usage if told else None,
    }


def _status(kept: _Kept) -> str:
    if kept.is_cancelled and not (kept.does.get("late") and kept.looks > kept.polls + 1):
        return "cancelled"
    if kept.looks > kept.polls:
        return kept.does.get("status", "completed")
    return "in_progress" if kept.looks > 1 else "queued"


def _events(kept: _Kept, after: int, cut_after: int | None = None) -> Script:
    whole = _response(kept)
    begun = {**whole, "status": "in_progress", "usage": None, "output": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**begun, "status": "queued"}},
        {"type": "response.in_progress", "response": begun},
    ]
    events += [
        {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": "word "}
        for _ in range(kept.tokens.output)
    ]
    events.append({"type": f"response.{whole['status']}", "response": whole})
    shown = [
        Data(
            b"event: %b\ndata: %b\n\n"
            % (event["type"].encode(), msgspec.json.encode({**event, "sequence_number": number}))
        )
        for number, event in enumerate(events)
        if number > after and (cut_after is None or number <= cut_after)
    ]
    head = Head(200, tuple(base_headers(OPENAI, SSE)), "chunked")
    return Script((head, *shown, End() if cut_after is None else Close()), cut=cut_after is not None)


def _batch(kept: _Kept, request: Request) -> dict[str, Any]:
    ended = kept.has_ended
    host = request.header("host") or "api.anthropic.com"
    status = "ended" if ended else "canceling" if kept.is_cancelled else "in_progress"
    results = [_spec(item).get("result", "succeeded") for item in kept.requests]
    counts = {name: results.count(name) for name in ("succeeded", "errored", "canceled", "expired")}
    counts = (
        {"processing": 0, **counts} if ended else {"processing": len(results), **dict.fromkeys(counts, 0)}
    )
    return {
        "id": kept.object_id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "ended_at": "2026-11-23T12:10:00Z" if ended else None,
        "created_at": "2026-11-23T12:00:00Z",
        "expires_at": "2026-11-24T12:00:00Z",
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"https://{host}/v1/messages/batches/{kept.object_id}/results" if ended else None,
    }


def _results(kept: _Kept) -> Script:
    if not kept.has_ended:
        raise CallError(400, "The batch has not ended")
    lines = [_result(item) for item in reversed(kept.requests)]  # any order is allowed
    cut = kept.does.get("cut")
    if cut is not None and not kept.document:
        kept.document = {"cut": True}
        whole = b"".join(lines)
        head = Head(200, (("Content-Type", "application/x-jsonl"),), "chunked")
        return Script((head, Data(whole[: int(cut)]), Close()), cut=True)
    head = Head(200, (("Content-Type", "application/x-jsonl"),), "chunked")
    return Script((head, *map(Data, lines), End()))


def _result(item: dict[str, Any]) -> bytes:
    does = _spec(item)
    kind = does.get("result", "succeeded")
    result: dict[str, Any] = {"type": kind}
    if kind == "succeeded":
        tokens = _tokens(does)
        result["message"] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": item["params"]["model"],
            "content": [{"type": "text", "text": "word " * tokens.output}],
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": tokens.fresh,
                "output_tokens": tokens.output,
                "service_tier": "batch",
                **({"cost": float(does["cost"])} if "cost" in does else {}),
            },
        }
    elif kind == "errored":
        result["error"] = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    return msgspec.json.encode({"custom_id": item["custom_id"], "result": result}) + b"\n"


def _document(document: dict[str, Any], wire_format: str = OPENAI) -> Script:
    body = msgspec.json.encode(document)
    head = Head(200, tuple(base_headers(wire_format, JSON)), "length", len(body), flush=False)
    return Script((head, Data(body), End()))
