"""Who does something, and the log of it."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.common.clock import now_ms
from app.common.cursor import PageCursor
from app.common.errors import StoreUnavailable
from app.credit.credit_ledger import LedgerNote
from app.keys.provider_keys import KeyFileError
from app.management.audit_log import DONE, FAILED, REFUSED, UNKNOWN, AuditStore
from app.management.errors import ManagementError, asks_store
from app.store.driver import AlreadyExistsError, store_problem

Document = dict[str, Any]

_MAX_REASON = 300
_MAX_TARGET = 120
_MOST_UNSAID = 1000
_MENDING_S = 1.0
# A process that began an entry this long ago has given up: `ACTION_S` is seconds, the rest is for wrong
# clocks.
_ABANDONED = timedelta(minutes=5)
_ADVICE = "look before you repeat it"
_REFUSALS = (ManagementError, ValueError, AlreadyExistsError, KeyFileError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: an admin user's name, `admin-token`, or whose shell it is.

    `via` is `api`, `dashboard` or `cli`; `address` is where the request came from,
    `role` what let them do it.
    """

    name: str
    via: str
    address: str | None = None
    request_id: str | None = None
    role: str | None = None

    def note(self, at: datetime, reason: str | None, key: str | None = None) -> LedgerNote:
        """Return what the ledger keeps of the actor."""
        return LedgerNote(at, self.name, self.via, reason, self.request_id, key)


@dataclass(frozen=True, slots=True)
class _Ending:
    """What is still to be said of an entry."""

    entry_id: ObjectId
    outcome: str
    at: datetime
    reason: str | None


class AuditLog:
    """Writes and reads the audit log."""

    def __init__(self, db: Database[Document]) -> None:
        self._store = AuditStore(db)
        # Endings that the database did not take: said before the next action, or when the log is looked at.
        self._unsaid: deque[_Ending] = deque(maxlen=_MOST_UNSAID)

    @contextmanager
    def action(
        self, actor: Actor, action: str, target: str, details: Mapping[str, Any] | None = None
    ) -> Iterator[None]:
        """Log what is done within; `details` must hold no secrets.

        The entry is made first: nothing is done that the log does not know of. Raises `StoreUnavailable` when
        the database fails; what was within may have been done all the same, and the entry says `unknown`.
        """
        entry: Document = {"at": now_ms(), "actor": actor.name, "via": actor.via}
        entry |= {"action": action, "target": target[:_MAX_TARGET]}
        optional: Document = {"role": actor.role, "address": actor.address}
        optional |= {"requestId": actor.request_id, "details": details}
        entry |= {name: value for name, value in optional.items() if value}
        entry_id = self._begin(entry)
        outcome, reason = FAILED, None
        try:
            yield
            outcome = DONE
        except _REFUSALS as error:
            outcome, reason = REFUSED, str(error)[:_MAX_REASON]
            raise
        except PyMongoError as error:
            outcome, reason = UNKNOWN, store_problem(error)
            raise StoreUnavailable(f"{reason}; it may have been done all the same: {_ADVICE}") from error
        except Exception as error:
            reason = type(error).__name__
            raise
        finally:
            self._say(_Ending(entry_id, outcome, now_ms(), reason))

    @asks_store
    def page(
        self,
        query: Mapping[str, str | None],
        limit: int,
        cursor: PageCursor | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[list[Document], str | None]:
        """Return entries from `start` up to `end`, exclusive, newest first.

        They are selected by `actor`, `action`, `target` and `outcome` where given.
        """
        self._mend()
        wanted = {name: value for name, value in query.items() if value is not None}
        return self._store.page(wanted, limit, cursor, start=start, end=end)

    def _begin(self, entry: Document) -> ObjectId:
        entry_id = ObjectId()
        self._say_unsaid()
        try:
            self._store.begin(entry_id, entry)
        except PyMongoError as error:
            reason = f"nothing was done: {store_problem(error)}"
            self._unsaid.append(_Ending(entry_id, FAILED, now_ms(), reason[:_MAX_REASON]))
            raise StoreUnavailable(reason) from error
        return entry_id

    def _mend(self) -> None:
        """End the entries that nobody else will end: their processes died, or have lost the database."""
        self._say_unsaid()
        now = now_ms()
        with suppress(PyMongoError), pymongo.timeout(_MENDING_S):
            self._store.end_abandoned(now - _ABANDONED, now, "nobody could say what came of it")

    def _say_unsaid(self) -> None:
        with suppress(PyMongoError), pymongo.timeout(_MENDING_S):
            while self._unsaid:
                self._finish(self._unsaid[0])
                self._unsaid.popleft()

    def _say(self, ending: _Ending) -> None:
        try:
            self._finish(ending)
        except PyMongoError as error:
            self._unsaid.append(ending)
            log.warning(
                "audit entry %s is finished later (%s): %s",
                ending.entry_id,
                ending.outcome,
                store_problem(error),
            )

    def _finish(self, ending: _Ending) -> None:
        self._store.finish(ending.entry_id, ending.outcome, ending.at, ending.reason)
