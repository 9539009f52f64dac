"""A drill in parts: each an amount of one scenario that takes minutes, so that a stop loses little."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from drill.levels import Level

LONGEST_S = 600.0
"""What a part may take on a machine that has nothing else to do; by the figures below."""


@dataclass(frozen=True, slots=True)
class Divided:
    """How a scenario is divided: by `amount` of its level, at most so much in a part.

    `others` are divided alike. `unit_s` is what one takes, `fixed_s` what every part takes besides.
    """

    amount: str
    most: int
    unit_s: float
    fixed_s: float = 20.0
    others: tuple[str, ...] = ()


DIVIDED = {
    "power-loss": Divided("histories", 100_000, 0.0015, fixed_s=0),
    "worker-kills": Divided("worker_kills", 50, 3.0, others=("least_requests",)),
    "tree-kills": Divided("tree_kills", 20, 8.0),
    # A fifth of the kills in either mode.
    "sync-modes": Divided("worker_kills", 125, 1.2),
    "outage": Divided("outage_s", 400, 1.0, fixed_s=160),
    "replica-set": Divided("elections", 4, 90.0),
    "bill": Divided("billed", 10_000, 0.02),
    # Three zones: with fewer than three users one would have none.
    "year": Divided("year_users", 4, 70.0),
}
_ATTACK_S, _ATTACKS_AT_ONCE = 75.0, 4
_ELSE_S = 90.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a scenario, with its share of what the level asks for. `seconds` is a guess."""

    scenario: str
    number: int
    of: int
    level: Level
    seconds: float

    @property
    def name(self) -> str:
        """Under which its figures are kept, and from which, with the seed, its choices follow."""
        return self.scenario if self.of == 1 else f"{self.scenario} {self.number}/{self.of}"

    def random(self, seed: int) -> Random:
        """Return its own source of randomness: `--only`, or a run that goes on, repeats what it did."""
        return Random(f"{seed}/{self.name}")  # noqa: S311  not for secrets


def plan(names: Iterable[str], level: Level, *, is_whole: bool = False) -> list[Part]:
    """Return all parts of these scenarios, in order; `is_whole`: each scenario is one part.

    What is divided is divided without a remainder: the shares of all parts are what the level asks for.
    """
    return [part for name in names for part in _parts(name, level, is_whole=is_whole)]


def _parts(name: str, level: Level, *, is_whole: bool) -> list[Part]:
    if name == "attacks":
        return _attacks(level, is_whole=is_whole)
    how = DIVIDED.get(name)
    if how is None:
        return [Part(name, 1, 1, level, _ELSE_S)]
    total = int(getattr(level, how.amount))
    of = 1 if is_whole else max(1, -(-total // how.most))
    fields = (how.amount, *how.others)
    shares = [
        {field: _share(int(getattr(level, field)), number, of) for field in fields}
        for number in range(1, of + 1)
    ]
    return [
        Part(
            name,
            number,
            of,
            replace(level, **share),  # type: ignore[arg-type]  # amounts are numbers
            how.fixed_s + how.unit_s * share[how.amount],
        )
        for number, share in enumerate(shares, 1)
    ]


def _attacks(level: Level, *, is_whole: bool) -> list[Part]:
    """Divide by kinds; each part ends with all of them at once."""
    kinds: Sequence[str] = level.attack_kinds
    step = len(kinds) if is_whole or not kinds else _ATTACKS_AT_ONCE
    shares = [kinds[at : at + step] for at in range(0, len(kinds), step)] if kinds else [kinds]
    return [
        Part(
            "attacks",
            number,
            len(shares),
            replace(level, attack_kinds=tuple(share)),
            level.calm_s + (len(share) + 1) * _ATTACK_S,
        )
        for number, share in enumerate(shares, 1)
    ]


def _share(total: int, number: int, of: int) -> int:
    return total * number // of - total * (number - 1) // of
