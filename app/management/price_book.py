"""Keeping every text of the model table, beside requests: records name the version they were charged by.

A worker hands over each table that it takes into force. Its text is first put into a file of `DATA_DIR`, then
stored by a greenlet, as soon as the database answers: should the process die meanwhile, the next one finds
the file. No request waits for any of it.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from app.common.clock import now_ms
from app.management.audit import Actor, AuditLog
from app.pricing.model_table import ModelTable, version_of
from app.pricing.price_versions import START, PriceVersions, PutInForce

UNSTORED: Final = "price-versions"
"""Of `DATA_DIR`: the texts that are not stored yet."""
STORE_S: Final = 1.0
"""How often it is looked whether there is something to store, in seconds."""

log = logging.getLogger(__name__)


class PriceBook:
    """What this worker has had in force and is not stored yet.

    `directory` is where texts wait; where it cannot be written they wait in memory.
    """

    def __init__(
        self,
        versions: PriceVersions,
        audit: AuditLog,
        directory: Path,
        host: str,
        now: Callable[[], datetime] = now_ms,
    ) -> None:
        self._versions = versions
        self._audit = audit
        self._directory = directory
        self._host = host
        self._now = now
        self._unstored: dict[str, tuple[str, PutInForce]] = {}
        self._in_force: tuple[str, PutInForce] | None = None
        self._unsaid: deque[tuple[str, PutInForce, str | None]] = deque()

    def note(self, table: ModelTable, by: str, actor: str | None = None) -> None:
        """Note that a table is in force from now on; waits for no database."""
        put = PutInForce(self._now(), by, self._host, actor)
        self._unstored[table.version] = (table.text, put)
        self._in_force = (table.version, put)
        try:
            self._directory.mkdir(exist_ok=True)
            draft = self._directory / f".{table.version}.{id(self):x}"
            draft.write_text(table.text, encoding="utf-8")
            draft.replace(self._file(table.version))
        except OSError as error:
            log.warning("the model table's text waits in memory to be stored: %s", error)

    def store(self) -> bool:
        """Store what is not stored yet, what earlier processes have left, too; False: there was nothing.

        Raises `PyMongoError` and `StoreUnavailable`; what was not stored is tried again.
        """
        if not (self._unstored or self._in_force or self._unsaid):
            return False
        for version, text in self._left_behind():
            self._unstored.setdefault(version, (text, PutInForce(self._now(), START, self._host)))
        for version, (text, put) in list(self._unstored.items()):
            self._versions.keep(version, text, put)
            del self._unstored[version]
            with suppress(OSError):  # found again, and stored already
                self._file(version).unlink(missing_ok=True)
        if (in_force := self._in_force) is not None:
            version, put = in_force
            before = self._versions.last_of(self._host)
            if self._versions.put_in_force(version, put) and before != version:
                self._unsaid.append((version, put, before))
            if self._in_force is in_force:  # nothing was reloaded meanwhile
                self._in_force = None
        while self._unsaid:
            self._say(*self._unsaid[0])
            self._unsaid.popleft()
        return True

    def _say(self, version: str, put: PutInForce, before: str | None) -> None:
        actor = Actor(put.actor or put.host, put.by)
        details = {"host": put.host, **({} if before is None else {"replaces": before})}
        with self._audit.action(actor, "prices.put", f"prices:{version}", details):
            log.info("model table %s is in force (%s)", version, put.by)

    def _left_behind(self) -> list[tuple[str, str]]:
        found = []
        for path in self._directory.glob("*.toml"):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue  # another worker has stored it
            if version_of(text) == path.stem:
                found.append((path.stem, text))
        return found

    def _file(self, version: str) -> Path:
        return self._directory / f"{version}.toml"
