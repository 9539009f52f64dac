"""What `weir doctor` says about a database that is not as it should be."""

from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.database import Database

from app.cli import checks, store_checks
from app.cli.checks import Check
from app.credit.credit_policy import HOLD_TTL_S
from app.keys.key_account import KeyAccount
from app.ohmygpt.account import Balance
from app.ohmygpt.readings import Readings, account_document
from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from app.settings import Settings
from app.store.connection import ensure_indexes
from app.store.key_cipher import KeyCipher
from tests.support.earlier_database import EarlierDatabase
from tests.support.reconciliation_world import World

DAY_S = 86_400
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    models = tmp_path / "models.toml"
    models.write_text('[[models]]\nid = "gpt"\ninput = 0\noutput = 0\n')
    return Settings(data_dir=tmp_path / "var", secret_key="one secret for all", models_file=models)


def only(found: Any) -> Check:
    (check,) = found
    return check


def test_a_server_as_it_should_be_needs_no_words(database: Database[Any], settings: Settings) -> None:
    assert list(store_checks.check_server(database)) == []
    assert list(store_checks.check_secrets(database, settings, NOW)) == []
    assert list(store_checks.check_retention(database, settings)) == []
    assert list(store_checks.check_earlier_software(database, settings, NOW)) == []
    assert list(store_checks.check_prices(database, settings, NOW)) == []


def test_options_of_the_uri_that_are_not_followed(settings: Settings) -> None:
    assert list(store_checks.check_uri_options(settings)) == []
    uri = SecretStr("mongodb://db/?w=1&readPreference=secondaryPreferred")
    found = list(store_checks.check_uri_options(settings.model_copy(update={"mongodb_uri": uri})))
    assert [check.detail.split(" in ")[0] for check in found] == ["w=1", "readPreference=secondaryPreferred"]
    assert {(check.state, check.advice) for check in found} == {("warning", "leave it out")}


def test_what_workers_read_from_ohmygpt_is_told(database: Database[Any], settings: Settings) -> None:
    def found() -> tuple[str, str, str]:
        check = only(store_checks.check_account(database, asked, NOW))
        return check.name, check.state, check.detail

    assert list(store_checks.check_account(database, settings, NOW)) == []
    asked = settings.model_copy(update={"ohmygpt_management_key": SecretStr("sk-management")})
    assert found() == ("account", "warning", "not read: no worker has read it yet")
    readings = Readings(database)
    facts = {"k1": KeyAccount(Decimal(1), Decimal(5)), "k2": KeyAccount(Decimal(1))}
    readings.put("account", account_document(Balance(Decimal("5.00")), facts, 0), NOW - timedelta(minutes=1))
    assert found() == ("account", "ok", "balance 5.00, read 60 s ago")
    facts |= {"k1": KeyAccount(Decimal(5), Decimal(5))}
    readings.put("account", account_document(Balance(Decimal("5.00")), facts, 0), NOW)
    assert found()[1:] == ("warning", "balance 5.00, read 0 s ago; used up caps: 1 key")
    readings.note_problem("account", "no answer")
    assert found() == ("account", "warning", "not read: no answer")
    offers = settings.model_copy(update={"unpriced_models": "unmetered"})
    readings.note_problem("catalogue", "it answers with 500")
    assert only(store_checks.check_account(database, offers, NOW)).name == "catalogue"


class Answering:
    """A database whose server says something else of itself."""

    def __init__(self, db: Database[Any], **hello: Any) -> None:
        self.client, self._db, self._hello = db.client, db, hello

    def command(self, name: str) -> dict[str, Any]:
        return {**self._db.command(name), **self._hello}


def tell_times(monkeypatch: pytest.MonkeyPatch, *moments: datetime) -> None:
    """Have these checks find these times, one after the other."""
    left = iter(moments)

    class Told(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return next(left)

    monkeypatch.setattr(store_checks, "datetime", Told)


@pytest.mark.parametrize(("seconds", "words"), [(60, "60 s ahead"), (-60, "60 s behind")])
def test_a_clock_that_is_wrong(
    database: Database[Any], monkeypatch: pytest.MonkeyPatch, seconds: int, words: str
) -> None:
    tell_times(monkeypatch, NOW, NOW)
    answering = Answering(database, localTime=NOW + timedelta(seconds=seconds))
    assert words in only(store_checks.check_server(answering)).detail  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, 60])
