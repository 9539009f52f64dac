"""Months as they go on, against a tally of their own: statements add up, closed months never change."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from zoneinfo import ZoneInfo

import pytest
from booking_world import sequenced
from bson.int64 import Int64
from test_summaries import make

from app.accounts.users import UserStore
from app.billing import month_figures, statements
from app.billing.statement import Month
from app.billing.statement_text import rows_csv, statement_csv, statement_html
from app.billing.statements import CannotClose, Statements
from app.common.money import NANO
from app.credit.credit_ledger import CreditLedger, LedgerNote
from app.management.audit import Actor, AuditLog
from app.management.errors import Conflict
from app.management.statements import StatementAdmin
from app.persistence.booking import Booking
from app.records.records import Outcome
from app.verify.reconciliation import Reconciliation

FINE = {"consistent": True, "differenceCount": 0, "pendingCount": 0}
USERS = [f"user-{number}" for number in range(6)]
LEGACY = "earlier"
START = datetime(2026, 1, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(month_figures, "_PAUSE_S", 0)
    monkeypatch.setattr(month_figures, "AT_ONCE", 4)
    monkeypatch.setattr(statements, "AT_ONCE", 4)
    monkeypatch.setattr(statements, "_LINES", 3)


class Year:
    """Requests, grants and withdrawals as time goes on, and what an account of their own says of them."""

    def __init__(self, database, tz, seed):
        self.db, self.tz, self.random = database, tz, Random(seed)
        self.ledger = CreditLedger(database)
        self.statements = Statements(database, tz)
        self.statements.ensure_indexes()
        self.number = 0
        self.charged = defaultdict(int)  # by user and month in which it has to be shown
        self.given = defaultdict(int)
        for user in USERS:
            UserStore(database).add(user, now=START)
        legacy = {"_id": LEGACY, "credits": 7.5, "refCredits": 0.25, "creditsUsed": 99.0, "isActive": True}
        database["usersNew"].insert_one(legacy)

    def month_of(self, moment):
        return f"{moment.astimezone(self.tz):%Y-%m}"

    def live(self, start, end, now, shown_in=None):
        """Let things happen between two moments, booked at `now`; late ones are shown in another month."""
        records = []
        for _ in range(25):
            moment = start + (end - start) * self.random.random()
            moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
            user = self.random.choice([*USERS, LEGACY, "env"])
            refused = self.random.random() < 0.2
            cost = 0 if refused else self.random.randrange(1, NANO)
            self.number += 1
            records.append(
                sequenced(
                    self.number,
                    user_id=user,
                    user_key_id="env" if user == "env" else f"wk_{user}-{self.random.randrange(2)}",
                    created_at=moment,
                    model=None if refused else self.random.choice(("gpt", "claude")),
                    outcome=Outcome.REJECTED if refused else Outcome.OK,
                    cost_nano_usd=cost,
                )
            )
            self.charged[user, shown_in or self.month_of(moment)] += cost
        Booking(self.db, "w1", now=lambda: now, tz=self.statements.tz).apply(records)
        make(self.db, now)

    def give(self, moment):
        for user in self.random.sample([*USERS, LEGACY], 3):
            amount = Decimal(self.random.randrange(1, 9_000_000)) / 1_000_000
            self.ledger.add(user, amount, LedgerNote(moment, "root", "cli", "=top-up"))
            self.given[user, self.month_of(moment)] += int(amount * NANO)

    def close(self, name, now):
        return self.statements.close(self.statements.month(name), "root", now, lambda: now, lambda: FINE)

    def rows(self, name, now):
        month = self.statements.month(name)
        users = self.statements.users(month, now)
        rows = {
            statement.user: statement.row() for statement in self.statements.statements(month, users, now)
        }
        assert self.statements.rows(month, users, now) == list(rows.values())
        return rows


@pytest.mark.parametrize(
    ("zone", "first", "last"), [("Europe/Berlin", 2, 5), ("America/New_York", 9, 12), ("Asia/Kolkata", 6, 7)]
)
def test_months_add_up(database, zone, first, last):
    tz = ZoneInfo(zone)
    year = Year(database, tz, seed=len(zone))
    closed, balance = {}, dict.fromkeys(USERS, 0) | {LEGACY: 7_750_000_000}
    names = [f"2026-{number:02}" for number in range(first, last + 1)]
    for place, name in enumerate(names):
        month = year.statements.month(name)
        now = month.end + timedelta(days=2)
        year.give(month.start + timedelta(hours=1))
        year.live(month.start, month.end, month.end)
        # What is booked while the next month has begun, before this one is closed and after.
        year.live(month.end - timedelta(minutes=90), month.end + timedelta(minutes=90), now)
        database["request_logs"].delete_many({"createdAt": {"$lt": now - timedelta(days=20)}})
        before = year.rows(name, now)
        closed[name] = year.close(name, now)
        rows = year.rows(name, now)
        assert rows == before
        for user, row in rows.items():
            given, charged = year.given[user, name], year.charged[user, name]
            assert row["chargesNanoUsd"] + row["lateNanoUsd"] == charged, (name, user)
            assert row["creditsNanoUsd"] - row["debitsNanoUsd"] == given
            if user == "env":
                assert (row["openingNanoUsd"], row["closingNanoUsd"]) == (None, None)
                continue
            assert row["unexplainedNanoUsd"] == 0
            assert row["openingNanoUsd"] == balance[user], (name, user)
            balance[user] += given - charged
            assert row["closingNanoUsd"] == balance[user]
        assert closed[name]["sums"]["chargesNanoUsd"] == sum(row["chargesNanoUsd"] for row in rows.values())
        if place + 1 < len(names):
            following = names[place + 1]
            year.live(month.start, month.end - timedelta(hours=1), now + timedelta(hours=1), following)
        with pytest.raises(CannotClose, match="closed already"):
            year.close(name, now)
    late = now + timedelta(days=3)
    for name, head in closed.items():
        assert year.statements.check(name) == []
        assert year.statements.head(year.statements.month(name), late) == head
    for user in (*USERS, LEGACY):
        after = sum(
            nano for (whose, name), nano in year.charged.items() if whose == user and name > names[-1]
        )
        assert balance[user] - after == month_figures._left(database["usersNew"].find_one({"_id": user}))


def test_what_came_late_says_into_which_month(database):
    year = Year(database, UTC, seed=5)
    march, april = year.statements.month("2026-03"), year.statements.month("2026-04")
    year.live(march.start, march.end, march.end)
    year.close("2026-03", march.end)
    user = USERS[0]
    record = sequenced(99, user_id=user, created_at=march.start, cost_nano_usd=77)
    Booking(database, "w2", now=lambda: april.start).apply([record])
    found = year.statements.statement(april, user, april.end)
    assert (found.late_nano, found.charges_nano) == (77, 0)
    assert year.statements.late(april, user, april.end) == [{"month": "2026-03", "chargesNanoUsd": 77}]
    assert year.rows("2026-03", april.end)[user]["chargesNanoUsd"] == year.charged[user, "2026-03"]
    lines = list(statement_csv(april, found))
    assert any(",late," in line and ",-77," in line for line in lines)


def test_a_month_is_closed_once_in_order_and_when_it_is_over(database):
    year = Year(database, UTC, seed=6)
    may = year.statements.month("2026-05")
    year.live(may.start, may.end, may.end)
    with pytest.raises(CannotClose, match="is not over yet"):
        year.close("2026-05", may.end - timedelta(seconds=1))
    year.statements.month("2026-04")
    differing = {"consistent": False, "differenceCount": 3, "pendingCount": 0}
    close = year.statements.close
    with pytest.raises(CannotClose, match="3 differences"):
        close(may, "root", may.end, lambda: may.end, lambda: differing)
    assert year.statements.head(may, may.end)["state"] == "open"
    closed = close(may, "root", may.end, lambda: may.end, lambda: differing, anyway=True)
    assert (closed["state"], closed["verify"]["consistent"], closed["records"]) == ("closed", False, 25)
    with pytest.raises(CannotClose, match="2026-05 is closed already: months are closed in their order"):
        year.close("2026-04", may.end)
    assert [month["month"] for month in year.statements.months(may.end)][:2] == ["2026-06", "2026-05"]


def test_a_closing_that_died_is_taken_over(database):
    year = Year(database, UTC, seed=7)
    may = year.statements.month("2026-05")
    year.live(may.start, may.end, may.end)
    head = {
        "state": "closing",
        "claim": "dead",
        "at": may.end,
        "by": "x",
        "from": "",
        "to": "",
        "timezone": "",
    }
    database["statements"].insert_one({"_id": "2026-05", **head})
    database["statements"].insert_one({"month": "2026-05", "claim": "dead", "user": "ghost", "part": 0})
    with pytest.raises(CannotClose, match="being closed just now"):
        year.close("2026-05", may.end + timedelta(minutes=4))
    year.close("2026-05", may.end + timedelta(minutes=6))
    assert "ghost" not in year.rows("2026-05", may.end)
    assert database["statements"].count_documents({"claim": "dead"}) == 0
    assert year.statements.check("2026-05") == []


def test_a_failed_closing_leaves_the_month_open(database, monkeypatch):
    year = Year(database, UTC, seed=8)
    may = year.statements.month("2026-05")
    year.live(may.start, may.end, may.end)

    def fails(_done, _of):
        raise RuntimeError("as if killed")

    with pytest.raises(RuntimeError):
        year.statements.close(may, "root", may.end, lambda: may.end, lambda: FINE, progress=fails)
    assert database["statements"].count_documents({}) == 0


def test_verify_finds_a_closed_month_that_was_changed(database):
    year = Year(database, UTC, seed=9)
    may = year.statements.month("2026-05")
    year.live(may.start, may.end, may.end)
    year.close("2026-05", may.end)
    assert year.statements.check("2026-05") == []
    part = database["statements"].find_one({"part": 0})
    for change in ({"closingNanoUsd": Int64(1)}, {"lateNanoUsd": Int64(1)}, {"user": "mallory"}):
        database["statements"].update_one({"_id": part["_id"]}, {"$set": change})
        assert year.statements.check("2026-05"), change
        database["statements"].replace_one({"_id": part["_id"]}, part)
    database["statements"].delete_one({"_id": part["_id"]})
    checks = {check.name: check for check in Reconciliation(database, retention_s=0).run(may.end)}
    assert (checks["statements"].compared, checks["statements"].difference_count) == (1, 2)


def test_closing_is_in_the_audit_log(database):
    year = Year(database, UTC, seed=10)
    year.live(START, START + timedelta(days=1), START + timedelta(days=1))
    admin = StatementAdmin(year.statements, AuditLog(database))
    admin.close(Actor("root", "cli"), "2026-01", lambda: FINE)
    with pytest.raises(Conflict):
        admin.close(Actor("root", "cli"), "2026-01", lambda: FINE)
    entries = list(database["admin_audit"].find({}, {"action": 1, "target": 1, "outcome": 1, "_id": 0}))
    named = {"action": "statements.close", "target": "month:2026-01"}
    assert [entry["outcome"] for entry in entries] == ["done", "refused"]
    assert all(named.items() <= entry.items() for entry in entries)


def test_statements_as_text(database):
    year = Year(database, UTC, seed=11)
    may = year.statements.month("2026-05")
    year.give(may.start)
    year.live(may.start, may.end, may.end)
    user = next(user for user, name in year.given if year.given[user, name] and year.charged[user, "2026-05"])
    found = year.statements.statement(may, user, may.end)
    rows = [line.split(",") for line in statement_csv(may, found)]
    amounts = [int(row[11]) for row in rows[1:]]
    assert sum(amounts[:-1]) == amounts[-1] == found.closing_nano
    assert "'=top-up" in {row[13] for row in rows}
    assert len(list(rows_csv(may, [found]))) == 2
    page = statement_html(may, found, status="open <b>", at=may.end)
    assert "open &lt;b&gt;" in page
    assert "=top-up" in page
    assert year.statements.statement(may, "nobody", may.end) is None


def test_months_begin_at_midnight():
    kolkata = Month.parse("2026-11", ZoneInfo("Asia/Kolkata"))
    assert kolkata.start == datetime(2026, 10, 31, 18, 30, tzinfo=UTC)
    assert (kolkata.end, kolkata.previous) == (datetime(2026, 11, 30, 18, 30, tzinfo=UTC), "2026-10")
