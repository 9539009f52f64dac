"""Key states between workers, over a real MongoDB."""

import random

import pytest
from pool_world import BANNED, FAILED, LIMITED, MODEL_LIMITED, NOW, OK, REFUSED, SPENT, Clock, Worker

from app.keys.key_state_store import env_store_id

SECRETS = ("sk-env-aaaaaaaa", "sk-env-bbbbbbbb")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def two(database, clock: Clock) -> tuple[Worker, Worker]:
    first = Worker(database, clock, SECRETS)
    first.keys.import_lines("a|sk-aaaaaaaa\nb|sk-bbbbbbbb", now=NOW)
    first.sync.refresh()
    return first, Worker(database, clock, SECRETS)


@pytest.mark.parametrize("key_id", ["a", "env-1"])
@pytest.mark.parametrize(
    ("finding", "status"), [(LIMITED, "rate_limited"), (SPENT, "exhausted"), (BANNED, "error")]
)
def test_others_know_after_one_round(two, clock: Clock, key_id: str, finding, status: str) -> None:
    first, second = two
    clock.pass_s(1)
    first.ends(key_id, finding)
    first.sync.flush()
    second.sync.refresh()
    assert second.status(key_id) == status
    assert key_id not in second.usable()
    assert len(second.usable()) == 3


@pytest.mark.parametrize("key_id", ["a", "env-1"])
@pytest.mark.parametrize("finding", [LIMITED, SPENT])
@pytest.mark.parametrize("is_told_at_once", [True, False])
def test_what_two_workers_met_for_a_client_each_is_everybodys(
    two, database, clock: Clock, key_id: str, finding, is_told_at_once: bool
) -> None:
    first, second = two
    clock.pass_s(1)
    first.ends(key_id, finding, client="ann")
    clock.pass_s(0.1)
    second.ends(key_id, finding, client="bob")
    clock.pass_s(0.1)
    first.sync.flush()
    if is_told_at_once:
        second.sync.flush()
    else:  # in the very moment in which the first one told it, so that neither heard of the other's
        (told,) = second.pool.pending()
        second.states.write(told.store_id, told.key_id, told.state, is_env=told.is_env)
        first.sync.refresh()
    others = {"a", "b", "env-1", "env-2"} - {key_id}
    third = Worker(database, clock, SECRETS)
    assert third.taken(1, frozenset(others), client="eve") == [None]
    assert third.status(key_id) in ("rate_limited", "exhausted")


def test_a_configured_key_leaves_no_trace_of_itself(two, database) -> None:
    first, _ = two
    first.ends("env-1", SPENT)
    first.sync.flush()
    (document,) = database.upstream_key_states.find()
    assert document["_id"] == env_store_id(SECRETS[0])
    assert (document["keyId"], document["status"], document["backupWanted"]) == ("env-1", "exhausted", True)
    assert SECRETS[0] not in str(document)


def test_a_worker_that_starts_later_knows_too(two, database, clock: Clock) -> None:
    first, _ = two
    first.ends("a", LIMITED)
    first.ends("env-2", SPENT)
    first.sync.flush()
    clock.pass_s(5)
    assert Worker(database, clock, SECRETS).usable() == {"env-1", "b"}
    assert Worker(database, clock, SECRETS[1:]).usable() == {"b"}  # the same key, now first in line


def test_a_refusal_that_another_worker_confirms_is_the_end_of_a_key(two, clock: Clock) -> None:
    first, second = two
    first.ends("a", REFUSED, "r1")
    first.sync.flush()
    second.sync.refresh()
    assert second.status("a") == "healthy"
    clock.pass_s(1)
    second.ends("a", REFUSED, "r2", client="bob")
    second.sync.flush()
    first.sync.refresh()
    assert first.status("a") == "error"


def test_what_was_just_limited_is_not_brought_back_by_a_reading(two, clock: Clock) -> None:
    first, second = two
    clock.pass_s(1)
    first.ends("a", LIMITED)
    first.sync.look()  # the database does not know yet
    assert first.status("a") == "rate_limited"
    second.sync.refresh()
    first.sync.refresh()
    assert first.status("a") == "rate_limited"


def test_a_limit_of_a_model_is_shared_and_leaves_other_models_alone(two, database, clock: Clock) -> None:
    first, second = two
    for key_id, client in (("a", "ann"), ("a", "bob"), ("env-1", "ann"), ("env-1", "eve")):
        first.ends(key_id, MODEL_LIMITED, client=client, model="vendor/busy.v1")
    first.sync.flush()
    second.sync.refresh()
    for worker in (first, second, Worker(database, clock, SECRETS)):
        assert set(worker.taken(8, client="someone", model="vendor/busy.v1")) == {"b", "env-2"}
        assert set(worker.taken(24, client="someone", model="other")) == {"a", "b", "env-1", "env-2"}
        assert worker.status("a") == "healthy"
    clock.pass_s(61)
    assert set(second.taken(24, client="someone", model="vendor/busy.v1")) == {"a", "b", "env-1", "env-2"}


