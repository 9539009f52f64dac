"""Records and opened requests as the BSON the journal keeps."""

from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError

from app.core.journal_format import MAX_PAYLOAD, Entry, OpenRequest
from app.core.records import ExchangeRecord, Outcome

Document = dict[str, Any]

INTERRUPTED_STATUS = 500
"""What an interrupted request's client was sent is not known; its connection broke."""

_FORESEEN = "record"
"""The member of an OPEN's document that holds a whole record."""

_OPTIONS: "CodecOptions[Document]" = CodecOptions(tz_aware=True, tzinfo=UTC)
_MAX_DOCUMENT = MAX_PAYLOAD - 1024
_MAX_FIELD = 8 * 1024
_MAX_TEXT = 500
_UNFIT = (BSONError, OverflowError, UnicodeError, RecursionError, TypeError, ValueError)

_encode = bson.encode


def encode_record(document: Document) -> tuple[Document, bytes]:
    """The document and its BSON. Fields that BSON cannot hold, or that are too long, become text in both."""
    try:
        encoded = _encode(document)
    except _UNFIT:
        encoded = b""
    if encoded and len(encoded) <= _MAX_DOCUMENT:
        return document, encoded
    storable = {name: _storable(name, value) for name, value in document.items()}
    return storable, _encode(storable)


def decode_record(encoded: bytes) -> Document:
    """The document of a CLOSE; raises ValueError."""
    try:
        return bson.decode(encoded, _OPTIONS)
    except _UNFIT as error:
        raise ValueError(f"no document: {error}") from None


def encode_open(request: OpenRequest) -> bytes:
    """What is kept of a request that is about to be forwarded."""
    return encode_record(
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
    document = record.to_document()
    try:
        encoded = _encode({_FORESEEN: document})
    except _UNFIT:
        encoded = b""
    if encoded and len(encoded) <= _MAX_DOCUMENT:
        return encoded
    return _encode({_FORESEEN: encode_record(document)[0]})


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
