"""The embedded MongoDB, with a real mongod: life, data, sharing, and the ways it can go wrong."""

import contextlib
import os
import select
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymongo
import pytest

from app.store.embedded_mongo import (
    EmbeddedMongo,
    EmbeddedMongoError,
    acquire,
    orphan,
    running_uri,
    server,
)
from app.store.embedded_mongo.layout import socket_of
from app.store.embedded_mongo.waiting import wait_until
from tests.support.temporary_mongo import temporary_mongo

SOON_S = 60.0


@contextmanager
def items_of(uri: str) -> Iterator[Any]:
    client: pymongo.MongoClient[dict[str, Any]]
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=60_000) as client:
        yield client.test.items


def mongod_pid(data_dir: Path) -> int:
    return int((data_dir / "mongodb/db/mongod.lock").read_text())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kill_and_wait(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    watch = os.pidfd_open(pid)
    os.kill(pid, how)
    assert select.select([watch], [], [], SOON_S)[0]
    os.close(watch)


def test_data_outlives_a_stop_and_a_start(tmp_path: Path) -> None:
    mongo = EmbeddedMongo(tmp_path)
    uri = mongo.start()
    with items_of(uri) as items:
        items.insert_one({"_id": 1})
    assert mongo.poll()
    assert running_uri(tmp_path) == uri
    mongo.stop()
    assert not mongo.poll()
    assert running_uri(tmp_path) is None
    assert not (tmp_path / "mongodb.uri").exists()
    with EmbeddedMongo(tmp_path) as again, items_of(again.uri) as items:
        assert items.find_one() == {"_id": 1}


def test_nobody_else_gets_in(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with EmbeddedMongo(data_dir):
        modes = {
            name: mode(data_dir / name)
            for name in (".", "mongodb", "mongodb/mongodb.sock", "mongodb.uri", "mongodb.lock")
        }
        assert modes == {
            ".": 0o700,
            "mongodb": 0o700,
            "mongodb/mongodb.sock": 0o600,
            "mongodb.uri": 0o600,
            "mongodb.lock": 0o600,
        }
        assert listening_tcp_inodes().isdisjoint(socket_inodes(mongod_pid(data_dir)))


def socket_inodes(pid: int) -> set[str]:
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            link = os.readlink(fd)
            if link.startswith("socket:["):
                found.add(link[len("socket:[") : -1])
    assert found, "the unix socket at least"
    return found


def listening_tcp_inodes() -> set[str]:
    tables = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    return {
        line.split()[9] for table in tables if table.exists() for line in table.read_text().splitlines()[1:]
    }


def open_files(process: Path) -> set[str]:
    found = set()
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the server closes files while it is looked at
            found.add(os.readlink(fd))
    return found


def test_the_server_gets_neither_the_environment_nor_the_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OHMYGPT_API_KEYS", "secret")
    (tmp_path / "listener").touch()
    with (tmp_path / "listener").open() as file:
        os.set_inheritable(file.fileno(), True)  # as gunicorn does with its listening sockets
        with EmbeddedMongo(tmp_path):
            process = Path(f"/proc/{mongod_pid(tmp_path)}")
            assert (process / "environ").read_bytes() == b"LC_ALL=C\0"
            assert str(tmp_path / "listener") not in open_files(process)


def test_the_directory_is_made_private_if_it_was_not(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir(mode=0o755)
    with EmbeddedMongo(tmp_path):
        assert mode(tmp_path / "mongodb") == 0o700


def test_a_killed_server_comes_back_with_its_data_under_the_same_uri(tmp_path: Path) -> None:
    with EmbeddedMongo(tmp_path) as mongo:
        uri = mongo.uri
        with items_of(uri) as items:
            items.insert_many({"_id": number} for number in range(100))
        assert not mongo.ensure_running()
        kill_and_wait(mongod_pid(tmp_path))
        assert not mongo.poll()
        assert mongo.ensure_running()
        assert mongo.uri == uri == running_uri(tmp_path)
        with items_of(uri) as items:
            assert items.count_documents({}) == 100


def test_the_log_is_rotated_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "mongodb/mongod.log"
    with EmbeddedMongo(tmp_path) as mongo:
        monkeypatch.setattr(server, "_LOG_LIMIT_BYTES", 100)
        mongo.ensure_running()
        assert log.with_suffix(".log.1").stat().st_size > 100
        assert wait_until(log.exists, SOON_S)
        assert mongo.poll()


@pytest.mark.parametrize("name", ["d" * 120, "with,comma", "with space+and%25 ünïcode"])
def test_any_data_dir_will_do(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    with EmbeddedMongo(data_dir) as mongo, items_of(mongo.uri) as items:
        items.insert_one({"_id": 1})
        socket = Path(socket_of(mongo.uri))
        assert mode(socket) == 0o600
        assert mode(socket.parent) == 0o700
        assert running_uri(data_dir) == mongo.uri
    assert not socket.exists()
    assert (socket.parent == data_dir / "mongodb") == socket.parent.exists()


def test_a_relative_data_dir_is_one_with_its_absolute_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EmbeddedMongo(Path("var")) as mongo:
        assert running_uri(tmp_path / "var") == mongo.uri


def test_a_stale_uri_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "mongodb.uri").write_text("mongodb://%2Fnowhere%2Fmongodb.sock/?directConnection=true")
    assert running_uri(tmp_path) is None
    with acquire(tmp_path) as handle:
        assert handle.is_owner
        assert running_uri(tmp_path) == handle.uri


def test_a_hung_orphan_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphan, "_SHUTDOWN_S", 0.2)
    left = EmbeddedMongo(tmp_path)
    left.start()
    pid = mongod_pid(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    left._lock.release()  # as if the owner had been killed
    with EmbeddedMongo(tmp_path) as mongo:
        assert mongod_pid(tmp_path) != pid
        assert mongo.poll()
    assert left._child
    assert left._child.wait(SOON_S)


def test_temporary_mongo_leaves_nothing(tmp_path: Path) -> None:
    with temporary_mongo(parent=tmp_path) as uri, items_of(uri) as items:
        items.insert_one({})
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("prints", "said"),
    [
        ("echo hello", "does not look like a mongod: hello"),
        ("exit 3", "it printed nothing, exit code 3"),
        ("kill -ILL $$", "needs a processor with AVX"),
        (
            "echo 'error while loading shared libraries: libssl.so.3: cannot' >&2",
            "lacks the library libssl.so.3: apt install libcurl4 libssl3;",
        ),
        ('echo "x: /lib/libc.so.6: version \\`GLIBC_2.99\' not found"', "needs a newer system (GLIBC_2.99"),
        ("echo db version v6.0.5; [ $1 = --version ] || echo 'No space left on device'", "the disk is full"),
    ],
)
def test_a_useless_mongod_is_explained(tmp_path: Path, prints: str, said: str) -> None:
    with pytest.raises(EmbeddedMongoError) as failure:
        EmbeddedMongo(tmp_path / "data", script(tmp_path / "mongod", prints)).start()
    assert said in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("system", "machine", "said"),
    [
        ("Darwin", "arm64", "runs on Linux only, this is Darwin: set MONGODB_URI"),
        ("Linux", "aarch64", "is for x86_64, this is aarch64: set MONGODB_URI"),
        ("Linux", "x86_64", "set MONGODB_URI to a MongoDB of your own, or MONGOD_BIN"),
    ],
)
def test_a_machine_without_a_mongod_hears_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, said: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(EmbeddedMongoError, match=said) as failure:
        EmbeddedMongo(tmp_path, "/no/mongod").start()
    assert "\n" not in str(failure.value)


def test_a_missing_mongod_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedMongoError, match=r"/no/mongod is not a file; set MONGODB_URI"):
        EmbeddedMongo(tmp_path, "/no/mongod").start()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ('{"engine": "mongod", "version": "7.0.2"}', "the database was written by 7.0"),
        ('{"engine": "other", "version": "1.0"}', "was written by other"),
        ("{", "is damaged"),
    ],
)
def test_the_engine_is_never_switched_silently(tmp_path: Path, record: str, said: str) -> None:
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "mongodb/engine.json").write_text(record)
    with pytest.raises(EmbeddedMongoError, match=said):
        EmbeddedMongo(tmp_path).start()
    assert not (tmp_path / "mongodb/db/storage.bson").exists()


def test_damaged_data_is_said_and_the_lock_given_back(tmp_path: Path) -> None:
    with EmbeddedMongo(tmp_path):
        pass
    (tmp_path / "mongodb/db/WiredTiger.turtle").write_text("garbage")
    mongo = EmbeddedMongo(tmp_path)
    with pytest.raises(EmbeddedMongoError, match="data files are damaged: restore a backup"):
        mongo.start()
    assert not mongo.is_owner


def test_a_data_dir_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedMongoError, match=r"cannot use DATA_DIR .*/file"):
        EmbeddedMongo(tmp_path / "file").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    os.chown(tmp_path / "mongodb", 12345, 12345)
    with pytest.raises(EmbeddedMongoError, match="belongs to user id 12345"):
        EmbeddedMongo(tmp_path).start()
