"""Reading the documents of what an upstream keeps, such as conversations, and of what it keeps no more."""

from typing import Any

import msgspec

from app.common.lenient_json import clean_text
from app.wires.formats.failures import told_error_in
from app.wires.readings import BAD_JSON, Readings


class _Document(msgspec.Struct, gc=False):
    id: Any = None
    error: Any = None
    object: Any = None
    type: Any = None
    processing_status: Any = None


_decode = msgspec.json.Decoder(_Document).decode


def read_document(body: bytes, readings: Readings) -> bool:
    """Read a document into `readings`; return whether it is one: a JSON object that tells no error."""
    try:
        document = _decode(body)
    except (ValueError, RecursionError):
        readings.flags.add(BAD_JSON)
        return False
    readings.identify(document.id, None)
    if isinstance(document.processing_status, str):
        readings.status = clean_text(document.processing_status, 40)
    readings.fail(document.error)
    if document.object is None and document.type in (None, "error") and document.id is None:
        readings.fail(told_error_in(body))
    readings.is_terminated = readings.error is None
    return readings.is_terminated
