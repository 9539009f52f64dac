"""Booking on a real MongoDB: what is written where, to the nano-dollar, and what cannot be booked."""

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

import bson
import pytest
from booking_world import (
    NOON,
    FaultyDatabase,
    closed_database,
    deep,
    mixed,
    record,
    reset,
    seed,
    sequenced,
    state,
)
from bson import CodecOptions, Decimal128
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.journal.documents import encode_record
from app.persistence.booking import Booking
from app.records.records import Outcome, SequencedRecord
from app.statistics.histogram import bucket_key
from tests.support.credit import give


@pytest.fixture
def db(database):
    seed(database)
    return database


@pytest.fixture
def booking(db):
    return Booking(db, "w1")


def user(db, name="ann") -> dict[str, Any]:
    return db["usersNew"].find_one({"_id": name})


def test_a_record_is_stored_with_its_cost_as_64_bits(db, booking):
    booking.apply([sequenced(1)])

    stored = db["request_logs"].find_one({"_id": "r000001"})
    assert stored["costNanoUsd"] == 1_000_001
    assert db["request_logs"].count_documents({"costNanoUsd": {"$type": "long"}}) == 1
    assert stored["creditsCost"] == 0.001000001
    assert stored["createdAt"] == NOON + timedelta(minutes=1)


def test_the_cost_is_taken_from_the_credit_and_tokens_are_added(db, booking):
    booked = booking.apply([sequenced(1), sequenced(2)])

    ann = user(db)
    assert ann["credits"] == 9.997999997
    assert ann["refCredits"] == 0.5
    assert ann["creditsUsed"] == 0.102000003
    assert (ann["totalInputTokens"], ann["totalOutputTokens"]) == (207, 20)
    assert ann["lastUsedAt"] == NOON + timedelta(minutes=2)
    assert "overdraftNanoUsd" not in ann
    assert "_taking" not in ann
    assert booked.records == 2
    assert booked.charges == {"ann": 2_000_003}
    assert booked.dead == ()


def test_referral_credit_pays_the_rest_and_what_nothing_covers_is_overdraft(db, booking):
    booking.apply([sequenced(1, user_id="poor", cost_nano_usd=5_000_000)])
    assert (user(db, "poor")["credits"], user(db, "poor")["refCredits"]) == (0.0, 0.002)

    booking.apply([sequenced(2, user_id="poor", cost_nano_usd=5_000_000)])
    poor = user(db, "poor")
    assert (poor["credits"], poor["refCredits"], poor["overdraftNanoUsd"]) == (0.0, 0.0, 3_000_000)
    assert poor["creditsUsed"] == 0.01


@pytest.mark.parametrize(
    ("credits", "left", "overdraft"),
    [
        pytest.param("a lot", "a lot", 5, id="text is no credit"),
        pytest.param(None, None, 5, id="null is no credit"),
        pytest.param(-1.0, -1.0, 5, id="debt stays as it is"),
        pytest.param(float("inf"), float("inf"), None, id="infinite credit never ends"),
        pytest.param(1, 0.999999995, None, id="whole number"),
        pytest.param(Decimal128("1"), Decimal128("0.999999995"), None, id="decimal"),
        pytest.param(0.1 + 0.2, 0.299999995, None, id="binary rest disappears"),
    ],
)
def test_odd_balances(db, booking, credits, left, overdraft):
    db["usersNew"].insert_one({"_id": "odd", "credits": credits})
    booked = booking.apply([sequenced(1, user_id="odd", cost_nano_usd=5)])

    assert booked.dead == ()
    assert user(db, "odd")["credits"] == left
    assert user(db, "odd").get("overdraftNanoUsd") == overdraft


def test_ten_thousand_random_charges_are_exact_to_the_nano_dollar(database):
    random = Random(20261123)
    names = [f"user{number}" for number in range(50)]
    expected = {name: [random.randrange(40 * NANO), random.randrange(5 * NANO), 0, 0] for name in names}
    database["usersNew"].insert_many(
        [
            {"_id": name, "credits": c / NANO, "refCredits": r / NANO}
            for name, (c, r, _, _) in expected.items()
        ]
    )
    booking = Booking(database, "w1")
    seq = operations = 0
    while operations < 10_000:
        batch = []
        for name in names:
            seq += 1
            cost = int(10 ** random.uniform(0, 8.7))
            batch.append(sequenced(seq, user_id=name, cost_nano_usd=cost))
            charge(expected[name], cost)
        booking.apply(batch)
        operations += len(batch)
        lucky = random.choice(names)
        top_up = random.randrange(NANO)
        give(database, lucky, Decimal(top_up) / NANO)
        expected[lucky][0] += top_up

    overdrawn = 0
    for document in database["usersNew"].find():
        credit, referral, used, overdraft = expected[document["_id"]]
        assert document["credits"] == credit / NANO
        assert document["refCredits"] == referral / NANO
        assert document["creditsUsed"] == used / NANO
        assert document.get("overdraftNanoUsd", 0) == overdraft
        overdrawn += overdraft > 0
    assert 0 < overdrawn < len(names)


