"""What MongoDB is asked for, whatever the URI says: durable writes, and reads of the primary."""

import pytest
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect, BulkWriteError

from app.store.connection import connect, overridden
from app.store.driver import store_problem

HOST = "mongodb://127.0.0.1:9/"


@pytest.mark.parametrize(
    "options",
    [
        "",
        "?replicaSet=rs0",
        "?w=1",
        "?w=0&journal=false",
        "?w=3&journal=false&wtimeoutMS=5",
        "?readPreference=secondaryPreferred&maxStalenessSeconds=120&readConcernLevel=available",
        "?replicaSet=rs0&readPreference=secondary&readPreferenceTags=dc:east",
    ],
)
def test_no_uri_makes_writes_less_durable_or_reads_stale(options: str) -> None:
    database = connect(HOST + options, "x", connect=False)
    users = database["usersNew"]
    assert users.write_concern.document == {"w": "majority", "j": True}
    assert users.read_preference == ReadPreference.PRIMARY
    assert users.read_concern.level == "local"
    database.client.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("", []),
        ("?w=majority&journal=true&readPreference=primary", []),
        ("?w=1", ["w=1"]),
        ("?directConnection=true&w=1&journal=true", []),
        ("?W=0&journal=False&readpreference=secondary", ["w=0", "journal=False", "readPreference=secondary"]),
    ],
)
def test_what_is_not_followed_is_named(options: str, named: list[str]) -> None:
    assert overridden(HOST + options) == named


def test_a_problem_is_told_in_one_short_line() -> None:
    long = "db:1: connection closed (configured timeouts: socketTimeoutMS: 3ms), Timeout: 2s, Topology: <x>"
    assert store_problem(AutoReconnect(long)) == "db:1: connection closed"
    many = BulkWriteError({"writeConcernErrors": [{"errmsg": "waiting for replication timed out"}]})
    assert store_problem(many) == "waiting for replication timed out"
    assert store_problem(BulkWriteError({"writeErrors": [{"errmsg": "a\nb"}]})) == "a"
    assert store_problem(AutoReconnect("")) == "AutoReconnect"
