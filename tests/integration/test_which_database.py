"""Which database commands work on: none is made by accident, and whoever writes says where."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from pydantic import SecretStr
from pymongo.database import Database

from app.cli import WITH_DATABASE, commands_app
from app.database_place import hosts_in, note_place
from app.journal import Journal, acquire_slot
from app.journal.documents import encode_document
from app.settings import ROOT, Settings
from app.store.deployment import WrongSecretKeyError, adopt, require_secret_key
from tests.support.reconciliation_world import World

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET = "of-this-deployment"

Run = Callable[..., Result]

# What to type after each command that there is, in an order in which each finds what it is to change.
READS = {
    "alerts list": "",
    "users list": "",
    "users show": "ann",
    "client-keys list": "",
    "keys list": "",
    "keys events": "",
    "backup-keys list": "",
    "proxies list": "",
    "bindings list": "",
    "logs tail": "",
    "logs export": "",
    "stats models": "",
    "stats usage": "",
    "statements list": "",
    "statements show": "2026-10",
    "prices missing": "",
    "prices versions": "",
    "journal status": "",
    "verify": "",
    "migrate check": "",
    "doctor": "",
    "backup": "FILE",
}
WRITES = {
    "init": "",
    "users add": "yan",
    "users credit": "zoe 1",
    "users limit": "zoe --rpm 5",
    "users price": "zoe --price-factor 0.8",
    "users password": "zoe --password-stdin",
    "users role": "zoe viewer",
    "users disable": "zoe",
    "users enable": "zoe",
    "client-keys add": "zoe",
    "client-keys limit": "KEY_ID --rpm 3",
    "client-keys rotate": "KEY_ID",
    "client-keys revoke": "KEY_ID",
    "keys add": "k9 --api-key-stdin",
    "keys import": "-",
    "keys limit": "k1 --rpm 3",
    "keys reset": "k1",
    "backup-keys add": "b9 --api-key-stdin",
    "backup-keys import": "-",
    "backup-keys restore": "b1",
    "backup-keys delete": "b1",
    "proxies add": "p9 --host proxy.invalid --port 1 --type http",
    "proxies check": "",
    "proxies disable": "p1",
    "proxies enable": "p1",
    "bindings add": "p1 k2",
    "bindings delete": "p1 k1",
    "proxies delete": "p1",
    "keys delete": "k1",
    "journal replay": "",
    "verify --repair-budgets": "",
    "verify --repair-holds": "",
    "migrate apply": "",
    "secret-key rotate": "--new-secret-key-stdin",
}


def registered() -> Iterator[str]:
    """Every command as it is typed."""
    for name in WITH_DATABASE:
        command = import_module(f"app.cli.{name.replace('-', '_')}").command
        if isinstance(command, click.Group):
            yield from (f"{name} {sub}" for sub in command.commands)
        else:
            yield name


def runner(settings: Settings) -> Run:
    invoke = commands_app(settings).test_cli_runner().invoke
    return lambda *args, stdin="": invoke(args=args, input=stdin)


@pytest.fixture
def settings(database: Database[Any], mongo_uri: str, tmp_path: Path) -> Settings:
    data_dir = tmp_path / "var"
    return Settings(
        mongodb_uri=mongo_uri,
        mongodb_db_name=database.name,
        data_dir=data_dir,
        secret_key=SECRET,
        ohmygpt_base_url="http://127.0.0.1:1",
        upstream_connect_timeout_s=0.5,
    )


@pytest.fixture
def run(database: Database[Any], settings: Settings) -> Run:
    adopt(database, SECRET, NOW)
    return runner(settings)


def prepare(run: Run, database: Database[Any], settings: Settings) -> str:
    """Something of everything there is; the id of a client key."""
    for line, stdin in (
        ("users add zoe", ""),
        ("keys add k1 --api-key-stdin", "sk-upstream-0001"),
        ("keys add k2 --api-key-stdin", "sk-upstream-0002"),
        ("backup-keys add b1 --api-key-stdin", "sk-upstream-0003"),
        ("proxies add p1 --host 127.0.0.1 --port 1 --type http", ""),
        ("bindings add p1 k1", ""),
    ):
        made = run(*line.split(), stdin=stdin)
        assert made.exit_code == 0, made.output
    database["ohmygpt_backup_keys"].update_one({}, {"$set": {"isUsed": True}})
    journal = Journal(
        acquire_slot(str(settings.data_dir / "journal")), run_blocking=lambda work, *a: work(*a)
    )
    journal.recover()
    (item,) = World.build(database, size=1).batch(80_001, 1)
    database["ohmygpt_keys"].delete_many({"_id": {"$regex": "^pool-"}})  # of another SECRET_KEY
    journal.append_close(item.document["_id"], encode_document(item.document)[1])
    journal.close()
    database["request_logs"].insert_one({"_id": "of earlier software", "createdAt": NOW, "userId": "zoe"})
    return str(json.loads(run("client-keys", "add", "zoe", "--json").stdout)["id"])


def content(db: Database[Any]) -> dict[str, Any]:
    found = {name: sorted(map(repr, db[name].find())) for name in db.list_collection_names()}
    return {name: documents for name, documents in found.items() if documents}


def test_what_every_command_does_to_the_database_is_known_here() -> None:
    # A restore takes an empty database: test_cli_backup.py. Two ask the upstream, with what they read here.
    # Three look at the model table; one of them asks the upstream, if it is told to. Two more of them read
    # what test_price_history.py has.
    known = {command.partition(" --")[0] for command in READS | WRITES}
    others = {"restore", "models sync", "keys account", "prices list", "prices show", "prices diff"}
    # Some want a price version that is there, others somewhere to send something to.
    others |= {"prices explain", "prices preview", "alerts test"}
    # A month that is over and whole is what these want: test_billing.py.
    others |= {"statements close", "statements export"}
    assert set(registered()) == known | others


def test_whoever_writes_says_where_and_nobody_else_says_anything(
    run: Run, database: Database[Any], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.secret_rotation.NOTICE_S", 0)  # no worker has to notice
    key_id = prepare(run, database, settings)
    told = f"weir: wrote to {database.name} on {hosts_in(settings.mongodb_uri.get_secret_value())}"
    for command, arguments in (READS | WRITES).items():
        before = content(database)
        stdin = "k8|sk-upstream-0008"
        typed = arguments.replace("KEY_ID", key_id).replace("FILE", str(tmp_path / "weir.backup"))
        result = run(*command.split(), *typed.split(), stdin=stdin)
        assert result.exit_code in (0, 1), result.output
        lines = [line for line in result.stderr.splitlines() if not line.startswith("  ")]  # of progress
        assert lines == ([told] if command in WRITES else []), (command, result.output)
        assert (content(database) != before) == (command in WRITES and command != "init"), command


def test_neither_secrets_nor_options_of_the_uri_are_told() -> None:
    uri = "mongodb://weir:pa%40ss@db1.example:27017,db2/admin?authSource=x&appName=y"
    assert hosts_in(uri) == "db1.example:27017,db2"
    assert hosts_in("mongodb+srv://u:p@cluster.example.org/?w=majority") == "cluster.example.org"


# No database by accident


def one_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("command", sorted({*READS, *WRITES} - {"init", "doctor", "journal status"}))
def test_without_a_database_nothing_is_made_and_what_was_looked_for_is_told(
    command: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "var"
    arguments = (READS | WRITES)[command].replace("FILE", str(tmp_path / "weir.backup")).split()
    said = one_line(
        runner(Settings(data_dir=data_dir))(*command.split(), *arguments, stdin="k8|sk-upstream-0008")
    )
    assert f"DATA_DIR {data_dir} (from the environment) has no embedded MongoDB" in said
    assert "MONGODB_URI is not set" in said
    assert "weir init" in said
    assert not data_dir.exists()


def flask(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), *arguments],
        cwd=cwd,
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_in_a_shell_without_data_dir_a_command_fails_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = flask("users", "add", "bob", "--credits", "5", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"DATA_DIR {tmp_path}/var (the default) has no embedded MongoDB" in done.stderr
    assert flask("--help", cwd=tmp_path).returncode == 0
    assert flask("routes", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_doctor_reports_that_there_is_nothing_and_makes_nothing(tmp_path: Path) -> None:
    result = runner(Settings(data_dir=tmp_path / "var", ohmygpt_base_url="http://127.0.0.1:1"))("doctor")
    assert result.exit_code == 1
    assert "✗ data directory" in result.stdout
    assert "✗ store: there is no database" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_external_database_that_was_never_used_is_refused(
    settings: Settings, database: Database[Any]
) -> None:
    said = one_line(runner(settings)("users", "add", "bob"))
    assert f"the database {database.name} on " in said
    assert "has never been used by Weir" in said
    assert database.list_collection_names() == []
    report = runner(settings)("doctor")
    assert (report.exit_code, "has never been used by Weir" in report.stdout) == (1, True)
    assert runner(settings)("init").exit_code == 0
    assert runner(settings)("users", "add", "bob").exit_code == 0


@pytest.mark.parametrize("version", ["0.1", "since"])
def test_a_data_dir_of_a_deployment_with_mongodb_uri_is_told_from_a_new_one(
    version: str, settings: Settings, tmp_path: Path
) -> None:
    if version == "0.1":
        (settings.data_dir / "journal").mkdir(parents=True)
    else:
        settings.data_dir.mkdir()
        note_place(settings)
    said = one_line(runner(Settings(data_dir=settings.data_dir))("users", "list"))
    assert "MONGODB_URI, which is not set" in said or "MONGODB_URI is not set: set it" in said
    assert (settings.mongodb_db_name in said) == (version == "since")


# init


def test_init_makes_what_is_missing_and_says_so_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "var")
    first = runner(settings)("init", "--json")
    assert first.exit_code == 0, first.output
    made = json.loads(first.stdout)
    assert {name: part["made"] for name, part in made.items()} == dict.fromkeys(made, True)
    assert list(made) == ["dataDir", "secretKey", "adminToken", "database"]
    secrets = [(tmp_path / "var" / name).read_text() for name in ("secret-key", "admin-token")]
    assert not any(secret.strip() in first.output for secret in secrets)
    again = runner(settings)("init", "--json")
    assert again.stderr == ""
    assert not any(part["made"] for part in json.loads(again.stdout).values())
    assert secrets == [(tmp_path / "var" / name).read_text() for name in ("secret-key", "admin-token")]
    assert "there already" in runner(settings)("init").stdout
    assert "the embedded MongoDB of" in runner(settings)("users", "add", "bob").stderr


def test_init_makes_no_secret_for_a_database_that_has_one(
    database: Database[Any], settings: Settings
) -> None:
    adopt(database, SECRET, NOW)
    said = one_line(runner(settings.model_copy(update={"secret_key": None}))("init"))
    assert "there is no SECRET_KEY" in said
    assert not (settings.data_dir / "secret-key").exists()
    with pytest.raises(WrongSecretKeyError):
        require_secret_key(database, "another")


# The wrong secret


def test_another_secret_key_stops_what_writes_and_warns_what_reads(run: Run, settings: Settings) -> None:
    other = runner(settings.model_copy(update={"secret_key": SecretStr("of another host")}))
    assert "SECRET_KEY is not the one" in one_line(
        other("keys", "add", "k1", "--api-key-stdin", stdin="sk-1234567")
    )
    assert "SECRET_KEY is not the one" in one_line(other("users", "add", "bob"))
    assert "SECRET_KEY is not the one" in one_line(other("keys", "list"))
    listed = other("users", "list")
    assert listed.exit_code == 0
    assert listed.stderr.startswith("weir: warning: SECRET_KEY is not the one")
    assert "✗ secret key: SECRET_KEY is not the one" in other("doctor").stdout


def test_without_any_secret_key_reading_goes_on_and_writing_does_not(run: Run, settings: Settings) -> None:
    none = runner(settings.model_copy(update={"secret_key": None}))
    assert "there is no SECRET_KEY" in one_line(
        none("keys", "add", "k1", "--api-key-stdin", stdin="sk-1234567")
    )
    assert (none("users", "list").exit_code, none("users", "list").stderr) == (0, "")
    assert "✗ secret key: there is no SECRET_KEY" in none("doctor").stdout
    assert not settings.data_dir.exists()
