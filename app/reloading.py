"""Reading keys, users and models anew while requests are served, in every worker of the host."""

import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from app.accounts.directory import CachedDirectory
from app.common.clock import now_ms
from app.common.display import counted
from app.common.errors import SettingsError
from app.pricing.model_table import ModelTable

_MAX_REASON = 1000

log = logging.getLogger(__name__)


class LiveModelTable(ModelTable):
    """A model table whose content can be replaced; a `Model` of the old content stays as it was."""

    def __init__(self, table: ModelTable) -> None:
        super().__init__(table.models, groups=table.groups)
        self.replace(table)

    @property
    def in_force(self) -> ModelTable:
        """The table whose content this one has now."""
        return self._content

    def replace(self, table: ModelTable) -> None:
        """Take over another table's content, all at once: under gevent nothing runs in between."""
        self._content = table
        self.text, self.version = table.text, table.version
        self.models, self._by_name, self._names = table.models, table._by_name, table._names
        self._by_upstream_id, self.groups = table._by_upstream_id, table.groups
        self.offer(model.id for model in self.beside())  # what has an entry by now has a price


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What one worker read.

    `problems` tell by part (`models`, `database`, `other workers`) in one line why it was not read and what
    stays in force. `keys_read` says whether upstream keys and users were.
    """

    models: int
    upstream_keys: int
    keys_read: bool
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether everything was read."""
        return not self.problems

    @property
    def is_temporary(self) -> bool:
        """Whether the same reload may succeed later without anybody mending a file."""
        return self.problems.keys() == {"database"}

    @property
    def message(self) -> str:
        """One line for a person."""
        if not self.problems:
            in_use = (counted(self.models, "models"), counted(self.upstream_keys, "upstream keys"))
            return f"{' and '.join(in_use)} are in use, users are read anew"
        return "; ".join([*self.problems.values(), *self._done()])

    def _done(self) -> list[str]:
        were = counted(self.models, "models were", one="model was")
        models = [] if "models" in self.problems else [f"{were} read anew"]
        return [*models, *(["upstream keys and users were read anew"] if self.keys_read else [])]


@dataclass(frozen=True, slots=True)
class RefusedReload:
    """Why the last reload changed nothing, in one line, and when that was (ISO 8601)."""

    at: str
    reason: str


class ReloadNotice:
    """What all workers of a host tell of the last reload while it stays refused: a file of `DATA_DIR`.

    Whoever refuses a reload writes it, gunicorn's master or a worker, and the next one that works removes it.
    """

    def __init__(self, data_dir: Path, now: Callable[[], datetime] = now_ms) -> None:
        self._path = data_dir / "reload-refused.json"
        self._now = now

    def write(self, reason: str) -> None:
        """Have it told that a reload was refused now, and why."""
        at = self._now().astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            draft.write_text(json.dumps({"at": at, "reason": reason[:_MAX_REASON]}), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.warning("only the log tells that the reload was refused: %s", error)

    def remove(self) -> None:
        """Have nothing told any more."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the notice of a refused reload stays: %s", error)

    def read(self) -> RefusedReload | None:
        """Return what there is to tell; None where the last reload worked."""
        try:
            return RefusedReload(**json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class Reloader:
    """Reloads this worker, and by a marker file under `DATA_DIR`, all others on the host.

    `load_models` raises `SettingsError`, and `note_table` is told what was loaded, and by which admin, if one
    asked for it; `refresh_keys` says whether the store answered, and `store_problem`
    in one line why it does not, None when it does.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        models: LiveModelTable,
        load_models: Callable[[], ModelTable],
        note_table: Callable[[ModelTable, str | None], None],
        refresh_keys: Callable[[], bool],
        count_keys: Callable[[], int],
        directory: CachedDirectory,
        store_problem: Callable[[], str | None],
    ) -> None:
        self._marker = data_dir / "reload"
        self._notice = ReloadNotice(data_dir)
        self._models = models
        self._load_models = load_models
        self._note_table = note_table
        self._refresh_keys = refresh_keys
        self._count_keys = count_keys
        self._directory = directory
        self._store_problem = store_problem
        self._seen = self._generation()

    def reload_everywhere(self, admin: str) -> Reloaded:
        """Reload this worker now, the others within seconds; `admin` asked for it."""
        problems = {}
        try:
            self._mark(admin)
        except OSError as error:
            problems["other workers"] = (
                f"the other workers could not be told and go on with what they have: {error}"
            )
        done = self._reload(problems, admin)
        if "models" in problems:
            self._notice.write(problems["models"])
        else:
            self._notice.remove()
        return done

    def refused(self) -> RefusedReload | None:
        """Say why the last reload of this host, by whichever way, changed nothing; None: it did."""
        return self._notice.read()

    def follow(self) -> None:
        """Reload if another worker was asked to; call it now and then."""
        generation = self._generation()
        if generation != self._seen:
            self._seen = generation
            self._reload({}, (generation or "").partition("\n")[2] or None)

    def _reload(self, problems: dict[str, str], admin: str | None) -> Reloaded:
        try:
            table = self._load_models()
            self._models.replace(table)
            self._note_table(table, admin)
        except SettingsError as error:
            old = counted(len(self._models), "models")
            problems["models"] = f"{error}; the old model table ({old}) stays in force"
        keys_read = self._refresh_keys()
        store_problem = self._store_problem()
        if store_problem is None and keys_read:
            self._directory.outdate_all()
        else:
            # What is cached carries the requests until the store is back.
            problems["database"] = (
                f"the database cannot answer ({store_problem or 'it did not a moment ago'}); "
                "upstream keys and users stay in force as they were"
            )
        reloaded = Reloaded(len(self._models), self._count_keys(), "database" not in problems, problems)
        if reloaded.success:
            log.info("reloaded: %s", reloaded.message)
        else:
            log.error("reload failed: %s", reloaded.message)
        return reloaded

    def _mark(self, admin: str) -> None:
        draft = self._marker.with_name(f".{self._marker.name}.{os.getpid()}")
        draft.write_text(f"{secrets.token_hex(8)}\n{admin}", encoding="utf-8")
        draft.replace(self._marker)
        self._seen = self._generation()

    def _generation(self) -> str | None:
        try:
            return self._marker.read_text(encoding="utf-8")
        except OSError:
            return None