def test_a_limit_that_one_client_meets_on_every_key_keeps_nobody_else_away(two, clock: Clock) -> None:
    first, second = two
    for key_id in ("a", "b", "env-1", "env-2"):
        first.ends(key_id, MODEL_LIMITED, client="mallory")
    first.sync.flush()
    second.sync.refresh()
    assert second.taken(1, client="mallory") == [None]
    assert second.taken(1, client="mallory", model="other") != [None]
    assert None not in second.taken(4, client="alice")
    # What two workers have heard from different clients is everybody's.
    second.ends("a", MODEL_LIMITED, client="alice")
    second.sync.flush()
    first.sync.refresh()
    assert set(first.taken(9, client="bob")) == {"b", "env-1", "env-2"}


def test_limits_of_models_are_bounded_in_the_database_and_go_when_they_are_over(two, database, clock) -> None:
    first, _ = two
    for number in range(80):
        first.ends("a", MODEL_LIMITED, client=f"user {number % 3}", model=f"m{number}")
    for client in ("ann", "bob"):
        first.ends("env-1", MODEL_LIMITED, client=client)
    first.sync.flush()
    assert len(database.ohmygpt_keys.find_one({"_id": "a"})["modelLimits"]) <= 64
    assert len(database.upstream_key_states.find_one({"keyId": "env-1"})["modelLimits"]) == 2
    clock.pass_s(61)
    first.ends("a", MODEL_LIMITED, model="new")
    first.sync.flush()
    (left,) = database.ohmygpt_keys.find_one({"_id": "a"})["modelLimits"].values()
    assert (left["model"], left["client"]) == ("new", "ann")
    assert not first.pool.has_news


@pytest.mark.parametrize("odd", [7, [], {"x": 1}, {"x": {"until": "soon", "since": NOW, "model": "m"}}])
def test_odd_limits_of_models_are_none(two, database, clock: Clock, odd: object) -> None:
    first, second = two
    database.ohmygpt_keys.update_one({"_id": "a"}, {"$set": {"modelLimits": odd}})
    assert first.sync.refresh()
    assert first.taken(1) != [None]
    first.ends("a", MODEL_LIMITED, client="ann")
    first.ends("a", MODEL_LIMITED, client="bob")
    assert first.sync.refresh()
    second.sync.refresh()
    assert "a" not in second.taken(6, client="eve")


def test_a_reset_ends_the_limits_of_models_too(two, clock: Clock) -> None:
    first, second = two
    for client in ("ann", "bob"):
        first.ends("a", MODEL_LIMITED, client=client)
    first.sync.flush()
    second.sync.refresh()
    clock.pass_s(1)
    second.keys.reset("a", now=clock())
    for worker in (first, second):
        worker.sync.refresh()
        assert "a" in worker.taken(4)


def test_hearsay_is_told_from_what_clients_agree_on(two, clock: Clock) -> None:
    first, second = two
    for key_id in ("a", "b", "env-1", "env-2"):
        first.ends(key_id, SPENT if key_id == "a" else LIMITED, client="mallory")
    first.sync.flush()
    second.sync.refresh()
    assert second.status("a") == "exhausted"
    assert second.taken(1, client="mallory") == [None]
    assert None not in second.taken(4, client="alice")
    clock.pass_s(1)
    for key_id in ("a", "b", "env-1", "env-2"):
        second.ends(key_id, SPENT if key_id == "a" else LIMITED, client="alice")
    second.sync.flush()
    first.sync.refresh()
    assert first.taken(1, client="bob") == second.taken(1, client="bob") == [None]


def test_a_banned_key_comes_back_by_a_probe_for_all(two, clock: Clock) -> None:
    first, second = two
    first.ends("a", BANNED)
    first.sync.flush()
    second.sync.refresh()
    assert (second.status("a"), second.pool.due_probes()) == ("error", [])
    clock.pass_s(75)
    (probe,) = second.pool.due_probes()
    assert second.pool.due_probes() == []
    second.pool.report(probe, OK, "probe")
    second.sync.flush()
    first.sync.refresh()
    assert first.status("a") == second.status("a") == "healthy"
    assert first.pool.due_probes() == []
    assert [event.why for event in first.states.events("a", 1)] == ["probe"]


def test_a_recovery_is_shared(two, clock: Clock) -> None:
    first, second = two
    first.ends("a", LIMITED)
    first.sync.flush()
    second.sync.refresh()
    clock.pass_s(61)
    second.ends("a", OK)
    second.sync.flush()
    first.sync.refresh()
    assert first.status("a") == second.status("a") == "healthy"


def test_the_longer_restriction_remains_whoever_writes_last(two, clock: Clock) -> None:
    first, second = two
    clock.pass_s(1)
    first.ends("a", SPENT)
    second.ends("a", LIMITED)
    first.sync.flush()
    second.sync.refresh()
    assert second.status("a") == first.status("a") == "exhausted"
    first.sync.refresh()
    assert first.status("a") == "exhausted"