def charge(account: list[int], cost: int) -> None:
    from_credit = min(account[0], cost)
    from_referral = min(account[1], cost - from_credit)
    account[0] -= from_credit
    account[1] -= from_referral
    account[2] += cost
    account[3] += cost - from_credit - from_referral


def test_keys_count_every_request_and_its_tokens(db, booking):
    refused = sequenced(2, outcome=Outcome.REJECTED, cost_nano_usd=0, input_tokens=0, output_tokens=0)
    booking.apply([sequenced(1), refused])

    key = db["user_keys"].find_one({"_id": "wk_ann"})
    assert (key["tokensUsed"], key["requestsCount"]) == (115, 2)
    assert key["lastUsedAt"] == NOON + timedelta(minutes=2)
    pool_key = db["ohmygpt_keys"].find_one({"_id": "pool-1"})
    assert (pool_key["tokensUsed"], pool_key["requestsCount"]) == (110, 5)


def test_callers_without_a_user_leave_a_record_and_create_nothing(db, booking):
    booking.apply([sequenced(1, user_id="env", user_key_id="env", factory_key_id="env-1")])

    assert db["request_logs"].count_documents({}) == 1
    assert db["request_rollups"].count_documents({"userId": "env"}) == 1
    for name in ("usersNew", "user_keys", "ohmygpt_keys"):
        assert db[name].count_documents({"_id": {"$regex": "^env"}}) == 0


def test_hourly_sums(db, booking):
    booking.apply(
        [
            sequenced(1, cache_hit_tokens=4, cache_write_tokens=3, reasoning_tokens=2, latency_ms=50),
            sequenced(2, outcome=Outcome.STREAM_ERROR, latency_ms=70_000, ttft_ms=None),
            sequenced(3, outcome=Outcome.REJECTED, status_code=402, cost_nano_usd=0),
            sequenced(60, latency_ms=1),
        ]
    )
    first, second = db["request_rollups"].find().sort("hour", 1)
    assert first["hour"] == NOON
    assert second["hour"] == NOON + timedelta(hours=1)
    assert (first["requests"], first["success"], first["errors"], first["rejected"]) == (3, 1, 1, 1)
    assert (first["inputTokens"], first["outputTokens"]) == (300, 30)
    assert (first["cacheHitTokens"], first["cacheWriteTokens"], first["reasoningTokens"]) == (4, 3, 2)
    assert first["costNanoUsd"] == 2_000_003
    assert (first["latencyCount"], first["latencySumMs"]) == (2, 70_050)
    assert first["latency"] == {bucket_key(50): 1, bucket_key(70_000): 1}
    assert (first["ttftCount"], first["ttftSumMs"]) == (1, 100)
    assert first["statusClasses"] == {"2xx": 2, "4xx": 1}
    assert first["outcomes"] == {"ok": 1, "stream_error": 1, "rejected": 1}
    assert (first["writerId"], first["seq"], second["seq"]) == ("w1", 3, 60)


def test_applying_a_batch_again_changes_nothing(db, booking):
    batch = mixed(60)
    booking.apply(batch)
    before = state(db)

    for again in (batch, batch[:10], batch[10:], batch[30:31]):
        booked = booking.apply(again)
        assert booked.records == len(again)
    assert state(db) == before


def test_batch_boundaries_do_not_matter(db):
    batch = mixed(60)
    Booking(db, "w1").apply(batch)
    whole = state(db)
    reset(db)

    booking = Booking(db, "w1")
    booking.apply(batch[:20])
    booking.apply(batch[5:41])
    booking.apply(batch[:])
    assert state(db) == whole


OTHERS = {
    "booked further under the same id": lambda db: Booking(db, "w1").apply(mixed(40)),
    "users taken away and put back": lambda db: (
        db["usersNew"].delete_many({}),
        db["usersNew"].insert_many(USERS),
    ),
    "hourly sums taken away": lambda db: db["request_rollups"].delete_many({}),
    "numbers taken away": lambda db: db["user_keys"].update_many({}, {"$unset": {"applied": ""}}),
}
USERS = [{"_id": "ann", "credits": 3.0}, {"_id": "bob", "credits": 0.0, "applied": {"w1": 5}}]


@pytest.mark.parametrize("meddle", OTHERS.values(), ids=OTHERS)
def test_what_is_remembered_of_documents_does_not_matter_once_others_have_changed_them(db, meddle):
    batch = mixed(60)
    ends = []
    for is_remembered in (False, True):
        reset(db)
        booking = Booking(db, "w1")
        booking.apply(batch[:20])
        meddle(db)
        (booking if is_remembered else Booking(db, "w1")).apply(batch[20:])
        ends.append(state(db))
    assert ends[0] == ends[1]


