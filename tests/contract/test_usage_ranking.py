"""Usage by one or two words, page by page, against a plain recount of the same records."""

from collections import defaultdict
from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest
from booking_world import sequenced
from bson import ObjectId
from test_stats import NOW, book, made, within
from test_summaries import make

from app.common.money import NANO
from app.statistics.periods import Period
from app.statistics.stats_store import StatsStore
from app.statistics.timeseries import GROUPS
from app.statistics.usage import Grouping, figures

WORDS = (*GROUPS, "day", "month")
KOLKATA = ZoneInfo("Asia/Kolkata")
SAIGON = ZoneInfo("Asia/Ho_Chi_Minh")

FIELDS = {"user": "userId", "key": "userKeyId", "model": "model", "factoryKey": "factoryKeyId"}


def recounted(documents, by, tz):
    found = defaultdict(lambda: [0, 0])
    for document in documents:
        day = document["createdAt"].astimezone(tz).date().isoformat()
        values = {word: document[field] for word, field in FIELDS.items()}
        values |= {"day": day, "month": day[:7], "endpoint": document["endpoint"]}
        sums = found[tuple(values[word] for word in by.words)]
        sums[0] += 1
        sums[1] += document["costNanoUsd"]
    return dict(found)


@pytest.mark.parametrize("tz", [UTC, SAIGON])
def test_every_pair_adds_up_with_summaries_and_without(database, tz):
    records = made(500)
    book(database, records)
    stats = StatsStore(database)
    pairs = [(one, two) for one in WORDS for two in WORDS if one != two and {one, two} != {"day", "month"}]
    for is_summed in (False, True):
        for words in [(word,) for word in WORDS] + pairs[is_summed::5]:
            by = Grouping(words)
            for name in ("all", "last_month", "24h"):
                period = Period.of(name, NOW, tz)
                expected = recounted(within(records, period), by, tz)
                found = dict(stats.usage_rows(by, period))
                assert {k: [t.requests, t.cost_nano_usd] for k, t in found.items()} == expected, (words, name)
        make(database)


def test_pages_lead_to_the_very_last_row(database):
    """Also where many cost the same, and the sums of what is left out are right on each."""
    records = [
        sequenced(
            number,
            created_at=NOW - timedelta(hours=1 + number % 50),
            user_id=f"u{number % 23}",
            cost_nano_usd=9,
        )
        for number in range(1, 200)
    ]
    book(database, records)
    stats, by, period = StatsStore(database), Grouping(("user", "day")), Period.of("3d", NOW, UTC).frozen()
    whole = list(stats.usage_rows(by, period))
    seen = []
    while True:
        page = stats.usage(by, period, limit=7, shown=len(seen))
        assert page.total.requests == 199
        assert page.other.requests == 199 - sum(sums.requests for _, sums in page.rows)
        assert page.other_count == len(whole) - len(page.rows)
        seen += page.rows
        if not page.has_more:
            break
    assert [(key, figures(sums)) for key, sums in seen] == [(key, figures(sums)) for key, sums in whole]
    days = [key[1] for key, _ in seen]
    assert days == sorted(days), "times come in their order"
    beyond = stats.usage(by, period, limit=7, shown=10_000)
    assert (beyond.rows, beyond.has_more, beyond.total.requests) == ([], False, 199)


@pytest.mark.parametrize("zone", [KOLKATA, UTC], ids=["same zone", "another zone"])
def test_days_that_begin_within_an_hour_neither_overlap_nor_leave_a_gap(database, zone):
    """They are exact; what was booked in another zone counts in the day in which its hour begins."""
    half_past = NOW.replace(hour=18, minute=30, second=0) - timedelta(days=1)
    moments = [half_past + timedelta(minutes=minutes) for minutes in (-31, -30, -1, 0, 29, 30, 31)]
    book(
        database,
        [sequenced(n, created_at=moment, cost_nano_usd=10**n) for n, moment in enumerate(moments, 1)],
        tz=zone,
    )
    stats = StatsStore(database)

    def cost(name):
        return stats.total(Period.of(name, NOW, KOLKATA)).cost_nano_usd

    expected = (1_110, 11_110_000) if zone == KOLKATA else (111_110, 11_000_000)
    assert (cost("yesterday"), cost("today")) == expected
    assert cost("2026-11-22") == expected[0]
    make(database, tz=KOLKATA)
    assert (cost("yesterday"), cost("today")) == expected
    database["request_logs"].create_index("createdAt", expireAfterSeconds=60)
    database["request_logs"].delete_many({})
    assert (cost("yesterday"), cost("today")) == expected
    assert cost("month") == 11_111_110


def test_an_endpoint_that_is_not_named_is_the_usual_one_of_the_format(database):
    earlier = {
        "userId": "ann",
        "isSuccess": True,
        "createdAt": NOW,
        "apiFormat": "anthropic",
        "creditsCost": 1.0,
    }
    database["request_logs"].insert_one({"_id": ObjectId(), **earlier})
    book(
        database,
        [
            sequenced(1, created_at=NOW, endpoint="chat", cost_nano_usd=2 * NANO),
            sequenced(2, created_at=NOW, endpoint="embeddings", cost_nano_usd=3 * NANO),
        ],
    )
    stored = [found.get("endpoint") for found in database["request_rollups"].find()]
    assert sorted(stored, key=str) == [None, "embeddings"]
    rows = StatsStore(database).usage_rows(Grouping(("endpoint",)), Period.of("all", NOW, UTC))
    assert {key[0]: sums.cost_nano_usd // NANO for key, sums in rows} == {
        "messages": 1,
        "chat": 2,
        "embeddings": 3,
    }


def test_what_some_keys_used_before(database):
    book(
        database, [sequenced(n, created_at=NOW - timedelta(days=n), user_id=f"u{n % 3}") for n in range(1, 9)]
    )
    stats, by = StatsStore(database), Grouping(("user",))
    before = Period.of("3d", NOW, UTC).previous()
    found = stats.usage_of(by, before, [("u1",), ("u9",)])
    assert {key: sums.requests for key, sums in found.items()} == {("u1",): 1}


def test_what_clients_say_of_themselves_is_counted_from_records(database):
    said = [("eve", ["a", "b"]), ("eve", []), (None, ["b"])]
    for number, (end_user, tags) in enumerate(said, start=1):
        record = sequenced(number, created_at=NOW - timedelta(hours=number), cost_nano_usd=10**number)
        record.document.update({"tags": tags} if tags else {})
        record.document.update({"endUser": end_user} if end_user else {})
        book(database, [record])
    stats, period = StatsStore(database), Period.of("24h", NOW, UTC)

    def costs(*words):
        return {key: sums.cost_nano_usd for key, sums in stats.usage_rows(Grouping(words), period)}

    assert costs("endUser") == {("eve",): 110, (None,): 1000}
    assert costs("tag") == {("a",): 10, ("b",): 1010, (None,): 100}
    assert costs("user", "endUser") == {("ann", "eve"): 110, ("ann", None): 1000}
    assert costs("session") == costs("client") == {(None,): 1110}
    assert stats.usage(Grouping(("tag",)), period).to_json()["countedFrom"] == "records"
