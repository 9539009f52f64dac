"""What the request log can be filtered by, read from text, and the cursor that pages through it."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from app.core.records import Outcome

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

_MAX_TEXT = 200
_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)")
_AGO = re.compile(r"(\d{1,6})([smhd])")
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_API_FORMATS = ("openai", "anthropic")


class FilterError(ValueError):
    """A filter value that cannot be used; `field` is the parameter's name, the text says what it takes."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which records to show; None everywhere shows all of them.

    `status` is an inclusive range; `start` is inclusive, `end` exclusive; `text` is searched for, ignoring
    case, in the request id, user, model, error type and the upstream's request id.
    """

    model: str | None = None
    user: str | None = None
    key: str | None = None
    factory_key: str | None = None
    outcome: str | None = None
    status: tuple[int, int] | None = None
    api_format: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    text: str | None = None

    @classmethod
    def parse(cls, values: Mapping[str, str], now: datetime) -> Self:
        """Read the parameters `model user key factoryKey outcome status apiFormat from to q`.

        Empty and unknown parameters are left out of account; raises `FilterError`.
        """
        start, end = _given(values, "from"), _given(values, "to")
        found = cls(
            model=_given(values, "model"),
            user=_given(values, "user"),
            key=_given(values, "key"),
            factory_key=_given(values, "factoryKey"),
            outcome=_choice(values, "outcome", tuple(Outcome)),
            status=_status_range(values),
            api_format=_choice(values, "apiFormat", _API_FORMATS),
            start=parse_moment("from", start, now) if start else None,
            end=parse_moment("to", end, now) if end else None,
            text=_given(values, "q"),
        )
        if found.start and found.end and found.start >= found.end:
            raise FilterError("from", "has to be before `to`")
        return found


def _given(values: Mapping[str, str], name: str) -> str | None:
    value = values.get(name, "").strip()
    if len(value) > _MAX_TEXT:
        raise FilterError(name, f"takes at most {_MAX_TEXT} characters")
    if "\0" in value:
        raise FilterError(name, "takes no NUL characters")
    return value or None


def _choice(values: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    value = _given(values, name)
    if value is not None and value not in choices:
        raise FilterError(name, f"takes one of {', '.join(choices)}")
    return value


def _status_range(values: Mapping[str, str]) -> tuple[int, int] | None:
    value = _given(values, "status")
    if value is None:
        return None
    found = _STATUS.fullmatch(value.lower())
    if found is None:
        raise FilterError("status", "takes a status such as 429, or a class such as 4xx")
    if found[1]:
        return int(found[1]) * 100, int(found[1]) * 100 + 99
    return int(found[2]), int(found[2])


def parse_moment(name: str, text: str, now: datetime) -> datetime:
    """An ISO 8601 date or time (UTC unless it says otherwise), or how long ago: 90s, 15m, 24h, 7d."""
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])})
        # A `+` that was not escaped in a URL arrives as a blank.
        moment = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text) if "T" in text else text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(
            name, "takes an ISO 8601 time such as 2026-11-23T10:00:00Z, or how long ago, such as 24h"
        ) from None


def parse_limit(text: str | None, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT) -> int:
    """How many records to show at once; raises `FilterError`."""
    if text is None or text == "":
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise FilterError("limit", f"takes a whole number from 1 to {most}")
    return int(text)


@dataclass(frozen=True, slots=True)
class PageCursor:
    """Where a page ended: the last record's time, in epoch milliseconds, and its id.

    Records of earlier software have ids made by MongoDB instead of texts (`is_native_id`), which sort
    after all texts.
    """

    created_ms: int
    record_id: str
    is_native_id: bool = False

    def encode(self) -> str:
        """As opaque text, fit for a URL."""
        content = json.dumps([self.created_ms, self.record_id, self.is_native_id], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Self:
        """From the text; raises `FilterError` for anything `encode` did not make."""
        try:
            padded = text + "=" * (-len(text) % 4)
            content = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            created_ms, record_id, is_native_id = content
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise FilterError("cursor", "is not one that was handed out as nextCursor") from None
        checks: tuple[Callable[[], bool], ...] = (
            lambda: type(created_ms) is int and 0 <= created_ms < 2**47,
            lambda: isinstance(record_id, str) and record_id.isprintable(),
            lambda: isinstance(is_native_id, bool),
            lambda: not is_native_id or re.fullmatch(r"[0-9a-f]{24}", record_id) is not None,
        )
        if not all(check() for check in checks):
            raise FilterError("cursor", "is not one that was handed out as nextCursor")
        return cls(created_ms, record_id, is_native_id)
