"""Backup keys for dead ones, over a real MongoDB: one for each, never too many, never a key lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise

import pytest
from pool_world import BANNED, FAILED, NOW, OK, SPENT, Clock, Worker

from app.keys.backup_keys import BackupKeyStore
from app.keys.key_rotation import KeyRotation, RotationPolicy
from app.keys.lease import Lease
from app.store.key_cipher import KeyCipher
from app.upstream.proxy_bindings import BindingStore

CIPHER = KeyCipher("secret")
UNBOUND = RotationPolicy(min_interval_s=0, share=1.0)


class Farm:
    """Workers over one database that rotate keys."""

    def __init__(self, db, *, keys: int, backups: int, workers: int = 1, policy=None, env=()) -> None:
        self.db = db
        self.clock = Clock()
        self.spares = BackupKeyStore(db, CIPHER)
        self.rotation = KeyRotation(db, CIPHER, policy)
        first = Worker(db, self.clock, env)
        if keys:
            first.keys.import_lines("\n".join(f"k{n}|sk-key-{n:06}" for n in range(keys)), now=NOW)
        if backups:
            self.spares.import_lines("\n".join(f"s{n}|sk-spare-{n:06}" for n in range(backups)), now=NOW)
        self.workers = [
            Worker(db, self.clock, env, caretaker=KeyRotation(db, CIPHER, policy)) for _ in range(workers)
        ]
        self.clock.pass_s(1)

    def round(self) -> None:
        for worker in self.workers:
            worker.sync.refresh()

    def used(self) -> dict[str, str]:
        """The backup keys in use, by the key they are for."""
        used = [key for key in self.spares.list() if key.is_used]
        assert len({key.used_for for key in used}) == len(used)
        return {str(key.used_for): key.key_id for key in used}


@pytest.mark.parametrize(("finding", "status"), [(SPENT, "exhausted"), (BANNED, "error")])
def test_a_spare_key_takes_the_place_of_a_dead_one(database, finding, status: str) -> None:
    farm = Farm(database, keys=1, backups=2)
    (worker,) = farm.workers
    worker.ends("k0", finding)
    farm.round()
    assert farm.used() == {"k0": "s0"}
    assert farm.spares.get("s0").activated
    assert worker.taken(1) == ["s0"]
    dead, fresh = worker.keys.get("k0"), worker.keys.get("s0")
    assert (dead.status, dead.secret, dead.replaced_by) == (status, "sk-key-000000", "s0")
    assert fresh.secret == "sk-spare-000000"
    assert database.ohmygpt_keys.find_one({"_id": "s0"})["replacedKey"] == "k0"
    whys = {event.why for event in worker.states.events(None, 10)}
    assert whys - {"suspected: ban_code"} == {"in the place of k0", "replaced by s0", finding.reason}
    farm.clock.pass_s(3600)
    farm.round()
    assert len(farm.used()) == 1


@pytest.mark.parametrize("env", [(), ("sk-env-aaaaaaaa",)])
def test_bindings_follow_to_the_spare_key(database, env) -> None:
    farm = Farm(database, keys=0 if env else 1, backups=1, env=env)
    dead = "env-1" if env else "k0"
    bindings = BindingStore(database)
    bindings.add("proxy-1", dead, now=NOW, priority=3)
    bindings.add("proxy-2", dead, now=NOW)
    bindings.update("proxy-2", dead, now=NOW, is_active=False)
    bindings.add("proxy-1", "s0", now=NOW, priority=7)
    farm.workers[0].ends(dead, SPENT)
    farm.round()
    database.ohmygpt_backup_keys.update_one({"_id": "s0"}, {"$set": {"activated": False}})
    farm.round()
    found = {(item.binding.proxy_id, item.binding.key_id): item for item in bindings.list()}
    assert len(found) == 4
    assert found["proxy-1", "s0"].binding.priority == 7
    assert (found["proxy-2", "s0"].binding.priority, found["proxy-2", "s0"].is_active) == (1, False)


def test_a_configured_key_gets_one_too(database) -> None:
    farm = Farm(database, keys=0, backups=1, env=("sk-env-aaaaaaaa",), workers=2)
    farm.workers[0].ends("env-1", SPENT)
    farm.round()
    farm.round()
    assert [worker.usable() for worker in farm.workers] == [{"s0"}, {"s0"}]
    assert "replaced by s0" in {event.why for event in farm.workers[0].states.events("env-1", 10)}


def test_failures_and_limits_use_no_spare_key(database) -> None:
    farm = Farm(database, keys=2, backups=1)
    for number in range(10):
        if "k0" in farm.workers[0].usable():
            farm.workers[0].ends("k0", FAILED, client=f"user {number % 2}")
    farm.round()
    assert farm.workers[0].status("k0") == "rate_limited"
    assert farm.used() == {}


def test_200_failures_at_once_over_four_workers_use_one_spare_key_for_each_dead_key(database) -> None:
    farm = Farm(database, keys=4, backups=5, workers=4, policy=UNBOUND)
    leases: list[tuple[Worker, Lease]] = []
    for number in range(200):
        lease = farm.workers[number % 4].pool.acquire(frozenset())
        assert isinstance(lease, Lease)
        leases.append((farm.workers[number % 4], lease))
    together = threading.Barrier(8)
    doomed = {"k0", "k1", "k2"}

    def fail(part: int) -> None:
        together.wait(300)
        for number, (worker, lease) in list(enumerate(leases))[part::8]:
            worker.pool.report(lease, SPENT if lease.key.key_id in doomed else OK, f"r{number}")
            worker.pool.release(lease)
            if number % 5 == part % 5:
                worker.sync.refresh()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fail, range(8)))
    for _ in range(2):
        farm.round()
    used = farm.used()
    assert used.keys() == doomed
    assert len(set(used.values())) == 3
    assert farm.spares.count_available() == 2
    usable = {"k3", *used.values()}
    assert [worker.usable() for worker in farm.workers] == [usable] * 4
    dead = list(database.ohmygpt_keys.find({"replacedBy": {"$exists": True}}))
    assert {key["_id"]: key["replacedBy"] for key in dead} == used
    replaced = database.key_events.count_documents({"why": {"$regex": "^replaced by"}})
    assert replaced == 3


def test_an_outage_of_authentication_does_not_eat_all_spare_keys(database) -> None:
    farm = Farm(database, keys=6, backups=10, workers=2)
    for _ in range(300):  # ten minutes during which every key dies at its first request
        for worker in farm.workers:
            for key_id in sorted(worker.usable()):
                worker.ends(key_id, BANNED)
        farm.round()
        farm.clock.pass_s(2)
    assert len(farm.used()) == 3
    times = sorted(key.used_at for key in farm.spares.list() if key.used_at)
    assert min(b - a for a, b in pairwise(times)) >= timedelta(seconds=10)
    farm.rotation.allow()
    farm.round()
    assert len(farm.used()) == 4


def test_a_dead_key_waits_for_a_spare_one(database, caplog) -> None:
    farm = Farm(database, keys=1, backups=0)
    farm.workers[0].ends("k0", SPENT)
    for _ in range(3):
        farm.round()
    assert sum("no backup key" in record.getMessage() for record in caplog.records) == 1
    farm.spares.add("s0", "sk-spare-000000", now=NOW)
    farm.round()
    assert farm.workers[0].taken(1) == ["s0"]


def test_a_spare_key_that_cannot_be_read_is_left_alone(database) -> None:
    farm = Farm(database, keys=1, backups=1)
    BackupKeyStore(database, KeyCipher("other")).add("bad", "sk-unreadable", now=NOW - timedelta(days=1))
    farm.workers[0].ends("k0", SPENT)
    farm.round()
    assert farm.used() == {"k0": "s0"}


@pytest.mark.parametrize("done", ["claimed", "inserted", "retired"])
def test_a_claim_whose_maker_died_is_finished_by_others(database, done: str) -> None:
    farm = Farm(database, keys=1, backups=2)
    (worker,) = farm.workers
    worker.ends("k0", SPENT)
    farm.round()
    database.ohmygpt_backup_keys.update_one({"_id": "s0"}, {"$set": {"activated": False}})
    if done != "retired":
        change = {"$unset": {"replacedBy": ""}, "$set": {"backupWanted": True}}
        database.ohmygpt_keys.update_one({"_id": "k0"}, change)
    if done == "claimed":
        database.ohmygpt_keys.delete_one({"_id": "s0"})
    late = Worker(database, farm.clock, caretaker=KeyRotation(database, CIPHER))
    late.sync.refresh()
    late.sync.refresh()
    assert farm.used() == {"k0": "s0"}
    assert farm.spares.get("s0").activated
    assert late.usable() == {"s0"}
    assert late.keys.get("k0").replaced_by == "s0"


def test_a_taken_pool_id_gets_a_number(database) -> None:
    farm = Farm(database, keys=1, backups=1)
    farm.workers[0].keys.add("s0", "sk-another-key", now=NOW)
    farm.workers[0].sync.refresh()
    farm.workers[0].ends("k0", SPENT)
    farm.round()
    assert farm.workers[0].usable() == {"s0", "s0-2"}


def test_a_key_that_was_reset_and_dies_again_gets_another_spare_key(database) -> None:
    farm = Farm(database, keys=1, backups=2)
    (worker,) = farm.workers
    worker.ends("k0", SPENT)
    farm.round()
    farm.clock.pass_s(60)
    assert worker.keys.reset("k0", now=farm.clock()).replaced_by is None
    farm.rotation.allow()
    farm.round()
    assert worker.usable() == {"k0", "s0"}
    farm.clock.pass_s(1)
    worker.ends("k0", SPENT)
    farm.round()
    assert worker.usable() == {"s0", "s1"}


def dies_daily(farm: Farm) -> None:
    """The key's money comes back, which its daily trial finds out, and is gone again."""
    (worker,) = farm.workers
    farm.clock.pass_s(24 * 3600)
    worker.ends("k0", OK)
    farm.round()
    assert "k0" in worker.usable()
    farm.clock.pass_s(60)
    worker.ends("k0", SPENT)
    for _ in range(2):
        farm.round()


