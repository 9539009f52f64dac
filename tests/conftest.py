"""What every test may use: a real MongoDB, started once per session, and an empty database of one's own."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

from app.adapters.embedded_mongo import temporary_mongo
from app.adapters.mongo import settlement
from app.adapters.mongo.connection import connect


@pytest.fixture(autouse=True)
def _records_stay_bookable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the tests are of a fixed day: booking must not find them too old when that is long past."""
    last = datetime(2027, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(settlement, "_utcnow", lambda: min(datetime.now(UTC), last))


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The URI of a server that lives as long as the test session."""
    with temporary_mongo() as uri:
        yield uri


@pytest.fixture
def database(mongo_uri: str) -> Iterator[Database[dict[str, Any]]]:
    """A database no other test sees, dropped afterwards."""
    db = connect(mongo_uri, f"test_{uuid4().hex[:16]}", app_name="weir-tests")
    yield db
    db.client.drop_database(db.name)
    db.client.close()
