"""Which request is being worked on, for what is logged meanwhile; each greenlet has a value of its own."""

from contextvars import ContextVar
from typing import Final

request_id: Final[ContextVar[str | None]] = ContextVar("weir_request_id", default=None)
"""The id of the request at hand; None between requests and in the background."""