def test_a_key_that_dies_again_after_its_trial_has_its_stand_in_still(database) -> None:
    farm = Farm(database, keys=1, backups=4)
    (worker,) = farm.workers
    worker.ends("k0", SPENT)
    farm.round()
    for _ in range(3):
        dies_daily(farm)
        assert worker.usable() == {"s0"}
    # Nor is the stand-in's own death counted twice.
    worker.ends("s0", SPENT)
    farm.round()
    dies_daily(farm)
    assert "k0" not in worker.usable()
    assert farm.spares.count_available() == 2


@pytest.mark.parametrize("env", [(), ("sk-env-aaaaaaaa",)])
def test_a_key_that_dies_again_gets_a_spare_key_when_its_stand_in_is_gone(database, env) -> None:
    farm = Farm(database, keys=1, backups=3, env=env)
    dead = "env-1" if env else "k0"
    worker = farm.workers[0]
    worker.ends(dead, SPENT)
    farm.round()
    worker.keys.delete("s0")
    for _ in range(2):
        farm.round()
    assert dead not in worker.usable()
    assert farm.spares.count_available() == 2  # who deletes a stand-in does not ask for another one
    farm.clock.pass_s(24 * 3600)
    worker.ends(dead, OK)
    farm.round()
    farm.clock.pass_s(60)
    worker.ends(dead, SPENT)
    others = [Worker(database, farm.clock, env, caretaker=KeyRotation(database, CIPHER)) for _ in range(3)]
    for _ in range(2):
        farm.round()
        for other in others:
            other.sync.refresh()
    assert farm.spares.count_available() == 1
    assert "s1" in worker.usable()
    assert "s1" in others[0].usable()


