"""Reconciliation against a real MongoDB: every seeded corruption is found and named, and nothing else."""

from datetime import timedelta
from decimal import Decimal

import pytest
from booking_world import closed_database, deep
from bson.int64 import Int64

from app.accounts.users import GRANTED
from app.common.errors import StoreUnavailable
from app.credit.credit_policy import HOLD_TTL_S
from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from app.verify.reconcile import MAX_SHOWN, Consistency
from tests.support.credit import give
from tests.support.reconciliation_world import (
    NOON,
    NOW,
    World,
    differing,
    only,
    reconciliation,
    verify,
)


@pytest.fixture
def world(database) -> World:
    return World.build(database)


# Consistent worlds


def test_an_empty_database_is_consistent(database) -> None:
    assert differing(verify(database)) == set()


def test_a_consistent_world_is_consistent(world: World) -> None:
    results = verify(world.db)
    assert differing(results) == set()
    assert {name for name, result in results.items() if result.pending_count} == set()
    assert results["records"].compared == 120
    assert results["users"].compared == results["balances"].compared == 3
    assert results["client_keys"].compared == 3
    assert results["upstream_keys"].compared == 2
    assert results["hourly_sums"].compared > 15


def test_records_of_earlier_software_are_left_out(world: World) -> None:
    world.db.request_logs.insert_one({"userId": "ann", "creditsCost": 1.0, "createdAt": NOON})
    results = verify(world.db)
    assert differing(results) == set()
    assert results["records"].compared == 120


def test_what_has_expired_is_not_missed(world: World) -> None:
    world.db.request_logs.delete_many({"createdAt": {"$lt": NOON + timedelta(hours=1)}})
    assert differing(verify(world.db)) == {"hourly_sums"}
    assert differing(verify(world.db, retention_s=4 * 3600)) == set()


def test_the_store_knows_how_long_records_were_kept(world: World) -> None:
    world.db.request_logs.create_index("createdAt", expireAfterSeconds=4 * 3600)
    world.db.request_logs.delete_many({"createdAt": {"$lt": NOON + timedelta(hours=1)}})
    assert differing(verify(world.db)) == set()


def test_since_leaves_out_what_was_before(world: World) -> None:
    world.db.request_logs.delete_many({"createdAt": {"$lt": NOON + timedelta(hours=1)}})
    (hours,) = [
        result
        for result in reconciliation(world.db, retention_s=0).run(NOW, NOON + timedelta(minutes=30))
        if result.name == "hourly_sums"
    ]
    assert (hours.difference_count, hours.compared > 0) == (0, True)


# What cannot be checked is said, not guessed


def test_users_and_keys_of_other_software_are_not_compared(world: World) -> None:
    old = {"credits": 1.0, "creditsUsed": 77.0, "totalInputTokens": 5}
    world.db.usersNew.insert_one({"_id": "old", **old})
    world.db.user_keys.insert_one({"_id": "sk-troll-abcdefghijklmnopqrstuvwx", "requestsCount": 9})
    world.db.ohmygpt_keys.insert_one({"_id": "plain", "apiKey": "sk-plain", "requestsCount": 9})
    results = verify(world.db)
    assert differing(results) == set()
    for name in ("users", "client_keys", "upstream_keys"):
        assert any(note.startswith("1 not checked") for note in results[name].notes)
    assert "signs only" in results["balances"].notes[0]


def test_a_key_that_was_deleted_and_added_again_is_not_compared(world: World) -> None:
    changes = {"createdAt": NOON + timedelta(hours=2, minutes=55), "requestsCount": 0, "tokensUsed": 0}
    world.db.ohmygpt_keys.update_one({"_id": "pool-1"}, {"$set": changes})
    results = verify(world.db)
    assert differing(results) == set()
    assert results["upstream_keys"].compared == 1
    assert "in use before" in results["upstream_keys"].notes[0]


def test_counters_that_were_reset_are_not_compared(world: World) -> None:
    changes = {"resetAt": NOW, "requestsCount": 0, "tokensUsed": 0}
    world.db.user_keys.update_one({"_id": world.client_keys["ann"]}, {"$set": changes})
    assert differing(verify(world.db)) == set()