def test_a_batch_asks_only_for_the_numbers_of_documents_that_were_not_in_one_before(db):
    faults = FaultyDatabase(db, lambda _: None)
    booking = Booking(faults, "w1")
    calls = []
    for number in (1, 2, 3):
        booking.apply([sequenced(number, created_at=NOON)])
        calls.append(faults.calls)
        faults.calls = 0
    assert calls[0] - 4 > calls[1] == calls[2]


def test_the_journals_own_bytes_are_what_is_stored(db, booking):
    made = record(1)
    document, encoded = encode_record(made)
    booking.apply([SequencedRecord(1, document, 0.0, encoded)])
    stored = db["request_logs"].find_one({"_id": made.request_id})
    assert stored == bson.decode(encoded, CodecOptions(tz_aware=True)) | {"writerId": "w1", "seq": 1}
    assert db["request_logs"].count_documents({"costNanoUsd": {"$type": "long"}}) == 1


def test_bytes_of_a_journal_that_kept_the_cost_32_bits_wide_are_not_stored_as_they_are(db, booking):
    document = record(1).to_document()
    booking.apply([SequencedRecord(1, document, 0.0, bson.encode(document))])
    assert db["request_logs"].count_documents({"costNanoUsd": {"$type": "long"}}) == 1


def test_bytes_that_mongodb_refuses_are_put_aside_and_still_charged(db, booking):
    batch = []
    for number in (1, 2, 3):
        document, encoded = encode_record(record(number, usage_raw=deep(170 + 15 * (number == 2))))
        batch.append(SequencedRecord(number, document, 0.0, encoded))
    booked = booking.apply(batch)
    assert [letter.request_id for letter in booked.dead] == ["r000002"]
    stored = {
        document["_id"]: "isReduced" in document for document in db["request_logs"].find({}, {"isReduced": 1})
    }
    assert stored == {"r000001": False, "r000002": True, "r000003": False}
    assert user(db)["applied"] == {"w1": 3}


def test_two_writers_do_not_see_each_others_numbers(db):
    Booking(db, "w1").apply([sequenced(1), sequenced(2)])
    Booking(db, "w2").apply([sequenced(1, request_id="other")])

    assert user(db)["applied"] == {"w1": 2, "w2": 1}
    assert db["user_keys"].find_one({"_id": "wk_ann"})["requestsCount"] == 3
    assert db["request_rollups"].count_documents({}) == 2


def test_a_marker_a_person_has_damaged_does_not_stop_the_booking(db, booking):
    db["usersNew"].update_one({"_id": "ann"}, {"$set": {"applied": {"w1": None}}})
    db["user_keys"].update_one({"_id": "wk_ann"}, {"$set": {"applied": "?"}})
    booked = booking.apply([sequenced(1)])

    assert user(db)["credits"] == 9.998999999
    assert [(letter.stage, letter.request_id) for letter in booked.dead] == [("user_keys", "r000001")]
    assert db["request_logs_dead"].find_one()["stage"] == "user_keys"
    assert db["ohmygpt_keys"].find_one()["requestsCount"] == 4
    assert booking.apply([sequenced(1)]).charges == {"ann": 1_000_001}
    assert db["request_logs_dead"].count_documents({}) == 1


