"""A month from first request to closed statement, by command and over HTTP; recipes of docs/cron.md."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from threading import Thread

import pytest
from flask import Flask
from test_cli import commands, config
from werkzeug.serving import make_server

from app.accounts.users import UserStore
from app.api.admin import admin_blueprint
from app.api.admin.statements import statements_blueprint
from app.billing.statements import Statements
from app.common.clock import SystemClock, now_ms
from app.common.money import NANO
from app.credit.credit_ledger import CreditLedger, LedgerNote
from app.management.audit import AuditLog
from app.management.reading import RequestLogStore, StatsStore
from app.management.statements import StatementAdmin
from app.persistence.booking import Booking
from app.pricing.model_table import ModelTable
from app.settings import ROOT, Settings
from app.statistics.periods import Period
from tests.contract.booking_world import sequenced
from tests.support.logins import PlainGuard

__all__ = ["config"]

TOKEN = "a-token-for-the-admin-api"
RECIPES = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "cron.md").read_text(encoding="utf-8"), re.DOTALL)
STEPS = re.findall(
    r"`(weir [^`]+)`",
    (ROOT / "docs" / "billing.md").read_text(encoding="utf-8").partition("## What a statement says")[0],
)
ANN_NANO, BOB_NANO = 2_000_000_001, 4_000_000_000


@pytest.fixture
def booked(database, config):
    """Last month: two users; ann in it, bob yesterday as well."""
    settings = Settings(**config)
    now = now_ms()
    last_month = Period.of("last_month", now, settings.tz)
    yesterday = Period.of("yesterday", now, settings.tz)
    users, ledger = UserStore(database), CreditLedger(database)
    ledger.ensure_indexes()
    for user in ("ann", "bob"):
        users.add(user, now=last_month.start)
        ledger.add(user, Decimal(7), LedgerNote(last_month.start, "root", "cli", "paid"))
    records = [
        sequenced(1, user_id="ann", created_at=last_month.start, cost_nano_usd=ANN_NANO, model="gpt"),
        sequenced(2, user_id="bob", created_at=yesterday.start + timedelta(hours=3), cost_nano_usd=BOB_NANO),
        sequenced(3, user_id="bob", created_at=yesterday.start - timedelta(seconds=1), cost_nano_usd=5),
    ]
    for record in records:
        at = record.document["createdAt"]
        Booking(database, "w1", now=lambda at=at: at).apply([record])
    return last_month


@pytest.fixture
def app(database, config):
    settings, clock = Settings(**config), SystemClock()
    guard = PlainGuard(TOKEN, lambda *_: "user")
    app = Flask("test")
    app.register_blueprint(
        admin_blueprint(
            logs=RequestLogStore(database),
            stats=StatsStore(database),
            models=ModelTable(()),
            clock=clock,
            tz=settings.tz,
            guard=guard,
        )
    )
    admin = StatementAdmin(Statements(database, settings.tz), AuditLog(database))
    fine = {"consistent": True, "differenceCount": 0, "pendingCount": 0}
    app.register_blueprint(statements_blueprint(admin, lambda: fine, clock, guard))
    return app


def ask(app, path, status=200, method="get"):
    answer = getattr(app.test_client(), method)(
        f"/api/admin/{path}", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert answer.status_code == status, answer.text
    return answer


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def month_of(period):
    return f"{period.start:%Y-%m}"


def test_a_month_over_http(app, booked):
    month = month_of(booked)
    assert month in [found["month"] for found in ask(app, "statements").json["months"]]
    page = ask(app, f"statements/{month}?limit=1").json
    assert (page["state"], [row["user"] for row in page["rows"]], page["nextCursor"]) == (
        "open",
        ["ann"],
        "ann",
    )
    assert page["rows"][0]["closingNanoUsd"] == 7_000_000_000 - ANN_NANO
    rest = ask(app, f"statements/{month}?cursor=ann").json
    assert ([row["user"] for row in rest["rows"]], rest["nextCursor"]) == (["bob"], None)
    whole = ask(app, f"statements/{month}/ann").json["statement"]
    assert [line["reason"] for line in whole["ledger"]] == ["paid"]
    assert [(line["model"], line["costNanoUsd"]) for line in whole["charges"]] == [("gpt", ANN_NANO)]

    closed = ask(app, f"statements/{month}/close", method="post").json
    assert (closed["state"], closed["closedBy"], len(closed["sha256"])) == ("closed", "admin-token", 64)
    assert closed["sums"]["chargesNanoUsd"] >= ANN_NANO
    assert "is closed already" in ask(app, f"statements/{month}/close", 409, "post").json["error"]
    assert ask(app, f"statements/{month}/ann").json["statement"] == whole
    lines = list(csv.DictReader(io.StringIO(ask(app, f"statements/{month}/ann?format=csv").text)))
    assert [line["kind"] for line in lines] == ["opening", "credit", "charge", "closing"]
    page = ask(app, f"statements/{month}/ann?format=html")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "4.999999999" in page.text
    rows = list(csv.DictReader(io.StringIO(ask(app, f"statements/{month}?format=csv").text)))
    assert [row["user"] for row in rows] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("path", "status", "method"),
    [
        ("statements/2026-01/nobody", 404, "get"),
        ("statements/9000-01/close", 409, "post"),
        ("statements/2026-01?limit=0", 400, "get"),
    ],
)
def test_what_is_no_month_or_user(app, booked, path, status, method):
    ask(app, path, status, method)


@pytest.mark.parametrize("name", ["2026-13", "yesterday", "2026-11-01"])
def test_what_is_no_month_is_told_what_one_is(app, booked, name):
    for path, method in ((f"statements/{name}", "get"), (f"statements/{name}/close", "post")):
        answer = ask(app, path, 400, method).json
        assert answer == {
            "error": f"month: takes one such as 2026-11, not {name!r}",
            "parameter": "month",
        }


def test_a_month_by_command(config, booked, tmp_path, database):
    run, month = commands(**config), month_of(booked)
    UserStore(database).add("../evil", now=booked.start)
    shown = run("statements", "show", month)
    assert (shown.exit_code, "$4.999999999" in shown.stdout) == (0, True), shown.output
    one = json.loads(run("statements", "show", month, "ann", "--json").stdout)
    assert one["statement"]["chargesNanoUsd"] == ANN_NANO
    assert "gpt" in run("statements", "show", month, "ann").stdout
    assert run("statements", "show", month, "nobody").exit_code == 1
    assert run("statements", "show", "november").exit_code == 2

    closed = run("statements", "close", month, "--json", "--anyway")
    assert closed.exit_code == 0, closed.output
    again = run("statements", "close", month)
    assert (again.exit_code, "is closed already" in again.stderr) == (1, True)
    listed = json.loads(run("statements", "list", "--json").stdout)["months"]
    assert {found["month"]: found["state"] for found in listed}[month] == "closed"

    out = tmp_path / "out"
    done = run("statements", "export", month, "--dir", str(out), *("--format", "csv", "--format", "html"))
    assert (done.exit_code, "as it was closed" in done.stdout) == (0, True), done.output
    names = {"ann", "bob", "%2E.%2Fevil"}
    assert {path.name for path in out.iterdir()} == {"statements.csv"} | {
        f"{name}.{form}" for name in names for form in ("csv", "html")
    }
    rows = rows_of(out / "statements.csv")
    assert (
        sum(int(row["chargesNanoUsd"]) for row in rows) == json.loads(closed.stdout)["sums"]["chargesNanoUsd"]
    )


def test_a_month_that_has_not_begun_says_so(app, config, booked):
    assert [ask(app, f"statements/{month}").json["hasBegun"] for month in (month_of(booked), "2999-01")] == [
        True,
        False,
    ]
    assert ask(app, "statements/2999-01/close", 409, "post").json["error"] == "2999-01 has not begun yet"
    run = commands(**config)
    assert run("statements", "show", "2999-01").stderr == "2999-01 has not begun yet.\n"
    assert run("statements", "show", month_of(booked)).stderr == ""


def test_usage_by_command(config, booked):
    run = commands(**config)
    done = run("stats", "usage", "--period", "last_month", "--by", "user,model", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert ("ann", "gpt", str(ANN_NANO)) in {(row["user"], row["model"], row["costNanoUsd"]) for row in rows}
    told = json.loads(run("stats", "usage", "--from", f"{booked.start:%Y-%m-%d}", "--json").stdout)
    assert told["total"]["requestCount"] == 3
    table = run("stats", "usage", "--limit", "1").stdout
    assert "(1 others)" in table
    assert "3 requests, $6.000000006." in table
    assert run("stats", "usage", "--by", "colour").exit_code == 2
    assert run("stats", "usage", "--period", "fortnight").exit_code == 2
    assert run("stats", "models", "--period", month_of(booked), "--csv").stdout.startswith("model,")
    for of in ("usage", "models"):
        compared = run("stats", of, "--period", "month", "--compare", "previous", "--csv")
        assert "previousCostNanoUsd" in compared.stdout.splitlines()[0].split(",")


def test_usage_that_is_counted_from_records_says_what_has_expired(config, booked, database):
    run = commands(**config)
    asked = ("stats", "usage", "--period", "all", "--by", "client")
    assert run(*asked).stderr == ""
    database["request_logs"].create_index("createdAt", expireAfterSeconds=10**6)
    assert "have expired" in run(*asked).stderr
    assert run(*asked, "--json").exit_code == 0
    assert run("stats", "usage", "--period", "all").stderr == ""


def test_a_month_as_billing_md_tells_it(config, database, tmp_path):
    """Every command and path of the walk through a month, in its order; acme has a request of last month."""
    settings, now = Settings(**config), now_ms()
    month = Period.of("last_month", now, settings.tz)
    run, left = commands(**config), STEPS.copy()

    def step(name):
        assert left[0].startswith(f"weir {name}"), left[0]
        words = left.pop(0).replace("2026-11", month_of(month)).replace("out/", f"{tmp_path}/out").split()[1:]
        done = run(*words)
        assert done.exit_code == 0, (words, done.output)
        return done.stdout

    step("users add acme")
    assert "$25.00" in step("users credit")
    key = database["user_keys"].find_one({"name": "acme"})["_id"]
    cost = 2 * NANO
    request = sequenced(1, user_id="acme", user_key_id=key, created_at=month.start, cost_nano_usd=cost)
    Booking(database, "w1", tz=settings.tz).apply([request])
    assert "month" in step("stats usage")
    assert "$2.00" in step("statements show")
    (config["data_dir"] / "journal").mkdir(parents=True)
    step("journal status")
    assert "Everything agrees" in step("verify")
    step("statements close")
    assert "as it was closed" in step("statements export")
    assert {"acme.csv", "acme.html", "statements.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert left == []


@pytest.fixture
def shell(app, config, tmp_path):
    """Runs a recipe with `curl` and `weir` where it expects them."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    programs = tmp_path / "bin"
    programs.mkdir()
    weir = programs / "weir"
    weir.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    weir.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.defpath}",
        "PYTHONPATH": str(ROOT),
        "WEIR": f"http://127.0.0.1:{server.server_port}/api/admin",
        "AUTH": f"Authorization: Bearer {TOKEN}",
        **{name.upper(): str(value) for name, value in config.items()},
    }
    work = tmp_path / "work"
    work.mkdir()

    def run(recipe: str) -> Path:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", recipe],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return work

    yield run
    server.shutdown()
    thread.join()


def test_every_recipe_for_cron(shell, booked, database):
    month = month_of(booked)
    for recipe in RECIPES:
        work = shell(recipe)
        if "yesterday.csv" in recipe:
            rows = rows_of(work / "yesterday.csv")
            assert [(row["user"], int(row["costNanoUsd"])) for row in rows] == [("bob", BOB_NANO)]
        if "last-month.csv" in recipe:
            rows = rows_of(work / "last-month.csv")
            assert ("ann", "gpt") in {(row["user"], row["model"]) for row in rows}
        if "low.txt" in recipe:
            told = (work / "low.txt").read_text().splitlines()
            assert told == ["ann has 5.00 USD left", "bob has 3.00 USD left"]
        if "weir statements export" in recipe:
            assert (work / f"statements-{month}" / "ann.html").stat().st_size > 0
    assert "is closed already" in (work / "closed.json").read_text()
    assert (work / f"statements-{month}.csv").stat().st_size > 0