def test_workers_that_eject_different_keys_at_the_same_time_are_not_left_without_any(
    database, clock: Clock
) -> None:
    first, second = Worker(database, clock, SECRETS), Worker(database, clock, SECRETS)
    for client in ("ann", "bob", "ann", "bob", "ann"):
        first.ends("env-1", FAILED, client=client)
        second.ends("env-2", FAILED, client=client)
    for worker in (first, second, first):
        worker.sync.refresh()
    assert first.status("env-1") == first.status("env-2") == "rate_limited"
    assert sorted(first.taken(2)) == sorted(second.taken(2)) == ["env-1", "env-2"]


def test_an_operators_reset_wins_over_all_and_at_once(two, clock: Clock) -> None:
    first, second = two
    first.ends("a", BANNED)
    second.ends("a", SPENT)
    first.sync.flush()
    clock.pass_s(1)
    assert first.keys.reset("a", now=clock()).status == "healthy"
    second.sync.refresh()  # with its own word, from before the reset, still to be sent
    first.sync.refresh()
    assert first.status("a") == second.status("a") == "healthy"
    whys = {event.why for event in first.states.events("a", 10)}
    assert whys == {"suspected: ban_code", "ban_code", "reset", "budget_code"}


@pytest.mark.parametrize("status", ["healthy", "exhausted"])
def test_what_another_program_writes_counts_as_an_operators_word(two, database, clock: Clock, status) -> None:
    first, second = two
    if status == "healthy":
        first.ends("a", SPENT)
        first.sync.flush()
    second.sync.refresh()
    clock.pass_s(1)
    database.ohmygpt_keys.update_one(
        {"_id": "a"}, {"$set": {"status": status}, "$unset": {"cooldownUntil": ""}}
    )
    for worker in (first, second, first):
        worker.sync.refresh()
        clock.pass_s(1)
    assert first.status("a") == second.status("a") == status
    document = database.ohmygpt_keys.find_one({"_id": "a"})
    assert (document["status"], document.get("backupWanted")) == (status, None)


def test_keys_of_an_older_database_are_taken_over(database, clock: Clock) -> None:
    database.ohmygpt_keys.insert_many(
        [
            {"_id": "good", "apiKey": "sk-plain-good", "status": "healthy"},
            {"_id": "spent", "apiKey": "sk-plain-spent", "status": "exhausted"},
            {"_id": "odd", "apiKey": "sk-plain-odd", "status": "asleep"},
        ]
    )
    worker = Worker(database, clock)
    assert worker.usable() == {"good"}
    assert worker.status("odd") == "error"
    clock.pass_s(24 * 3600)
    worker.sync.refresh()
    assert worker.usable() == {"good", "spent"}
    assert not database.ohmygpt_keys.count_documents({"backupWanted": {"$exists": True}})


def test_keys_come_and_go_without_a_restart(database, clock: Clock) -> None:
    worker = Worker(database, clock)
    assert worker.pool.is_empty()
    worker.keys.add("a", "sk-aaaaaaaa", now=NOW)
    worker.sync.refresh()
    assert worker.taken(1) == ["a"]
    worker.ends("a", BANNED)
    worker.sync.refresh()
    worker.keys.delete("a")
    clock.pass_s(1)
    worker.keys.add("a", "sk-aaaaaaaa", now=clock())  # before anybody noticed
    worker.sync.refresh()
    assert worker.usable() == {"a"}
    worker.keys.delete("a")
    worker.sync.refresh()
    assert worker.pool.is_empty()


def test_each_transition_is_kept_once(two, database, clock: Clock) -> None:
    first, _ = two
    clock.pass_s(1)
    first.ends("a", LIMITED, "r7")
    events = first.pool.take_events()
    first.states.add_events(events)
    first.pool.return_events(events)  # as if the answer had been lost
    first.sync.flush()
    (event,) = first.states.events("a", 10)
    assert (event.from_status, event.to_status, event.why, event.request_id, event.at) == (
        "healthy",
        "rate_limited",
        "rate_limited",
        "r7",
        clock(),
    )
    first.states.ensure_indexes()
    first.states.ensure_indexes()
    assert any(
        index.get("expireAfterSeconds") == 90 * 86_400
        for index in database.key_events.index_information().values()
    )


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_in_whatever_order_all_end_with_the_same_states(database, seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    workers = [Worker(database, clock, SECRETS) for _ in range(4)]
    workers[0].keys.import_lines("a|sk-aaaaaaaa\nb|sk-bbbbbbbb", now=NOW)
    for step in range(150):
        clock.pass_s(rng.random() * 20)
        worker = rng.choice(workers)
        lease = worker.pool.acquire(frozenset())
        if not hasattr(lease, "key"):
            clock.pass_s(60)
        else:
            finding = rng.choice((OK, OK, LIMITED, FAILED, FAILED, SPENT, REFUSED))
            worker.pool.report(lease, finding, f"r{step}")
            worker.pool.release(lease)
        rng.choice(workers).sync.refresh()
        if step % 30 == 29:
            workers[0].keys.reset(rng.choice("ab"), now=clock())
    for worker in workers * 2:
        worker.sync.refresh()
    pictures = [
        [(view.key_id, view.status, view.cooldown_until, view.last_error) for view in worker.pool.snapshot()]
        for worker in workers
    ]
    assert all(picture == pictures[0] for picture in pictures)
