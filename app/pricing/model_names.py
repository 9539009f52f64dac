"""Which model of the table a client means by a name that is spelt a little differently.

Clients put a vendor in front (`openai/gpt-5`), a date or `-latest` behind (`claude-opus-5@20260414`), dots
for dashes, capitals. Such a name means a model if it is that model's name in all else. Nothing is guessed: a
name that might mean two models means none, and so does one that is merely similar, since another model may be
dearer. Similar names are only ever told to people (`near`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final, Generic, TypeVar

LONGEST: Final = 128
"""A longer name is no spelling of a model's, and is compared with none."""

_Model = TypeVar("_Model")

_VENDOR = re.compile(
    r"(?:(?:openrouter|litellm_proxy)/)?(?:azure[:/])?(?:(?:openai|anthropic)[:/])?", re.ASCII
)
"""Who makes the model, or hosts it at the maker's own price. Others sell the same weights at other prices."""
_DATE = re.compile(r"[-@](20\d{2})(-?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])$", re.ASCII)
_LATEST = re.compile(r"[-@:]latest$", re.ASCII)

_LEAST_LIKENESS = 0.5


def undated(name: str) -> str:
    """Return the name without the date of a snapshot at its end (`-2026-04-14`, `-20260414`, `@20260414`)."""
    return _DATE.sub("", name)


class ModelNames(Generic[_Model]):
    """The names of a table's models: their ids, and other names that the table gives them."""

    def __init__(self, ids: Mapping[str, _Model], aliases: Mapping[str, _Model]) -> None:
        self._names = {**ids, **aliases}
        self._pairs = {name: _pairs(_plain(name)) for name in self._names}
        # Each by spelling; None: of more than one model.
        self._spellings: dict[str, _Model | None] = {}
        self._dateless: dict[str, _Model | None] = {}
        self._snapshots: dict[str, _Model | None] = {}
        of_a_date = [model for name, model in ids.items() if undated(_plain(name)) != _plain(name)]
        for name, model in self._names.items():
            plain = _plain(name)
            base = _LATEST.sub("", undated(plain))
            _note(self._spellings, plain, model)
            if base != plain:
                _note(self._snapshots, base, model)
            elif not any(model is dated for dated in of_a_date):
                _note(self._dateless, plain, model)

    def meant(self, name: str) -> _Model | None:
        """Return the model whose name this is but for spelling, vendor and date; None: none, or several.

        With a date it is a snapshot of the model that has this name without one, unless that model's own id
        has a date: then it is another snapshot. Without a date, or with `-latest`, it is the only snapshot
        there is.
        """
        found = self._found(name)
        return found[0] if found is not None else None

    def rule(self, name: str) -> str | None:
        """Say by what rule a name means a model, for people; None: it means none."""
        found = self._found(name)
        return found[1] if found is not None and found[0] is not None else None

    def _found(self, name: str) -> tuple[_Model | None, str] | None:
        if len(name) > LONGEST or not name.isascii():
            return None
        for plain, reading in _readings(name):
            for names, spelling, rule in self._places(plain):
                if spelling in names:
                    return names[spelling], f"{rule}{reading}"
        return None

    def _places(self, plain: str) -> Iterator[tuple[Mapping[str, _Model | None], str, str]]:
        yield self._spellings, plain, "another spelling"
        if (base := undated(plain)) != plain:
            yield self._dateless, base, "a snapshot, by its date"
            return
        base = _LATEST.sub("", plain)
        yield self._spellings, base, "the latest one"
        yield self._snapshots, base, "the only snapshot there is"

    def near(self, name: str, most: int = 3) -> list[str]:
        """Return names of models that look like this one, the likest first; for people to choose from."""
        pairs = _pairs(_unsold(_plain(name[:LONGEST])))
        likeness = {known: _likeness(pairs, own) for known, own in self._pairs.items()}
        found = [known for known, like in likeness.items() if like >= _LEAST_LIKENESS]
        found.sort(key=lambda known: -likeness[known])
        by_model = {id(self._names[known]): known for known in reversed(found)}
        return [known for known in found if by_model[id(self._names[known])] == known][:most]


def did_you_mean(names: Iterable[str]) -> str:
    """Ask for one of the names, in a sentence with a blank before it; empty where there are none."""
    quoted = [f"'{name}'" for name in names]
    if not quoted:
        return ""
    *others, last = quoted
    return f" Did you mean {', '.join(others)} or {last}?" if others else f" Did you mean {last}?"


def _readings(name: str) -> Iterator[tuple[str, str]]:
    plain = _plain(name)
    yield plain, ""
    if (unsold := _unsold(plain)) != plain:
        yield unsold, ", with its vendor in front"


def _plain(name: str) -> str:
    return _DATE.sub(r"@\1\3\4", name.strip().lower().replace(".", "-"))


def _unsold(plain: str) -> str:
    return _VENDOR.sub("", plain, count=1)


def _note(names: dict[str, _Model | None], spelling: str, model: _Model) -> None:
    names[spelling] = model if names.get(spelling, model) is model else None


def _pairs(plain: str) -> frozenset[str]:
    marked = f" {_LATEST.sub('', undated(plain))} "
    return frozenset(map("".join, pairwise(marked)))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Return Dice's coefficient of two names' pairs of letters: 1 for the same ones, 0 for none."""
    return 2 * len(one & other) / (len(one) + len(other))
