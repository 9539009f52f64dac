"""A record that stands for many refusals counts, everywhere, as those many records would."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from booking_world import seed, sequenced
from pymongo.database import Database

from app.journal.documents import encode_document
from app.persistence.booking import Booking
from app.records.log_export import csv_lines
from app.records.log_filter import LogFilter
from app.records.records import Outcome, SequencedRecord
from app.records.request_logs import RequestLogStore
from app.statistics.periods import Period
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.statistics.timeseries import GROUPS, METRICS
from app.statistics.usage import Grouping
from app.verify.reconciliation import Reconciliation

NOW = datetime(2026, 11, 30, 12, 20, tzinfo=UTC)
AGES = (timedelta(minutes=3), timedelta(minutes=75), timedelta(hours=30))
PERIODS = ("1h", "4h", "24h", "7d", "all")
TIMES = 40


def refused(number: int, age: timedelta, **changes: Any) -> SequencedRecord:
    values: dict[str, Any] = {
        "created_at": NOW - age,
        "outcome": Outcome.REJECTED,
        "status_code": 429,
        "factory_key_id": None,
        "model": "gpt",
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_nano_usd": 0,
        "latency_ms": 0,
        "ttft_ms": None,
        "attempts": (),
        "usage_raw": None,
    }
    return sequenced(number, **(values | changes))


def one_by_one() -> list[SequencedRecord]:
    batch = [sequenced(number, created_at=NOW - age) for number, age in enumerate(AGES, start=1)]
    for age in AGES:
        batch += [refused(len(batch) + 1 + number, age) for number in range(TIMES)]
        batch += [refused(len(batch) + 1 + number, age, status_code=404, model=None) for number in range(3)]
        # A list of models, where the journal had no room for one each.
        batch += [_listing(len(batch) + 1 + number, age) for number in range(7)]
    return batch


def summed() -> list[SequencedRecord]:
    batch = [sequenced(number, created_at=NOW - age) for number, age in enumerate(AGES, start=1)]
    for age in AGES:
        batch.append(refused(len(batch) + 1, age, count=TIMES))
        batch.append(refused(len(batch) + 1, age, status_code=404, model=None, count=3))
        batch.append(_listing(len(batch) + 1, age, count=7))
    return batch


def _listing(number: int, age: timedelta, **changes: Any) -> SequencedRecord:
    return refused(number, age, outcome=Outcome.OK, status_code=200, model=None, **changes)


def book(db: Database[Any], batch: Sequence[SequencedRecord]) -> None:
    db.client.drop_database(db.name)
    seed(db)
    encoded = [SequencedRecord(item.seq, *_kept(item)) for item in batch]
    Booking(db, "w1", now=lambda: NOW).apply(encoded)


def _kept(item: SequencedRecord) -> tuple[dict[str, Any], float, bytes]:
    document, encoded = encode_document(item.document)
    return document, 0.0, encoded


def told(db: Database[Any]) -> dict[str, Any]:
    """Everything that counts requests."""
    stats = StatsStore(db)
    told: dict[str, Any] = {}
    for period in PERIODS:
        told[f"models {period}"] = stats.model_stats(Period.of(period, NOW, UTC))
        told[f"metrics {period}"] = stats.metrics(Period.of(period, NOW, UTC))
        told[f"limited {period}"] = stats.rate_limited(Period.of(period, NOW, UTC))
        for by in GROUPS:
            told[f"usage {period} {by}"] = stats.usage(
                Grouping.parse(by), Period.of(period, NOW, UTC)
            ).to_json()
        for metric in METRICS:
            series = stats.series(Period.of(period, NOW, UTC), by="model", with_latency=True)
            told[f"{metric} {period}"] = series.to_json(metric)
    keys = ("user_keys", "ohmygpt_keys")
    told["counters"] = [list(db[name].find({}, {"applied": 0}).sort("_id", 1)) for name in keys]
    told["hours"] = list(db["request_rollups"].find({}, {"seq": 0}).sort("_id", 1))
    return told


def test_sums_count_as_what_they_stand_for(database: Database[Any]) -> None:
    book(database, one_by_one())
    wanted = told(database)
    assert wanted["limited 24h"]["total_429"] == 2 * TIMES
    book(database, summed())
    assert told(database) == wanted
    for batch in (one_by_one(), summed()):  # once summaries have been made of the hours
        book(database, batch)
        maker = SummaryMaker(database)
        while maker.step(NOW):
            pass
        found = told(database)
        assert {name: found[name] for name in wanted if name != "hours"} == {
            name: wanted[name] for name in wanted if name != "hours"
        }


def test_sums_that_are_booked_again_count_once(database: Database[Any]) -> None:
    book(database, summed())
    wanted = told(database)
    Booking(database, "w1", now=lambda: NOW).apply(summed())
    assert told(database) == wanted


def test_verify_agrees_with_sums_and_notices_one_that_is_not_in_the_books(database: Database[Any]) -> None:
    book(database, summed())

    def differing() -> set[str]:
        reconciliation = Reconciliation(database, retention_s=0, pause=lambda seconds: None)
        return {result.name for result in reconciliation.run(NOW) if result.difference_count}

    clean = differing()
    assert "hourly_sums" not in clean
    database["request_logs"].update_one({"count": TIMES}, {"$inc": {"count": 1}})
    assert differing() == clean | {"hourly_sums"}


def test_an_export_says_how_many_each_line_stands_for(database: Database[Any]) -> None:
    book(database, summed())
    logs = RequestLogStore(database)
    rows = csv.DictReader(csv_lines(logs.export(LogFilter.parse({}, NOW, UTC))))
    assert sum(int(row["count"]) for row in rows) == len(one_by_one())
