"""A backup made while records are booked, credit is given and keys are made, restored, is consistent."""

import io
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.users import UserStore
from app.backup import copying, restoring
from app.backup.format import BackupReader, BackupWriter
from app.backup.restoring import Restored, RestoreRefused
from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.credit.credit_holds import CreditHolds
from app.credit.credit_ledger import CreditLedger
from app.persistence import writers
from app.persistence.booking import Booking
from app.persistence.store_watch import INCOMPLETE, StoreWatch
from app.records.records import SequencedRecord
from app.statistics import summaries
from app.statistics.summaries import SummaryMaker
from app.store import incomplete_restore
from app.store.connection import connect, ensure_indexes, log_expiry_s
from app.store.key_cipher import KeyCipher
from tests.support.credit import give
from tests.support.interleaved import connection_of_its_own, interleave
from tests.support.reconciliation_world import NOON, NOW, World, differing, verify

BEGAN_WITH = {"ann": "10", "bob": "5.5", "poor": "0.01"}
SUMS = ("usersNew", "user_keys", "ohmygpt_keys", "request_rollups")


@pytest.fixture
def target(mongo_uri: str) -> Iterator[Database[Any]]:
    db = connect(mongo_uri, f"test_{uuid4().hex[:16]}", app_name="weir-tests")
    yield db
    db.client.drop_database(db.name)
    db.client.close()


def ignore(_name: str, _count: int) -> None:
    pass


def backup_of(db: Database[Any], progress: Callable[[str, int], object] = ignore) -> io.BytesIO:
    sink = io.BytesIO()
    copying.copy_database(db, BackupWriter(sink.write), {"weirVersion": "x"}, lambda: NOW, progress)
    return sink


def restore(
    sink: io.BytesIO, target: Database[Any], progress: Callable[[str, int], object] = ignore
) -> Restored:
    reader = BackupReader(sink)
    reader.verify()
    return restoring.restore_database(target, reader, NOW, "tests", progress)


def contents(db: Database[Any]) -> dict[str, dict[Any, Any]]:
    names = set(db.list_collection_names()) - copying.LEFT_OUT
    return {name: {str(found["_id"]): found for found in db[name].find()} for name in sorted(names)}


def test_what_is_restored_is_what_there_was(database, target):
    World.build(database)
    database["of_other_software"].insert_many([{"_id": {"a": n}, "text": "x" * n} for n in range(50)])
    database["of_other_software"].create_index([("text", 1)], expireAfterSeconds=5_000_000, name="mine")
    database.create_collection("small", capped=True, size=4096)
    done = restore(backup_of(database), target)
    assert contents(target) == contents(database)
    assert target["small"].options() == {"capped": True, "size": 4096}
    assert target["of_other_software"].index_information()["mine"]["expireAfterSeconds"] == 5_000_000
    assert (done.left_out, done.remarks) == (0, [])
    assert done.counts["request_logs"] == database["request_logs"].count_documents({})
    assert not differing(verify(target))


def test_what_is_true_of_running_processes_only_does_not_travel(database, target):
    World.build(database)
    CreditHolds(database).place("ann", "r1", 1_000, committed_nano=0, own=(), timeout_s=5)
    database["key_share_workers"].insert_one({"_id": "workers"})
    database["rate_windows"].insert_one({"_id": "x"})
    while SummaryMaker(database).step(NOW):
        pass
    restore(backup_of(database), target)
    assert database["usersNew"].count_documents({"holds": {"$exists": True}}) == 1
    assert target["usersNew"].count_documents({"holds": {"$exists": True}}) == 0
    assert not copying.LEFT_OUT & set(target.list_collection_names())
    while SummaryMaker(target).step(NOW):
        pass
    made = [
        list(db[summaries.COLLECTION].find({"_id": {"$ne": "state"}}).sort("_id", 1))
        for db in (database, target)
    ]
    assert made[0] == made[1]
    assert not differing(verify(target))


# -- while everything goes on --------------------------------------------------------------------------------


