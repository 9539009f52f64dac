"""Commands on terminals of little encoding, and in pipes whose reader has gone."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pymongo.database import Database

from app.cli import SECTIONS, program
from app.settings import ROOT
from app.store.deployment import adopt
from tests.integration.test_which_database import READS

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET = "of-this-deployment"
COMMANDS = [name for section in SECTIONS.values() for name in section]
NAME = "Zoë–\U0001f41f"


@pytest.fixture
def environment(database: Database[Any], mongo_uri: str, tmp_path: Any) -> dict[str, str]:
    adopt(database, SECRET, NOW)
    database["usersNew"].insert_one({"_id": NAME, "credits": 1.0, "createdAt": NOW})
    database["user_keys"].insert_one({"_id": "wk_1", "userId": NAME, "name": NAME, "createdAt": NOW})
    database["request_logs"].insert_one(
        {"_id": "r1", "createdAt": NOW, "userId": NAME, "model": NAME, "outcome": "ok", "costNanoUsd": 1}
    )
    return {
        "MONGODB_URI": mongo_uri,
        "MONGODB_DB_NAME": database.name,
        "DATA_DIR": str(tmp_path / "var"),
        "SECRET_KEY": SECRET,
        "OHMYGPT_BASE_URL": "http://127.0.0.1:1",
        "UPSTREAM_CONNECT_TIMEOUT_S": "0.5",
    }


def weir(*arguments: str, charset: str, stdin: bytes = b"", **environment: str) -> tuple[int, str, str]:
    """Exit status, output and error, read as what they have to be."""
    result = CliRunner(charset=charset, env=environment).invoke(program, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    written = "utf-8" if charset == "ascii" else charset
    return result.exit_code, result.stdout_bytes.decode(written), result.stderr_bytes.decode(written)


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_every_help_can_be_read_anywhere(name: str, charset: str) -> None:
    assert "Usage: " in weir(*name.split(), "--help", charset=charset)[1]


def typed(arguments: str, directory: Path) -> list[str]:
    """What comes after a command, with a name and a file of our own."""
    return arguments.replace("ann", NAME).replace("FILE", str(directory / "weir.backup")).split()


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_every_command_that_reads_can_say_what_no_encoding_has(
    environment: dict[str, str], more: list[str], charset: str, tmp_path: Path
) -> None:
    for command, arguments in READS.items():
        words = [*command.split(), *typed(arguments, tmp_path), *more]
        status, output, error = weir(*words, charset=charset, **environment)
        assert status in (0, 1), (command, output, error)
        if command in ("users list", "users show", "client-keys list", "logs tail"):
            shown = NAME if charset == "ascii" else "Zoë-\\U0001f41f"
            assert (NAME in strings(output)) if more else (shown in output), command


def strings(text: str) -> list[str]:
    """All texts in JSON."""
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        found.extend(str(value) for _, value in pairs)

    json.loads(text, object_pairs_hook=note)
    return found


@pytest.mark.parametrize(
    "words",
    [
        ["users", "add", "h\udcc3\udca9"],
        ["users", "show", "h\udcc3"],
        ["logs", "tail", "--model", "h\udcc3"],
        ["keys", "add", "k1", "--api-key-stdin"],
        ["keys", "import", "-"],
    ],
)
def test_what_is_no_text_is_told_in_one_line(environment: dict[str, str], words: list[str]) -> None:
    status, output, error = weir(*words, charset="ascii", stdin=b"sk-\xff", **environment)
    assert (status in (1, 2), output) == (True, "")
    assert error.splitlines()[-1].startswith("Error: ")


def test_no_command_minds_that_its_reader_has_gone(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command, arguments in READS.items():
        read, write = os.pipe()
        os.close(read)
        output = os.fdopen(write, "w", encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as ended:
            program([*command.split(), *typed(arguments, tmp_path)])
        assert ended.value.code == 1, command
        sys.stdout.flush()  # as at the end of a process
        with contextlib.suppress(BrokenPipeError):
            output.close()


def piped_away(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """A command whose reader has gone before it began."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment},
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=240,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize("command", ["logs tail", "logs export"])
def test_a_process_ends_without_a_word_when_its_reader_has_gone(
    environment: dict[str, str], command: str
) -> None:
    done = piped_away(*command.split(), **environment)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", [["--help"], ["users", "--help"], ["licenses", "--json"]])
def test_no_help_minds_either(words: list[str]) -> None:
    done = piped_away(*words)
    assert (done.returncode, done.stderr) == (1, b"")
