"""Databases that have grown: any number of users, client keys, upstream keys, records and hourly sums.

Documents have the form the product gives them. Most are multiplied by the server, a million in seconds.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any

from bson.int64 import Int64
from pymongo.database import Database

from app.accounts.credentials import hash_client_key, mask
from app.accounts.users import UserStore
from app.keys.key_state_store import KeyStateStore
from app.keys.provider_keys import ProviderKeyStore
from app.records.request_logs import RequestLogStore
from app.statistics.histogram import count
from app.statistics.stats_store import StatsStore
from app.statistics.summaries import SummaryMaker
from app.store.connection import ensure_indexes
from app.store.key_cipher import KeyCipher

Document = dict[str, Any]

HOURS = 720
_KINDS = 2000
_BATCH = 10_000
_KEY_PREFIX = "sk-weir-bench-"


def user_name(number: int) -> str:
    """Return the name of the user of this number."""
    return f"user-{number}"


def client_key(number: int) -> str:
    """Return this user's client key; its last eight characters are the number (see `bench.native.Aim`)."""
    return f"{_KEY_PREFIX}{number:08}"


def make_users(db: Database[Any], number: int, now: datetime) -> None:
    """Make `number` users, each with credit and one client key."""
    users = UserStore(db)
    users.add("pattern", now=now, credits_usd=Decimal(1000))
    pattern = db["usersNew"].find_one_and_delete({"_id": "pattern"})
    kinds: list[Document] = [{}] * min(number, _KINDS)
    place = {"$toString": "$place"}
    own = {"_id": {"$concat": ["user-", place]}, "referralCode": {"$concat": ["REFERRAL", place]}}
    user = {"$mergeObjects": [{"$literal": pattern}, own]}
    _multiply(db, kinds, number, "usersNew", [{"$replaceWith": user}])
    keys = (
        {
            "_id": hash_client_key(client_key(user)),
            "name": user_name(user),
            "hint": mask(client_key(user)),
            "tokensUsed": 0,
            "requestsCount": 0,
            "isActive": True,
            "createdAt": now,
        }
        for user in range(number)
    )
    for batch in _batches(keys):
        db["user_keys"].insert_many(batch, ordered=False)


def make_upstream_keys(db: Database[Any], number: int, cipher: KeyCipher, now: datetime) -> None:
    """Make `number` keys in the pool, all good."""
    pattern = ProviderKeyStore(db, cipher).add("pattern", "sk-bench-pattern", now=now)
    document = db["ohmygpt_keys"].find_one_and_delete({"_id": pattern.key_id}) or {}
    keys = (
        {**document, "_id": f"pool-{key}", "apiKey": cipher.encrypt(f"sk-bench-pool-{key:08}")}
        for key in range(number)
    )
    for batch in _batches(keys):
        db["ohmygpt_keys"].insert_many(batch, ordered=False)


def make_records(db: Database[Any], number: int, now: datetime, *, users: int, random: Random) -> None:
    """Make records of 20 models over the 30 days before `now`; if there are many, one of a kind far back."""
    step_ms = 30 * 86_400_000 // number
    kinds = [_kind(kind, users, random) for kind in range(min(number, _KINDS))]
    steps: list[Document] = [
        {"$addFields": {"createdAt": {"$subtract": [now, {"$multiply": ["$place", step_ms]}]}}},
        {"$addFields": {"_id": {"$concat": [{"$toString": "$createdAt"}, "-", {"$toString": "$place"}]}}},
        {"$addFields": {"requestId": "$_id"}},
        {"$unset": "place"},
    ]
    _multiply(db, kinds, number, "request_logs", steps)
    rare = {"userId": "rare", "model": "rare", "statusCode": 418, "outcome": "internal_error"}
    db["request_logs"].update_one({"createdAt": {"$lt": now - timedelta(days=29)}}, {"$set": rare})


