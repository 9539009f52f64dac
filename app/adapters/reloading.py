"""Reading keys, users and models anew while requests are served, in every worker of the host."""

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.core.pricing import ModelTable
from app.settings import SettingsError

log = logging.getLogger(__name__)


class LiveModelTable(ModelTable):
    """A model table whose content can be replaced; whoever has a `Model` of the old one keeps it."""

    def __init__(self, table: ModelTable) -> None:
        super().__init__(table.models)

    def replace(self, table: ModelTable) -> None:
        """Take over another table's models, all at once: under gevent nothing runs in between."""
        self.models, self._by_name = table.models, table._by_name


class Directory(Protocol):
    """What is asked of the cache of users and client keys."""

    def invalidate_all(self) -> None:
        """Forget what was read."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What one worker read. `problems` are one line each; what they concern stays as it was."""

    models: int
    upstream_keys: int
    problems: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        """Whether everything was read."""
        return not self.problems

    @property
    def message(self) -> str:
        """One line for a person."""
        if self.problems:
            return "; ".join(self.problems)
        return f"{self.models} models and {self.upstream_keys} upstream keys are in use, users are read anew"


class Reloader:
    """Reloads this worker, and by a marker file under `DATA_DIR`, all others on the host.

    `load_models` raises `SettingsError`; `store_problem` says in one line why the store does not answer, None
    when it does.
    """

    def __init__(
        self,
        marker: Path,
        *,
        models: LiveModelTable,
        load_models: Callable[[], ModelTable],
        refresh_keys: Callable[[], object],
        count_keys: Callable[[], int],
        directory: Directory,
        store_problem: Callable[[], str | None],
    ) -> None:
        self._marker = marker
        self._models = models
        self._load_models = load_models
        self._refresh_keys = refresh_keys
        self._count_keys = count_keys
        self._directory = directory
        self._store_problem = store_problem
        self._seen = self._generation()

    def reload_everywhere(self) -> Reloaded:
        """Reload this worker now, the others within seconds."""
        problem = None
        try:
            self._mark()
        except OSError as error:
            problem = f"the other workers could not be told: {error}"
        reloaded = self._reload()
        if problem is None:
            return reloaded
        return Reloaded(reloaded.models, reloaded.upstream_keys, (*reloaded.problems, problem))

    def follow(self) -> None:
        """Reload if another worker was asked to; call it now and then."""
        generation = self._generation()
        if generation != self._seen:
            self._seen = generation
            self._reload()

    def _reload(self) -> Reloaded:
        problems = []
        try:
            self._models.replace(self._load_models())
        except SettingsError as error:
            problems.append(f"{error}; the old model table stays")
        self._refresh_keys()
        store_problem = self._store_problem()
        if store_problem is None:
            self._directory.invalidate_all()
        else:
            # What is cached carries the requests until the store is back.
            problems.append(f"keys and users stay as they are, the database cannot answer: {store_problem}")
        reloaded = Reloaded(len(self._models), self._count_keys(), tuple(problems))
        log.log(logging.INFO if reloaded.success else logging.WARNING, "reloaded: %s", reloaded.message)
        return reloaded

    def _mark(self) -> None:
        draft = self._marker.with_name(f".{self._marker.name}.{os.getpid()}")
        draft.write_text(secrets.token_hex(8))
        draft.replace(self._marker)
        self._seen = self._generation()

    def _generation(self) -> str | None:
        try:
            return self._marker.read_text()
        except OSError:
            return None
