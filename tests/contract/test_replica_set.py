"""Against a real replica set: where reads go, and what a set does that acknowledges nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import timeout as bounded
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from app.accounts.client_keys import ClientKeyStore
from app.accounts.dashboard_access import DashboardAccounts
from app.accounts.directory import CachedDirectory
from app.accounts.users import UserStore
from app.cli import checks
from app.common.errors import StoreUnavailable
from app.credit.credit_holds import CreditHolds, Tending
from app.credit.credit_ledger import CreditLedger, LedgerNote
from app.factory import EXTENSION
from app.management import errors
from app.management.audit import Actor
from app.management.users import CreditChange, NewUser
from app.persistence import store_watch
from app.persistence.booking import Booking
from app.persistence.store_watch import UNACKNOWLEDGED, UNREACHABLE, StoreWatch
from app.persistence.writers import WriterMarks
from app.store.connection import connect
from app.verify.reconciliation import Reconciliation
from drill.replica_set import ReplicaSet
from tests.contract.booking_world import sequenced
from tests.support.admin_api import admin_app

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ACTOR = Actor("ops", "cli")
PATIENTLY = "&serverSelectionTimeoutMS=60000&connectTimeoutMS=60000"


class Commands(CommandListener):
    """Which commands went to which member."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, int]] = []

    def started(self, event: Any) -> None:
        self.sent.append(
            (event.command_name, str(event.command.get("$readPreference")), event.connection_id[1])
        )

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


@pytest.fixture(scope="module")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with ReplicaSet(tmp_path_factory.mktemp("rs"), members=2, arbiters=1, election_s=1.0) as servers:
        # From now on nobody else is to be elected only because the machine is busy.
        admin = servers.client.admin
        config = admin.command("replSetGetConfig")["config"]
        config["settings"]["electionTimeoutMillis"] = 60_000
        admin.command("replSetReconfig", config | {"version": config["version"] + 1})
        yield servers


@pytest.fixture
def database(replica_set: ReplicaSet) -> Iterator[Database[Any]]:
    db = connect(replica_set.uri + PATIENTLY, "weir_test")
    db.client.drop_database(db.name)
    yield db
    db.client.close()


def test_nothing_that_settles_or_identifies_is_read_from_a_secondary(
    replica_set: ReplicaSet, database: Database[Any]
) -> None:
    commands = Commands()
    stale = f"{PATIENTLY}&readPreference=secondaryPreferred&w=1&readConcernLevel=available"
    db = connect(replica_set.uri + stale, database.name, event_listeners=[commands])
    users, keys, ledger = UserStore(db), ClientKeyStore(db), CreditLedger(db)
    users.add("ann", now=NOW, credits_usd=Decimal(1))
    secret = keys.add("ann", now=NOW).secret
    directory = CachedDirectory(users, keys, clock=time.monotonic, spawn=lambda work: work())
    assert directory.find(secret) is not None
    assert directory.find("sk-unknown") is None
    assert directory.balance("ann") is not None
    users.login("ann")
    DashboardAccounts(db).by_password("ann")
    holds = CreditHolds(db)
    holds.place("ann", "r", 5, committed_nano=0, own=(), timeout_s=5)
    holds.tend({"ann": Tending(removed=frozenset({"r"}))})
    booking = Booking(db, "w1")
    for _ in range(2):
        booking.apply([sequenced(1, user_id="ann")])
    ledger.add("ann", Decimal(1), LedgerNote(NOW, "ops", "cli", key="k"))
    ledger.add("ann", Decimal(1), LedgerNote(NOW, "ops", "cli", key="k"))
    WriterMarks(db).forget_dead()
    assert list(Reconciliation(db, retention_s=0).run(NOW))
    primary = replica_set.primary().port
    db.client.close()
    assert {name for name, _, _ in commands.sent} >= {
        "find",
        "aggregate",
        "findAndModify",
        "insert",
        "update",
    }
    astray = [sent for sent in commands.sent if sent[2] != primary or "secondary" in sent[1]]
    assert astray == []


def test_a_set_that_acknowledges_nothing_is_found_out_and_admins_do_not_wait_for_it(
    replica_set: ReplicaSet, database: Database[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arbiter votes for the primary, and holds no data: no write gets a majority."""
    answers = store_watch.unreachable

    def answers_at_last(db: Database[Any]) -> str | None:
        with monkeypatch.context() as patience:
            patience.setattr(store_watch, "_TIMEOUT_S", 60.0)
            return answers(db)

    monkeypatch.setattr(store_watch, "unreachable", answers_at_last)
    with admin_app(replica_set.uri + PATIENTLY, database.name, tmp_path / "var") as app:
        services = app.extensions[EXTENSION]
        users = services.administration.users
        users.add(ACTOR, NewUser("ann", Decimal(1)))
        watch = StoreWatch(services.database, "w1")
        assert watch.look() is None
        data = next(member for member in replica_set.members if not member.is_arbiter and member.state() != 1)
        data.kill()
        try:
            assert database["usersNew"].find_one({"_id": "ann"}) is not None
            with monkeypatch.context() as outage:
                outage.setattr(pymongo, "timeout", bounded)
                outage.setattr(errors, "ACTION_S", 3.0)
                looks = [watch.look() for _ in range(4)]
                assert (looks[-1], UNREACHABLE in looks) == (UNACKNOWLEDGED, False)
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    users.credit(ACTOR, "ann", CreditChange(Decimal(5), key="invoice-7"))
                assert time.monotonic() - began < 3.0 + 30  # without a bound it would be for ever
                (check, *_) = checks.check_store(services.database, services.settings)
                assert (check.state, "not acknowledged" in check.detail) == ("failed", True)
        finally:
            replica_set.revive(data)
        assert [StoreWatch(services.database, "w1").look()] == [None]
        # The 503 may be answered with the same request again.
        users.credit(ACTOR, "ann", CreditChange(Decimal(5), key="invoice-7"))
        assert users.get("ann")["credits"] == 6.0
        entries, _ = services.administration.audit.page({"action": "users.credits.add"}, 10)
        assert {entry["outcome"] for entry in entries} <= {"done", "failed", "unknown"}
