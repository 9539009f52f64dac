"""What a step of the migration is: it says what there is to do, and does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Document = dict[str, Any]

STATE = "migrations"
"""The collection in which is noted what has been begun."""

Progress = Callable[[int], None]
"""Told how many of a step's things are done so far. What it raises ends the step there."""


class MigrationError(Exception):
    """The migration cannot begin, or go on; the text is one line fit for an operator."""


class IncompleteError(MigrationError):
    """A part of a step cannot be done as the data is; the rest of it, `done` things, and other steps can."""

    def __init__(self, done: int, reason: str) -> None:
        super().__init__(reason)
        self.done = done


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step has to do: how many things, what has to be known about them, and what stands in the way."""

    pending: int
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Step(Protocol):
    """One kind of change. Everything in it may be repeated, after an end at any point as well."""

    name: str
    title: str
    unit: str

    def look(self) -> StepReport:
        """Say what there is to do; change nothing."""

    def apply(self, progress: Progress) -> int:
        """Do it; return how many things were done."""
