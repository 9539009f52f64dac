"""Closing a month, with its entry in the audit log."""

from collections.abc import Callable, Mapping
from typing import Any

from app.billing.statements import CannotClose, Progress, Statements
from app.common.clock import now_ms
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict

Document = dict[str, Any]


class StatementAdmin:
    """Closes months."""

    def __init__(self, statements: Statements, audit: AuditLog) -> None:
        self.statements = statements
        self._audit = audit

    def close(
        self,
        actor: Actor,
        name: str,
        verify: Callable[[], Mapping[str, Any]],
        *,
        anyway: bool = False,
        progress: Progress = lambda _done, _of: None,
    ) -> Document:
        """Freeze a month for good, and return all that is kept with it. Raises `Conflict`."""
        month = self.statements.month(name)
        with self._audit.action(actor, "statements.close", f"month:{name}", {"anyway": anyway}):
            try:
                return self.statements.close(
                    month, actor.name, now_ms(), now_ms, verify, anyway=anyway, progress=progress
                )
            except CannotClose as error:
                raise Conflict(str(error)) from None
