"""Credit for users in tests, given as an administrator gives it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pymongo.database import Database

from app.credit.credit_ledger import Credited, CreditLedger, LedgerNote

NOTE = LedgerNote(datetime(2026, 11, 23, 12, 0, tzinfo=UTC), "ops", "cli")


def give(db: Database[dict[str, Any]], username: str, amount: Decimal) -> Credited | None:
    """Add USD to the user's credit, or take them away."""
    return CreditLedger(db).add(username, amount, NOTE)
