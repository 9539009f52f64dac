"""A database as the software before this one leaves it, made from a seed.

Money is doubles in USD, client keys are stored under themselves, upstream keys in plain text, records have no
`outcome`, no `requestId` and no exact cost; of the indexes there are few.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.database import Database

MODELS = ("claude-sonnet-4-5", "gpt-5", "gpt-5-mini")
UPSTREAM_KEYS = ("factory-1", "factory-2", "factory-3")


@dataclass(slots=True)
class EarlierDatabase:
    """What was put there, for comparing with what is there later."""

    db: Database[Any]
    now: datetime
    rng: random.Random
    client_keys: dict[str, str] = field(default_factory=dict)
    """Client keys in use, by the user's name."""
    account_keys: dict[str, str] = field(default_factory=dict)
    upstream_keys: dict[str, str] = field(default_factory=dict)
    dead_keys: list[str] = field(default_factory=list)
    """Revoked or expired client keys."""

    @classmethod
    def build(
        cls, db: Database[Any], now: datetime, *, records: int = 120, seed: int = 1
    ) -> "EarlierDatabase":
        """Users, keys of every kind, records of the last 50 days, and what is no affair of Weir."""
        made = cls(db, now, random.Random(seed))
        made._users()
        made._client_keys()
        made._upstream_keys()
        made._records(records)
        made._others()
        return made

    @property
    def secrets(self) -> list[str]:
        """Every key that is to be found nowhere in the clear after the migration."""
        return [*self.client_keys.values(), *self.dead_keys, *self.upstream_keys.values(), "proxy-password-1"]

    def _hex(self, length: int) -> str:
        return "".join(self.rng.choices("0123456789abcdef", k=length))

    def _users(self) -> None:
        for number in range(6):
            name, key = f"user{number}", f"sk-trollllm-{self._hex(64)}"
            self.account_keys[name] = key
            self.db["usersNew"].insert_one(
                {
                    "_id": name,
                    "passwordHash": self._hex(128),
                    "passwordSalt": self._hex(32),
                    "role": "admin" if number == 0 else "user",
                    "isActive": number != 5,
                    "createdAt": self.now - timedelta(days=90),
                    "apiKey": key,
                    "apiKeyCreatedAt": self.now - timedelta(days=90),
                    "credits": self.rng.uniform(0, 20),
                    "creditsUsed": self.rng.uniform(0, 100),
                    "creditsNew": float(number),
                    "creditsNewUsed": 0.1 + 0.2,
                    "tokensUserNew": 12.0,
                    "totalInputTokens": float(self.rng.randrange(10**6)),
                    "totalOutputTokens": float(self.rng.randrange(10**6)),
                    "expiresAt": None,
                    "referralCode": f"REF{number}",
                    "refCredits": self.rng.uniform(0, 2),
                    "referralBonusAwarded": False,
                    "migration": True,
                }
            )

    def _client_keys(self) -> None:
        for number in range(10):
            name = f"user{number % 5}"
            key = "sk-troll-" + "".join(
                self.rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789", k=24)
            )
            is_dead = number >= 8
            if is_dead:
                self.dead_keys.append(key)
            elif name not in self.client_keys:
                self.client_keys[name] = key
            else:
                self.client_keys[f"{name}/{number}"] = key
            self.db["user_keys"].insert_one(
                {
                    "_id": key,
                    "name": name,
                    "tier": "dev",
                    "tokensUsed": float(self.rng.randrange(10**6)),
                    "requestsCount": float(self.rng.randrange(1000)),
                    "isActive": number != 8,
                    "createdAt": self.now - timedelta(days=80),
                    "lastUsedAt": self.now - timedelta(hours=number),
                    "notes": f"key {number}",
                    **({"expiresAt": self.now - timedelta(days=1)} if number == 9 else {}),
                }
            )

    def _upstream_keys(self) -> None:
        for key_id in UPSTREAM_KEYS:
            self.upstream_keys[key_id] = f"sk-omg-{self._hex(40)}"
            self.db["ohmygpt_keys"].insert_one(
                {
                    "_id": key_id,
                    "apiKey": self.upstream_keys[key_id],
                    "status": "healthy",
                    "tokensUsed": 1e6,
                    "requestsCount": 5000.0,
                    "createdAt": self.now - timedelta(days=80),
                }
            )
        self.upstream_keys["backup-1"] = f"sk-omg-{self._hex(40)}"
        self.db["ohmygpt_backup_keys"].insert_one(
            {
                "_id": "backup-1",
                "apiKey": self.upstream_keys["backup-1"],
                "isUsed": False,
                "activated": False,
                "createdAt": self.now - timedelta(days=70),
            }
        )
        self.db["proxies"].insert_one(
            {
                "_id": "proxy-1",
                "name": "one",
                "type": "http",
                "host": "proxy.example.org",
                "port": 3128.0,
                "username": "weir",
                "password": "proxy-password-1",
                "status": "unknown",
                "failCount": 0.0,
                "isActive": True,
                "createdAt": self.now - timedelta(days=70),
            }
        )

    def record(self, created_at: datetime) -> dict[str, Any]:
        """One request as it was recorded."""
        rng = self.rng
        name = f"user{rng.randrange(5)}"
        is_success = rng.random() < 0.9
        keys = [key for owner, key in self.client_keys.items() if owner.startswith(name)]
        record: dict[str, Any] = {
            "_id": ObjectId(),
            "userId": name,
            "userKeyId": rng.choice([*keys, self.account_keys[name]]),
            "factoryKeyId": rng.choice(UPSTREAM_KEYS),
            "model": rng.choice(MODELS),
            "upstream": "ohmygpt",
            "inputTokens": float(rng.randrange(20_000)),
            "outputTokens": rng.randrange(5000) if is_success else 0,
            "cacheWriteTokens": rng.choice([0, rng.randrange(9000)]),
            "cacheHitTokens": float(rng.choice([0, rng.randrange(90_000)])),
            # No whole number of nano-dollars, as sums in binary come out; halves go to the even one.
            "creditsCost": rng.choice([rng.uniform(0, 0.5), rng.randrange(10**6) * 5e-10, 0, 0.1 + 0.2]),
            "creditType": rng.choice(["ohmygpt", "openhands"]),
            "tokensUsed": 100.0,
            "statusCode": 200 if is_success else rng.choice([400, 429, 499, 500, 502]),
            "latencyMs": rng.randrange(60_000),
            "isSuccess": is_success,
            "createdAt": created_at,
        }
        for name in rng.sample(["userId", "factoryKeyId", "model", "creditType"], k=rng.choice([0, 0, 0, 1])):
            del record[name]
        return record

    def _records(self, count: int) -> None:
        moments = [self.now - timedelta(days=50) * self.rng.random() ** 2 for _ in range(count)]
        # Many in one hour, on its edges too, and some of just now.
        hour = (self.now - timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
        moments += [hour, hour + timedelta(minutes=59, seconds=59, milliseconds=999), self.now] * 3
        self.db["request_logs"].insert_many([self.record(moment) for moment in moments])

    def _others(self) -> None:
        self.db["friend_keys"].insert_one(
            {
                "_id": f"sk-trollllm-friend-{self._hex(64)}",
                "ownerId": "user1",
                "isActive": True,
                "modelLimits": [{"modelId": "gpt-5", "limitUsd": 5.0, "usedUsd": 0.5, "enabled": True}],
                "totalUsedUsd": 0.5,
                "requestsCount": 3,
            }
        )
        self.db["creditsResetLogs"].insert_one(
            {"username": "user1", "creditsBefore": 1.5, "resetBy": "admin"}
        )
        self.db["request_logs"].create_index([("createdAt", -1)])
        self.db["usersNew"].create_index([("apiKey", 1)], unique=True, sparse=True)