def make_hourly_sums(db: Database[Any], number: int, now: datetime, *, users: int, random: Random) -> None:
    """Make `number` combinations of user, model and upstream key in all, spread over the hours of 30 days."""
    histograms = [count(int(random.lognormvariate(8, 1)) for _ in range(5)) for _ in range(3000)]
    newest = now.replace(minute=0, second=0, microsecond=0)
    sums = (
        {
            "hour": newest - timedelta(hours=place % HOURS),
            "model": f"model-{random.randrange(20)}",
            "userId": user_name(user := random.randrange(users)),
            "userKeyId": f"wk_{user:040x}",
            "factoryKeyId": f"pool-{random.randrange(5)}",
            "requests": 5,
            "success": 5,
            "inputTokens": 5000,
            "outputTokens": 700,
            "costNanoUsd": Int64(12_345_678),
            "latencyCount": 5,
            "latencySumMs": 20_000,
            "latency": random.choice(histograms),
        }
        for place in range(number)
    )
    for batch in _batches(sums):
        db["request_rollups"].insert_many(batch, ordered=False)


def make_indexes(db: Database[Any]) -> None:
    """Make the product's indexes, after the documents: that is faster."""
    ensure_indexes(db, 0)
    RequestLogStore(db).ensure_indexes()
    StatsStore(db).ensure_indexes()
    KeyStateStore(db).ensure_indexes()


def make_summaries(db: Database[Any]) -> None:
    """Make the summaries of all hours that are over: else workers would, while something else is measured."""
    maker = SummaryMaker(db)
    while maker.step(datetime.now(UTC)):
        pass


def fill(db: Database[Any], size: int, say: Callable[[str], None], users: int | None = None) -> None:
    """Make `size` records, a fifth as many hourly sums, and `users` (else as many) with a client key each.

    If all are there, what was booked after the filling goes: the size is the same at every start.
    """
    mark = db["bench"].find_one({"_id": "filled"})
    if mark is not None:
        for name, field in (("request_logs", "createdAt"), ("request_rollups", "hour")):
            db[name].delete_many({field: {"$gt": mark["at"]}})
        make_summaries(db)
        return
    users = users or size
    now, random = datetime.now(UTC).replace(microsecond=0), Random(1)
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("users and client keys", lambda: make_users(db, users, now)),
        ("records", lambda: make_records(db, size, now, users=users, random=random)),
        ("hourly sums", lambda: make_hourly_sums(db, size // 5, now, users=users, random=random)),
        ("indexes", lambda: make_indexes(db)),
        ("summaries", lambda: make_summaries(db)),
    )
    for what, make in steps:
        say(f"{size:,}: {what}")
        make()
    db["bench"].insert_one({"_id": "filled", "at": now})


def _kind(number: int, users: int, random: Random) -> Document:
    user, is_ok = random.randrange(users), random.random() < 0.97
    return {
        "userId": user_name(user),
        "userKeyId": f"wk_{user:040x}",
        "factoryKeyId": f"pool-{random.randrange(5)}",
        "model": f"model-{random.randrange(20)}",
        "apiFormat": "openai" if number % 500 else "anthropic",
        "inputTokens": random.randrange(9000),
        "outputTokens": random.randrange(900),
        "tokensUsed": 1000,
        "costNanoUsd": random.randrange(10**9),
        "statusCode": 200 if is_ok else random.choice((402, 429, 500, 502)),
        "isSuccess": is_ok,
        "outcome": "ok" if is_ok else random.choice(("rejected", "upstream_error")),
        "errorType": None if is_ok else "rate_limit_error",
        "latencyMs": random.randrange(9000),
        "attempts": [{"factoryKeyId": "pool-1", "statusCode": 200, "latencyMs": 55}],
        "usageRaw": {"prompt_tokens": 812, "completion_tokens": 97, "total_tokens": 909},
    }


def _multiply(
    db: Database[Any], kinds: list[Document], number: int, into: str, steps: list[Document]
) -> None:
    """Have the server write `number` documents made of these kinds in turn, with their `place` from 0 on."""
    db["kinds"].drop()
    db["kinds"].insert_many({**kind, "_id": place} for place, kind in enumerate(kinds))
    place = {"$add": [{"$multiply": ["$place", len(kinds)]}, "$_id"]}
    db["kinds"].aggregate(
        [
            {"$addFields": {"place": {"$range": [0, -(-number // len(kinds))]}}},
            {"$unwind": "$place"},
            {"$addFields": {"place": place}},
            {"$match": {"place": {"$lt": number}}},
            *steps,
            {"$out": into},
        ],
        allowDiskUse=True,
    )
    db["kinds"].drop()


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _BATCH)):
        yield batch
