"""The body of a message batch: many requests in one, each for a model of its own.

Every request is checked as if it had come by itself. The body goes upstream as it came, but for models that
the upstream calls something else.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from app.wires.endpoints import Endpoint
from app.wires.errors import Refusal, invalid_body
from app.wires.request_body import (
    MAX_ITEMS,
    RequestBody,
    has_more_items,
    parse_body,
    read_object,
    refuse_many_parts,
)

MAX_ID: Final = 64

_text = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_UNREADABLE = (ValueError, RecursionError)


class BatchedRequest(msgspec.Struct, frozen=True, gc=False):
    """One request of a batch: its name, its body, and where that begins in the batch's."""

    custom_id: str
    body: RequestBody
    start: int


def parse_batch(data: bytes, endpoint: Endpoint, rest: Callable[[], None]) -> Iterator[BatchedRequest]:
    """Yield the requests of a batch one after the other, checked as `endpoint` has it.

    Raises a 400 `Refusal` that says what is wrong and where. `rest` is called between them.
    """
    seen: set[str] = set()
    at = 0
    refuse_many_parts(data, rest)
    for number, raw in enumerate(_requests(data, rest)):
        where = f"requests.{number}"
        members = read_object(raw, ("custom_id", "params"), where)
        custom_id = _custom_id(members["custom_id"], where)
        if custom_id in seen:
            raise invalid_body(f"{where}.custom_id: {custom_id!r} is there twice", f"{where}.custom_id")
        seen.add(custom_id)
        params = bytes(members["params"])
        at = data.index(params, at)
        try:
            body = parse_body(params, endpoint, rest)
        except Refusal as refusal:
            raise invalid_body(f"{where}.params: {refusal.message}", f"{where}.params") from None
        if body.stream:
            raise invalid_body(f"{where}.params.stream: a batch has no streams", f"{where}.params.stream")
        yield BatchedRequest(custom_id, body, at)
        at += len(params)
        rest()


def with_models(data: bytes, renamed: Mapping[int, tuple[RequestBody, str]]) -> bytes:
    """Return the batch's body with other models in some requests, by where those begin."""
    pieces: list[bytes] = []
    at = 0
    for start, (body, upstream_model) in sorted(renamed.items()):
        pieces += (data[at:start], body.forwarded(upstream_model, False))
        at = start + len(body.data)
    pieces.append(data[at:])
    return b"".join(pieces)


def _requests(data: bytes, rest: Callable[[], None]) -> list[msgspec.Raw]:
    found = read_object(data, ("requests",), "")["requests"]
    if has_more_items(bytes(found), rest):
        raise invalid_body(f"requests: a batch has at most {MAX_ITEMS:,} requests", "requests")
    try:
        requests = _list(found)
    except _UNREADABLE:
        requests = []
    if not requests:
        raise invalid_body("requests: a batch needs a list of requests", "requests")
    return requests


def _custom_id(value: msgspec.Raw, where: str) -> str:
    try:
        custom_id = _text(value)
    except _UNREADABLE:
        custom_id = ""
    if not 0 < len(custom_id) <= MAX_ID or not custom_id.isprintable():
        raise invalid_body(f"{where}.custom_id: takes 1 to {MAX_ID} characters", f"{where}.custom_id")
    return custom_id
