"""What was read of OhMyGPT's account, as commands, the admin API and the dashboard show it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from click.testing import Result

from app.common.money import NANO
from app.keys.key_account import KeyAccount
from app.ohmygpt.account import Balance
from app.ohmygpt.readings import Readings, account_document
from tests.support.admin_api import Admin, admin_app

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
SECRET = "sk-pool-0123456789abcdef"


@pytest.fixture
def app(database, mongo_uri, tmp_path):
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        yield app


def key_of(app):
    return next(key for key in Admin(app).get("/ohmygpt/keys")["keys"] if key["id"] == "pool-1")


def test_balance_and_caps_are_shown_everywhere(app, database) -> None:
    run = app.test_cli_runner().invoke
    assert run(args=["init"]).exit_code == 0
    assert run(args=["keys", "add", "pool-1", "--api-key-stdin"], input=SECRET).exit_code == 0
    nothing = Admin(app).get("/ohmygpt/account")
    assert set(nothing.values()) == {None}
    assert key_of(app)["capped"] is None

    told = KeyAccount(Decimal("100.50"), Decimal(100), datetime(2027, 1, 1, tzinfo=UTC))
    readings = Readings(database)
    readings.put("account", account_document(Balance(Decimal("8217.00")), {"pool-1": told}, 2), NOW)
    readings.note_problem("account", "it refuses the management key (statusCode 401)")
    account = Admin(app).get("/ohmygpt/account")
    assert account == {
        "balance": "8217.00",
        "freeBalance": None,
        "readAt": "2026-11-30T12:00:00.000Z",
        "problem": "it refuses the management key (statusCode 401)",
        "unmatchedKeys": 2,
    }
    key = key_of(app)
    shown = {name: key[name] for name in ("usedFee", "maxFee", "capped", "expiresAt")}
    assert shown == {
        "usedFee": "100.50",
        "maxFee": "100",
        "capped": True,
        "expiresAt": "2027-01-01T00:00:00.000Z",
    }
    assert "100.50 of 100" in run(args=["keys", "list"]).stdout
    table = run(args=["keys", "account"]).stdout
    assert "8217.00" in table
    assert "statusCode 401" in table


def snapshot(hour: datetime, **keys: tuple[str, int]) -> dict[str, object]:
    """What is stored of a reading: by key the used fee, and what was booked."""
    books = [{"id": key, "keyId": key, "usedFee": fee, "ownNanoUsd": own} for key, (fee, own) in keys.items()]
    return {"_id": hour, "isFirstOfDay": True, "at": hour, "keys": books}


def test_both_sides_of_the_ledger_are_shown_everywhere(database, mongo_uri, tmp_path) -> None:
    snapshots = database["ohmygpt_used_fees"]
    day = datetime(2026, 11, 28, tzinfo=UTC)
    verify = ("verify", "--upstream", "--period", "2026-11-28")
    with admin_app(mongo_uri, database.name, tmp_path / "var", ohmygpt_units_per_usd=1000) as app:

        def run(*args: str) -> Result:
            return app.test_cli_runner().invoke(args=args)

        assert run("init").exit_code == 0
        nothing = run(*verify)
        assert (nothing.exit_code, "no two readings" in nothing.stdout) == (1, True)

        snapshots.insert_one(snapshot(day, a=("10", 0), b=("0", 0)))
        snapshots.insert_one(snapshot(day + timedelta(days=1), a=("1010", NANO), b=("500", NANO // 2)))
        even = run(*verify)
        assert even.exit_code == 0, even.stdout
        assert "all compared" in even.stdout

        snapshots.insert_one(snapshot(day + timedelta(days=2), a=("3010", 2 * NANO), b=("500", NANO // 2)))
        assert run("verify", "--upstream", "--period", "2026-11-29").exit_code == 1
        shown = run("verify", "--upstream", "--from", "2026-11-28", "--to", "2026-11-30", "--json")
        assert shown.exit_code == 1
        view = Admin(app).get("/ohmygpt/books?from=2026-11-28&to=2026-11-30")
        assert json.loads(shown.stdout) == view
        assert (view["agrees"], view["problem"], view["begins"]) == (
            False,
            None,
            "2026-11-28T00:00:00.000Z",
        )
        assert view["keys"][0] == {
            "key": "a",
            "verdict": "differs",
            "usedFee": "3000",
            "upstreamCostNanoUsd": 3 * NANO,
            "costNanoUsd": 2 * NANO,
            "driftPercent": 33.3333,
        }
        assert [key["verdict"] for key in view["keys"]] == ["differs", "agrees"]
        assert view["total"]["key"] is None

        for wrong in (
            ("verify", "--period", "today"),
            ("verify", "--upstream", "--since", "1h"),
            (*verify[:3], "x"),
        ):
            assert run(*wrong).exit_code == 2, wrong


def test_without_a_currency_there_is_nothing_to_compare(app, database) -> None:
    day = datetime(2026, 11, 28, tzinfo=UTC)
    for number in range(2):
        database["ohmygpt_used_fees"].insert_one(snapshot(day + timedelta(days=number), a=(str(number), 0)))
    view = Admin(app).get("/ohmygpt/books?period=2026-11-28")
    assert (view["agrees"], view["keys"][0]["verdict"], view["keys"][0]["usedFee"]) == (
        False,
        "unconverted",
        "1",
    )
    assert "OHMYGPT_UNITS_PER_USD" in view["problem"]
