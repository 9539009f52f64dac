"""Comparing what is stored in two places, also while it is being written: values in, differences out.

The writer books every batch in a fixed order, so of two collections the one that is booked first (`source`)
never holds less than the one booked later (`derived`), and a moment later both hold the same. Hence:

- a source that holds less than the derived sums read *before* it differs, whatever else is going on;
- one that equals the derived sums read just before or just after it is right;
- one that holds more is looked at again. If the derived sums never reach what the source held at the first
  look, they differ; if they do but keep moving, nothing can be said while so much is being written.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

Sums = Mapping[str, float]
"""Sums by their stored names; an absent one is 0. Whole numbers, unless someone has tampered with them."""

Key = TypeVar("Key", bound=Hashable)
Reader = Callable[[Collection[Key]], Mapping[Key, Sums]]

# How long to wait before each further look: in all, longer than a writer needs for a batch.
PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

# This many differences of one check are listed; beyond them it is not worth looking on.
MAX_SHOWN = 100


class PairVerdict(StrEnum):
    """What some looks at a pair of sums say. `AHEAD`: the source holds more, and stays ahead."""

    SAME = "same"
    DIFFERENT = "different"
    AHEAD = "ahead"
    MOVING = "moving"


class Consistency(StrEnum):
    """How a check came out."""

    OK = "ok"
    DIFFERS = "differs"
    PENDING = "pending"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be: what, where, both values, and what to do about it."""

    what: str
    where: str
    expected: float | str
    found: float | str
    hint: str

    def to_json(self) -> dict[str, Any]:
        """Return the difference for programs to read."""
        return {
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a pair: the derived sums, the source, the derived sums again (None: not read again)."""

    before: Sums
    source: Sums
    after: Sums | None = None


@dataclass(slots=True)
class CheckResult:
    """One line of the report. `compared` counts what it looked at; lists hold up to `MAX_SHOWN`."""

    name: str
    title: str
    compared: int = 0
    unit: str = ""
    differences: list[Difference] = field(default_factory=list)
    difference_count: int = 0
    pending: list[Difference] = field(default_factory=list)
    pending_count: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> Consistency:
        """The check's outcome; one that looked at nothing but has something to say was not made."""
        if self.difference_count:
            return Consistency.DIFFERS
        if self.pending_count:
            return Consistency.PENDING
        return Consistency.NOT_CHECKED if self.notes and not self.compared else Consistency.OK

    @property
    def is_full(self) -> bool:
        """Whether enough was found to stop looking."""
        return self.difference_count >= MAX_SHOWN

    def add(self, differences: Iterable[Difference], *, is_pending: bool = False) -> None:
        """Note differences, or what will not be one any more once everything is booked."""
        shown = self.pending if is_pending else self.differences
        for difference in differences:
            if len(shown) < MAX_SHOWN:
                shown.append(difference)
            if is_pending:
                self.pending_count += 1
            else:
                self.difference_count += 1

    def to_json(self) -> dict[str, Any]:
        """Return the result for programs to read."""
        return {
            "name": self.name,
            "state": str(self.state),
            "compared": self.compared,
            "unit": self.unit,
            "differenceCount": self.difference_count,
            "differences": [difference.to_json() for difference in self.differences],
            "pendingCount": self.pending_count,
            "pending": [difference.to_json() for difference in self.pending],
            "notes": self.notes,
        }


def report_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return the whole report for programs: `consistent` is False exactly if something differs."""
    differences = sum(result.difference_count for result in results)
    return {
        "consistent": differences == 0,
        "differenceCount": differences,
        "pendingCount": sum(result.pending_count for result in results),
        "checks": [result.to_json() for result in results],
    }


def differing(expected: Sums, found: Sums) -> list[str]:
    """Return the names under which the sums differ, in the order of their appearance."""
    names = dict.fromkeys((*expected, *found))
    return [name for name in names if expected.get(name, 0) != found.get(name, 0)]


def judge(looks: Sequence[Look]) -> PairVerdict:
    """Judge one pair by the looks taken at it, given in the order they were taken."""
    for look in looks:
        if not differing(look.source, look.before):
            return PairVerdict.SAME
        if look.after is not None and not differing(look.source, look.after):
            return PairVerdict.SAME
    if any(_exceeds(look.before, look.source) for look in looks):
        return PairVerdict.DIFFERENT
    last = looks[-1].before if looks[-1].after is None else looks[-1].after
    return PairVerdict.AHEAD if _exceeds(looks[0].source, last) else PairVerdict.MOVING


def recheck(
    suspects: Mapping[Key, list[Look]],
    read_source: Reader[Key],
    read_derived: Reader[Key],
    pause: Callable[[float], None],
    pauses_s: Sequence[float] = PAUSES_S,
) -> dict[Key, PairVerdict]:
    """Look at the suspects again until each is decided or the pauses are used up; adds to their looks."""
    for delay in pauses_s:
        undecided = [
            key for key, looks in suspects.items() if judge(looks) in (PairVerdict.AHEAD, PairVerdict.MOVING)
        ]
        if not undecided:
            break
        pause(delay)
        before, source, after = read_derived(undecided), read_source(undecided), read_derived(undecided)
        for key in undecided:
            suspects[key].append(Look(before.get(key, {}), source.get(key, {}), after.get(key, {})))
    return {key: judge(looks) for key, looks in suspects.items()}


def is_explained(look: Look, stuck: int) -> bool:
    """Return whether `stuck` records, journaled and not fully booked, can be what the derived sums lack."""
    derived = look.before if look.after is None else look.after
    missing = look.source.get("requests", 0) - derived.get("requests", 0)
    return stuck > 0 and missing <= stuck and not _exceeds(derived, look.source)


def balance_differences(
    where: str, *, granted_nano: int | None, used_nano: int, overdraft_nano: int, balances: Mapping[str, int]
) -> list[Difference]:
    """Check one user's balances: granted − used + overdraft = what is left, none below zero.

    Amounts are nano-dollars; `granted_nano` None: not known, so only the signs are checked.
    """
    found = [
        Difference(
            f"{name} is negative",
            where,
            "0 or more",
            amount,
            "taken away by hand? `weir users credit NAME AMOUNT` puts it right",
        )
        for name, amount in balances.items()
        if amount < 0
    ]
    left = sum(balances.values())
    if granted_nano is not None and granted_nano - used_nano + overdraft_nano != left:
        found.append(
            Difference(
                "credits + refCredits (nano-USD)",
                where,
                granted_nano - used_nano + overdraft_nano,
                left,
                "granted − used + overdraft is not what is left: a balance was changed by other means than "
                "`weir users credit`",
            )
        )
    return found


def _exceeds(one: Sums, other: Sums) -> bool:
    return any(value > other.get(name, 0) for name, value in one.items())