def test_an_answer_that_was_long_under_way_is_no_wrong_clock(
    database: Database[Any], monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    tell_times(monkeypatch, NOW, NOW + timedelta(seconds=60))
    answering = Answering(database, localTime=NOW + timedelta(seconds=seconds))
    assert list(store_checks.check_server(answering)) == []  # type: ignore[arg-type]


def test_holds_that_nobody_owns_any_more(database: Database[Any]) -> None:
    old, new = NOW - timedelta(seconds=HOLD_TTL_S + 1), NOW
    holds = {"dead": {"nano": 5, "at": old}, "live": {"nano": 5, "at": new}}
    database["usersNew"].insert_many([{"_id": "ann", "holds": holds}, {"_id": "bob", "holds": "damaged"}])
    check = only(store_checks.check_holds(database, NOW))
    assert (check.state, check.detail) == ("warning", "1 orphaned, of ann")
    assert check.advice == "weir verify --repair-holds"


def test_keys_of_another_secret(database: Database[Any], settings: Settings) -> None:
    document = {"_id": "k1", "apiKey": KeyCipher("of another host").encrypt("sk-upstream-1")}
    database["ohmygpt_keys"].insert_one(document)
    check = only(store_checks.check_secrets(database, settings, NOW))
    assert (check.state, check.advice) == ("failed", "set the SECRET_KEY that all hosts share")


def test_what_earlier_software_has_left(database: Database[Any], settings: Settings) -> None:
    EarlierDatabase.build(database, datetime.now(UTC), records=10)
    check = only(store_checks.check_earlier_software(database, settings, datetime.now(UTC)))
    assert check.detail.endswith(": indexes, client-keys, secrets, records")
    assert check.advice == "weir migrate check"
    assert only(store_checks.check_retention(database, settings)).advice == "weir migrate check"


def test_records_that_expire_too_late(database: Database[Any], settings: Settings) -> None:
    ensure_indexes(database, 60 * DAY_S)
    database["request_logs"].insert_one({"outcome": "ok", "createdAt": NOW})
    check = only(store_checks.check_retention(database, settings))
    assert check.detail == "records are kept for 60 days, LOG_RETENTION_DAYS is 30"
    assert "restart" in check.advice


def test_a_model_in_use_that_costs_nothing(database: Database[Any], settings: Settings) -> None:
    world = World.build(database, size=40)
    now = world.record(1).created_at
    Booking(database, "w3").apply([SequencedRecord(1, world.record(99_000).to_document())])
    assert "free of charge: gpt" in only(store_checks.check_prices(database, settings, now)).detail
    assert list(store_checks.check_prices(database, settings, now + timedelta(days=8))) == []


def test_a_disk_with_less_room_than_the_journal_may_take(settings: Settings) -> None:
    settings.data_dir.mkdir(mode=0o700)
    larger = settings.model_copy(update={"journal_max_mb": 10**9})
    check = only(checks.check_data_dir(larger))
    assert (check.state, "less than the journal may grow" in check.detail) == ("warning", True)
    assert only(checks.check_data_dir(settings.model_copy(update={"journal_max_mb": 1}))).state == "ok"


def test_costs_that_are_estimated_or_incomplete(database: Database[Any]) -> None:
    def put(request_id: str, minutes: int, **more: Any) -> None:
        made = {"_id": request_id, "model": "gpt", "isSuccess": True, "usageSource": "upstream"}
        database["request_logs"].insert_one(made | {"createdAt": NOW - timedelta(minutes=minutes)} | more)

    put("good", 1)
    put("left", 1, usageSource="estimate", isSuccess=False)
    put("long ago", 61, usageSource="estimate")
    assert list(store_checks.check_doubtful_costs(database, NOW)) == []
    put("estimated", 1, usageSource="estimate")
    put("ordered", 1, unpriced=["web_search"], model="claude")
    estimated, unpriced = store_checks.check_doubtful_costs(database, NOW)
    assert estimated.detail == "1 requests of the last hour were charged by estimate: gpt"
    assert unpriced.detail == "1 requests of the last hour used what has no price: claude"
    assert {estimated.state, unpriced.state} == {"warning"}
