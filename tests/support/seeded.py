"""A world in which there is some of everything, and every secret is known."""

from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database

from tests.support.admin_api import ENV_KEY, TOKEN, Admin

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

SECRETS = {
    "account": "sk-trollllm-" + "ab01" * 16,
    "client": "sk-troll-SECRETSECRETSECRETSECR",
    "upstream": "sk-upstream-SECRET-0123456789-abcdefghij",
    "plain upstream": "sk-plain-SECRET-0123456789-abcdefghijk",
    "backup": "sk-backup-SECRET-0123456789-abcdefghij",
    "proxy": "proxy-password-SECRET",
    "hash": "c0ffee" * 8,
    "salt": "5a17" * 8,
    "token": TOKEN,
    "env": ENV_KEY,
}


def seed(admin: Admin, database: Database[Any]) -> None:
    """Fill the database; everything has the id `x`, as far as ids can be chosen."""
    database.usersNew.insert_one(
        {
            "_id": "x",
            "apiKey": SECRETS["account"],
            "passwordHash": SECRETS["hash"],
            "passwordSalt": SECRETS["salt"],
            "credits": 5.0,
            "holds": {"r": {"nano": 1, "at": NOW}},
            "applied": {"w1": 7},
        }
    )
    database.user_keys.insert_one({"_id": SECRETS["client"], "name": "x"})
    database.ohmygpt_keys.insert_one({"_id": "plain", "apiKey": SECRETS["plain upstream"]})
    for path, body in (
        ("/ohmygpt/keys", {"id": "x", "apiKey": SECRETS["upstream"]}),
        ("/ohmygpt/backup-keys", {"id": "x", "apiKey": SECRETS["backup"]}),
        (
            "/proxies",
            {
                "id": "x",
                "type": "http",
                "host": "127.0.0.1",
                "port": 1,
                "username": "u",
                "password": SECRETS["proxy"],
            },
        ),
        ("/ohmygpt/bindings", {"proxyId": "x", "ohmygptKeyId": "x"}),
        ("/users/x/credits/add", {"amount": 1}),
    ):
        assert admin("POST", path, body).status_code < 300
    database.request_logs.insert_one(
        {"_id": "x", "userId": "x", "userKeyId": SECRETS["client"], "createdAt": NOW, "statusCode": 200}
    )
