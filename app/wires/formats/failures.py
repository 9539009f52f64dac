"""Errors that upstreams tell under status 200, in the shapes of those who are known to do so.

`error` members are looked for by the readers themselves, as they may stand anywhere. What is looked for here
are objects in the place of an answer or of an event: only those without anything of an answer are given.
"""

from typing import Any, Final

from app.common.lenient_json import loads_lenient

NO_ANSWER: Final = "no_answer"
"""The type of an error where nothing was told at all, but nothing was answered either."""
CHOICES_MISSING: Final = "choices_missing"
"""The type of an error where fewer answers came than were asked for."""

_TEXTS = (
    *("message", "msg", "Message", "error_msg", "status_msg", "detail"),
    *("errorMessage", "error_message", "error_description"),
)
_CODES = ("code", "statusCode", "status_code", "errorCode", "error_code")
_FINE = frozenset(("", "0", "200", "ok", "success", "none", "null"))
_LOWEST_ERROR = 400
_MOST_SHOWN = 2000


def told_error(raw: Any) -> Any:
    """Return the error an object without an answer tells, as `Readings.fail` takes it; None if it tells none.

    A list is as good as its first item, which is how Google sends errors.
    """
    if isinstance(raw, list):
        raw = raw[0] if raw else None
    if not isinstance(raw, dict):
        return None
    for name in ("error", "errors", "Error"):
        if error := raw.get(name):
            return error[0] if isinstance(error, list) else error
    if isinstance(raw.get("errorType"), str):
        return {"type": raw["errorType"], "message": _text(raw), "code": _code(raw)}
    if "error" in (raw.get("object"), raw.get("type"), raw.get("status")) or raw.get("success") is False:
        return _described(raw)
    if isinstance(detail := raw.get("base_resp"), dict) and _is_error_code(detail.get("status_code")):
        return _described(detail)
    if (text := _text(raw)) and (_code(raw) is not None or isinstance(raw.get("message"), str)):
        return _described(raw)
    if detail := raw.get("detail"):
        return {"message": text, "detail": detail}
    return None


def told_error_in(data: bytes) -> Any:
    """Return the error, as `told_error` does, of an object that is still to be read."""
    try:
        return told_error(loads_lenient(data))
    except ValueError:
        return None


def named_error_in(data: bytes) -> Any:
    """Return the error of an event that calls itself one, whatever is in it."""
    try:
        raw = loads_lenient(data)
    except ValueError:
        return data[:_MOST_SHOWN].decode("utf-8", "replace")
    return told_error(raw) or raw or {"type": "error"}


def _described(raw: dict[str, Any]) -> dict[str, Any]:
    kind = raw.get("type")
    return {"type": None if kind == "error" else kind, "code": _code(raw), "message": _text(raw)}


def _text(raw: dict[str, Any]) -> str:
    return next((raw[name] for name in _TEXTS if raw.get(name) and isinstance(raw[name], str)), "")


def _code(raw: dict[str, Any]) -> str | int | None:
    codes = [raw.get(name) for name in _CODES]
    status = raw.get("status")
    if type(status) is int and status >= _LOWEST_ERROR:
        codes.append(status)
    return next((code for code in codes if _is_error_code(code)), None)


def _is_error_code(code: object) -> bool:
    if isinstance(code, bool) or not isinstance(code, int | str):
        return False
    return (code if isinstance(code, str) else str(code)[:20]).lower() not in _FINE


def is_requests_fault(error: Any) -> bool:
    """Return whether an error is about the request, so that the upstream key has nothing to do with it."""
    if not isinstance(error, dict):
        return False
    words = [str(error.get(name))[:100].lower() for name in ("type", "code", "status", "errorType")]
    return any(
        word in _REQUEST_STATUSES or any(part in word.replace("_", "") for part in _REQUEST_WORDS)
        for word in words
    )


_REQUEST_STATUSES = frozenset(("400", "404", "413", "415", "422"))
_REQUEST_WORDS = (
    *("invalidrequest", "invalidparameter", "invalidargument", "badrequest", "notfound", "modelnot"),
    *("contextlength", "contentfilter", "contentpolicy", "moderation", "toolarge", "unsupported"),
)
