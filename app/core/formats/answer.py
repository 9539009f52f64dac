"""Reading whole JSON answers: Messages, Chat Completions, Responses, token counts, errors."""

from typing import Any

import msgspec

from app.core.lenient_json import loads_lenient
from app.core.readings import BAD_JSON, Readings

_EMPTY = frozenset((b"", b"null", b"[]", b'""'))


class _Choice(msgspec.Struct, gc=False):
    usage: Any = None


class _Answer(msgspec.Struct, gc=False):
    """What matters in a body; the generated text is not decoded."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    type: Any = None
    choices: list[_Choice] | None = None
    content: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    error: Any = None
    input_tokens: Any = None
    message: Any = None
    errorType: Any = None  # noqa: N815 (named as on the wire)


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes, readings: Readings) -> bool:
    """Read a body into `readings`; whether it is a whole answer: a JSON object without an error."""
    try:
        answer = _decode(body)
    except (ValueError, RecursionError):
        recovered = _recover(body)
        if recovered is None:
            readings.flags.add(BAD_JSON)
            return False
        answer = recovered
    readings.identify(answer.id, answer.model, answer.service_tier)
    if answer.choices:
        readings.usage.add(answer.choices[0].usage)
    if isinstance(answer.usage, dict):
        readings.usage.add(answer.usage)
        readings.identify(None, None, answer.usage.get("service_tier"))
    elif answer.usage is None and answer.type is None and answer.input_tokens is not None:
        readings.counted_tokens = {"input_tokens": answer.input_tokens}
    readings.fail(answer.error)
    if isinstance(answer.errorType, str):
        readings.fail({"type": answer.errorType, "message": answer.message})
    readings.has_content = bool(answer.choices) or not {bytes(answer.content), bytes(answer.output)} <= _EMPTY
    readings.is_terminated = readings.error is None
    return readings.is_terminated


def _recover(body: bytes) -> _Answer | None:
    """Read what the typed decoder refused; None if it is no JSON object."""
    try:
        raw = loads_lenient(body)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    answer = _Answer(**{name: raw[name] for name in _Answer.__struct_fields__ if name in raw})
    choices = raw.get("choices")
    answer.choices = None
    if isinstance(choices, list):
        answer.choices = [_Choice(item.get("usage")) for item in choices if isinstance(item, dict)]
    answer.content = msgspec.Raw(b"[1]" if raw.get("content") else b"")
    answer.output = msgspec.Raw(b"[1]" if raw.get("output") else b"")
    return answer