class _Journal:
    """The records of one writer; books them in batches, now and then dying and being taken over."""

    def __init__(self, name: str, records: Sequence[SequencedRecord], random: Random) -> None:
        self.name, self.records, self.random = name, records, random
        self.acked = 0

    def book(self, db: Database[Any]) -> None:
        booking = Booking(db, self.name)
        while self.acked < len(self.records):
            size = self.random.randrange(1, 12)
            batch = self.records[self.acked : self.acked + size]
            booking.apply(batch)
            if self.random.random() < 0.2:
                booking = Booking(db, self.name)  # it died before it noted that, and is replayed
            else:
                self.acked += len(batch)

    def replay(self, db: Database[Any], first: int) -> None:
        if self.records[first:]:
            Booking(db, self.name).apply(self.records[first:])


def numbered(world: World, first: int, count: int, random: Random) -> list[SequencedRecord]:
    """Numbers as slots give them: increasing, with gaps where a process was replaced."""
    found, number = [], first
    for item in world.batch(first, count):
        found.append(SequencedRecord(number, item.document))
        number += random.choice((1, 1, 1, 1_000_000))
    return found


def give_credit(db: Database[Any], random: Random) -> None:
    for _ in range(12):
        give(db, random.choice(("ann", "bob", "poor")), Decimal(random.choice(("0.25", "1", "0.000000001"))))


def make_users_and_keys(db: Database[Any]) -> None:
    for number in range(4):
        UserStore(db).add(f"new-{number}", now=NOON, credits_usd=Decimal(1))
        ClientKeyStore(db).add(f"new-{number}", now=NOON)


def assert_ledger_explains_balances(db: Database[Any]) -> None:
    """Grants and lines are of the same moment: what was granted is the sum of the lines."""
    ledger = CreditLedger(db)
    for user in list(db["usersNew"].find()):
        ledger.settle(user["_id"])
        lines = db["credit_ledger"].find({"username": user["_id"]})
        begun = int(Decimal(BEGAN_WITH.get(user["_id"], 1)) * NANO)
        assert begun + sum(line["amountNanoUsd"] for line in lines) == user["creditsGrantedNanoUsd"]


def sums_of(db: Database[Any], *names: str) -> dict[str, dict[Any, Any]]:
    """What is booked, without what was granted."""
    kept = ("tokensUsed", "requestsCount", "creditsUsed", "totalInputTokens", "totalOutputTokens", "requests")
    return {
        name: {
            d["_id"]: {k: d.get(k) for k in (*kept, "costNanoUsd", "applied", "seq")} for d in db[name].find()
        }
        for name in names
    }


@pytest.mark.parametrize("seed", range(6))
def test_every_interleaving_gives_a_consistent_copy(seed, database, target, mongo_uri, monkeypatch):
    monkeypatch.setattr(copying, "_BATCH", 5)
    monkeypatch.setattr(copying, "_USERS_AT_ONCE", 2)
    monkeypatch.setattr(restoring, "_LARGEST_BATCH", 12)
    monkeypatch.setattr(restoring, "_BATCH", 7)
    random = Random(seed)
    world = World.build(database, size=40)
    journals = [
        _Journal(name, numbered(world, first, 60, random), random)
        for name, first in (("w1", 20_001), ("w2", 30_001), ("w-new", 40_001))
    ]
    connections = [connection_of_its_own(mongo_uri, database.name) for _ in range(6)]
    copied: list[io.BytesIO] = []
    acked_then: list[int] = []

    def back_up() -> None:
        copied.append(backup_of(connections[0]))
        acked_then.extend(journal.acked for journal in journals)

    try:
        interleave(
            random,
            back_up,
            *(lambda j=j, db=db: j.book(db) for j, db in zip(journals, connections[1:4], strict=True)),
            lambda: give_credit(connections[4], random),
            lambda: make_users_and_keys(connections[5]),
        )
    finally:
        for connection in connections:
            connection.client.close()
    assert not differing(verify(database))

    restore(copied[0], target)
    assert not differing(verify(target))
    assert_ledger_explains_balances(target)
    for journal in journals:
        stored = {found["_id"] for found in target["request_logs"].find({"writerId": journal.name})}
        stored -= {f"r{number:06}" for number in range(20_000)}
        assert stored == {item.document["_id"] for item in journal.records[: len(stored)]}

    if seed % 2:
        # What the journals held when the backup ended is booked by whoever starts on them, exactly once.
        for journal, acked in zip(journals, acked_then, strict=True):
            journal.replay(target, acked)
        assert not differing(verify(target))
        return
    # Were nothing of it acknowledged, all would come to be as it is in the database that went on.
    for journal in journals:
        journal.replay(target, 0)
    assert not differing(verify(target))
    wanted, found = (sums_of(db, *SUMS) for db in (database, target))
    for name in SUMS:
        common = found[name].keys() & wanted[name].keys()
        assert {k: found[name][k] for k in common} == {k: wanted[name][k] for k in common}, name
    assert target["request_logs"].count_documents({}) == database["request_logs"].count_documents({})


