"""Which Weirs run on a machine, from what the kernel says of its processes."""

from pathlib import Path

import pytest

from app.running_weirs import RunningWeir, running_weirs


class Machine:
    """A `/proc` of processes that are named here."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc

    def runs(self, pid: int, command: str, parent: int = 1, **environment: str) -> None:
        home = self.proc / str(pid)
        home.mkdir()
        (home / "cmdline").write_bytes(command.replace(" ", "\0").encode() + b"\0")
        (home / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))
        (home / "stat").write_text(f"{pid} (a (strange) name) S {parent} 0 0")
        (home / "cwd").symlink_to("/srv/weir")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "self").mkdir()
    return Machine(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "/opt/weir/.venv/bin/python /opt/weir/.venv/bin/gunicorn wsgi:app",
        "python -m gunicorn wsgi:app --workers 2",
        "/opt/weir/.venv/bin/python /opt/weir/.venv/bin/weir run",
    ],
)
def test_a_master_is_found_however_it_was_started_and_its_workers_are_not(
    machine: Machine, command: str
) -> None:
    machine.runs(901, command, DATA_DIR="/var/lib/weir", MONGODB_URI="mongodb://weir:w0rd@db1/")
    machine.runs(902, command, parent=901, DATA_DIR="/var/lib/weir")
    (found,) = running_weirs(machine.proc)
    assert found == RunningWeir(901, "/var/lib/weir", has_uri=True)
    assert str(found) == "DATA_DIR=/var/lib/weir and MONGODB_URI (process 901)"


def test_without_data_dir_it_is_where_the_process_runs(machine: Machine) -> None:
    machine.runs(901, "python gunicorn wsgi:app")
    machine.runs(903, "/usr/bin/mongod --dbpath /srv/weir/var/mongodb/db --quiet", parent=901)
    assert running_weirs(machine.proc) == [RunningWeir(901, "/srv/weir/var", has_uri=False)]


def test_a_mongod_of_ours_tells_of_a_weir_that_cannot_be_seen(machine: Machine) -> None:
    machine.runs(903, "/usr/bin/mongod --dbpath /home/ann/var/mongodb/db --quiet")
    machine.runs(904, "/usr/bin/mongod --dbpath /var/lib/mongodb")
    assert running_weirs(machine.proc) == [RunningWeir(903, "/home/ann/var", has_uri=False)]


def test_other_programs_are_none(machine: Machine) -> None:
    machine.runs(901, "python gunicorn shop:app", DATA_DIR="/srv/shop")
    machine.runs(902, "weir doctor")
    (machine.proc / "904").mkdir()  # it has just ended
    assert [weir.pid for weir in running_weirs(machine.proc)] == []
