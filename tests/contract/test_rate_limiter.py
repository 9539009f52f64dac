import logging
import re

import pytest
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from app.accounts.rate_limiter import COLLECTION, SharedRateLimiter, ensure_expiry
from app.accounts.storage_rate_limiter import StorageRateLimiter
from app.common.errors import SettingsError
from app.store.connection import connect


class Time:
    def __init__(self, now: float = 6000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def passed(limiter: SharedRateLimiter | StorageRateLimiter, key: str, limit: int, tries: int) -> int:
    return sum(limiter.hit(key, limit).allowed for _ in range(tries))


def test_a_limit_is_exact_within_one_worker(time: Time) -> None:
    limiter = SharedRateLimiter("w1", time)
    assert [limiter.hit("k", 3).remaining for _ in range(4)] == [2, 1, 0, 0]
    refused = limiter.hit("k", 3)
    assert (refused.allowed, refused.reset_at, refused.retry_after_s) == (False, 6060, 60)


@pytest.mark.parametrize("kind", ["shared", "storage"])
def test_looking_does_not_count(kind: str, time: Time) -> None:
    import time as system_time

    limiter: SharedRateLimiter | StorageRateLimiter = SharedRateLimiter("w1", time)
    if kind == "storage":
        limiter = StorageRateLimiter("memory://", system_time.time)
    assert all(limiter.hit("k", 1, cost=0).allowed for _ in range(3))
    assert limiter.hit("k", 1).allowed
    assert not limiter.hit("k", 1, cost=0).allowed


def test_keys_do_not_count_for_each_other(time: Time) -> None:
    limiter = SharedRateLimiter("w1", time)
    assert passed(limiter, "a", 2, 5) == 2
    assert passed(limiter, "b", 2, 5) == 2


def test_a_new_window_starts_from_nothing(time: Time) -> None:
    limiter = SharedRateLimiter("w1", time)
    time.now = 6059.9
    assert passed(limiter, "k", 2, 5) == 2
    time.now = 6060.0
    assert passed(limiter, "k", 2, 5) == 2


def test_a_refused_request_does_not_count(database, time: Time) -> None:
    limiter = SharedRateLimiter("w1", time)
    passed(limiter, "k", 2, 50)
    limiter.sync(database)
    assert database[COLLECTION].find_one()["w"] == {"w1": 2}


def test_two_workers_share_a_limit(database, time: Time) -> None:
    one, two = SharedRateLimiter("w1", time), SharedRateLimiter("w2", time)
    assert passed(one, "k", 10, 4) == 4
    assert passed(two, "k", 10, 3) == 3
    one.sync(database)
    two.sync(database)
    assert two.hit("k", 10).remaining == 2
    assert passed(two, "k", 10, 9) == 2
    two.sync(database)
    one.sync(database)
    assert not one.hit("k", 10).allowed


class Reads(CommandListener):
    """How many documents were asked for, exchange by exchange."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            self.asked.append(len(event.command["filter"]["_id"]["$in"]))

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def test_an_exchange_does_not_grow_with_the_keys_of_a_window_and_none_is_forgotten(
    mongo_uri, database, time: Time
) -> None:
    reads = Reads()
    watched = connect(mongo_uri, database.name, event_listeners=[reads])
    one, two = SharedRateLimiter("w1", time), SharedRateLimiter("w2", time)
    crowd = [f"k{number}" for number in range(2000)]
    for key in crowd:
        one.hit(key, 10)
    one.sync(watched)
    passed(two, crowd[0], 10, 10)
    two.sync(database)
    for _ in range(4):
        one.hit("busy", 10)
        one.sync(watched)
    watched.client.close()
    assert reads.asked[0] == 2000
    assert all(asked <= 501 for asked in reads.asked[1:])
    assert not one.hit(crowd[0], 10).allowed


def test_a_sync_is_repeatable(database, time: Time) -> None:
    one, two = SharedRateLimiter("w1", time), SharedRateLimiter("w2", time)
    passed(one, "a:b", 10, 4)
    two.hit("a:b", 10)
    for _ in range(3):
        one.sync(database)
        two.sync(database)
    assert two.hit("a:b", 10).remaining == 4


def test_counts_of_a_past_window_are_not_taken_over(database, time: Time) -> None:
    one, two = SharedRateLimiter("w1", time), SharedRateLimiter("w2", time)
    passed(one, "k", 5, 5)
    one.sync(database)
    time.now += 60
    two.hit("k", 5)
    two.sync(database)
    assert two.hit("k", 5).remaining == 3


def test_a_sync_without_counts_asks_nobody(time: Time) -> None:
    SharedRateLimiter("w1", time).sync(None)  # type: ignore[arg-type]


class BrokenDatabase:
    def __getitem__(self, name: str) -> object:
        raise ServerSelectionTimeoutError("down")


def test_without_the_database_the_own_count_stands_and_is_published_later(database, time: Time) -> None:
    limiter = SharedRateLimiter("w1", time)
    passed(limiter, "k", 5, 3)
    with pytest.raises(PyMongoError):
        limiter.sync(BrokenDatabase())  # type: ignore[arg-type]
    assert limiter.hit("k", 5).remaining == 1
    limiter.sync(database)
    assert database[COLLECTION].find_one()["w"] == {"w1": 4}


def test_published_counts_expire_by_themselves(database, time: Time) -> None:
    ensure_expiry(database)
    ensure_expiry(database)
    indexes = database[COLLECTION].index_information().values()
    assert [index["expireAfterSeconds"] for index in indexes if "expireAfterSeconds" in index] == [0]
    limiter = SharedRateLimiter("w1", time)
    limiter.hit("k", 5)
    limiter.sync(database)
    assert database[COLLECTION].find_one()["expiresAt"].timestamp() >= 6060


def test_a_storage_of_the_library_counts(time: Time) -> None:
    import time as system_time

    limiter = StorageRateLimiter("memory://", system_time.time)
    decisions = [limiter.hit("k", 3) for _ in range(5)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0, 0]
    assert all(1 <= decision.retry_after_s <= 61 for decision in decisions)
    assert passed(limiter, "other", 3, 5) == 3
    assert limiter.failed_open == 0


def test_a_storage_that_fails_lets_requests_pass_and_is_counted(
    time: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = StorageRateLimiter("memory://", time)

    def broken(*args: object) -> bool:
        raise ConnectionError("redis://:hunter2@host is down")

    monkeypatch.setattr(limiter._limiter, "hit", broken)
    with caplog.at_level(logging.WARNING):
        assert passed(limiter, "k", 1, 3) == 3
    assert limiter.failed_open == 3
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("uri", ["nonsense://:hunter2@x", "redis+nonsense://:hunter2@x"])
def test_a_storage_that_does_not_exist_is_a_configuration_error(time: Time, uri: str) -> None:
    with pytest.raises(SettingsError, match=re.escape("RATE_LIMIT_STORAGE_URI: ")) as caught:
        StorageRateLimiter(uri, time)
    assert "hunter2" not in str(caught.value)