def test_a_record_that_was_missed_while_copying_leaves_no_hole(database, target):
    """Of the records that came after the sums were copied, some may be seen and earlier ones not."""
    world = World.build(database)
    batch = world.batch(20_001, 20)

    def book_more(name: str, count: int) -> None:
        if name == copying.RECORDS and not count:
            Booking(database, "w1").apply(batch)
            database["request_logs"].delete_many({"_id": {"$in": ["r020001", "r020010"]}})

    done = restore(backup_of(database, book_more), target)
    assert done.left_out == 18
    Booking(target, "w1").apply(batch)
    assert not differing(verify(target))


def test_a_batch_that_was_half_booked_when_the_copy_began_is_booked_to_its_end(database, target):
    world = World.build(database)
    batch = world.batch(20_001, 30)
    Booking(database, "w1").apply(batch)
    # The highest mark was set, and others of the same batch not yet.
    fresh = {"writerId": "w1", "seq": {"$gt": 20_000}, "requests": {"$lt": 3}}
    undone = list(database["request_rollups"].find(fresh).sort("seq", -1))
    assert len(undone) > 2
    database["request_rollups"].delete_many(
        {"_id": {"$in": [found["_id"] for found in undone[1:]]}, "requests": 1}
    )
    assert differing(verify(database))
    restore(backup_of(database), target)
    changed = {found["_id"] for found in undone}
    assert not [f for f in target["request_rollups"].find() if f["_id"] in changed and f.get("seq") is None]
    assert not differing(verify(target))


def test_lines_of_users_that_are_gone_travel_once(database, target):
    World.build(database)
    give(database, "ann", Decimal(1))
    database["usersNew"].delete_one({"_id": "ann"})
    database["creditsResetLogs"].insert_many([{"_id": 1, "note": "no name"}, {"_id": 2, "username": "gone"}])
    restore(backup_of(database), target)
    assert contents(target)["credit_ledger"] == contents(database)["credit_ledger"]
    assert target["creditsResetLogs"].count_documents({}) == 2


def test_records_older_than_what_is_booked_are_no_dead_letters(database, target):
    world = World.build(database)
    later = NOW + timedelta(days=61)
    sink = io.BytesIO()
    copying.copy_database(database, BackupWriter(sink.write), {}, lambda: later, ignore)
    restore(sink, target)
    assert target["request_logs_dead"].count_documents({}) == 0
    assert contents(target)["request_rollups"] == contents(database)["request_rollups"]
    assert world.client_keys


def test_a_spare_key_that_moved_into_the_pool_meanwhile_is_not_given_away_again(database, target):
    World.build(database)
    database["ohmygpt_backup_keys"].insert_one({"_id": "spare", "apiKey": "sk", "isUsed": False})

    def move(name: str, _count: int) -> None:
        if name == "ohmygpt_keys" and not database["ohmygpt_keys"].find_one({"_id": "spare"}):
            database["ohmygpt_keys"].insert_one(
                {
                    "_id": "spare",
                    "apiKey": "sk",
                    "fromBackup": "spare",
                    "claimedAt": NOW,
                    "replacedKey": "pool-1",
                }
            )

    restore(backup_of(database, move), target)
    spare = target["ohmygpt_backup_keys"].find_one({"_id": "spare"})
    assert (spare["isUsed"], spare["activated"], spare["usedFor"]) == (True, True, "pool-1")


