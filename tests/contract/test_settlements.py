"""What goes on after its request is charged once, whoever books what in which order, and however often."""

from datetime import timedelta
from itertools import permutations

import pytest
from booking_world import NOON, sequenced

from app.objects.object_store import ObjectStore
from app.objects.upstream_object import UpstreamObject
from app.persistence.booking import Booking
from app.records.records import Attribution
from app.verify.reconciliation import Reconciliation

COST = 180_000
HELD = 5_000_000
NOW = NOON + timedelta(minutes=5)
UNTIL = NOON + timedelta(hours=26)


def began(seq, number=1, **changes):
    """The record of a request that began something in the background."""
    return sequenced(
        number,
        cost_nano_usd=0,
        input_tokens=0,
        output_tokens=0,
        made={"id": "resp_1", "upstreamKey": "pool-1", "parts": ["msg_1"]},
        pending={"nanoUsd": HELD, "until": UNTIL},
        **changes,
    )._replace(seq=seq)


def ended(seq, number, **changes):
    """The record of one who has seen its end."""
    return sequenced(
        number,
        cost_nano_usd=COST,
        input_tokens=30,
        output_tokens=12,
        settles={"id": "resp_1", "requestId": "r000001", "isWhole": True},
        **changes,
    )._replace(seq=seq)


def part(seq, number, *names):
    """The record of one who has seen the results of some requests of a batch."""
    items = [[name, 1000, 10, 1, 0, 0, 0, 0] for name in names]
    return sequenced(
        number,
        cost_nano_usd=1000 * len(names),
        input_tokens=10 * len(names),
        output_tokens=len(names),
        settles={"id": "msgbatch_1", "requestId": "r000001", "items": items, "isWhole": False},
    )._replace(seq=seq)


@pytest.fixture
def books(database):
    database["usersNew"].insert_one({"_id": "ann", "credits": 1.0, "creditsGrantedNanoUsd": 10**9})
    return {name: Booking(database, name, now=lambda: NOW, kept_s=86_400) for name in ("w1", "w2", "w3")}


def state(database):
    user = database["usersNew"].find_one({"_id": "ann"})
    records = list(database["request_logs"].find().sort("_id", 1))
    return {
        "spent": round((1 - user["credits"]) * 10**9),
        "holds": user.get("holds", {}),
        "costs": sorted(record["costNanoUsd"] for record in records if record["costNanoUsd"]),
        "tokens": sum(record["tokensUsed"] for record in records),
        "settled": [found.get("settledBy") for found in database["upstream_objects"].find()],
        "noted": [record["pending"].get("settledBy") for record in records if "pending" in record],
    }


def assert_agrees(database):
    report = Reconciliation(database, retention_s=0, pause=lambda _s: None).report(NOW)
    assert report["consistent"], report


ORDERS = list(permutations([("w1", began(1)), ("w2", ended(1, 2)), ("w3", ended(1, 3))]))


@pytest.mark.parametrize("order", ORDERS, ids=[" ".join(name for name, _ in order) for order in ORDERS])
def test_it_is_charged_once_in_whatever_order_it_is_booked(database, books, order):
    noted = []
    for _ in range(2):  # all of it is brought again
        for writer, record in order:
            noted.append(books[writer].apply([record]).charges)
    found = state(database)
    assert (found["spent"], found["costs"], found["tokens"]) == (COST, [COST], 42)
    first = next(record.document["_id"] for writer, record in order if writer != "w1")
    assert (found["settled"], found["noted"], found["holds"]) == ([first], [first], {})
    # What was noted against the balance is taken back in full, by whom it was noted.
    by_writer = {"w1": HELD, "w2": COST, "w3": COST}
    assert noted == [{"ann": by_writer[writer]} for writer, _ in order] * 2


def test_what_it_may_cost_is_held_until_it_is_settled(database, books):
    books["w1"].apply([began(1)])
    assert state(database)["holds"] == {"pending-r000001": {"nano": HELD, "at": UNTIL}}
    books["w2"].apply([ended(1, 2)])
    assert state(database)["holds"] == {}


