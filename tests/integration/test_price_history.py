"""Versions of the model table, explanations and comparisons, by command, API and on a record's page."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from app.factory import EXTENSION
from app.management.price_book import PriceBook
from app.pricing.charge import charge
from app.pricing.model_table import ModelTable
from app.pricing.price_versions import RELOAD
from app.pricing.rate_card import Terms
from app.records.records import ExchangeRecord, Outcome, UsageSource
from app.wires.usage import Usage
from tests.support.admin_api import TOKEN, Admin, admin_app

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
OLD = ModelTable.from_toml('[[models]]\nid = "m"\ninput = 1\noutput = 10\n')
NEW = ModelTable.from_toml('[[models]]\nid = "m"\ninput = 1\noutput = 20\n')


def record(request_id: str, table: ModelTable, user: str = "ann") -> dict[str, Any]:
    usage = Usage(input_tokens=100, output_tokens=7)
    charged = charge(table, table.models[0], usage, terms=Terms(NOON))
    return ExchangeRecord(
        request_id=request_id,
        user_id=user,
        user_key_id="k",
        created_at=NOON,
        api_format="openai",
        outcome=Outcome.OK,
        status_code=200,
        model="m",
        input_tokens=100,
        output_tokens=7,
        usage_source=UsageSource.UPSTREAM,
        cost_items=charged.items,
        cost_nano_usd=sum(charged.costs),
        price_version=table.version,
    ).to_document()


@pytest.fixture
def app(database, mongo_uri, tmp_path: Path):
    models = tmp_path / "models.toml"
    models.write_text(NEW.text)
    with admin_app(mongo_uri, database.name, tmp_path / "var", models_file=models) as app:
        book: PriceBook = app.extensions[EXTENSION].price_book
        for table in (OLD, NEW):
            book.note(table, RELOAD, "ada")
            book.store()
        database.request_logs.insert_many([record("r-old", OLD), record("r-new", NEW, "bob")])
        yield app


@pytest.fixture
def run(app) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        return app.test_cli_runner().invoke(args=["prices", *args])

    app.test_cli_runner().invoke(args=["init"])
    return run


@pytest.fixture
def admin(app) -> Admin:
    return Admin(app)


def test_versions_are_listed_with_where_they_are_in_force(run, admin) -> None:
    told = admin.get("/prices/versions")
    assert told["current"] == NEW.version
    assert [(version["version"], len(version["hosts"])) for version in told["versions"]] == [
        (NEW.version, 1),
        (OLD.version, 0),
    ]
    assert told["versions"][0]["hosts"][0]["actor"] == "ada"
    by_command = json.loads(run("versions", "--json").stdout)["versions"]
    assert by_command == [
        {name: value for name, value in version.items() if name != "workers"} for version in told["versions"]
    ]
    assert [version["workers"] for version in told["versions"]] == [1, 0]
    assert OLD.version in run("versions").stdout


@pytest.mark.parametrize(
    ("request_id", "price", "cost"), [("r-old", "10000", 170_000), ("r-new", "20000", 240_000)]
)
def test_each_record_is_explained_by_its_own_version(
    run, admin, request_id: str, price: str, cost: int
) -> None:
    told = admin.get(f"/request-logs/{request_id}")["explanation"]
    assert (told["agrees"], told["bookedNanoUsd"], told["workedOutNanoUsd"]) == (True, cost, cost)
    assert [(line["unit"], line["quantity"], line["price"], line["exact"]) for line in told["lines"]] == [
        ("input", 100, "1000", "100000"),
        ("output", 7, price, f"{7 * int(price)}"),
    ]
    shown = run("explain", request_id)
    assert shown.exit_code == 0
    assert f"{cost:,} nano-dollars. It agrees." in shown.stdout
    by_command = json.loads(run("explain", request_id, "--json").stdout)
    assert by_command == {"requestId": request_id, **told}


def test_a_cost_that_is_not_what_its_version_says_is_an_error(run, admin, database) -> None:
    database.request_logs.update_one({"_id": "r-old"}, {"$inc": {"costNanoUsd": 5}})
    shown = run("explain", "r-old")
    assert (shown.exit_code, "IT DOES NOT AGREE: +5 nano-dollars" in shown.stdout) == (1, True)
    database.price_versions.delete_one({"_id": OLD.version})
    database.request_logs.update_one({"_id": "r-old"}, {"$inc": {"costNanoUsd": -5}})
    # (the first answer may have kept the text in memory: a command has none)
    shown = run("explain", "r-old")
    assert shown.exit_code == 1
    assert "is not in the database" in shown.stdout
    assert "cannot be worked out anew" in shown.stdout
    gone = run("explain", "nobody's")
    assert (gone.exit_code, "no record of a request nobody's" in gone.stderr) == (1, True)


def test_a_record_of_before_versions_says_so(run, database) -> None:
    database.request_logs.update_one({"_id": "r-old"}, {"$unset": {"priceVersion": ""}})
    shown = run("explain", "r-old")
    assert shown.exit_code == 1
    assert "does not say by which version" in shown.stdout
    database.request_logs.insert_one({"_id": "odd", "createdAt": NOON, "outcome": "rejected"})
    shown = run("explain", "odd")
    assert (shown.exit_code, "Nothing was charged." in shown.stdout) == (0, True)


def test_the_record_page_has_the_same_lines(app) -> None:
    client = app.test_client()
    form = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', client.get("/admin/login").text)
    assert form is not None
    client.post("/admin/login", data={"csrf_token": form[1], "token": TOKEN})
    page = client.get("/admin/requests/r-old").text
    assert f"<code>{OLD.version}</code>" in page
    assert ">10000<" in page
    assert ">70000<" in page


def test_a_preview_compares_with_what_was_charged(run, admin, tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    file.write_text(NEW.text)
    path = "/prices/preview?from=2026-11-30&to=2026-12-01"
    told = admin.text(path, NEW.text).json
    assert told["total"] == {
        "requests": 2,
        "oldNanoUsd": 410_000,
        "newNanoUsd": 480_000,
        "differenceNanoUsd": 70_000,
    }
    assert [(row["name"], row["differenceNanoUsd"]) for row in told["users"]] == [("ann", 70_000), ("bob", 0)]
    assert [part["source"] for part in told["parts"]] == ["records"]
    options = ("--since", "2026-11-30", "--until", "2026-12-01")
    assert json.loads(run("preview", str(file), *options, "--json").stdout) == told
    shown = run("preview", str(file), *options).stdout
    assert "2 requests: $0.00041 were charged, it would have been $0.00048 (+$0.00007)." in shown

    file.write_text('[[models]]\nid = "m"\ninput = "much"\n')
    bad = run("preview", str(file), *options)
    assert (bad.exit_code, bad.stderr.count("\n")) == (1, 1)
    assert "line 3" in bad.stderr
    assert admin.text(path, file.read_text()).status_code == 400
    assert "line 3" in admin.text(path, file.read_text()).text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/prices/preview", "from: is required"),
        ("/prices/preview?from=2026-12-01&to=2026-11-30", "takes a time before `to`"),
        ("/prices/preview?from=2001-01-01", "at most ten years"),
        ("/prices/preview?from=soon", "takes a date or time"),
    ],
)
def test_a_period_that_is_none_is_refused(admin, path: str, said: str) -> None:
    answer = admin.text(path, NEW.text)
    assert (answer.status_code, said in answer.text) == (400, True)


def test_a_text_that_is_too_long_is_refused(admin) -> None:
    answer = admin.text("/prices/preview?from=1d", "#" * 1_000_001)
    assert (answer.status_code, "at most 1000000 characters" in answer.text) == (400, True)
