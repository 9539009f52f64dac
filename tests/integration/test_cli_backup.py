"""`weir backup` and `weir restore` as they are typed."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import bson
import pytest
from flask import Flask
from pymongo.database import Database

from app.cli import register_commands
from app.settings import Settings
from app.store import incomplete_restore
from app.store.connection import connect
from app.store.deployment import SecretKeyState, adopt, require_secret_key
from tests.support.reconciliation_world import World

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-secret-of-the-tests"


@pytest.fixture
def world(database) -> World:
    return World.build(database, size=30, secret=SECRET)


@pytest.fixture
def target(mongo_uri: str) -> Iterator[Database[Any]]:
    db = connect(mongo_uri, f"test_{uuid4().hex[:16]}", app_name="weir-tests")
    adopt(db, SECRET, datetime(2026, 11, 23, tzinfo=UTC))  # as `weir init` does
    yield db
    db.client.drop_database(db.name)
    db.client.close()


def environment(uri: str, db: Database[Any], data_dir: Path, **more: str) -> dict[str, str]:
    return {
        "MONGODB_URI": uri,
        "MONGODB_DB_NAME": db.name,
        "DATA_DIR": str(data_dir / "var"),
        "SECRET_KEY": SECRET,
        **more,
    }


def flask(env: dict[str, str], *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *args]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, timeout=240, check=False, **options
    )


class Commands:
    """The two commands, in this process, on two databases of one server."""

    def __init__(self, uri: str, source: Database[Any], target: Database[Any], data_dir: Path) -> None:
        self._settings = {"mongodb_uri": uri, "data_dir": data_dir / "var", "secret_key": SECRET}
        self._names = {"backup": source.name, "restore": target.name}

    def __call__(self, command: str, *args: str, **settings: Any) -> Any:
        app = Flask("test")
        name = self._names.get(command, self._names["restore"])
        register_commands(app, Settings(**{**self._settings, "mongodb_db_name": name, **settings}))
        return app.test_cli_runner().invoke(args=[command, *args])


@pytest.fixture
def run(mongo_uri: str, database, target, tmp_path: Path) -> Commands:
    return Commands(mongo_uri, database, target, tmp_path)


def line_of(result: Any, status: int = 1) -> str:
    """The one line that a command failed with."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    if status == 1:
        assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_backup_is_restored_and_everything_agrees(run, world, tmp_path, database, target):
    path = tmp_path / "weir.backup"
    made = run("backup", str(path), "--json")
    assert made.exit_code == 0, made.output
    figures = json.loads(made.stdout)
    assert figures["documents"]["request_logs"] == 60
    assert figures["bytes"] == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir() if found.name != "var"] == ["weir.backup"]

    restored = run("restore", str(path), "--json")
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["records"] == 60
    assert target["request_logs"].count_documents({}) == 60
    verified = run("verify", "--since", "2026-01-01", log_retention_days=0)
    assert verified.exit_code == 0, verified.output


def test_both_say_in_a_line_what_they_did(run, world, tmp_path):
    path = str(tmp_path / "weir.backup")
    made = run("backup", path)
    assert made.stdout.startswith("Backup of database test_")
    assert "60 records and" in made.stdout
    restored = run("restore", path)
    assert "60 records and" in restored.stdout
    assert restored.stdout.endswith("Now: weir verify\n")
    assert made.stderr == ""
    assert restored.stderr.startswith("weir: wrote to test_")


def test_a_file_is_replaced_with_force_only_and_nothing_but_a_file(run, world, tmp_path):
    path = tmp_path / "weir.backup"
    path.write_text("precious")
    assert "exists: give another name, or --force" in line_of(run("backup", str(path)))
    assert path.read_text() == "precious"
    assert run("backup", str(path), "--force").exit_code == 0
    assert path.stat().st_size > 1000
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in line_of(run("backup", str(tmp_path / "pipe"), "--force"))
    assert "No such file" in line_of(run("backup", str(tmp_path / "missing" / "x")))


@pytest.mark.parametrize("damage", ["cut", "flipped", "appended", "another file", "empty"])
def test_a_bad_file_is_refused_and_nothing_is_written(damage, run, world, tmp_path, target):
    path = tmp_path / "weir.backup"
    assert run("backup", str(path)).exit_code == 0
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-100],
            "flipped": content[:500] + bytes([content[500] ^ 1]) + content[501:],
            "appended": content + b"\n",
            "another file": b"PK\3\4" + bytes(1000),
            "empty": b"",
        }[damage]
    )
    assert str(path) in line_of(run("restore", str(path)))
    assert target.list_collection_names() == ["deployment"]


