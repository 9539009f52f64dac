"""Reading whole JSON answers: Messages, Chat Completions, token counts, errors; Responses by their own."""

from typing import Any

import msgspec

from app.common.lenient_json import loads_lenient
from app.wires.formats.failures import CHOICES_MISSING, NO_ANSWER, told_error, told_error_in
from app.wires.formats.responses import read_response
from app.wires.readings import BAD_JSON, Readings

_EMPTY = frozenset((b"", b"null", b"[]", b'""'))
_TEXTS = frozenset(
    (
        *("content", "text", "reasoning_content", "reasoning", "refusal", "thinking", "arguments"),
        *("partial_json", "output_text"),
    )
)
"""Members whose strings were generated."""
_MAX_DEPTH = 12


class _Choice(msgspec.Struct, gc=False):
    usage: Any = None
    finish_reason: Any = None
    error: Any = None


class _Answer(msgspec.Struct, gc=False):
    """What matters in a body; the generated text is not decoded."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    type: Any = None
    object: Any = None
    choices: list[_Choice] | None = None
    content: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    x_groq: Any = None
    stop_reason: Any = None
    container: Any = None
    error: Any = None
    input_tokens: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def read_answer(body: bytes, readings: Readings, choices: int = 1) -> bool:
    """Read a body into `readings`; return whether it is a whole answer: a JSON object without an error.

    `choices` is how many were asked for.
    """
    try:
        answer = _decode(body)
    except (ValueError, RecursionError):
        recovered = _recover(body, readings)
        if recovered is None:
            return False
        answer = recovered
    if (is_whole := read_response(body, readings) if _may_be_response(answer) else None) is not None:
        return is_whole
    readings.identify(answer.id, answer.model, answer.service_tier)
    readings.contain(answer.container)
    for choice in answer.choices or ():
        readings.use(choice.usage)
    if isinstance(answer.x_groq, dict):
        readings.use(answer.x_groq.get("usage"))
    readings.use(answer.usage)
    if answer.usage is None and answer.type is None and answer.input_tokens is not None:
        readings.counted_tokens = {"input_tokens": answer.input_tokens}
    readings.has_content = bool(answer.choices) or bytes(answer.content) not in _EMPTY
    _find_error(answer, body, readings, choices)
    readings.is_terminated = readings.error is None
    return readings.is_terminated


def _find_error(answer: _Answer, body: bytes, readings: Readings, choices: int) -> None:
    readings.fail(answer.error)
    for choice in answer.choices or ():
        if choice.finish_reason == "error" or choice.error:
            readings.fail(choice.error or {"type": "error"})
    if readings.error is None and not _is_answer(answer, readings):
        readings.fail(told_error_in(body) or {"type": NO_ANSWER})
    if choices > 1 and answer.choices is not None and len(answer.choices) < choices:
        readings.fail({"type": CHOICES_MISSING})


def _is_answer(answer: _Answer, readings: Readings) -> bool:
    """Return whether a body answers anything: choices, a message, a response, a list or a count of tokens."""
    if readings.has_content or answer.stop_reason is not None or readings.counted_tokens is not None:
        return True
    return answer.object == "list" and bytes(answer.data) != b""


def _may_be_response(answer: _Answer) -> bool:
    kind = answer.object
    return answer.choices is None and (
        (isinstance(kind, str) and kind.startswith("response")) or bytes(answer.output) not in _EMPTY
    )


def _recover(body: bytes, readings: Readings) -> _Answer | None:
    """Read what the typed decoder refused; None if it is no JSON object."""
    try:
        raw = loads_lenient(body)
    except ValueError:
        readings.flags.add(BAD_JSON)
        return None
    if not isinstance(raw, dict):
        readings.flags.add(BAD_JSON)
        readings.fail(told_error(raw))
        return None
    answer = _Answer(**{name: raw[name] for name in _Answer.__struct_fields__ if name in raw})
    choices = raw.get("choices")
    answer.choices = None
    if isinstance(choices, list):
        names = _Choice.__struct_fields__
        known = [item for item in choices if isinstance(item, dict)]
        answer.choices = [_Choice(**{name: item.get(name) for name in names}) for item in known]
    for name in ("content", "output", "data"):
        setattr(answer, name, msgspec.Raw(b"[1]" if raw.get(name) else b""))
    return answer


def generated_bytes(body: bytes) -> int:
    """Estimate how many bytes of text were generated for a body, where nothing tells how many tokens."""
    try:
        return _text_size(loads_lenient(body), _MAX_DEPTH)
    except ValueError:
        return 0


def _text_size(value: Any, depth: int) -> int:
    if not depth:
        return 0
    if isinstance(value, list):
        return sum(_text_size(item, depth - 1) for item in value)
    if not isinstance(value, dict):
        return 0
    size = 0
    for name, member in value.items():
        if isinstance(member, str):
            size += len(member.encode("utf-8", "replace")) if name in _TEXTS else 0
        elif name == "input":
            size += len(str(member))
        elif name != "usage":
            size += _text_size(member, depth - 1)
    return size
