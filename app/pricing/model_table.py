"""The models on offer, by the names that clients and upstreams have for them."""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import Final

from app.pricing.model import Model, unpriced_model
from app.pricing.model_names import ModelNames, undated
from app.pricing.table_parser import parse_table

_VERSION_DIGITS: Final = 12


def version_of(text: str) -> str:
    """Return the id of the version of the table that has this text."""
    return sha256(text.encode()).hexdigest()[:_VERSION_DIGITS]


class ModelTable:
    """The models on offer, in the order of the file; `groups` has the price factor of each group of users.

    `text` is what it was read from, and `version` the id of that; both are empty where nothing was read.
    """

    def __init__(
        self, models: tuple[Model, ...], groups: Mapping[str, Fraction] | None = None, text: str = ""
    ) -> None:
        self.models = models
        self.groups = groups or {}
        self.text = text
        self.version = version_of(text) if text else ""
        ids = {model.id: model for model in models}
        aliases = {alias: model for model in models for alias in model.aliases}
        self._by_name = {**ids, **aliases}
        self._by_upstream_id = {model.upstream_id: model for model in models}
        self._names = ModelNames(ids, aliases)
        self._unpriced: dict[str, Model] = {}

    @classmethod
    def from_toml(cls, text: str) -> "ModelTable":
        """Read the text of a `models.toml` (`app.pricing.table_parser`). Raises `ModelTableError`."""
        return cls(*parse_table(text), text)

    @property
    def in_force(self) -> "ModelTable":
        """The table as it is now, which stays as it is: what this one has may be replaced by a reload."""
        return self

    def resolve(self, name: str) -> Model | None:
        """Return the model of this id or alias; else the one it is another spelling of (`ModelNames`)."""
        return self._by_name.get(name) or self._names.meant(name)

    def rule(self, name: str) -> str | None:
        """Say by what rule `resolve` finds a model under this name, for people; None: it finds none."""
        model = self._by_name.get(name)
        if model is None:
            return self._names.rule(name)
        return "its id" if name == model.id else "an alias"

    def offer(self, ids: Iterable[str]) -> None:
        """Have callers without a credit balance use these, too: those that mean no model of the table."""
        self._unpriced = {name: unpriced_model(name) for name in ids if self.resolve(name) is None}

    def unpriced(self, name: str) -> Model | None:
        """Return a model without a price that is on offer beside the table, under exactly this id."""
        return self._unpriced.get(name)

    def beside(self) -> tuple[Model, ...]:
        """Return all models without a price that are on offer beside the table."""
        return tuple(self._unpriced.values())

    def near(self, name: str) -> list[str]:
        """Return names of a few models that look like this one, for a person to choose from."""
        return self._names.near(name)

    def answering(self, name: str) -> Model | None:
        """Return the model an upstream means by `name`: its own id, ours, an alias; perhaps with a date."""
        return self.named(name) or self.named(undated(name))

    def named(self, name: str) -> Model | None:
        """Return the model of exactly this id, alias or upstream id."""
        return self._by_name.get(name) or self._by_upstream_id.get(name)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)
