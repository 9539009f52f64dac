"""The indexes that are missing. Workers make them at their start, which takes long on a large database."""

from collections.abc import Iterator
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure

from app.migration.step import Document, IncompleteError, Progress, StepReport
from app.records import request_logs
from app.statistics import rollups, summaries
from app.store.connection import INDEXES, has_index
from app.store.driver import store_problem

Wanted = tuple[str, tuple[tuple[str, int], ...], dict[str, Any]]


class Indexes:
    """Makes indexes in turn; an index that duplicates in the data forbid is a problem, not an end."""

    name = "indexes"
    title = "build missing indexes"
    unit = "indexes"

    def __init__(self, db: Database[Document]) -> None:
        self._db = db

    def look(self) -> StepReport:
        """Find the missing indexes."""
        missing = list(self._missing())
        return StepReport(len(missing), tuple(f"{name} {_shown(keys)}" for name, keys, _ in missing))

    def apply(self, progress: Progress) -> int:
        """Build the indexes; raises `IncompleteError` for those that cannot be built, after all others."""
        made, failures = 0, []
        for name, keys, options in list(self._missing()):
            try:
                self._db[name].create_index(list(keys), **options)
            except OperationFailure as error:
                failures.append(f"{name} {_shown(keys)}: {store_problem(error)}")
            else:
                made += 1
            progress(made)
        if failures:
            raise IncompleteError(made, "; ".join(failures))
        return made

    def _missing(self) -> Iterator[Wanted]:
        for name, keys, options in (*INDEXES, *_modelled()):
            if not has_index(self._db[name], keys):
                yield name, keys, options


def _modelled() -> Iterator[Wanted]:
    for name, models in (
        (request_logs.COLLECTION, request_logs.INDEXES),
        (rollups.COLLECTION, rollups.INDEXES),
        (summaries.COLLECTION, summaries.INDEXES),
    ):
        for model in models:
            options = dict(model.document)
            keys = tuple(options.pop("key").items())
            yield name, keys, options


def _shown(keys: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{field} {direction}" for field, direction in keys)
