"""`secret-key rotate` as it is typed: in a file, in the environment, and interrupted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydantic import SecretStr
from pymongo.database import Database

from app.cli import commands_app, secret_key
from app.settings import Settings
from app.store.deployment import adopt
from app.store.key_cipher import KeyCipher

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD, NEW = "the-secret-of-today", "the-secret-to-come"

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_worker_has_to_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.secret_rotation.NOTICE_S", 0)


@pytest.fixture
def settings(database: Database[Any], mongo_uri: str, tmp_path: Path) -> Settings:
    adopt(database, OLD, NOW)
    (tmp_path / "secret-key").write_text(f"{OLD}\n")
    (tmp_path / "secret-key").chmod(0o600)
    settings = Settings(mongodb_uri=mongo_uri, mongodb_db_name=database.name, data_dir=tmp_path)
    added = runner(settings)("keys", "add", "k1", "--api-key-stdin", stdin="sk-upstream-0001")
    assert added.exit_code == 0, added.output
    return settings


def runner(settings: Settings) -> Run:
    invoke = commands_app(settings).test_cli_runner().invoke
    return lambda *args, stdin="", **more: invoke(args=args, input=stdin, **more)


def stored(database: Database[Any], secret: str) -> str:
    return KeyCipher(secret).decrypt(database["ohmygpt_keys"].find_one({"_id": "k1"})["apiKey"])


def test_a_secret_in_a_file_is_replaced_by_one_that_is_made(
    settings: Settings, database: Database[Any]
) -> None:
    result = runner(settings)("secret-key", "rotate", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["encryptedAnew"], answer["secrets"]) == (1, 1)
    assert "SIGHUP" in answer["next"]
    new = (settings.data_dir / "secret-key").read_text().strip()
    assert new not in result.output
    assert stored(database, new) == "sk-upstream-0001"
    assert (settings.data_dir / "secret-key.old").read_text().strip() == OLD
    assert {path.stat().st_mode & 0o777 for path in settings.data_dir.glob("secret-key*")} == {0o600}
    assert runner(settings)("keys", "list").exit_code == 0


def test_a_secret_of_the_environment_takes_a_new_one_that_is_given(
    settings: Settings, database: Database[Any], tmp_path: Path
) -> None:
    of_environment = settings.model_copy(update={"secret_key": SecretStr(OLD)})
    run = runner(of_environment)
    refused = run("secret-key", "rotate")
    assert (refused.exit_code, "--new-secret-key-stdin or NEW_SECRET_KEY_FILE" in refused.stderr) == (2, True)
    assert run("secret-key", "rotate", "--new-secret-key-stdin", stdin="short").exit_code == 2
    assert run("secret-key", "rotate", "--new-secret-key-stdin", stdin=OLD).exit_code == 1
    file = tmp_path / "new"
    file.write_text(f"{NEW}\n")
    result = run("secret-key", "rotate", env={"NEW_SECRET_KEY_FILE": str(file)})
    assert result.exit_code == 0, result.output
    assert "Now set SECRET_KEY to the new one on every host" in result.stdout
    assert NEW not in result.output
    assert stored(database, NEW) == "sk-upstream-0001"
    assert "SECRET_KEY is not the one" in run("keys", "list").stderr
    again = run("secret-key", "rotate", "--new-secret-key-stdin", stdin=NEW)
    assert (again.exit_code, again.stdout.startswith("0 of 1 stored secrets")) == (0, True)


def test_a_secret_that_is_too_short_by_now_is_given_as_the_old_one(
    settings: Settings, database: Database[Any]
) -> None:
    short = "of 0.1"
    database["deployment"].drop()
    database["ohmygpt_keys"].update_one(
        {}, {"$set": {"apiKey": KeyCipher(short).encrypt("sk-upstream-0001")}}
    )
    run = runner(settings)
    assert "SECRET_KEY is not the one" in run("keys", "list").stderr
    result = run("secret-key", "rotate", "--old-secret-key-file", "-", stdin=f"{short}\n")
    assert (result.exit_code, result.stdout.startswith("1 of 1 stored secrets")) == (0, True), result.output
    assert stored(database, OLD) == "sk-upstream-0001"
    assert not (settings.data_dir / "secret-key.old").exists()
    assert run("keys", "list").exit_code == 0


def test_killed_before_the_file_was_replaced_it_is_run_again(
    settings: Settings, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(secret_key, "_put_in_force", killed)
        assert runner(settings)("secret-key", "rotate").exit_code != 0
    run = runner(settings)
    assert "run `weir secret-key rotate` again" in run("users", "add", "bob").stderr
    other = run("secret-key", "rotate", "--new-secret-key-stdin", stdin=NEW)
    assert (other.exit_code, "was begun" in other.stderr) == (1, True)
    assert run("secret-key", "rotate").exit_code == 0
    assert run("users", "add", "bob").exit_code == 0
    assert stored(database, (settings.data_dir / "secret-key").read_text().strip()) == "sk-upstream-0001"
