"""Each text of the model table is kept once, and it is known which one is in force where."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pymongo.errors import PyMongoError

from app.management.audit import AuditLog
from app.management.price_book import PriceBook
from app.pricing.model_table import ModelTable
from app.pricing.price_versions import RELOAD, START, PriceVersions
from app.store.connection import connect

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        self.time += timedelta(minutes=1)
        return self.time


def table(price: int) -> ModelTable:
    return ModelTable.from_toml(f'[[models]]\nid = "m"\ninput = {price}\noutput = 2\n')


OLD, NEW = table(1), table(3)


class Host:
    """The workers of one host."""

    def __init__(self, database, directory: Path, name: str = "a", workers: int = 2) -> None:
        directory.mkdir(exist_ok=True)
        self.versions = PriceVersions(database)
        clock = Clock()
        self.workers = [
            PriceBook(self.versions, AuditLog(database), directory / "price-versions", name, clock)
            for _ in range(workers)
        ]

    def take(self, new: ModelTable, by: str = START, admin: str | None = None) -> None:
        for worker in self.workers:
            worker.note(new, by, admin)

    def store(self) -> None:
        for worker in self.workers:
            worker.store()


def in_force(database) -> dict[str, list[str]]:
    return {
        found["_id"]: [entry["host"] for entry in found["hosts"]]
        for found in database.price_versions.find()
        if found.get("hosts")
    }


def audited(database) -> list[tuple[str, str, str, str | None]]:
    return [
        (
            entry["actor"],
            entry["via"],
            entry["target"].removeprefix("prices:"),
            entry["details"].get("replaces"),
        )
        for entry in database.admin_audit.find().sort("_id", 1)
    ]


def test_a_text_is_kept_once_and_a_change_is_in_the_audit_log_once(database, tmp_path: Path) -> None:
    host = Host(database, tmp_path, workers=3)
    host.take(OLD)
    host.store()
    host.take(NEW, RELOAD, "ada")
    host.store()
    host.take(NEW)  # all of them were replaced
    host.store()
    host.take(OLD, RELOAD, "ada")  # back again
    host.store()
    assert not any(worker.store() for worker in host.workers)

    assert host.versions.text(OLD.version) == OLD.text
    assert host.versions.text("0123") is None
    assert in_force(database) == {OLD.version: ["a"]}
    assert audited(database) == [
        ("a", "start", OLD.version, None),
        ("ada", "reload", NEW.version, OLD.version),
        ("ada", "reload", OLD.version, NEW.version),
    ]
    found = list(host.versions.all(10))
    assert [(entry["_id"], entry["by"], "text" in entry) for entry in found] == [
        (NEW.version, "reload", False),
        (OLD.version, "start", False),
    ]


def test_hosts_change_one_after_the_other(database, tmp_path: Path) -> None:
    one, other = (
        Host(database, tmp_path / "a", "a.example.org"),
        Host(database, tmp_path / "b", "b.example.org"),
    )
    for host in (one, other):
        host.take(OLD)
        host.store()
    one.take(NEW, RELOAD, "ada")
    one.store()
    assert in_force(database) == {OLD.version: ["b.example.org"], NEW.version: ["a.example.org"]}
    other.take(NEW)
    other.store()
    assert in_force(database) == {NEW.version: ["a.example.org", "b.example.org"]}
    # The second host found the table it has to begin with: no change for it.
    assert [(actor, version) for actor, _, version, _ in audited(database)] == [
        ("a.example.org", OLD.version),
        ("ada", NEW.version),
        ("b.example.org", NEW.version),
    ]


def test_without_the_database_texts_wait_on_disk_for_whoever_starts_next(database, tmp_path: Path) -> None:
    nowhere = connect("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50", "nothing")
    cut_off = Host(nowhere, tmp_path, workers=1)
    cut_off.take(OLD)
    cut_off.take(NEW, RELOAD, "ada")
    with pytest.raises(PyMongoError):
        cut_off.store()
    nowhere.client.close()
    waiting = tmp_path / "price-versions"
    assert {path.stem for path in waiting.iterdir()} == {OLD.version, NEW.version}
    (waiting / "0123456789ab.toml").write_text("not what its name says")

    later = Host(database, tmp_path)
    later.take(NEW)
    later.store()
    assert later.versions.text(OLD.version) == OLD.text
    assert in_force(database) == {NEW.version: ["a"]}
    assert [path.stem for path in waiting.iterdir()] == ["0123456789ab"]


def test_a_disk_that_takes_nothing_costs_no_text(database, tmp_path: Path) -> None:
    host = Host(database, tmp_path, workers=1)
    (tmp_path / "price-versions").write_text("in the way of the directory")
    host.take(OLD)
    host.store()
    assert host.versions.text(OLD.version) == OLD.text