def test_credit_granted_to_users_of_other_software_starts_no_running_total(database) -> None:
    database.usersNew.insert_one({"_id": "old", "credits": 1.0, "creditsUsed": 0.5})
    give(database, "old", Decimal(3))
    assert "creditsGrantedNanoUsd" not in database.usersNew.find_one()
    assert differing(verify(database)) == set()


def test_what_was_granted_is_kept_as_a_whole_number(world: World) -> None:
    ann, bob = (world.db.usersNew.find_one({"_id": name}) for name in ("ann", "bob"))
    assert ann["creditsGrantedNanoUsd"] == 10_000_000_001
    assert bob["creditsGrantedNanoUsd"] == 5_000_000_000
    stored = world.db.usersNew.count_documents({"creditsGrantedNanoUsd": {"$type": "long"}})
    assert stored == 3


# Corruptions


def test_a_removed_record_is_found(world: World) -> None:
    removed = world.db.request_logs.find_one_and_delete({"userId": "ann", "outcome": "ok"})
    results = verify(world.db)
    assert differing(results) == {"hourly_sums"}
    found = only(results, "hourly_sums", "requests of request_rollups")
    assert found.expected == found.found - 1
    assert f"model {removed['model']}, user ann" in found.where
    assert "a record was removed" in found.hint


def test_an_added_record_is_found(world: World) -> None:
    record = world.db.request_logs.find_one({"userId": "ann"})
    world.db.request_logs.insert_one({**record, "_id": "new", "requestId": "new"})
    results = verify(world.db)
    assert differing(results) == {"hourly_sums"}


@pytest.mark.parametrize("nano", [1, -1])
def test_one_nano_dollar_in_an_hourly_sum_is_found(world: World, nano: int) -> None:
    chosen = {"userId": "ann", "costNanoUsd": {"$gt": 10}}
    world.db.request_rollups.update_one(chosen, {"$inc": {"costNanoUsd": nano}})
    results = verify(world.db)
    assert differing(results) == {"hourly_sums", "users"}
    found = only(results, "hourly_sums", "costNanoUsd of request_rollups")
    assert found.found - found.expected == nano
    user = only(results, "users", "creditsUsed (nano-USD)")
    assert (user.where, user.expected - user.found) == ("user ann", nano)


def test_sums_moved_to_another_user_are_found(world: World) -> None:
    world.db.request_rollups.update_one({"userId": "ann"}, {"$set": {"userId": "bob"}})
    results = verify(world.db)
    assert differing(results) == {"hourly_sums", "users"}
    assert {found.where for found in results["users"].differences} <= {"user ann", "user bob"}


def test_a_users_changed_credit_is_found(world: World) -> None:
    world.db.usersNew.update_one({"_id": "bob"}, {"$inc": {"credits": 0.25}})
    results = verify(world.db)
    assert differing(results) == {"balances"}
    found = only(results, "balances", "credits + refCredits (nano-USD)")
    assert (found.where, found.found - found.expected) == ("user bob", 250_000_000)


def test_a_users_changed_use_is_found(world: World) -> None:
    world.db.usersNew.update_one({"_id": "bob"}, {"$inc": {"creditsUsed": 1e-9}})
    results = verify(world.db)
    assert differing(results) == {"users", "balances"}
    found = only(results, "users", "creditsUsed (nano-USD)")
    assert found.found - found.expected == 1


def test_overdraft_is_part_of_the_balance(world: World) -> None:
    assert world.db.usersNew.find_one({"_id": "poor"})["overdraftNanoUsd"] > 0
    world.db.usersNew.update_one({"_id": "poor"}, {"$inc": {"overdraftNanoUsd": Int64(1)}})
    assert differing(verify(world.db)) == {"balances"}