@pytest.mark.parametrize(
    "poison",
    [
        pytest.param({"tokens": 2**70}, id="an integer beyond 64 bits"),
        pytest.param({"text": "\ud800"}, id="half a surrogate pair"),
        pytest.param({"a\0b": 1}, id="a name with NUL"),
        pytest.param({"text": "x" * 16_777_000}, id="slightly too large"),
        pytest.param({"text": "x" * 17_000_000}, id="too large for a message"),
        pytest.param(deep(170), id="just usable"),
        pytest.param(deep(185), id="too deep for the server"),
        pytest.param(deep(300), id="too deep for BSON"),
        pytest.param(deep(5000), id="too deep for Python"),
        pytest.param({"thing": object()}, id="no JSON value at all"),
    ],
)
def test_a_document_mongodb_will_not_take_is_put_aside_and_still_charged(db, booking, poison):
    batch = [sequenced(1), sequenced(2, usage_raw=poison), sequenced(3)]
    booked = booking.apply(batch)

    assert db["request_logs"].count_documents({}) == 3
    assert user(db)["creditsUsed"] == 0.103000006
    if not booked.dead:
        assert db["request_logs"].find_one({"_id": "r000002"})["usageRaw"] == poison
        return
    (letter,) = booked.dead
    buried = db["request_logs_dead"].find_one()
    assert letter.request_id == buried["requestId"] == "r000002"
    assert buried["reason"]
    reduced = db["request_logs"].find_one({"_id": "r000002"})
    assert reduced["isReduced"] is True
    assert "usageRaw" not in reduced
    assert reduced["costNanoUsd"] == 1_000_002

    before = state(db)
    booking.apply(batch)
    assert state(db) == before


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"costNanoUsd": "3"}, id="a cost that is text"),
        pytest.param({"costNanoUsd": -3}, id="a negative cost"),
        pytest.param({"costNanoUsd": 2**80}, id="an impossible cost"),
        pytest.param({"holdNanoUsd": "5"}, id="a hold that is text"),
        pytest.param({"userId": None}, id="no user"),
        pytest.param({"userId": "\ud800"}, id="a user id that is no Unicode"),
        pytest.param({"createdAt": "today"}, id="no date"),
        pytest.param({"model": 5}, id="a model that is no text"),
    ],
)
def test_a_record_without_usable_figures_is_put_aside_whole(db, booking, changes):
    broken = SequencedRecord(2, sequenced(2).document | changes)
    booked = booking.apply([sequenced(1), broken, sequenced(3)])

    assert [letter.request_id for letter in booked.dead] == ["r000002"]
    assert next(iter(changes)) in db["request_logs_dead"].find_one()["reason"]
    assert db["request_logs"].count_documents({}) == 2
    assert user(db)["creditsUsed"] == 0.102000004


def test_a_record_refused_by_a_rule_of_the_operators_is_still_charged(db, booking):
    rule = {"stream": {"$eq": True}}
    db.create_collection("request_logs", validator=rule)
    booked = booking.apply([sequenced(1), sequenced(2, stream=True)])

    assert [letter.request_id for letter in booked.dead] == ["r000001"]
    assert db["request_logs"].count_documents({}) == 1
    assert user(db)["creditsUsed"] == 0.102000003


def test_a_duplicate_of_something_else_than_the_id_is_no_success(db, booking):
    db["request_logs"].create_index("endpoint", unique=True)
    booked = booking.apply([sequenced(1), sequenced(2)])

    assert [letter.request_id for letter in booked.dead] == ["r000002"]


def test_put_aside_keeps_a_record_that_breaks_the_code(db, booking):
    letter = booking.put_aside(sequenced(4), "ZeroDivisionError: division by zero")

    assert letter.stage == "record"
    buried = db["request_logs_dead"].find_one()
    assert (buried["requestId"], buried["seq"]) == ("r000004", 4)
    assert "'costNanoUsd': 1000004" in buried["content"]


def test_an_unreachable_store_is_reported_as_such():
    nowhere = closed_database()
    booking = Booking(nowhere, "w1")
    with pytest.raises(StoreUnavailable):
        booking.apply([sequenced(1)])
    with pytest.raises(StoreUnavailable):
        booking.put_aside(sequenced(1), "x")


@pytest.mark.parametrize("writer_id", ["", "1", "a.b", "a$", "ä", "a" * 65, "a b"])
def test_a_writer_id_has_to_be_fit_for_a_field_path(database, writer_id):
    with pytest.raises(ValueError, match="writer id"):
        Booking(database, writer_id)


class Refusing:
    """A collection on a server in trouble: every write ends in this error."""

    def __init__(self, error):
        self.error = error

    def insert_many(self, *_, **__):
        raise self.error

    def find_one(self, *_):
        return None

    def update_one(self, *_, **__):
        """The writer announces itself."""


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OperationFailure("no such user", 18), id="login refused"),
        pytest.param(
            BulkWriteError({"writeErrors": [{"index": 0, "code": 14031, "errmsg": "disk full"}]}),
            id="disk full",
        ),
        pytest.param(
            BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), id="not yet replicated"
        ),
    ],
)
def test_a_server_in_trouble_is_not_taken_for_a_bad_document(error):
    with pytest.raises(StoreUnavailable):
        Booking(defaultdict(lambda: Refusing(error)), "w1").apply([sequenced(1)])


def test_documents_that_never_stand_still_are_tried_again_later(db):
    class Changing:
        """Somebody else, against the rules, books under the same writer id."""

        def __getitem__(self, name):
            return self

        def with_options(self, **_):
            return self

        def insert_many(self, *_, **__):
            return None

        def update_one(self, *_, **__):
            return None

        def find(self, *_):
            return [{"_id": "ann"}]

        def find_one(self, *_):
            return None

        def bulk_write(self, *_, **__):
            return db["usersNew"].bulk_write([UpdateOne({"_id": "nobody"}, {"$set": {"x": 1}})])

    with pytest.raises(StoreUnavailable, match="usersNew: the documents kept changing"):
        Booking(Changing(), "w1").apply([sequenced(1)])
