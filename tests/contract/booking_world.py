"""Documents, starting states, snapshots and a faulty database for the tests of booking."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError

from app.common.money import NANO
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord, UsageSource

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

COLLECTIONS = (
    "request_logs",
    "usersNew",
    "user_keys",
    "ohmygpt_keys",
    "request_rollups",
    "request_logs_dead",
    "request_summaries",
)


def record(number: int, **changes: Any) -> ExchangeRecord:
    """A successful request of `ann`, one minute after the other."""
    values: dict[str, Any] = {
        "request_id": f"r{number:06}",
        "user_id": "ann",
        "user_key_id": "wk_ann",
        "created_at": NOON + timedelta(minutes=number),
        "api_format": "openai",
        "outcome": Outcome.OK,
        "status_code": 200,
        "factory_key_id": "pool-1",
        "model": "gpt",
        "input_tokens": 100,
        "output_tokens": 10,
        "usage_source": UsageSource.UPSTREAM,
        "cost_nano_usd": 1_000_000 + number,
        "latency_ms": 1000,
        "ttft_ms": 100,
        "attempts": (AttemptRecord("pool-1", 200, 1000),),
        "usage_raw": {"prompt_tokens": 100},
    }
    return ExchangeRecord(**(values | changes))


def sequenced(number: int, **changes: Any) -> SequencedRecord:
    return SequencedRecord(number, record(number, **changes).to_document(), float(number))


def deep(levels: int) -> dict[str, Any]:
    """An object nested so many levels: from 180 on MongoDB refuses it."""
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


def mixed(count: int, seed: int = 1) -> list[SequencedRecord]:
    """Records of several users, keys, models, hours and endings; some of callers without a user."""
    random = Random(seed)
    return [_mixed_record(number, random) for number in range(1, count + 1)]


def _mixed_record(number: int, random: Random) -> SequencedRecord:
    user = random.choice(("ann", "bob", "poor", "env"))
    outcome = random.choice((Outcome.OK, Outcome.OK, Outcome.REJECTED, Outcome.STREAM_ERROR))
    refused = outcome is Outcome.REJECTED
    return sequenced(
        number,
        user_id=user,
        user_key_id="env" if user == "env" else f"wk_{user}",
        created_at=NOON + timedelta(minutes=random.randrange(100)),
        outcome=outcome,
        status_code=402 if refused else 200,
        factory_key_id=None if refused else random.choice(("pool-1", "env-1")),
        model=random.choice(("gpt", "claude", None)) if refused else random.choice(("gpt", "claude")),
        input_tokens=0 if refused else random.randrange(5000),
        output_tokens=0 if refused else random.randrange(500),
        cost_nano_usd=0 if refused else random.randrange(NANO // 100),
        latency_ms=0 if refused else random.randrange(60_000),
        ttft_ms=random.choice((None, random.randrange(900))),
    )


def seed(db: Database[Any]) -> None:
    """Three users, one of them nearly out of credit, with their keys, and one upstream key."""
    db["usersNew"].insert_many(
        [
            {"_id": "ann", "credits": 10.0, "refCredits": 0.5, "creditsUsed": 0.1, "totalInputTokens": 7},
            {"_id": "bob", "credits": 0.01, "refCredits": 100.0},
            {"_id": "poor", "credits": 0.004, "refCredits": 0.003, "creditsUsed": 0.0},
        ]
    )
    db["user_keys"].insert_many(
        [{"_id": f"wk_{name}", "name": name, "tokensUsed": 5} for name in ("ann", "bob", "poor")]
    )
    db["ohmygpt_keys"].insert_one({"_id": "pool-1", "tokensUsed": 0, "requestsCount": 3})


def reset(db: Database[Any]) -> None:
    """Back to the starting state, which is cheaper than a new database."""
    for name in COLLECTIONS:
        db[name].delete_many({})
    seed(db)


def state(db: Database[Any]) -> dict[str, list[dict[str, Any]]]:
    """All that booking touches, in an order and form that can be compared."""
    snapshot = {}
    for name in COLLECTIONS:
        documents = list(db[name].find().sort("_id", 1))
        for document in documents:
            if name == "request_logs_dead":
                del document["createdAt"]
            # How often it has changed is no matter, as long as it says the same.
            document.pop("version", None)
        snapshot[name] = documents
    return snapshot


def closed_database() -> Database[Any]:
    """A database every use of which fails at once (a refused connection would be tried for half a second)."""
    database: Database[Any] = MongoClient("mongodb://127.0.0.1:9/", connect=False)["x"]
    database.client.close()
    return database


class FaultyDatabase:
    """A database whose calls can fail: `plan(call number)` says how, from 1 on.

    `before`: nothing happened; `after`: all of it happened, the reply was lost; `half`: half of the
    documents were written; `late`: nothing happened yet, but it will when `run_late` is called.
    """

    def __init__(self, db: Database[Any], plan: Callable[[int], str | None]) -> None:
        self._db = db
        self._plan = plan
        self._late: list[Callable[[], Any]] = []
        self.calls = 0

    def __getitem__(self, name: str) -> "_FaultyCollection":
        return _FaultyCollection(self, self._db[name])

    def run_late(self) -> None:
        """Let the commands arrive that were held up."""
        for command in self._late:
            command()
        self._late.clear()

    def call(self, command: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Any:
        self.calls += 1
        fault = self._plan(self.calls)
        if fault is None:
            return command(items)
        if fault == "after":
            _quietly(command, items)
        elif fault == "half" and len(items) > 1:
            command(items[: len(items) // 2])
        elif fault == "late":
            kept = list(items)
            self._late.append(lambda: _quietly(command, kept))
        raise AutoReconnect(f"call {self.calls} failed {fault}")


class _FaultyCollection:
    def __init__(self, faults: FaultyDatabase, collection: Any) -> None:
        self._faults = faults
        self._collection = collection

    def with_options(self, **options: Any) -> "_FaultyCollection":
        return _FaultyCollection(self._faults, self._collection.with_options(**options))

    def insert_many(self, documents: Sequence[Any], ordered: bool) -> Any:
        return self._faults.call(lambda some: self._collection.insert_many(some, ordered=ordered), documents)

    def bulk_write(self, updates: Sequence[Any], ordered: bool) -> Any:
        return self._faults.call(lambda some: self._collection.bulk_write(some, ordered=ordered), updates)

    def update_one(self, query: Any, update: Any, **options: Any) -> Any:
        return self._faults.call(lambda _: self._collection.update_one(query, update, **options), [])

    def find_one(self, query: Any) -> Any:
        return self._collection.find_one(query)

    def find(self, query: Any, projection: Any) -> Any:
        return self._faults.call(lambda _: list(self._collection.find(query, projection)), [])


def _quietly(command: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> None:
    """A command whose sender has gone: nobody sees how it ends, such as in a duplicate key."""
    with suppress(BulkWriteError):
        command(items)
