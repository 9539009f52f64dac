"""`weir migrate` on a database of earlier software: nothing is lost, nothing counts differently."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import bson
import gevent
import pytest
from click.testing import Result
from flask import Flask
from pymongo.collection import Collection
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.directory import CachedDirectory
from app.accounts.users import UserStore
from app.cli import register_commands
from app.keys.provider_keys import ProviderKeyStore
from app.migration.plan import STEP_NAMES, steps
from app.persistence.booking import Booking
from app.records.records import ExchangeRecord, Outcome, SequencedRecord
from app.settings import Settings
from app.statistics.periods import Period
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.statistics.usage import Grouping
from app.store.connection import ensure_indexes, log_expiry_s
from app.store.key_cipher import PREFIX, KeyCipher
from app.upstream.proxies import ProxyStore
from tests.support.earlier_database import EarlierDatabase
from tests.support.reconciliation_world import reconciliation

Run = Callable[..., Result]
SECRET = "shared-by-all-hosts"
DAY_S = 86_400
PERIODS = ("all", "30d", "7d", "24h", "today", "1h")
NEW_FIELDS = {"outcome", "costNanoUsd", "requestId", "earlierSoftware"}


@pytest.fixture
def now() -> datetime:
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@pytest.fixture
def earlier(database: Database[Any], now: datetime) -> EarlierDatabase:
    return EarlierDatabase.build(database, now)


@pytest.fixture
def run(database: Database[Any], mongo_uri: str, tmp_path: Path) -> Run:
    def invoke(*args: str, secret: str = SECRET) -> Result:
        settings = Settings(
            mongodb_uri=mongo_uri, mongodb_db_name=database.name, data_dir=tmp_path, secret_key=secret
        )
        app = Flask("test")
        register_commands(app, settings)
        return app.test_cli_runner().invoke(args=args)

    return invoke


def dump(db: Database[Any]) -> dict[str, dict[Any, bytes]]:
    """Every document of every collection, as bytes."""
    return {
        name: {found["_id"]: bson.encode(found) for found in db[name].find()}
        for name in db.list_collection_names()
    }


def statistics(db: Database[Any], now: datetime) -> dict[str, Any]:
    """All that statistics say."""
    stats, tz = StatsStore(db), ZoneInfo("Asia/Ho_Chi_Minh")
    return {
        period: (
            stats.model_stats(Period.of(period, now, tz)),
            stats.metrics(Period.of(period, now, tz)),
            stats.user_stats(Period.of(period, now, tz)),
            stats.usage(Grouping.parse("user"), Period.of(period, now, tz)),
            stats.usage(Grouping.parse("factoryKey"), Period.of(period, now, tz)),
        )
        for period in PERIODS
    }


def callers(db: Database[Any], earlier: EarlierDatabase) -> dict[str, str | None]:
    """Whom each key there ever was lets in."""
    directory = CachedDirectory(UserStore(db), ClientKeyStore(db), clock=lambda: 0.0, spawn=gevent.spawn)
    known = [*earlier.client_keys.values(), *earlier.account_keys.values(), *earlier.dead_keys]
    found = {key: directory.find(key) for key in known}
    return {key: None if principal is None else principal.user_id for key, principal in found.items()}


def test_a_check_changes_nothing_and_says_what_apply_then_does(
    run: Run, database: Database[Any], earlier: EarlierDatabase
) -> None:
    before = dump(database)
    checked = run("migrate", "check", "--json")
    assert checked.exit_code == 1
    assert dump(database) == before
    applied = run("migrate", "apply", "--json")
    assert applied.exit_code == 0, applied.output
    promised = {step["name"]: step["pending"] for step in json.loads(checked.stdout)["steps"]}
    assert promised == {step["name"]: step["done"] for step in json.loads(applied.stdout)["steps"]}
    assert tuple(promised) == STEP_NAMES
    assert promised["client-keys"] == 10
    assert promised["secrets"] == 5
    assert promised["records"] > 100
    assert run("migrate", "check").exit_code == 0
    assert [step["done"] for step in json.loads(run("migrate", "apply", "--json").stdout)["steps"]] == [0] * 6


def test_people_are_told_the_same(run: Run, earlier: EarlierDatabase) -> None:
    checked = run("migrate", "check").stdout
    assert "MongoDB will delete" in checked
    assert "LOG_RETENTION_DAYS=0 keeps them" in checked
    assert "left as it is: 1 friend keys" in checked
    applied = run("migrate", "apply")
    assert applied.exit_code == 0
    assert [line[0] for line in applied.stdout.splitlines()] == ["✓"] * 6
    assert "Nothing to do." in run("migrate", "check").stdout


def test_statistics_are_the_same_before_and_after(
    run: Run, database: Database[Any], earlier: EarlierDatabase, now: datetime
) -> None:
    book(database, 1, [hash_client_key(earlier.client_keys["user1"])], now - timedelta(days=45))
    summarise(database, now)
    before = statistics(database, now)
    assert before["all"][1]["total_requests"] == 130
    assert run("migrate", "apply").exit_code == 0
    assert statistics(database, now) == before
    summarise(database, now)
    assert statistics(database, now) == before
    # They stay so when the records have gone.
    database["request_logs"].delete_many({"earlierSoftware": True, "createdAt": {"$lt": now - timedelta(30)}})
    assert statistics(database, now)["all"] == before["all"]


def test_every_key_lets_in_whom_it_let_in_before(
    run: Run, database: Database[Any], earlier: EarlierDatabase
) -> None:
    before = callers(database, earlier)
    assert sum(user is not None for user in before.values()) == len(earlier.client_keys) + 5
    assert run("migrate", "apply").exit_code == 0
    assert callers(database, earlier) == before
    assert callers(database, earlier)[earlier.dead_keys[0]] is None


def test_what_there_was_is_still_there(run: Run, database: Database[Any], earlier: EarlierDatabase) -> None:
    before = {name: list(database[name].find().sort("_id", 1)) for name in database.list_collection_names()}
    assert run("migrate", "apply").exit_code == 0
    for name in ("usersNew", "friend_keys", "creditsResetLogs"):
        assert list(database[name].find().sort("_id", 1)) == before[name]
    accounts = {key: f"user:{user}" for user, key in earlier.account_keys.items()}
    for old, new in zip(before["request_logs"], database["request_logs"].find().sort("_id", 1), strict=True):
        key = old.pop("userKeyId")
        assert new.pop("userKeyId") == accounts.get(key, hash_client_key(key))
        assert {name: value for name, value in new.items() if name not in NEW_FIELDS} == old
    for old in before["user_keys"]:
        new = database["user_keys"].find_one({"_id": hash_client_key(old.pop("_id"))})
        assert new is not None
        assert new.keys() - old.keys() == {"_id", "hint", "takenOverAt"}
        assert {name: new[name] for name in old} == old


def test_no_secret_is_left_in_the_clear(run: Run, database: Database[Any], earlier: EarlierDatabase) -> None:
    everything = b"".join(found for collection in dump(database).values() for found in collection.values())
    assert [secret for secret in earlier.secrets if secret.encode() not in everything] == []
    assert run("migrate", "apply").exit_code == 0
    everything = b"".join(found for collection in dump(database).values() for found in collection.values())
    assert [secret for secret in earlier.secrets if secret.encode() in everything] == []
    cipher = KeyCipher(SECRET)
    kept = {key.key_id: key.secret for key in ProviderKeyStore(database, cipher).list()}
    assert kept.items() <= earlier.upstream_keys.items()
    (proxy,) = ProxyStore(database, cipher).list()
    assert proxy.endpoint is not None
    assert proxy.endpoint.password == "proxy-password-1"


def test_everything_agrees_afterwards(
    run: Run, database: Database[Any], earlier: EarlierDatabase, now: datetime
) -> None:
    assert run("migrate", "apply").exit_code == 0
    results = list(reconciliation(database).run(now))
    assert {result.name: result.difference_count for result in results if result.difference_count} == {}
    hours = next(result for result in results if result.name == "hourly_sums")
    assert hours.compared > 60


def test_a_key_goes_on_counting(
    run: Run, database: Database[Any], earlier: EarlierDatabase, now: datetime
) -> None:
    key = earlier.client_keys["user1"]
    old = database["user_keys"].find_one({"_id": key})
    assert old is not None
    assert run("migrate", "apply").exit_code == 0
    hashed = hash_client_key(key)
    record = ExchangeRecord(
        "r1", user_id="user1", user_key_id=hashed, created_at=now, api_format="openai", outcome=Outcome.OK,
        status_code=200, factory_key_id="factory-1", model="gpt-5", input_tokens=7, cost_nano_usd=5,
    )  # fmt: skip
    Booking(database, "w1").apply([SequencedRecord(1, record.to_document())])
    new = database["user_keys"].find_one({"_id": hashed})
    assert new is not None
    assert new["requestsCount"] == old["requestsCount"] + 1
    assert new["tokensUsed"] == old["tokensUsed"] + 7
    assert not any(result.difference_count for result in reconciliation(database).run(now))


class Killed(BaseException):
    """The process is gone."""


ONE_OF_MANY = {"update_many": Collection.update_one, "delete_many": Collection.delete_one}
WRITES = ("update_one", "update_many", "delete_one", "delete_many", "bulk_write", "find_one_and_update")


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """Arms a death at the so-manieth write: before it, after it, or after one of the documents of many."""
    armed: dict[str, Any] = {"left": -1, "how": ""}

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(self: Collection[Any], *args: Any, **options: Any) -> Any:
            armed["left"] -= 1
            if armed["left"] == 0 and armed["how"] == "before":
                raise Killed
            is_cut = armed["left"] == 0 and armed["how"] == "amid"
            result = (ONE_OF_MANY.get(original.__name__, original) if is_cut else original)(
                self, *args, **options
            )
            if armed["left"] == 0:
                raise Killed
            return result

        return write

    for name in WRITES:
        monkeypatch.setattr(Collection, name, dying(getattr(Collection, name)))

    def arm(write: int, how: str) -> None:
        armed.update(left=write, how=how)

    return arm


def migrate(db: Database[Any], now: datetime) -> None:
    for step in steps(db, KeyCipher(SECRET), 30 * DAY_S, now):
        step.apply(lambda _done: None)


def test_it_is_taken_up_wherever_it_was_killed(
    database: Database[Any], now: datetime, kill_at: Callable[[int, str], None]
) -> None:
    """Killed at the first write, later runs at the second, and so on until one gets to the end."""
    earlier = EarlierDatabase.build(database, now, records=25)
    before, let_in = statistics(database, now), callers(database, earlier)
    counters = {
        hash_client_key(found["_id"]): (found["requestsCount"], found["tokensUsed"])
        for found in database["user_keys"].find()
    }
    deaths = 0
    for write, how in itertools.product(range(1, 1000), ("before", "amid", "after")):
        kill_at(write, how)
        try:
            migrate(database, now)
        except Killed:
            deaths += 1
            kill_at(-1, "")
            assert callers(database, earlier) == let_in
        else:
            kill_at(-1, "")
            break
    assert deaths > 30
    assert statistics(database, now) == before
    assert not any(result.difference_count for result in reconciliation(database).run(now))
    found = database["user_keys"].find()
    assert {key["_id"]: (key["requestsCount"], key["tokensUsed"]) for key in found} == counters
    assert [step.look().pending for step in steps(database, KeyCipher(SECRET), 30 * DAY_S, now)] == [0] * 6


def test_a_start_before_the_migration_lets_no_history_expire(
    run: Run, database: Database[Any], earlier: EarlierDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_indexes(database, 30 * DAY_S)
    assert log_expiry_s(database) is None
    assert "until 'weir migrate apply' has added them" in caplog.text
    refused = run("migrate", "apply", "--only", "expiry")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "Error: records that are in no sum would be deleted: apply the step records first\n",
    )
    assert run("migrate", "apply").exit_code == 0
    assert log_expiry_s(database) == 30 * DAY_S


def test_another_secret_key_is_refused_before_anything_is_encrypted_with_it(
    run: Run, database: Database[Any], earlier: EarlierDatabase
) -> None:
    database["ohmygpt_keys"].update_one(
        {"_id": "factory-1"}, {"$set": {"apiKey": KeyCipher(SECRET).encrypt("sk-omg-1234567")}}
    )
    refused = run("migrate", "apply", "--only", "secrets", secret="of this host alone")
    assert refused.exit_code == 1
    assert "SECRET_KEY is not the one that the database" in refused.stderr
    checked = run("migrate", "check", "--only", "secrets", secret="of this host alone")
    assert "1 were encrypted with another SECRET_KEY" in checked.stdout
    assert database["ohmygpt_keys"].count_documents({"apiKey": {"$regex": f"^{PREFIX}"}}) == 1


def test_an_index_the_data_does_not_allow_holds_nothing_else_up(
    run: Run, database: Database[Any], earlier: EarlierDatabase
) -> None:
    database["usersNew"].update_many({"_id": {"$in": ["user1", "user2"]}}, {"$set": {"referralCode": "SAME"}})
    applied = run("migrate", "apply")
    assert applied.exit_code == 1
    assert "indexes: usersNew referralCode 1: " in applied.stderr
    assert [line[0] for line in applied.stdout.splitlines()] == ["✗", "✓", "✓", "✓", "✓", "✓"]
    left = json.loads(run("migrate", "check", "--json").stdout)
    assert [step["pending"] for step in left["steps"]] == [1, 0, 0, 0, 0, 0]


def test_one_at_a_time_and_the_dead_are_no_hindrance(
    run: Run, database: Database[Any], earlier: EarlierDatabase, now: datetime
) -> None:
    until = now + timedelta(minutes=5)
    owner = {"host": "elsewhere", "pid": 1}
    database["migrations"].insert_one({"_id": "turn", "owner": owner, "until": until})
    refused = run("migrate", "apply")
    assert refused.exit_code == 1
    assert "another weir migrate apply is at work (process 1 on elsewhere)" in refused.stderr
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    owner = {"host": os.uname().nodename, "pid": child}
    database["migrations"].update_one({"_id": "turn"}, {"$set": {"owner": owner}})
    assert run("migrate", "apply").exit_code == 0


def test_records_that_came_later_are_added_to_the_same_hour(
    run: Run, database: Database[Any], earlier: EarlierDatabase, now: datetime
) -> None:
    assert run("migrate", "apply").exit_code == 0
    record = earlier.record(now - timedelta(days=3))
    database["request_logs"].insert_one(record)
    before = statistics(database, now)
    applied = json.loads(run("migrate", "apply", "--json").stdout)
    assert [step["done"] for step in applied["steps"]] == [0, 0, 0, 1, 0, 0]
    assert statistics(database, now) == before
    assert not any(result.difference_count for result in reconciliation(database).run(now))


def book(database: Database[Any], first: int, keys: list[str], moment: datetime) -> None:
    """What Weir records of one request with each of these keys."""
    batch = [
        ExchangeRecord(
            f"r{first + number}", user_id="user1", user_key_id=key, created_at=moment, api_format="openai",
            outcome=Outcome.OK, status_code=200, model="gpt-5", input_tokens=7, cost_nano_usd=5,
        )
        for number, key in enumerate(keys)
    ]  # fmt: skip
    records = [SequencedRecord(first + number, record.to_document()) for number, record in enumerate(batch)]
    Booking(database, "w1").apply(records)


def summarise(database: Database[Any], now: datetime) -> None:
    maker = SummaryMaker(database)
    while maker.step(now):
        pass


@pytest.mark.parametrize("deaths", [0, 40])
def test_weir_may_have_run_on_the_database_before(
    database: Database[Any],
    earlier: EarlierDatabase,
    now: datetime,
    kill_at: Callable[[int, str], None],
    deaths: int,
) -> None:
    """With keys under themselves in hourly sums too, and summaries made of those."""
    keys = list(earlier.client_keys.values())
    for days in (1, 3, 40):
        book(database, 1000 - days * 10, keys, now - timedelta(days=days))
    summarise(database, now)
    before = statistics(database, now)
    for death in range(deaths):
        kill_at(death // 2 + 1, "before" if death % 2 else "after")
        with contextlib.suppress(Killed):
            migrate(database, now)
        kill_at(-1, "")
        summarise(database, now)
    migrate(database, now)
    assert statistics(database, now) == before
    summarise(database, now)
    assert statistics(database, now) == before
    by_key = StatsStore(database).usage(Grouping.parse("key"), Period.of("all", now, ZoneInfo("UTC")))
    assert not {key for key, _ in by_key.rows} & set(keys)
    assert not any(result.difference_count for result in reconciliation(database).run(now))


def test_wrong_use_is_exit_status_2(run: Run) -> None:
    assert run("migrate", "apply", "--only", "everything").exit_code == 2