@pytest.mark.parametrize("field", ["requestsCount", "tokensUsed"])
@pytest.mark.parametrize("step", [1, -1])
def test_a_changed_counter_of_a_client_key_is_found(world: World, field: str, step: int) -> None:
    key = world.client_keys["ann"]
    world.db.user_keys.update_one({"_id": key}, {"$inc": {field: step}})
    results = verify(world.db)
    assert differing(results) == {"client_keys"}
    found = only(results, "client_keys", field)
    assert (found.where, found.found - found.expected) == (f"client key {key}", step)


def test_a_changed_counter_of_an_upstream_key_is_found(world: World) -> None:
    world.db.ohmygpt_keys.update_one({"_id": "pool-2"}, {"$inc": {"requestsCount": 1}})
    results = verify(world.db)
    assert differing(results) == {"upstream_keys"}
    assert only(results, "upstream_keys", "requestsCount").where == "upstream key pool-2"


def test_a_negative_balance_is_found(world: World) -> None:
    taken = {"credits": -1, GRANTED: -1_000_000_000}
    world.db.usersNew.update_one({"_id": "poor"}, {"$inc": taken})
    results = verify(world.db)
    assert differing(results) == {"balances"}
    found = only(results, "balances", "credits is negative")
    assert (found.where, found.found) == ("user poor", -1_000_000_000)


def test_an_orphaned_hold_is_found_and_a_live_one_is_not(world: World) -> None:
    holds = {
        "dead": {"nano": Int64(5), "at": NOW - timedelta(seconds=HOLD_TTL_S + 1)},
        "live": {"nano": Int64(5), "at": NOW - timedelta(seconds=HOLD_TTL_S - 1)},
    }
    world.db.usersNew.update_one({"_id": "ann"}, {"$set": {"holds": holds}})
    results = verify(world.db)
    assert differing(results) == {"balances"}
    assert only(results, "balances", "orphaned hold").where == "user ann, request dead"


def test_a_dead_letter_is_found(world: World) -> None:
    broken = world.record(90_001).to_document() | {"usageRaw": deep(190)}
    Booking(world.db, "w3").apply([SequencedRecord(1, broken)])
    results = verify(world.db)
    assert differing(results) == {"dead_letters"}
    found = only(results, "dead_letters", "dead letter")
    assert "request r090001, stage record" in found.where
    assert "request_logs_dead" in found.hint


def test_a_record_under_another_id_is_found(world: World) -> None:
    world.db.request_logs.update_one({"_id": "r000005"}, {"$set": {"requestId": "r000006"}})
    results = verify(world.db)
    assert differing(results) == {"records"}
    (found,) = results["records"].differences
    assert (found.where, found.found) == ("record r000005", "r000006")


@pytest.mark.parametrize(("lost", "names"), [(0, set()), (3, {"lost_records"})])
def test_lost_records_are_found_where_they_are_known(world: World, lost: int, names: set[str]) -> None:
    results = verify(world.db, lost=lambda: lost)
    assert differing(results) == names
    assert verify(world.db)["lost_records"].state is Consistency.NOT_CHECKED


def test_secrets_of_older_keys_are_never_shown(world: World) -> None:
    key = "sk-troll-abcdefghijklmnopqrstuvwx"
    Booking(world.db, "w3").apply(
        [SequencedRecord(1, world.record(90_001).to_document() | {"userKeyId": key})]
    )
    world.db.request_logs.delete_one({"userKeyId": key})
    report = reconciliation(world.db).report(NOW)
    assert report["consistent"] is False
    assert key not in str(report)


def test_when_everything_differs_the_report_stays_short(database) -> None:
    sums = [{"hour": NOON, "model": f"m{number}", "requests": 1, "success": 1} for number in range(500)]
    database.request_rollups.insert_many(sums)
    result = verify(database)["hourly_sums"]
    assert len(result.differences) == MAX_SHOWN
    assert result.difference_count == 400
    assert result.notes == ["stopped after 400 differences"]


def test_a_store_that_is_down_is_reported_as_such() -> None:
    database = closed_database()
    with pytest.raises(StoreUnavailable):
        list(reconciliation(database).run(NOW))
    with pytest.raises(StoreUnavailable):
        reconciliation(database).report(NOW)
