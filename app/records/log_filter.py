"""What the request log can be filtered by, read from text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Self

from app.common.cursor import FilterError
from app.common.money import NANO
from app.records.records import Outcome

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

_MAX_TEXT = 200
_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)")
_AGO = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS_AGO = {"today": 0, "yesterday": 1}
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:[ T](.+))?", re.ASCII)
_API_FORMATS = ("openai", "anthropic")
_USD = re.compile(r"\d{1,7}(\.\d{1,9})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)

FAILED = "failed"
"""Stands for every outcome but `ok`."""

VIEWS: Mapping[str, Mapping[str, str]] = {
    "failed": {"outcome": FAILED},
    "refused": {"outcome": Outcome.REJECTED},
    "slow": {"minLatencyMs": "10000"},
    "expensive": {"minCostUsd": "0.1"},
    "retried": {"minAttempts": "2"},
}
"""Filters that have a name, and the parameters each stands for; one that is given itself counts instead."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which records to show; None everywhere shows all of them.

    `status` is an inclusive range; `start` is inclusive, `end` exclusive; `text` is searched for, ignoring
    case, in the request id, user, model, error and the upstream's request id. `model` is the id of one, or
    what clients call it: that is all there is of one that is not known. `user_part` and `model_part` are
    parts of names, in any case; `min_cost_nano` is in nano-dollars, and `min_attempts` at how many upstream
    keys the request was tried at least. Several outcomes or keys are those of which a record has one.
    """

    model: str | None = None
    user: str | None = None
    key: str | tuple[str, ...] | None = None
    factory_key: str | None = None
    outcome: str | tuple[str, ...] | None = None
    status: tuple[int, int] | None = None
    api_format: str | None = None
    endpoint: str | None = None
    end_user: str | None = None
    session: str | None = None
    client: str | None = None
    tag: str | None = None
    user_part: str | None = None
    model_part: str | None = None
    min_cost_nano: int | None = None
    min_latency_ms: int | None = None
    min_attempts: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    text: str | None = None

    @classmethod
    def parse(cls, values: Mapping[str, str], now: datetime, tz: tzinfo) -> Self:
        """Read the parameters `model user key factoryKey outcome status apiFormat endpoint from to q`.

        And `user~ model~ minCostUsd minLatencyMs minAttempts`, and `endUser session client tag`, which name
        exactly what a record says; `view` is one of `VIEWS`. `tz` is the zone of times that name none. Empty
        and unknown parameters are left out of account; raises `FilterError`.
        """
        view = _choice(values, "view", tuple(VIEWS))
        if view is not None:
            given = {name: value for name, value in values.items() if value.strip()}
            values = {**VIEWS[view], **given}
        start, end = _given(values, "from"), _given(values, "to")
        found = cls(
            model=_given(values, "model"),
            user=_given(values, "user"),
            key=_given(values, "key"),
            factory_key=_given(values, "factoryKey"),
            outcome=_outcomes(values),
            status=_status_range(values),
            api_format=_choice(values, "apiFormat", _API_FORMATS),
            endpoint=_given(values, "endpoint"),
            end_user=_given(values, "endUser"),
            session=_given(values, "session"),
            client=_given(values, "client"),
            tag=_given(values, "tag"),
            user_part=_given(values, "user~"),
            model_part=_given(values, "model~"),
            min_cost_nano=_cost_nano(values),
            min_latency_ms=_whole(values, "minLatencyMs", "a whole number of milliseconds"),
            min_attempts=_whole(values, "minAttempts", "a whole number of attempts"),
            start=parse_moment("from", start, now, tz) if start else None,
            end=parse_moment("to", end, now, tz) if end else None,
            text=_given(values, "q"),
        )
        if found.start and found.end and found.start >= found.end:
            raise FilterError("from", "has to be before `to`")
        return found

    def reaches_before(self, moment: datetime | None) -> bool:
        """Return whether it asks for a time of which some is before this moment."""
        asked = self.start or self.end
        return moment is not None and asked is not None and asked < moment


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


def _outcomes(values: Mapping[str, str]) -> str | tuple[str, ...] | None:
    value = _given(values, "outcome")
    if value is None:
        return None
    if value == FAILED:
        return tuple(str(outcome) for outcome in Outcome if outcome is not Outcome.OK)
    named = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if not set(named) <= set(Outcome):
        raise FilterError("outcome", f"takes {FAILED}, or one or several of {', '.join(Outcome)}")
    return named[0] if len(named) == 1 else named


def _cost_nano(values: Mapping[str, str]) -> int | None:
    value = _given(values, "minCostUsd")
    if value is None:
        return None
    if not _USD.fullmatch(value):
        raise FilterError("minCostUsd", "takes an amount in USD such as 0.05")
    return int(Decimal(value) * NANO) or None


def _whole(values: Mapping[str, str], name: str, what: str) -> int | None:
    value = _given(values, name)
    if value is None:
        return None
    if not _WHOLE.fullmatch(value):
        raise FilterError(name, f"takes {what}")
    return int(value) or None


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


def parse_moment(name: str, text: str, now: datetime, tz: tzinfo) -> datetime:
    """Parse a time as people write it, in `tz` unless it says otherwise.

    An ISO 8601 date or time; a date as 27.11.2026, with a time or without; today and yesterday, which are
    their midnight; or how long ago: 90s, 15m, 24h, 7d, 1w. Raises `FilterError`.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return now - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(_as_iso(text, now.astimezone(tz).date()))
        return (moment.replace(tzinfo=tz) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise FilterError(
            name,
            "takes a date or time such as 2026-11-23, 23.11.2026, 2026-11-23 10:00 or 2026-11-23T10:00:00Z, "
            "today, yesterday, or how long ago, such as 24h, 7d or 1w",
        ) from None


def _as_iso(text: str, today: date) -> str:
    if text.lower() in _DAYS_AGO:
        return (today - timedelta(days=_DAYS_AGO[text.lower()])).isoformat()
    if dotted := _DOTTED.fullmatch(text):
        day, month, year, clock = dotted.groups()
        return f"{year}-{month:0>2}-{day:0>2}" + (f"T{clock}" if clock else "")
    # A `+` that was not escaped in a URL arrives as a blank.
    return re.sub(r" (\d\d:?\d\d)$", r"+\1", text) if "T" in text else text


def parse_limit(text: str | None, default: int = DEFAULT_LIMIT, most: int = MAX_LIMIT) -> int:
    """Parse how many records to show at once; raises `FilterError`."""
    if text is None or text == "":
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise FilterError("limit", f"takes a whole number from 1 to {most}")
    return int(text)