def test_a_spare_key_is_restored_once_it_has_left_the_pool(database) -> None:
    farm = Farm(database, keys=1, backups=1)
    farm.workers[0].ends("k0", SPENT)
    farm.round()
    with pytest.raises(ValueError, match="serves in the pool as s0"):
        farm.spares.restore("s0")
    farm.workers[0].keys.delete("s0")
    assert not farm.spares.restore("s0").is_used
    assert farm.spares.count_available() == 1


def test_nothing_is_claimed_without_the_index(database, caplog) -> None:
    farm = Farm(database, keys=1, backups=1)
    database.ohmygpt_backup_keys.drop_indexes()
    twins = [
        {"_id": name, "isUsed": True, "usedFor": "x", "usedForVersion": 1, "activated": True} for name in "ab"
    ]
    database.ohmygpt_backup_keys.insert_many(twins)
    worker = Worker(database, farm.clock, caretaker=KeyRotation(database, CIPHER))
    worker.ends("k0", SPENT)
    worker.sync.refresh()
    assert farm.spares.count_available() == 1
    assert any("without their index" in record.getMessage() for record in caplog.records)


def test_keys_found_in_plain_text_are_encrypted(database) -> None:
    plain = "sk-plain-0123456789"
    database.ohmygpt_keys.insert_one({"_id": "old", "apiKey": plain, "status": "healthy"})
    database.ohmygpt_backup_keys.insert_one({"_id": "spare", "apiKey": plain, "isUsed": False})
    database.ohmygpt_keys.insert_many([{"_id": "none"}, {"_id": "empty", "apiKey": ""}])
    worker = Worker(database, Clock(), caretaker=KeyRotation(database, CIPHER))
    for name, key_id in (("ohmygpt_keys", "old"), ("ohmygpt_backup_keys", "spare")):
        stored = database[name].find_one({"_id": key_id})["apiKey"]
        assert stored.startswith("enc:v1:")
        assert CIPHER.decrypt(stored) == plain
    worker.sync.refresh()
    lease = worker.pool.acquire(frozenset())
    assert isinstance(lease, Lease)
    assert lease.key.secret == plain
