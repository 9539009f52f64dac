"""Records and opened requests as the BSON the journal keeps."""

import struct
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.int64 import Int64

from app.core.journal_format import MAX_PAYLOAD, Entry, OpenRequest
from app.core.records import ExchangeRecord, Outcome

Document = dict[str, Any]

INTERRUPTED_STATUS = 500
"""What an interrupted request's client was sent is not known; its connection broke."""

_FORESEEN = "record"
"""The member of an OPEN's document that holds a whole record."""
_BEFORE_FORESEEN = b"\x03" + _FORESEEN.encode() + b"\0"
"""What stands before the value of a member in BSON: its type, 3 for a document, and its name."""

_OPTIONS: "CodecOptions[Document]" = CodecOptions(tz_aware=True, tzinfo=UTC)
_MAX_DOCUMENT = MAX_PAYLOAD - 1024
_COST = "costNanoUsd"
_MAX_FIELD = 8 * 1024
_MAX_TEXT = 500
_UNFIT = (BSONError, OverflowError, UnicodeError, RecursionError, TypeError, ValueError)

_encode = bson.encode
_pack_length = struct.Struct("<i").pack


def encode_document(document: Document) -> tuple[Document, bytes]:
    """The document and its BSON. Fields that BSON cannot hold, or that are too long, become text in both."""
    try:
        encoded = _encode(document)
    except _UNFIT:
        encoded = b""
    if encoded and len(encoded) <= _MAX_DOCUMENT:
        return document, encoded
    storable = {name: _storable(name, value) for name, value in document.items()}
    return storable, _encode(storable)


def encode_record(record: ExchangeRecord) -> tuple[Document, bytes]:
    """The record's document and its BSON, as `encode_document` makes them.

    Most of it is the same when the record is foreseen and when the request has ended: those facts are encoded
    once and kept by the record in between.
    """
    if record.kept is None:
        record.kept = _encode_facts(record)
    facts, encoded = record.kept
    ending = record.ending()
    document = facts | ending
    try:
        whole = _joined(encoded, _encode(ending)) if encoded else b""
    except _UNFIT:
        whole = b""
    return (document, whole) if 0 < len(whole) <= _MAX_DOCUMENT else encode_document(document)


def _encode_facts(record: ExchangeRecord) -> tuple[Document, bytes]:
    """A record's facts and their BSON; none where they do not fit."""
    facts = record.facts()
    try:
        facts[_COST] = Int64(facts[_COST])  # as it has to be stored; a small one would become 32 bits wide
        encoded = _encode(facts)
    except _UNFIT:
        encoded = b""
    return facts, encoded


def _joined(one: bytes, other: bytes) -> bytes:
    """The document with the members of both, which have no name in common.

    A document is its length (4 bytes, all of it), its members one after the other, and a zero.
    """
    return b"".join((_pack_length(len(one) + len(other) - 5), one[4:-1], other[4:]))


def decode_record(encoded: bytes) -> Document:
    """The document of a CLOSE; raises ValueError."""
    try:
        return bson.decode(encoded, _OPTIONS)
    except _UNFIT as error:
        raise ValueError(f"no document: {error}") from None


def encode_open(request: OpenRequest) -> bytes:
    """What is kept of a request that is about to be forwarded."""
    return encode_document(
        {
            "u": request.user_id,
            "k": request.user_key_id,
            "t": request.accepted_at,
            "f": request.api_format,
            "e": request.endpoint,
            "s": request.stream,
            "m": request.model,
            "r": request.requested_model,
        }
    )[1]


def encode_foreseen(record: ExchangeRecord) -> bytes:
    """The whole record of a request that has come so far that there is more to say than at its start."""
    document = encode_record(record)[1]
    return b"".join(
        (_pack_length(len(document) + len(_BEFORE_FORESEEN) + 5), _BEFORE_FORESEEN, document, b"\0")
    )


def interrupted_document(entry: Entry, last_ms: int) -> dict[str, Any]:
    """The record of a request whose process died, from its last OPEN; raises ValueError.

    `last_ms` is the journal's last sign of life: the request lasted at least that long.
    """
    try:
        known = bson.decode(entry.document, _OPTIONS)
        if _FORESEEN in known:
            foreseen: dict[str, Any] = known[_FORESEEN]
            return foreseen
        accepted_at = known["t"]
        accepted_ms = accepted_at.timestamp() * 1000 if isinstance(accepted_at, datetime) else entry.at_ms
        return ExchangeRecord(
            request_id=entry.request_id,
            user_id=known["u"],
            user_key_id=known["k"],
            created_at=accepted_at,
            api_format=known["f"],
            outcome=Outcome.INTERRUPTED,
            status_code=INTERRUPTED_STATUS,
            model=known["m"],
            requested_model=known["r"],
            endpoint=known["e"],
            stream=known["s"],
            error_type="interrupted",
            latency_ms=max(0, round(last_ms - accepted_ms)),
        ).to_document()
    except (BSONError, KeyError, TypeError) as error:
        raise ValueError(f"the OPEN of {entry.request_id} cannot be read: {error!r}") from None


def _storable(name: str, value: Any) -> Any:
    try:
        if len(_encode({name: value})) <= _MAX_FIELD:
            return value
    except _UNFIT:
        pass
    try:
        text = value if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError) as error:
        text = f"<not printable: {type(error).__name__}>"
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()
