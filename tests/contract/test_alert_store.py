"""Alerts in the database: each once in its period, sent by one of all workers, tried again, given up."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.accounts.client_keys import ClientKeyStore
from app.alerts.alert_store import MAX_TRIES, AlertStore
from app.alerts.conditions import Alert, Bounds, BudgetUse, Spending, WorkerFacts
from app.alerts.delivery import Delivery
from app.alerts.watch import AlertWatch
from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.credit.budgets import bucket, bucket_name
from app.management.audit import Actor, AuditLog
from app.pricing.ledger_findings import Told, of_model

NOW = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)
URLS = ("json://host/very-secret", "mailto://other-secret@host")
FEW_KEYS = WorkerFacts("w", keys=(True, False))


class Outbox:
    """In place of apprise: what was sent where; `broken` destinations take nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.broken: set[int] = set()

    def __call__(self, alert: Alert, urls: Sequence[str], numbers: Sequence[int]) -> list[Delivery]:
        self.sent += [(alert.title, number) for number in numbers if number not in self.broken]
        return [
            Delivery(number, str(number), "it was not taken" if number in self.broken else None)
            for number in numbers
        ]


class World:
    """Workers over one database, at a time that the test sets."""

    def __init__(self, database: Any, data_dir: Path) -> None:
        self.now = NOW
        self.outbox = Outbox()
        self.database = database
        self.store = AlertStore(database)
        self.store.ensure_indexes()
        self.data_dir = data_dir

    def worker(self, facts: WorkerFacts = FEW_KEYS, store: Any = None, audited: Any = None) -> AlertWatch:
        audit = AuditLog(self.database)
        return AlertWatch(
            store or self.store,
            audited or partial(audit.action, Actor("weir", "alerts"), "alerts.send"),
            URLS,
            lambda: facts,
            self.data_dir,
            bounds=Bounds(),
            now=lambda: self.now,
            send=self.outbox,
        )

    def audited(self) -> list[tuple[str, str, Any]]:
        found = self.database["admin_audit"].find().sort("_id")
        return [(entry["action"], entry["outcome"], entry["details"]["to"]) for entry in found]


@pytest.fixture
def world(database: Any, tmp_path: Path) -> World:
    return World(database, tmp_path)


TITLE = "1 of 2 upstream keys are left"


def test_many_workers_tell_it_once_in_its_period_and_anew_in_the_next(world: World) -> None:
    workers = [world.worker() for _ in range(3)]
    for _ in range(3):
        for worker in workers:
            worker.look()
    world.worker().look()  # one that has just started
    assert world.outbox.sent == [(TITLE, 0), (TITLE, 1)]
    assert world.audited() == [("alerts.send", "done", ["1 (json)", "2 (mailto)"])]
    assert "secret" not in str(list(world.database["admin_audit"].find()))
    assert "secret" not in str(list(world.database["alerts"].find()))
    world.now += timedelta(days=1)
    workers[0].look()
    assert len(world.outbox.sent) == 4


def test_who_has_not_got_it_is_tried_again_and_nobody_else(world: World) -> None:
    world.outbox.broken = {1}
    worker = world.worker()
    worker.look()
    worker.look()
    (stored,) = world.store.newest(10)
    assert (stored["tries"], stored["left"], stored["problem"]) == (1, [1], "destination 1: it was not taken")
    world.outbox.broken = set()
    world.now += timedelta(minutes=2)
    worker.look()
    assert world.outbox.sent == [(TITLE, 0), (TITLE, 1)]
    (stored,) = world.store.newest(10)
    assert (stored["left"], stored["sentAt"], stored["problem"]) == ([], world.now, None)
    assert [outcome for _, outcome, _ in world.audited()] == ["failed", "done"]


def test_it_is_given_up_in_the_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.outbox.broken = {0, 1}
    worker = world.worker()
    for _ in range(MAX_TRIES + 3):
        worker.look()
        world.now += timedelta(hours=1) if world.now < NOW + timedelta(hours=11) else timedelta()
        world.database["alerts"].update_many({"nextTryAt": {"$exists": True}}, {"$set": {"nextTryAt": NOW}})
    (stored,) = world.store.newest(10)
    assert (stored["tries"], "nextTryAt" in stored, "givenUpAt" in stored) == (MAX_TRIES, False, True)
    assert "an alert is given up" in caplog.text
    assert "secret" not in caplog.text


def test_a_worker_that_dies_while_it_sends_leaves_it_to_another(world: World) -> None:
    world.store.note([Alert("test", "x", "p", "title", "meaning.", "advice")], NOW, 2)
    assert world.store.take_due(NOW) is not None  # and dies
    assert world.store.take_due(NOW) is None
    world.now += timedelta(minutes=6)
    world.worker(WorkerFacts("w")).look()
    assert world.outbox.sent == [("title", 0), ("title", 1)]


