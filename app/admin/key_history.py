"""Which states an upstream key was in, and when: what its changes come to over a range of time. Pure.

Changes are kept for a time only, and at most so many are read: what was before is not known, and not guessed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

_WORDS: Final[Mapping[str, str]] = {
    "rate_limited": "rate limited",
    "exhausted": "out of money",
    "error": "refused",
}
_REASONS: Final[Mapping[str, str]] = {
    "ok": "an answer came",
    "probe": "the pool asked the upstream, and was served",
    "reset": "reset by an operator",
    "budget_code": "no money left, by the code of an error",
    "budget_words": "no money left, by the words of an error",
    "payment_required": "the upstream wants to be paid",
    "capped": "its own cap is used up",
    "cap raised": "its own cap was raised",
    "ban_code": "banned, by the code of an error",
    "ban_words": "banned, by the words of an error",
    "unauthorized": "the upstream does not know the key, or does not accept it",
    "forbidden": "the upstream forbids it",
    "rate_limited": "the upstream says: too many requests",
    "server_error": "the upstream failed, again and again",
    "gateway_timeout": "the upstream's gateway timed out, again and again",
    "web_page": "web pages came in the place of answers",
}
_LOST = ("exhausted", "error")
WIDTH = 1000
"""How wide a strip is drawn, in units of its own."""

_LEAST_WIDTH = 6


class Change(Protocol):
    """A key went from one state to another; `from_status` is None for a key that was new then."""

    @property
    def from_status(self) -> str | None: ...  # noqa: D102
    @property
    def to_status(self) -> str: ...  # noqa: D102
    @property
    def at(self) -> datetime: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Stretch:
    """A state as it is drawn: from `x` on, `width` wide. `status` None: nothing is known."""

    status: str | None
    start: datetime
    end: datetime
    x: int
    width: int


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """The states of a key over a range, how often it was limited, and how often it went out of use."""

    stretches: Sequence[Stretch] = ()
    limited: int = 0
    lost: int = 0

    @property
    def summary(self) -> str:
        """Say in words how much of the time it was in which state."""
        known = [stretch for stretch in self.stretches if stretch.status is not None]
        whole = sum((stretch.end - stretch.start).total_seconds() for stretch in known)
        if not whole:
            return "nothing is known of this time"
        spent: Counter[str] = Counter()
        for stretch in known:
            spent[str(stretch.status)] += (stretch.end - stretch.start).total_seconds()  # type: ignore[assignment]
        parts = (f"{key_state(status)} {_share(seconds, whole)}" for status, seconds in spent.most_common())
        told = ", ".join(parts)
        return told if len(known) == len(self.stretches) else f"{told} of the time that is known"


def key_state(status: str) -> str:
    """Say the state of an upstream key in words."""
    return _WORDS.get(status, status)


def key_reason(reason: str) -> str:
    """Say in words why a key changed its state; what is in words already stays."""
    return _REASONS.get(reason) or (reason if " " in reason else reason.replace("_", " "))


def history_of(
    changes: Iterable[Change],
    status_now: str | None,
    start: datetime,
    end: datetime,
    *,
    known_from: datetime | None = None,
) -> KeyHistory:
    """Return the history of a key from `start` to `end`.

    `changes` are all of its since `start`, up to now, in any order; `status_now` is its state now (None: it
    is gone); before `known_from` nothing is known.
    """
    in_order = sorted(changes, key=lambda change: change.at)
    status = in_order[0].from_status if in_order else status_now
    known = max(start, known_from) if known_from is not None else start
    spans: list[tuple[str | None, datetime]] = [(None, start)] if known > start else []
    spans.append((status, known))
    limited = lost = 0
    for change in in_order:
        if not known <= change.at < end:
            continue
        spans.append((change.to_status, change.at))
        limited += change.to_status == "rate_limited"
        lost += change.to_status in _LOST and change.from_status not in _LOST
    ends = [moment for _, moment in spans[1:]] + [end]
    drawn = [
        _stretch(status, begin, over, start, end)
        for (status, begin), over in zip(spans, ends, strict=True)
        if over > begin
    ]
    return KeyHistory(drawn, limited, lost)


def _stretch(status: str | None, begin: datetime, over: datetime, start: datetime, end: datetime) -> Stretch:
    whole = (end - start).total_seconds()
    x = round(WIDTH * (begin - start).total_seconds() / whole)
    width = round(WIDTH * (over - start).total_seconds() / whole) - x
    width = max(_LEAST_WIDTH, width)  # what was short is seen all the same
    return Stretch(status, begin, over, min(x, WIDTH - width), width)


def _share(part: float, whole: float) -> str:
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    return f"{min(percent, 99.9) if part < whole else percent:.1f}".removesuffix(".0") + " %"
