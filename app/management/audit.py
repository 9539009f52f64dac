"""Who does something, and the log of it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.adapters.clock import now_ms
from app.adapters.mongo.audit_log import DONE, FAILED, REFUSED, AuditStore
from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.credit_ledger import LedgerNote
from app.adapters.mongo.provider_keys import KeyFileError
from app.adapters.mongo.users import AlreadyExistsError
from app.core.log_filter import PageCursor
from app.management.errors import Refusal, asks_store

Document = dict[str, Any]

_MAX_REASON = 300
_MAX_TARGET = 120
_REFUSALS = (Refusal, ValueError, AlreadyExistsError, KeyFileError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: an admin user's name, `admin-token`, or whose shell it is.

    `via` is `api`, `dashboard` or `cli`; `address` is where the request came from.
    """

    name: str
    via: str
    address: str | None = None
    request_id: str | None = None

    def note(self, at: datetime, reason: str | None) -> LedgerNote:
        """What the ledger keeps of it."""
        return LedgerNote(at, self.name, self.via, reason, self.request_id)


class AuditLog:
    """Writes and reads the audit log."""

    def __init__(self, db: Database[Document]) -> None:
        self._store = AuditStore(db)

    @contextmanager
    def action(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        """Log what is done within; `details` must hold no secrets.

        The entry is made first: nothing is done that the log does not know of. Raises `PyMongoError`.
        """
        entry: Document = {"at": now_ms(), "actor": actor.name, "via": actor.via}
        entry |= {"action": action, "target": target[:_MAX_TARGET]}
        optional = {"address": actor.address, "requestId": actor.request_id, "details": details}
        entry |= {name: value for name, value in optional.items() if value}
        entry_id = self._store.begin(entry)
        outcome, reason = FAILED, None
        try:
            yield
            outcome = DONE
        except _REFUSALS as error:
            outcome, reason = REFUSED, str(error)[:_MAX_REASON]
            raise
        except Exception as error:
            reason = type(error).__name__
            raise
        finally:
            self._finish(entry_id, outcome, reason)

    @asks_store
    def page(
        self, query: Mapping[str, str | None], limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[Document], str | None]:
        """Entries, newest first, selected by `actor`, `action`, `target` and `outcome` where given."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self._store.page(wanted, limit, cursor)

    def _finish(self, entry_id: Any, outcome: str, reason: str | None) -> None:
        try:
            self._store.finish(entry_id, outcome, now_ms(), reason)
        except PyMongoError as error:
            # What was done is done: the entry goes on saying that it had begun.
            log.warning(
                "audit entry %s could not be finished (%s): %s", entry_id, outcome, store_problem(error)
            )
