"""What `flask doctor` says about a database that is not as it should be."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import WriteConcern
from pymongo.database import Database

from app.adapters.key_cipher import KeyCipher
from app.adapters.mongo.connection import connect, ensure_indexes
from app.adapters.mongo.settlement import Settlement
from app.cli import checks, store_checks
from app.cli.checks import Check
from app.core.records import SequencedRecord
from app.settings import Settings
from tests.support.earlier_database import EarlierDatabase
from tests.support.reconciliation_world import World

DAY_S = 86_400
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    models = tmp_path / "models.toml"
    models.write_text('[[models]]\nid = "gpt"\ninput = 0\noutput = 0\n')
    return Settings(data_dir=tmp_path / "var", secret_key="one for all", models_file=models)


def only(found: Any) -> Check:
    (check,) = found
    return check


def test_a_server_as_it_should_be_needs_no_words(database: Database[Any], settings: Settings) -> None:
    assert list(store_checks.check_server(database)) == []
    assert list(store_checks.check_secrets(database, settings, NOW)) == []
    assert list(store_checks.check_retention(database, settings)) == []
    assert list(store_checks.check_earlier_software(database, settings, NOW)) == []
    assert list(store_checks.check_prices(database, settings, NOW)) == []


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [("w=0&journal=false", "failed", "w=0"), ("journal=false", "warning", "a killed server loses")],
)
def test_a_write_concern_that_loses_writes(
    mongo_uri: str, database: Database[Any], options: str, state: str, words: str
) -> None:
    db = connect(f"{mongo_uri.partition('?')[0]}?directConnection=true&{options}", database.name)
    try:
        check = only(store_checks.check_server(db))
    finally:
        db.client.close()
    assert (check.state, words in check.detail) == (state, True)
    assert check.advice


class Answering:
    """A database whose server says something else of itself."""

    def __init__(self, db: Database[Any], **hello: Any) -> None:
        self.client, self._db, self._hello = db.client, db, hello

    def command(self, name: str) -> dict[str, Any]:
        return {**self._db.command(name), **self._hello}


@pytest.mark.parametrize(("seconds", "words"), [(60, "60 s ahead"), (-60, "60 s behind")])
def test_a_clock_that_is_wrong(database: Database[Any], seconds: int, words: str) -> None:
    answering = Answering(database, localTime=datetime.now(UTC) + timedelta(seconds=seconds + 0.2))
    assert words in only(store_checks.check_server(answering)).detail  # type: ignore[arg-type]


def test_one_member_of_a_replica_set_is_not_enough(mongo_uri: str, database: Database[Any]) -> None:
    db = database.client.get_database(database.name, write_concern=WriteConcern(w=1))
    one = connect(f"{mongo_uri.partition('?')[0]}?directConnection=true&w=1", db.name)
    try:
        check = only(store_checks.check_server(Answering(one, setName="rs0")))  # type: ignore[arg-type]
    finally:
        one.client.close()
    assert "rolled back" in check.detail


def test_keys_of_another_secret(database: Database[Any], settings: Settings) -> None:
    document = {"_id": "k1", "apiKey": KeyCipher("of another host").encrypt("sk-upstream-1")}
    database["ohmygpt_keys"].insert_one(document)
    check = only(store_checks.check_secrets(database, settings, NOW))
    assert (check.state, check.advice) == ("failed", "set the SECRET_KEY that all hosts share")


def test_what_earlier_software_has_left(database: Database[Any], settings: Settings) -> None:
    EarlierDatabase.build(database, datetime.now(UTC), records=10)
    check = only(store_checks.check_earlier_software(database, settings, datetime.now(UTC)))
    assert check.detail.endswith(": indexes, client-keys, secrets, records")
    assert check.advice == "flask migrate check"
    assert only(store_checks.check_retention(database, settings)).advice == "flask migrate check"


def test_records_that_expire_too_late(database: Database[Any], settings: Settings) -> None:
    ensure_indexes(database, 60 * DAY_S)
    database["request_logs"].insert_one({"outcome": "ok", "createdAt": NOW})
    check = only(store_checks.check_retention(database, settings))
    assert check.detail == "records are kept for 60 days, LOG_RETENTION_DAYS is 30"
    assert "restart" in check.advice


def test_a_model_in_use_that_costs_nothing(database: Database[Any], settings: Settings) -> None:
    world = World.build(database, size=40)
    now = world.record(1).created_at
    Settlement(database, "w3").apply([SequencedRecord(1, world.record(99_000).to_document())])
    assert "free of charge: gpt" in only(store_checks.check_prices(database, settings, now)).detail
    assert list(store_checks.check_prices(database, settings, now + timedelta(days=8))) == []


def test_a_disk_with_less_room_than_the_journal_may_take(settings: Settings) -> None:
    larger = settings.model_copy(update={"journal_max_mb": 10**9})
    check = only(checks.check_data_dir(larger))
    assert (check.state, "less than the journal may grow" in check.detail) == ("warning", True)
    assert only(checks.check_data_dir(settings.model_copy(update={"journal_max_mb": 1}))).state == "ok"
