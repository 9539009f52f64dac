"""What every test may use: a real MongoDB, started once per session, and an empty database of one's own."""

import gc
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from pymongo.database import Database

from app.persistence import booking
from app.store.connection import connect
from app.store.embedded_mongo import EmbeddedMongoError
from app.store.embedded_mongo.binary import find_mongod
from tests.support.temporary_mongo import temporary_mongo

# Rooms whose tests share processes of their own (package fixtures), in the order in which they are run.
_SHARING = ("e2e", "browser")

# What is imported and collected now stays: looking through it for garbage would take a fifth of the time.
gc.disable()

# A busy machine is no failure: nothing here is about how long an example takes.
settings.register_profile(
    "explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# The same code gives the same result, wherever it runs: new examples are looked for by `make explore`.
settings.register_profile(
    "weir", settings.get_profile("explore"), max_examples=60, derandomize=True, database=None
)
settings.register_profile("mutants", settings.get_profile("weir"), max_examples=20)
settings.load_profile("weir")


def pytest_sessionstart(session: pytest.Session) -> None:
    """End with one line where no MongoDB runs, rather than with an error for each test that needs one."""
    config = session.config
    of_one_worker = hasattr(config, "workerinput")
    if of_one_worker or all(name.startswith("tests/unit") for name in config.args):
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            find_mongod(None, Path(scratch) / "mongod.out", None)
        except EmbeddedMongoError as error:
            pytest.exit(f"weir: {error}", returncode=1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep garbage collections, of which tests cause many, from walking all tests each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)  # when -k and -m have had their say
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what waits long, an equal part in each process of xdist, and end with what is quick.

    xdist hands out equal stretches, and later on takes from the end of the longest: so no process is left
    alone with the long ones, and what the tests of a file share is seldom started twice.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes == 1:
        return
    quick = [item for item in items if _room(item) == "unit"]
    files = [list(group) for _, group in groupby(items, lambda item: item.path)]
    # Where a file has few tests, each of them takes long: with processes of its own, and many steps. A room
    # that shares comes as a whole: what it shares ends with its last test, and does not idle beside the rest.
    long = sorted((file for file in files if _room(file[0]) != "unit"), key=_turn)
    shares = [[item for file in long[number::processes] for item in file] for number in range(processes)]
    left = len(items)
    items.clear()
    for number, share in enumerate(shares):
        stretch = left // (processes - number)
        left -= stretch
        fill = max(0, stretch - len(share))
        items += share + quick[:fill]
        del quick[:fill]
    items += quick


def _room(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _turn(file: list[pytest.Item]) -> tuple[int, int]:
    room = _room(file[0])
    return _SHARING.index(room) if room in _SHARING else len(_SHARING), len(file)


@pytest.fixture(autouse=True)
def _records_stay_bookable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the tests are of a fixed day: booking must not find them too old when that is long past."""
    last = datetime(2027, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(booking, "_utcnow", lambda: min(datetime.now(UTC), last))


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """The URI of a server that lives as long as the session, and may be kept waiting by a busy machine."""
    with temporary_mongo() as uri:
        yield f"{uri}&serverSelectionTimeoutMS=60000&connectTimeoutMS=60000"


@pytest.fixture
def database(mongo_uri: str) -> Iterator[Database[dict[str, Any]]]:
    """A database no other test sees, dropped afterwards."""
    db = connect(mongo_uri, f"test_{uuid4().hex[:16]}", app_name="weir-tests")
    yield db
    db.client.drop_database(db.name)
    db.client.close()
