"""Behaviour rules: what requests for a model get, without the model's name saying so."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from simulator.grammar import parse_spec


@dataclass(slots=True)
class _Rule:
    spec: str
    left: int | None


class Rules:
    """Thread-safe queues of behaviours, by model."""

    def __init__(self) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._rules)

    def add(self, model: str, spec: str, times: int | None = None) -> None:
        """Answer requests for ``model`` (``*``: any) as ``spec`` says, ``times`` times (None: always).

        Rules of one model are used up in the order given; a rule without ``times`` comes after all others and
        replaces the one before it. Rules for the model itself go before rules for ``*``. An empty spec is a
        normal answer. Raises `GrammarError` for a spec that means nothing.
        """
        parse_spec(spec)
        with self._lock:
            rules = self._rules.setdefault(model, [])
            limited = [rule for rule in rules if rule.left is not None]
            lasting = [rule for rule in rules if rule.left is None]
            rules[:] = (
                [*limited, _Rule(spec, None)] if times is None else [*limited, _Rule(spec, times), *lasting]
            )

    def next_for(self, model: object) -> str | None:
        """Return the behaviour of the next request for ``model``; counts as used."""
        with self._lock:
            for name in (model, "*"):
                rules = self._rules.get(name, []) if isinstance(name, str) else []
                if not rules:
                    continue
                rule = rules[0]
                if rule.left is not None:
                    rule.left -= 1
                    if rule.left <= 0:
                        rules.pop(0)
                return rule.spec
        return None

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._rules.clear()
