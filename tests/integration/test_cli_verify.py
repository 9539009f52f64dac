"""`weir verify` and `weir journal`, and `GET /api/admin/verify`, against a real MongoDB."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from app.api.admin import admin_blueprint
from app.cli import register_commands
from app.common.errors import StoreUnavailable
from app.credit.credit_policy import HOLD_TTL_S
from app.journal import Journal, acquire_slot
from app.journal.documents import encode_document
from app.journal.journal_format import OpenRequest
from app.persistence.booking import Booking
from app.pricing.model_table import ModelTable
from app.settings import Settings
from app.store.deployment import adopt
from app.verify.reconciliation import Reconciliation
from tests.support.logins import PlainGuard
from tests.support.reconciliation_world import NOW, World, no_pause

Run = Callable[..., Result]
TOKEN = {"Authorization": "Bearer token"}


@pytest.fixture
def world(database) -> World:
    return World.build(database, size=30)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def run(database, mongo_uri: str, data_dir: Path) -> Run:
    settings = Settings(
        mongodb_uri=mongo_uri,
        mongodb_db_name=database.name,
        data_dir=data_dir,
        log_retention_days=0,
        secret_key="test-secret-of-commands",
    )
    adopt(database, "test-secret-of-commands", NOW)
    app = Flask("test")
    register_commands(app, settings)
    runner = app.test_cli_runner()
    return lambda *args: runner.invoke(args=args)


def leave_behind(data_dir: Path, world: World, count: int) -> list[str]:
    """A journal whose process has died, with records nobody booked and a request that had not ended."""
    journal = Journal(acquire_slot(str(data_dir / "journal")), run_blocking=lambda work, *args: work(*args))
    journal.recover()
    batch = world.batch(80_001, count)
    for item in batch:
        journal.append_close(item.document["_id"], encode_document(item.document)[1])
    journal.open_request(OpenRequest("open-1", "ann", world.client_keys["ann"], NOW, "openai", "chat"))
    journal.close()
    return [item.document["_id"] for item in batch]


# weir verify


def test_a_consistent_store_is_exit_status_0(run: Run, world: World) -> None:
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert "✗" not in result.stdout
    assert "✓ records = hourly sums: " in result.stdout
    assert result.stdout.endswith("Everything agrees.\n")


def test_a_difference_is_exit_status_1_and_named(run: Run, world: World) -> None:
    world.db.usersNew.update_one({"_id": "bob"}, {"$inc": {"credits": 1.0}})
    result = run("verify")
    assert result.exit_code == 1
    assert result.stderr == ""
    assert "✗ granted − used + overdraft = what is left: 3 users, 1 differ" in result.stdout
    assert "Differences (1):" in result.stdout
    assert "user bob" in result.stdout
    assert "Everything agrees" not in result.stdout


def test_json_has_stable_names(run: Run, world: World) -> None:
    world.db.request_rollups.update_one({"userId": "ann"}, {"$inc": {"requests": 1}})
    result = run("verify", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert set(report) == {"checkedAt", "consistent", "differenceCount", "pendingCount", "checks"}
    assert report["consistent"] is False
    assert [check["name"] for check in report["checks"]] == [
        *("journal", "records", "hourly_sums", "summaries", "users", "client_keys", "upstream_keys"),
        *("budgets", "balances", "dead_letters", "statements", "lost_records"),
    ]
    hours = report["checks"][2]
    assert set(hours) == {
        *("name", "state", "compared", "unit", "differenceCount", "differences"),
        *("pendingCount", "pending", "notes"),
    }
    assert hours["state"] == "differs"
    assert set(hours["differences"][0]) == {"what", "where", "expected", "found", "hint"}


def test_what_journals_hold_is_pending(run: Run, world: World, data_dir: Path) -> None:
    leave_behind(data_dir, world, 3)
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert "… what journals saw booked is in request_logs: 0 records, 4 pending" in result.stdout
    assert "Pending (4):" in result.stdout


def test_since_is_understood_or_wrong_use(run: Run, world: World) -> None:
    assert run("verify", "--since", "2026-11-23T13:00:00Z").exit_code == 0
    result = run("verify", "--since", "lately")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("uri", ["mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50", "nonsense"])
def test_a_store_that_is_gone_is_one_line(uri: str, data_dir: Path) -> None:
    app = Flask("test")
    register_commands(app, Settings(mongodb_uri=uri, data_dir=data_dir))
    for args in (("verify",), ("verify", "--json"), ("journal", "replay")):
        result = app.test_cli_runner().invoke(args=args)
        assert result.exit_code == 1 or "replay" in args
        assert result.stderr.count("\n") <= 1
        assert result.exception is None or isinstance(result.exception, SystemExit)


# weir journal


def test_the_journal_is_shown_and_replayed(run: Run, world: World, data_dir: Path) -> None:
    missing = run("journal", "status")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert f"there is no DATA_DIR {data_dir}: set DATA_DIR" in missing.stderr
    data_dir.mkdir()
    assert f"There is no journal in {data_dir} yet." in run("journal", "status").stdout
    ids = leave_behind(data_dir, world, 3)
    status = json.loads(run("journal", "status", "--json").stdout)
    assert (status["unbooked"], status["openRequests"], status["damaged"]) == (3, 1, 0)
    (slot,) = status["slots"]
    assert (slot["slot"], slot["isOwned"], slot["unbooked"]) == ("0000", False, 3)
    assert slot["oldestUnbookedAt"].endswith("Z")
    assert "weir journal replay" in run("journal", "status").stdout

    replayed = run("journal", "replay", "--json")
    assert replayed.exit_code == 0, replayed.output
    done = json.loads(replayed.stdout)
    assert done["records"] == 4
    assert (done["slots"][0]["interrupted"], done["slots"][0]["isBooked"]) == (1, True)
    assert world.db.request_logs.count_documents({"_id": {"$in": [*ids, "open-1"]}}) == 4
    assert "Nothing was left behind." in run("journal", "replay").stdout
    verified = run("verify", "--json")
    assert verified.exit_code == 0, verified.stdout


def test_a_slot_in_use_is_left_alone(run: Run, world: World, data_dir: Path) -> None:
    slot = acquire_slot(str(data_dir / "journal"))
    (shown,) = json.loads(run("journal", "status", "--json").stdout)["slots"]
    assert shown["isOwned"] is True
    assert json.loads(run("journal", "replay", "--json").stdout) == {"slots": [], "records": 0}
    slot.release()


def test_what_cannot_be_settled_is_exit_status_1(run: Run, world: World, data_dir: Path, monkeypatch) -> None:
    leave_behind(data_dir, world, 2)

    def fail(*_args):
        raise StoreUnavailable("connection refused")

    monkeypatch.setattr(Booking, "apply", fail)
    result = run("journal", "replay")
    assert result.exit_code == 1
    assert "connection refused" in result.stderr


def test_orphaned_holds_are_repaired_on_request(run: Run, world: World) -> None:
    renewed = datetime.now(UTC)
    holds = {
        "dead": {"nano": 5, "at": renewed - timedelta(seconds=HOLD_TTL_S + 5)},
        "live": {"nano": 5, "at": renewed},
    }
    world.db.usersNew.update_one({"_id": "ann"}, {"$set": {"holds": holds}})
    assert "orphaned hold" in run("verify").stdout
    result = run("verify", "--repair-holds")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Orphaned holds removed: 1")
    assert "wrote to" in result.stderr
    assert list(world.db.usersNew.find_one({"_id": "ann"})["holds"]) == ["live"]
    audited = world.db.admin_audit.find_one({"action": "users.holds.repair"})
    assert audited["outcome"] == "done"
    again = run("verify", "--repair-holds", "--json")
    assert json.loads(again.stdout)["orphanedHoldsRemoved"] == 0


def test_budgets_are_put_right_on_request(run: Run, world: World) -> None:
    """One of a total that holds what was never charged: ann is refused though there is something left."""
    budget = {"budgets": [{"usd": "9", "per": "total"}]}
    charged = next(iter(world.db.request_logs.aggregate(CHARGED_TO_ANN)))["nano"]
    world.db.usersNew.update_one({"_id": "ann"}, {"$set": {**budget, f"budgetSpent.{TOTAL}": charged + 7}})
    found = run("verify")
    assert (found.exit_code, "budget total" in found.stdout) == (1, True)
    result = run("verify", "--repair-budgets")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Periods of budgets put right: 1")
    assert "wrote to" in result.stderr
    assert world.db.usersNew.find_one({"_id": "ann"})["budgetSpent"] == {"total": {"b00000000000": charged}}
    audited = world.db.admin_audit.find_one({"action": "users.budgets.repair"})
    assert (audited["outcome"], audited["details"]) == ("done", {"periods": 1})
    again = run("verify", "--repair-budgets", "--json")
    assert json.loads(again.stdout)["budgetPeriodsRepaired"] == 0


TOTAL = "total.b00000000000"
CHARGED_TO_ANN = [
    {"$match": {"userId": "ann"}},
    {"$group": {"_id": None, "nano": {"$sum": "$costNanoUsd"}}},
]


# GET /api/admin/verify


class FixedClock:
    def utcnow(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    def new_request_id(self) -> str:
        return "x"


def client_of(verifier):
    app = Flask("test")
    app.register_blueprint(
        admin_blueprint(
            logs=None,
            stats=None,
            models=ModelTable(()),
            clock=FixedClock(),
            tz=UTC,
            guard=PlainGuard("token"),
            verifier=verifier,
        )
    )
    return app.test_client()


def test_the_api_answers_with_the_report(world: World) -> None:
    client = client_of(Reconciliation(world.db, retention_s=0, pause=no_pause, lost=lambda: 0))
    assert client.get("/api/admin/verify").status_code == 401
    answer = client.get("/api/admin/verify", headers=TOKEN)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json["consistent"] is True
    assert answer.json["checkedAt"] == "2026-11-23T15:00:00.000Z"
    assert {check["state"] for check in answer.json["checks"]} == {"ok", "not_checked"}
    world.db.request_logs.delete_one({})
    again = client.get("/api/admin/verify?since=2026-11-23", headers=TOKEN)
    assert (again.status_code, again.json["consistent"]) == (200, False)


def test_the_api_refuses_a_bad_moment(world: World) -> None:
    answer = client_of(Reconciliation(world.db, retention_s=0)).get(
        "/api/admin/verify?since=soon", headers=TOKEN
    )
    assert (answer.status_code, answer.json["parameter"]) == (400, "since")


def test_one_verification_runs_at_a_time_and_a_store_that_is_down_ends_it() -> None:
    inner = []

    class Verifier:
        def report(self, now, since=None):
            inner.append(client.get("/api/admin/verify", headers=TOKEN))
            raise StoreUnavailable("connection refused")

    client = client_of(Verifier())
    for count in (1, 2):
        assert client.get("/api/admin/verify", headers=TOKEN).status_code == 503
        assert len(inner) == count
    assert {answer.status_code for answer in inner} == {409}


def test_without_a_verifier_there_is_no_such_page() -> None:
    assert client_of(None).get("/api/admin/verify", headers=TOKEN).status_code == 404