def test_records_do_not_expire_before_a_worker_has_set_for_how_long_they_are_kept(database, target):
    World.build(database)
    ensure_indexes(database, 86_400)
    assert log_expiry_s(database) == 86_400
    ensure_indexes(target, 3600)  # as a proxy that was started on the empty database has left it
    restore(backup_of(database), target)
    assert log_expiry_s(target) is None
    wanted, found = (set(db["request_logs"].index_information()) for db in (database, target))
    assert found == wanted
    ensure_indexes(target, 2 * 86_400)
    assert log_expiry_s(target) == 2 * 86_400


# -- refusals ------------------------------------------------------------------------------------------------


def test_workers_of_the_first_version_that_book_meanwhile_are_noticed(database):
    world = World.build(database)

    def book_as_before(name: str, count: int) -> None:
        if name == copying.RECORDS and not count:
            Booking(database, "w1").apply(world.batch(20_001, 3))
            database["request_logs"].update_many(
                {"seq": {"$gt": 20_000}}, {"$unset": {"seq": "", "writerId": ""}}
            )

    with pytest.raises(StoreUnavailable, match=r"workers of version 0\.1"):
        copying.copy_database(
            database,
            BackupWriter(io.BytesIO().write),
            {},
            lambda: NOON + timedelta(minutes=5),
            book_as_before,
        )


def test_what_earlier_versions_recorded_before_is_copied_as_it_is(database, target):
    World.build(database)
    database["request_logs"].update_many({}, {"$unset": {"seq": "", "writerId": ""}})
    restore(backup_of(database), target)
    assert contents(target) == contents(database)
    assert not differing(verify(target))


def test_a_database_that_is_not_empty_is_refused_and_left_as_it_is(database, target):
    World.build(database)
    target["usersNew"].insert_one({"_id": "somebody"})
    with pytest.raises(RestoreRefused, match=r"is not empty \(1 usersNew\): restore into another one"):
        restore(backup_of(database), target)
    assert target.list_collection_names() == ["usersNew"]


def test_another_secret_key_is_refused(database):
    World.build(database)
    reader = BackupReader(backup_of(database))
    header = reader.verify()
    restoring.check_secret(header, KeyCipher("test"))
    with pytest.raises(RestoreRefused, match="another SECRET_KEY"):
        restoring.check_secret(header, KeyCipher("another"))


@pytest.mark.parametrize("after", ["usersNew", "request_logs", "booking", "indexes of request_logs"])
def test_a_restore_that_was_cut_off_leaves_a_database_that_nobody_uses(after, database, target):
    world = World.build(database)
    sink = backup_of(database)

    def die(name: str, _count: int) -> None:
        if name == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(sink, target, die)
    with pytest.raises(
        incomplete_restore.IncompleteRestore, match=r"the restore that tests began .* has not ended"
    ):
        incomplete_restore.refuse_incomplete(target)
    with pytest.raises(StoreUnavailable, match="not whole"):
        Booking(target, "w5").apply(world.batch(1, 1))
    assert StoreWatch(target, "w5").look() == INCOMPLETE
    assert target[writers.COLLECTION].find_one({"_id": "w5"}) is None
    with pytest.raises(RestoreRefused, match="not empty"):
        restore(sink, target)
    restoring.discard_incomplete(target)
    restore(sink, target)
    incomplete_restore.refuse_incomplete(target)
    assert contents(target) == contents(database)


def test_only_what_an_interrupted_restore_left_is_discarded(database):
    World.build(database)
    before = contents(database)
    restoring.discard_incomplete(database)
    assert contents(database) == before
