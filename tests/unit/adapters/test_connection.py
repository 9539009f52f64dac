"""How durable writes to MongoDB are asked for."""

import pytest

from app.adapters.mongo.connection import connect

HOST = "mongodb://127.0.0.1:9/"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", {"w": "majority", "j": True}),
        ("?replicaSet=rs0", {"w": "majority", "j": True}),
        ("?w=1", {"w": 1, "j": True}),
        ("?w=3&journal=false", {"w": 3, "j": False}),
    ],
)
def test_writes_are_to_survive_a_failover_unless_the_uri_says_otherwise(
    options: str, wanted: dict[str, object]
) -> None:
    database = connect(HOST + options, "x", connect=False)
    assert database.write_concern.document == wanted
    database.client.close()
