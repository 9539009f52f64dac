"""The command lines of docs/operations.md, in the environment that each of them makes, on a real MongoDB."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo.database import Database

from app.database_place import hosts_in
from app.settings import ROOT

DEPLOY = ROOT / "deploy"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PROGRAM = "weir"


def documented(beginning: str) -> list[str]:
    """The line of the documentation, in words."""
    (line,) = re.findall(rf"^{re.escape(beginning)} .*$", OPERATIONS, re.MULTILINE)
    return shlex.split(line)


def systemd_environment() -> dict[str, str]:
    """What `systemd-run` hands on: the properties of the line and nothing of the unit's."""
    words = documented("systemd-run")
    (file,) = [word for word in words if word.startswith("EnvironmentFile=")]
    unit = (DEPLOY / "systemd" / "weir.service").read_text(encoding="utf-8")
    assert file in unit.splitlines()
    assert [line for line in unit.splitlines() if line.startswith("Environment=")] == []
    assert f"WorkingDirectory={'/opt/weir'}" in words
    assert "--uid=weir" in words
    assert "\nUser=weir\n" in unit
    text = (DEPLOY / "systemd" / Path(file).name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def image_environment() -> dict[str, str]:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ENV +(.+)$", text, re.MULTILINE)
    return dict(item.split("=", 1) for line in lines for item in line.split())


def compose_environment() -> dict[str, str]:
    words = documented("docker compose")
    assert words[words.index("exec") + 1] in yaml.safe_load((ROOT / words[3]).read_text())["services"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return image_environment() | compose["services"]["weir"]["environment"]


def kubernetes_environment() -> dict[str, str]:
    directory = DEPLOY / "kubernetes"
    stateful_set = yaml.safe_load((directory / "statefulset.yaml").read_text(encoding="utf-8"))
    assert documented("kubectl exec")[2] == f"{stateful_set['metadata']['name']}-0"
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    config = yaml.safe_load((directory / "configmap.yaml").read_text(encoding="utf-8"))["data"]
    return image_environment() | config | {item["name"]: item["value"] for item in container["env"]}


def test_every_documented_line_ends_with_the_program() -> None:
    for beginning in ("systemd-run", "docker compose", "kubectl exec"):
        *_, program, command = documented(beginning)
        assert (Path(program).name, command) == (PROGRAM, "doctor")


def run(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi.py", *arguments],
        cwd=ROOT,
        env=environment | {"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("place", ["systemd", "compose", "kubernetes"])
def test_a_command_typed_as_documented_works_on_the_database_of_the_service(
    place: str, tmp_path: Path, mongo_uri: str, database: Database[Any]
) -> None:
    environment = {
        "systemd": systemd_environment, "compose": compose_environment, "kubernetes": kubernetes_environment
    }[place]()  # fmt: skip
    secrets = {
        "mongodb-uri": mongo_uri,
        "secret-key": "of-a-file-0123456789",
        "admin-token": "of-another-file-0123456789",
    }
    for name, text in (secrets | {"ohmygpt-api-keys": "sk-upstream-0001"}).items():
        (tmp_path / name).write_text(text)
    ours = {
        name: str(tmp_path / Path(value).name) if name.endswith("_FILE") else value
        for name, value in environment.items()
    } | {"DATA_DIR": str(tmp_path / "data"), "MONGODB_DB_NAME": database.name}
    assert run(ours, "init").returncode == 0  # as the start of the service does
    done = run(ours, "users", "add", "ann")
    where = f"the embedded MongoDB of {tmp_path}/data" if place == "systemd" else hosts_in(mongo_uri)
    assert (done.returncode, done.stderr) == (0, f"weir: wrote to {database.name} on {where}\n")
    assert "DATA_DIR" in environment