def test_another_secret_key_is_refused_and_nothing_is_written(run, world, tmp_path, target):
    path = str(tmp_path / "weir.backup")
    warned = run("backup", path, secret_key="another-secret-of-the-tests")
    assert warned.exit_code == 0
    assert "warning: SECRET_KEY is not the one" in warned.stderr
    assert "another SECRET_KEY: set that one" in line_of(
        run("restore", path, secret_key="another-secret-of-the-tests")
    )
    assert target.list_collection_names() == ["deployment"]


def test_an_empty_database_takes_the_secret_key_of_the_backup(run, world, tmp_path, target):
    """`weir init` has made another one; whoever puts the right one in its place needs nothing else."""
    path = str(tmp_path / "weir.backup")
    assert run("backup", path).exit_code == 0
    target["deployment"].drop()
    adopt(target, "made-by-init-of-the-new-place", datetime(2026, 11, 23, tzinfo=UTC))
    assert run("restore", path).exit_code == 0
    assert require_secret_key(target, SECRET) is SecretKeyState.SAME


def test_a_restore_makes_no_database(run, world, tmp_path):
    path = str(tmp_path / "weir.backup")
    run("backup", path)
    line = line_of(run("restore", path, mongodb_uri=None, data_dir=tmp_path / "new"))
    assert "has no embedded MongoDB" in line
    assert "weir init" in line
    assert "has never been used by Weir" in line_of(run("restore", path, mongodb_db_name="test_of_nobody"))


def test_what_is_not_empty_is_refused(run, world, tmp_path, target):
    path = str(tmp_path / "weir.backup")
    run("backup", path)
    target["usersNew"].insert_one({"_id": "somebody"})
    assert "is not empty (1 usersNew): restore into another one" in line_of(run("restore", path))
    assert "is not empty" in line_of(run("restore", path, "--discard-incomplete"))


def test_what_an_interrupted_restore_left_is_refused_by_commands_until_it_is_repeated(
    run, world, tmp_path, target, database
):
    path = str(tmp_path / "weir.backup")
    run("backup", path)
    incomplete_restore.mark(target, world_began := world.record(1).created_at, "ops")
    target["usersNew"].insert_one({"_id": "half"})
    for command in (["users", "list"], ["verify"], ["restore", path], ["logs", "export"]):
        said = line_of(run(*command))
        assert "is not whole: the restore that ops began" in said
        assert "--discard-incomplete FILE" in said
    doctor = run("doctor", ohmygpt_base_url="http://127.0.0.1:9")
    assert "is not whole" in doctor.stdout
    assert run("restore", path, "--discard-incomplete").exit_code == 0
    assert target["usersNew"].find_one({"_id": "half"}) is None
    assert run("users", "list").exit_code == 0
    assert world_began


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["restore", "-"], "save it in a FILE first"),
        (["backup", "-", "--json"], "give a FILE"),
        (["backup"], "Missing argument"),
    ],
)
def test_wrong_use_has_a_status_of_its_own(args, says, run):
    assert says in line_of(run(*args), 2)


def test_standard_output_takes_a_backup(mongo_uri, database, world, tmp_path, run):
    made = flask(environment(mongo_uri, database, tmp_path), "backup", "-")
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith(b"Backup of database ")
    path = tmp_path / "weir.backup"
    path.write_bytes(made.stdout)
    assert run("restore", str(path)).exit_code == 0


def test_a_pipe_that_is_closed_and_a_disk_that_is_full_end_in_a_line(mongo_uri, database, world, tmp_path):
    # Too much for the pipe's buffer.
    database["noise"].insert_many([{"noise": bson.Binary(os.urandom(100_000))} for _ in range(20)])
    env = environment(mongo_uri, database, tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "backup", "-"]
        ended = subprocess.run(command, cwd=ROOT, env=env, stdout=closed, stderr=subprocess.PIPE, check=False)
    said = b"Error: standard output was closed before the backup was complete\n"
    assert (ended.returncode, ended.stderr) == (1, said)

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    full = flask(env, "backup", str(tmp_path / "weir.backup"), preexec_fn=little_room)
    assert full.returncode == 1
    assert full.stderr.count(b"\n") == 1
    assert b"weir.backup was not written: File too large" in full.stderr
    with open("/dev/full", "wb") as no_room:
        ended = subprocess.run(
            command, cwd=ROOT, env=env, stdout=no_room, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, b"Error: standard output: No space left on device\n")
    assert [found.name for found in tmp_path.iterdir() if found.name != "var"] == []
