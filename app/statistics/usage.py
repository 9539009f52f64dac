"""Who used how much: what it is counted by, its order, its rows as JSON and CSV, and its pages."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Self

from app.accounts.credentials import shown_key_id
from app.common.csv_text import csv_lines, previous_columns
from app.common.cursor import FilterError
from app.statistics.figures import Totals, mean, usd
from app.statistics.periods import Period
from app.statistics.timeseries import DAY, GROUPS, MONTH, RECORD_GROUPS, UnknownChoiceError

_FIELDS: Mapping[str, str] = {**GROUPS, **RECORD_GROUPS}

WORDS = (*_FIELDS, DAY, MONTH)
"""What use can be counted by."""

MOST_WORDS = 2
MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

Key = tuple[str | None, ...]
"""A value for each word; None: requests that have none, such as those of no known model."""

_LATEST_MS = 2**47
_FURTHEST = 10**9
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Grouping:
    """One or two of `WORDS`, at most one of them a time."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `user`, or `user,model`; raises `FilterError`."""
        words = tuple(word.strip() for word in text.split(","))
        for word in words:
            if word not in WORDS:
                raise UnknownChoiceError("by", word, WORDS)
        if len(words) > MOST_WORDS or len(set(words)) < len(words) or {DAY, MONTH} <= set(words):
            raise FilterError("by", "takes one or two different words, one of them at most a time")
        return cls(words)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it counts by; a time is none."""
        return tuple(_FIELDS[word] for word in self.words if word in _FIELDS)

    @property
    def is_of_records(self) -> bool:
        """Whether only records say it. One with several tags counts once by each."""
        return any(word in RECORD_GROUPS for word in self.words)

    @property
    def bucket(self) -> str | None:
        """The size of the buckets of time it counts by, if it does."""
        return next((word for word in self.words if word in (DAY, MONTH)), None)

    def shown(self, key: Key) -> dict[str, str | None]:
        """Name the values; of client keys what may be seen of them."""
        return {
            word: shown_key_id(value) if word == "key" and value is not None else value
            for word, value in zip(self.words, key, strict=True)
        }

    def __str__(self) -> str:
        """Write it as it is asked for."""
        return ",".join(self.words)


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Some rows in their order, what all others come to (`other_count` of them), and everything together.

    Times come first in the order, oldest first, then those that cost most, then those with most requests.
    """

    by: Grouping
    rows: list[tuple[Key, Totals]]
    other_count: int
    other: Totals
    total: Totals
    has_more: bool

    def to_json(self, before: "UsageBefore | None" = None) -> dict[str, Any]:
        """Return `{by, rows, otherCount, other, total}`; with `before`, what each was the period before."""
        rows = [usage_row(self.by, key, sums) for key, sums in self.rows]
        compared: dict[str, Any] = {}
        if before is not None:
            compared["previous"] = before.to_json(self.by)
        if before is not None and before.period is not None:
            for row, (key, _) in zip(rows, self.rows, strict=True):
                row["previous"] = figures(before.rows.get(key, Totals()))
        return {
            **compared,
            "by": str(self.by),
            "countedFrom": "records" if self.by.is_of_records else "sums",
            "rows": rows,
            "otherCount": self.other_count,
            "other": usage_row(self.by, None, self.other) if self.other_count else None,
            "total": usage_row(self.by, None, self.total),
        }


@dataclass(frozen=True, slots=True)
class UsageBefore:
    """What the rows of a page were the period before, and everything then; `period` None: there is none."""

    period: Period | None
    rows: Mapping[Key, Totals]
    total: Totals

    def to_json(self, by: Grouping) -> dict[str, Any] | None:
        """Return the period, and everything in it together."""
        if self.period is None:
            return None
        return {**self.period.to_json(), "total": usage_row(by, None, self.total)}


@dataclass(frozen=True, slots=True)
class UsageCursor:
    """When the first page was asked for, and how many rows were shown: all pages are of the same requests."""

    now: datetime
    shown: int

    @classmethod
    def first(cls, now: datetime) -> Self:
        """Return where the first page begins."""
        return cls(now.replace(microsecond=now.microsecond // 1000 * 1000), 0)

    def encode(self) -> str:
        """Return the cursor as opaque text, fit for a URL."""
        content = json.dumps([round(self.now.timestamp() * 1000), self.shown])
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `encode` made; raises `FilterError` for anything else."""
        try:
            padded = text + "=" * (-len(text) % 4)
            now_ms, shown = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise _unknown_cursor() from None
        if type(now_ms) is not int or type(shown) is not int:
            raise _unknown_cursor()
        if not (0 <= now_ms < _LATEST_MS and 0 < shown < _FURTHEST):
            raise _unknown_cursor()
        return cls(datetime.fromtimestamp(now_ms / 1000, UTC), shown)


def _unknown_cursor() -> FilterError:
    return FilterError("cursor", "is not one that was handed out as nextCursor of this list")


def figures(totals: Totals) -> dict[str, Any]:
    """Return the sums under the names they have in usage."""
    return {
        "requestCount": totals.requests,
        "successCount": totals.success,
        "errorCount": totals.errors,
        "rejectedCount": totals.rejected,
        "inputTokens": totals.input_tokens,
        "outputTokens": totals.output_tokens,
        "cacheWriteTokens": totals.cache_write_tokens,
        "cacheHitTokens": totals.cache_hit_tokens,
        "cacheHitShare": totals.cache_hit_share,
        "reasoningTokens": totals.reasoning_tokens,
        "totalTokens": totals.input_tokens + totals.output_tokens,
        "creditsBurned": usd(totals.cost_nano_usd),
        "costNanoUsd": totals.cost_nano_usd,
        **totals.ledger(),
        "avgLatencyMs": mean(totals.latency_sum_ms, totals.latency_count),
        "avgTtftMs": mean(totals.ttft_sum_ms, totals.ttft_count),
    }


def usage_row(by: Grouping, key: Key | None, totals: Totals) -> dict[str, Any]:
    """Return a row; `key` None: several together. Where it is by one word, its value is `key` as well."""
    named = {} if key is None else by.shown(key)
    value = named.get(by.words[0]) if len(by.words) == 1 else None
    return {"key": value, **named, **figures(totals)}


Before = Callable[[Sequence[Key]], Mapping[Key, Totals] | None]
"""Returns what these keys used the period before; None where there is none."""


def usage_csv(
    by: Grouping, rows: Iterable[tuple[Key, Totals]], before: Before | None = None
) -> Iterator[str]:
    """Write a heading and a line per row (the caller ends the lines); `before` adds columns to compare."""
    names = list(figures(Totals()))
    columns = [*by.words, *names, *([] if before is None else previous_columns(names))]

    def lines() -> Iterator[list[object]]:
        rest = iter(rows)
        while some := list(islice(rest, _AT_ONCE)):
            earlier = None if before is None else before([key for key, _ in some])
            for key, totals in some:
                line = [*by.shown(key).values(), *figures(totals).values()]
                if earlier is not None:
                    line += figures(earlier.get(key, Totals())).values()
                elif before is not None:
                    line += [None] * len(names)
                yield line

    return csv_lines(columns, lines())
