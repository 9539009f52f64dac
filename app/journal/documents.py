"""Records and opened requests as the BSON the journal keeps."""

import struct
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.int64 import Int64

from app.journal.journal_format import MAX_PAYLOAD, Entry, OpenRequest, decode_entry
from app.records.records import NOT_ATTRIBUTED, Attribution, ExchangeRecord, Outcome

Document = dict[str, Any]

# What an interrupted request's client was sent is not known; its connection broke.
INTERRUPTED_STATUS = 500

_CHECKPOINT = "record"
"""The member of an OPEN's document that holds a whole record."""
_BEFORE_CHECKPOINT = b"\x03" + _CHECKPOINT.encode() + b"\0"
"""What stands before the value of a member in BSON: its type, 3 for a document, and its name."""

_OPEN_NAMES = (
    *("userId", "userKeyId", "createdAt", "apiFormat"),
    *("endpoint", "stream", "model", "requestedModel"),
)
"""What records call that which an OPEN holds, in the order in which `encode_open` has it."""

_OPTIONS: "CodecOptions[Document]" = CodecOptions(tz_aware=True, tzinfo=UTC)
_MAX_DOCUMENT = MAX_PAYLOAD - 1024
_COST = "costNanoUsd"
_MAX_FIELD = 8 * 1024
_MAX_TEXT = 500
_UNFIT = (BSONError, OverflowError, UnicodeError, RecursionError, TypeError, ValueError)

_encode = bson.encode
_pack_length = struct.Struct("<i").pack


def encode_document(document: Document) -> tuple[Document, bytes]:
    """Return the document and its BSON.

    Fields that BSON cannot hold, or that are too long, become text in both.
    """
    try:
        encoded = _encode(document)
    except _UNFIT:
        encoded = b""
    if encoded and len(encoded) <= _MAX_DOCUMENT:
        return document, encoded
    storable = {name: _storable(name, value) for name, value in document.items()}
    return storable, _encode(storable)


def encode_record(record: ExchangeRecord) -> tuple[Document, bytes]:
    """Return the record's document and its BSON, as `encode_document` makes them.

    Most of the document is the same when the record is checkpointed and when the request has ended: those
    facts are encoded once and kept by the record in between.
    """
    ending = record.ending()
    facts, whole = _encoded(record, ending)
    document = facts | ending
    return (document, whole) if whole else encode_document(document)


def _encoded(record: ExchangeRecord, ending: Document) -> tuple[Document, bytes]:
    """Return the record's facts, and the BSON of these with its ending; nothing where that does not fit."""
    if record.kept is None:
        record.kept = _encode_facts(record)
    facts, encoded = record.kept
    try:
        whole = _joined(encoded, _encode(ending)) if encoded else b""
    except _UNFIT:
        whole = b""
    return facts, whole if len(whole) <= _MAX_DOCUMENT else b""


def _encode_facts(record: ExchangeRecord) -> tuple[Document, bytes]:
    """Return a record's facts and their BSON; nothing where they do not fit."""
    facts = record.facts()
    try:
        facts[_COST] = Int64(facts[_COST])  # as it has to be stored; a small one would become 32 bits wide
        encoded = _encode(facts)
    except _UNFIT:
        encoded = b""
    return facts, encoded


def _joined(one: bytes, other: bytes) -> bytes:
    """Join two BSON documents that have no name in common into one with the members of both.

    A document is its length (4 bytes, all of it), its members one after the other, and a zero.
    """
    return b"".join((_pack_length(len(one) + len(other) - 5), one[4:-1], other[4:]))


def decode_record(encoded: bytes) -> Document:
    """Decode the document of a CLOSE; raises ValueError."""
    try:
        return bson.decode(encoded, _OPTIONS)
    except _UNFIT as error:
        raise ValueError(f"no document: {error}") from None


def encode_open(request: OpenRequest) -> bytes:
    """Encode what is kept of a request that is about to be forwarded."""
    document = {
        "u": request.user_id,
        "k": request.user_key_id,
        "t": request.accepted_at,
        "f": request.api_format,
        "e": request.endpoint,
        "s": request.stream,
        "m": request.model,
        "r": request.requested_model,
    }
    if request.attribution != NOT_ATTRIBUTED:
        document["a"] = request.attribution.to_document()
    return encode_document(document)[1]


def encode_checkpoint(record: ExchangeRecord) -> bytes:
    """Encode the whole record of a request of which more is known than at its start."""
    ending = record.ending()
    facts, document = _encoded(record, ending)
    if not document:
        document = encode_document(facts | ending)[1]
    return b"".join(
        (_pack_length(len(document) + len(_BEFORE_CHECKPOINT) + 5), _BEFORE_CHECKPOINT, document, b"\0")
    )


def interrupted_document(entry: Entry, last_ms: int) -> dict[str, Any]:
    """Make the record of a request whose process died, from its last OPEN; raises ValueError.

    `last_ms` is the journal's last heartbeat: the request lasted at least that long.
    """
    try:
        known = bson.decode(entry.document, _OPTIONS)
        if _CHECKPOINT in known:
            checkpointed: dict[str, Any] = known[_CHECKPOINT]
            return checkpointed
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
            attribution=Attribution.from_document(known.get("a") or {}),
        ).to_document()
    except (BSONError, KeyError, TypeError) as error:
        raise ValueError(f"the OPEN of {entry.request_id} cannot be read: {error!r}") from None


def open_document(payload: bytes) -> Document | None:
    """Return who sent the request of an OPEN's payload, what for and since when; None for a sum of refusals.

    Raises ValueError.
    """
    entry = decode_entry(payload)
    try:
        known = bson.decode(entry.document, _OPTIONS)
        record = known.get(_CHECKPOINT)
        if record is None:
            names = dict(zip("uktfesmr", _OPEN_NAMES, strict=True))
            record = {names[name]: known[name] for name in names}
        elif record.get("outcome") == Outcome.REJECTED:
            return None
        return {"id": entry.request_id, **{name: record.get(name) for name in _OPEN_NAMES}}
    except (BSONError, KeyError, TypeError, AttributeError) as error:
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
