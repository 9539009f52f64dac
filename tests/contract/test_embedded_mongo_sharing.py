"""The embedded MongoDB among several processes: one owner, the others attach, and owners that die."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from app.store.embedded_mongo import EmbeddedMongo, EmbeddedMongoError, acquire, running_uri
from app.store.embedded_mongo.waiting import wait_until

SOON_S = 60.0
REPOSITORY = Path(__file__).parents[2]

# Each prints a line when it has something to say and goes on when it is told to by a line on stdin.
COMMAND = """
import pymongo
with acquire(data_dir) as handle:
    with pymongo.MongoClient(handle.uri) as client:
        client.test.items.insert_one({"_id": os.getpid()})
    print("owner" if handle.is_owner else "guest", flush=True)
    sys.stdin.readline()
"""
WRITER = """
import pymongo
mongo = EmbeddedMongo(data_dir)
uri = mongo.start()
if os.fork() == 0:  # a worker, which outlives its master
    sys.stdin.readline()
    os._exit(0)
with pymongo.MongoClient(uri) as client:
    for number in range(10**9):
        client.test.items.insert_one({"_id": number})
        print(number, flush=True)
"""
FORKING = """
mongo = EmbeddedMongo(data_dir)
mongo.start()
pid = os.fork()
if pid == 0:
    mongo.stop()
    os._exit(int(mongo.is_owner or mongo.poll() or mongo.ensure_running()))
assert os.waitpid(pid, 0)[1] == 0
assert mongo.poll() and running_uri(data_dir)
mongo.stop()
print("fine", flush=True)
"""
UNDER_GEVENT = """
import threading
from pymongo import MongoClient
with EmbeddedMongo(data_dir) as mongo:
    with MongoClient(mongo.uri) as client:
        client.test.items.insert_one({})
    pid = int((data_dir / "mongodb/db/mongod.lock").read_text())
    os.kill(pid, 9)
    assert wait_until(lambda: not mongo.poll(), 60)
    watcher = threading.Thread(target=mongo.ensure_running)
    watcher.start()
    watcher.join()
    with MongoClient(mongo.uri) as client:
        assert client.test.items.count_documents({}) == 1
assert running_uri(data_dir) is None
print("fine", flush=True)
"""
PRELUDE = """
import os, sys
from pathlib import Path
from app.store.embedded_mongo import EmbeddedMongo, acquire, running_uri
from app.store.embedded_mongo.waiting import wait_until
data_dir = Path(sys.argv[1])
"""
PATCHED = "from gevent import monkey; monkey.patch_all()\n"


class Processes(list["subprocess.Popen[str]"]):
    """Python programs started by a test, ended with it."""

    def start(self, program: str, data_dir: Path, prelude: str = PRELUDE) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + program, str(data_dir)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.append(process)
        return process


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    for process in started:
        process.kill()
        process.communicate()


def hears(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def has_open_files(pid: int) -> bool:
    """Whether the process goes on: one that has ended has none, though nobody may have asked for its end."""
    try:
        return bool(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return False


def ids_in(uri: str) -> set[int]:
    client: pymongo.MongoClient[dict[str, Any]]
    with pymongo.MongoClient(uri) as client:
        return set(client.test.items.distinct("_id"))


def test_of_many_that_start_at_once_one_owns_and_all_work(tmp_path: Path, processes: Processes) -> None:
    commands = [processes.start(COMMAND, tmp_path) for _ in range(4)]
    assert sorted(hears(command) for command in commands) == ["guest", "guest", "guest", "owner"]
    for command in commands:
        tell(command)
    assert [command.wait(SOON_S) for command in commands] == [0, 0, 0, 0]
    assert running_uri(tmp_path) is None
    with EmbeddedMongo(tmp_path) as mongo:
        assert ids_in(mongo.uri) == {command.pid for command in commands}


def test_an_owner_waits_for_its_guests(tmp_path: Path) -> None:
    owner = acquire(tmp_path)
    guest = acquire(tmp_path)
    assert (owner.is_owner, guest.is_owner) == (True, False)
    assert owner.uri == guest.uri
    leaving = threading.Thread(target=owner.close)
    leaving.start()
    assert wait_until(lambda: not (tmp_path / "mongodb.uri").exists(), SOON_S)
    with pytest.raises(EmbeddedMongoError, match="is starting or stopping"):
        acquire(tmp_path, wait_s=0.0)  # no new guests, else it might never end
    assert ids_in(guest.uri) == set()
    assert leaving.is_alive()
    guest.close()
    leaving.join(SOON_S)
    assert not leaving.is_alive()
    with acquire(tmp_path) as next_one:
        assert next_one.is_owner


def test_the_proxy_does_not_wait_for_guests_when_it_stops(tmp_path: Path) -> None:
    with EmbeddedMongo(tmp_path):
        guest = acquire(tmp_path)
    assert running_uri(tmp_path) is None
    guest.close()


def test_the_proxy_waits_for_a_command_to_leave(
    tmp_path: Path, processes: Processes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = processes.start(COMMAND, tmp_path)
    assert hears(command) == "owner"
    mongo = EmbeddedMongo(tmp_path)
    with pytest.raises(EmbeddedMongoError, match=rf"still owned by process {command.pid}"):
        mongo.start(lock_wait_s=0.0)
    tries = itertools.count(1)
    really_try = mongo.try_start

    def try_start() -> bool:
        if next(tries) == 3:
            tell(command)
        return really_try()

    monkeypatch.setattr(mongo, "try_start", try_start)
    caplog.set_level(logging.INFO)
    with mongo:
        assert ids_in(mongo.uri) == {command.pid}
    assert f"waiting for process {command.pid}" in caplog.text
    assert command.wait(SOON_S) == 0


def test_what_was_acknowledged_outlives_a_killed_owner(tmp_path: Path, processes: Processes) -> None:
    writer = processes.start(WRITER, tmp_path)
    acknowledged = {int(hears(writer)) for _ in range(200)}
    mongod = int((tmp_path / "mongodb/db/mongod.lock").read_text())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with EmbeddedMongo(tmp_path) as mongo:  # at once: the old server may be shutting down still
        assert ids_in(mongo.uri) >= acknowledged
        assert wait_until(lambda: not has_open_files(mongod), SOON_S)
    tell(writer)  # the worker has been there all the time, without keeping the lock


def test_a_forked_child_cannot_stop_the_server(tmp_path: Path, processes: Processes) -> None:
    assert hears(processes.start(FORKING, tmp_path)) == "fine"


def test_it_works_under_gevent(tmp_path: Path, processes: Processes) -> None:
    assert hears(processes.start(UNDER_GEVENT, tmp_path, PATCHED + PRELUDE)) == "fine"