def test_without_the_database_each_host_tells_once_that_records_are_late(world: World) -> None:
    class Away:
        def claim_look(self, *_: object) -> bool:
            raise StoreUnavailable("MongoDB does not answer")

    def unaudited(*_: object) -> AbstractContextManager[None]:
        raise AssertionError("there is no audit log without it")

    late = WorkerFacts("w", late_s=400)
    for worker in [world.worker(late, Away(), unaudited) for _ in range(2)]:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                worker.look()
    assert world.outbox.sent == [("Records are 7 minutes late", 0), ("Records are 7 minutes late", 1)]
    world.worker(WorkerFacts("w")).look()  # it is back
    with pytest.raises(StoreUnavailable):
        world.worker(late, Away(), unaudited).look()
    assert len(world.outbox.sent) == 4


def test_one_worker_a_minute_looks_at_the_database(world: World) -> None:
    every = timedelta(minutes=1)
    assert [world.store.claim_look(NOW, every) for _ in range(3)] == [True, False, False]
    assert world.store.claim_look(NOW + every, every)
    assert world.store.newest(10) == []


def test_what_the_database_shows(world: World) -> None:
    db = world.database
    record = {"createdAt": NOW - timedelta(minutes=1), "model": "m"}
    db["request_logs"].insert_many(
        [
            {**record, "_id": "a", "outcome": "ok"},
            {**record, "_id": "b", "outcome": "ok", "unpriced": ["web_search"]},
            {**record, "_id": "c", "outcome": "upstream_error"},
            {**record, "_id": "d", "outcome": "upstream_timeout", "createdAt": NOW - timedelta(minutes=6)},
        ]
    )
    day = bucket("day", NOW, UTC)
    db["usersNew"].insert_many(
        [
            {"_id": "ann", "creditsUsed": 9.5, "creditsGrantedNanoUsd": 10 * 10**9},
            {"_id": "bob", "creditsUsed": 1.0, "creditsGrantedNanoUsd": 10 * 10**9},
            {"_id": "off", "creditsUsed": 9.5, "creditsGrantedNanoUsd": 10 * 10**9, "isActive": False},
            {
                "_id": "cat",
                "budgets": [{"usd": "1", "per": "day"}, {"usd": "9", "per": "month"}],
                "budgetSpent": {
                    "day": {bucket_name(day): 850_000_000, bucket_name(day - 86400): 5},
                    "month": {bucket_name(bucket("month", NOW, UTC)): 850_000_000},
                },
            },
        ]
    )
    ends = NOW + timedelta(days=3)
    old = "sk-a-key-of-earlier-software-0123456789"
    db["user_keys"].insert_many(
        [
            {"_id": old, "name": "ann", "isActive": True, "expiresAt": ends},
            {"_id": "later", "name": "ann", "isActive": True, "expiresAt": NOW + timedelta(days=8)},
            {"_id": "gone", "name": "ann", "isActive": False, "expiresAt": ends},
        ]
    )
    facts = world.store.facts(NOW)
    assert (facts.requests, facts.refused, facts.unpriced) == (3, 1, {"m": ("web_search",)})
    assert facts.credits == (Spending("ann", 9_500_000_000, 10 * 10**9),)
    spent = Spending("cat", 850_000_000, 10**9)
    assert facts.budgets == (BudgetUse("cat", None, "day", "day", day, spent),)
    shown = next(key.key_id for key in ClientKeyStore(db).list("ann") if key.stored_id == old)
    assert facts.expiring == (("ann", shown, ends),)
    assert old not in shown


def test_the_last_month_can_be_closed_once_it_is_over_where_days_start(database: Any) -> None:
    zone = ZoneInfo("Asia/Ho_Chi_Minh")  # seven hours before UTC
    store = AlertStore(database, zone)
    end = datetime(2026, 11, 30, 17, tzinfo=UTC)
    soon, later = end + timedelta(minutes=59), end + timedelta(hours=1)
    assert store.facts(later).month is None  # there is nothing in it
    database["request_rollups"].insert_one({"_id": "x", "hour": end - timedelta(hours=1)})
    assert [store.facts(now).month for now in (soon, later)] == [None, "2026-11"]
    database["statements"].insert_one({"_id": "2026-11", "state": "closing"})
    assert store.facts(later).month is None


def test_what_the_ledger_watch_found_today_is_told_once_a_day(world: World) -> None:
    found = of_model("m", Told(3 * NANO, NANO, 3 * NANO), Decimal(1))
    store = AlertStore(world.database, ZoneInfo("Asia/Kolkata"), lambda now: found)
    for hours in (0, 1, 24):
        world.now = NOW + timedelta(hours=hours)
        world.worker(WorkerFacts("w"), store=store).look()
    told = [alert for alert in world.store.newest(10) if alert["kind"] == "margin"]
    assert [(alert["subject"], alert["period"]) for alert in told] == [
        ("m", "2026-12-01"),
        ("m", "2026-11-30"),
    ]


def test_an_alert_is_kept_as_it_was_first_seen(world: World) -> None:
    def noted(title: str) -> Mapping[str, Any]:
        world.store.note([Alert("test", "x", "p", title, "meaning.", "advice")], NOW, 1)
        return world.store.newest(10)[0]

    assert [noted(title)["title"] for title in ("one", "two")] == ["one", "one"]