def test_beginning_and_end_may_be_of_one_batch(database, books):
    for batch in ([began(1), ended(2, 2), ended(3, 3)], [began(1), ended(2, 2), ended(3, 3)]):
        books["w1"].apply(batch)
    found = state(database)
    assert (found["spent"], found["costs"], found["holds"]) == (COST, [COST], {})
    assert_agrees(database)


def test_each_request_of_a_batch_is_charged_once(database, books):
    books["w1"].apply([part(1, 2, "a")])  # broken off behind the first line
    books["w2"].apply([part(1, 3, "a", "b")])
    books["w3"].apply([part(1, 4, "b", "a")])
    books["w2"].apply([part(1, 3, "a", "b")])
    found = state(database)
    assert (found["spent"], found["costs"], found["tokens"]) == (2000, [1000, 1000], 22)
    late = database["request_logs"].find_one({"_id": "r000003"})
    assert (late["settles"]["isLate"], late["inputTokens"], late["outputTokens"]) == (True, 10, 1)


def test_what_the_upstream_told_of_each_result_goes_with_it(database, books):
    def told(seq, number, **nano):
        record = part(seq, number, *nano)
        for item, said in zip(record.document["settles"]["items"], nano.values(), strict=True):
            item.append(said)
        record.document["upstreamCostNanoUsd"] = sum(nano.values())
        return record

    books["w1"].apply([told(1, 2, a=700)])
    books["w2"].apply([told(1, 3, a=700, b=40, c=2)])
    books["w3"].apply([part(1, 4, "c", "d")])  # as earlier versions left it
    books["w3"].apply([part(1, 4, "c", "d")])
    found = database["request_logs"].find().sort("_id", 1)
    assert [record.get("upstreamCostNanoUsd") for record in found] == [700, 42, None]
    sums = list(database["request_rollups"].find())
    assert sum(found.get("upstreamCostNanoUsd", 0) for found in sums) == 742
    assert sum(found.get("toldCostNanoUsd", 0) for found in sums) == 3000


def test_who_asked_for_it_is_known_when_its_end_is_asked_about(database, books):
    said = Attribution("bob", "s1", "curl/8.5.0", ("a", "b"))
    books["w1"].apply([began(1, attribution=said)])
    (found,) = ObjectStore(database, 86_400).find(["resp_1"])
    assert found.attribution == said
    assert UpstreamObject.from_document({**found.to_document(), "_id": "x"}).attribution == said


def test_a_record_that_stands_for_no_request_counts_none(database, books):
    books["w1"].apply([began(1), ended(2, 2, count=0)])
    rollups = list(database["request_rollups"].find())
    assert sum(found["requests"] for found in rollups) == 1
    assert sum(found["costNanoUsd"] for found in rollups) == COST


def test_one_worker_of_all_takes_what_is_due_and_none_too_often(database, books):
    store = ObjectStore(database, 86_400)
    books["w1"].apply([began(1)])
    interval, created = timedelta(seconds=30), NOON + timedelta(minutes=1)
    assert store.take_due(created + timedelta(seconds=29), interval) is None
    due = store.take_due(created + timedelta(seconds=31), interval)
    assert (due.object_id, due.key, due.is_background, due.until) == ("resp_1", "pool-1", True, UNTIL)
    assert store.take_due(created + timedelta(seconds=31), interval) is None
    later = created + timedelta(hours=10)
    assert store.take_due(later, interval).object_id == "resp_1"
    assert store.take_due(later + timedelta(minutes=3), interval) is None
    assert store.take_due(later + timedelta(minutes=5), interval).object_id == "resp_1"
    books["w2"].apply([ended(1, 2)])
    assert store.take_due(later + timedelta(hours=1), interval) is None


def test_ids_are_found_by_their_parts_and_belong_to_who_told_them_first(database, books):
    store = ObjectStore(database, 86_400)
    books["w1"].apply([began(1)])
    (found,) = store.find(["msg_1", "nothing"])
    assert (found.object_id, found.user_id, found.request_id) == ("resp_1", "ann", "r000001")
    books["w2"].apply([began(1, 2, user_id="bob")])
    assert store.find(["resp_1"])[0].user_id == "ann"
