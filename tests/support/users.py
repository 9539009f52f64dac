"""Users of a running instance."""

import itertools
import json
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from simulator.launcher import PATIENCE_S, wait_until
from tests.support.weir_process import WeirProcess

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class User:
    """A user with a client key; `key_id` is what records show of the key."""

    name: str
    key: str
    key_id: str


def used_nano_usd(weir: WeirProcess, user: User) -> int:
    """What the store says the user has spent, in nano-dollars."""
    document = weir.database["usersNew"].find_one({"_id": user.name}) or {}
    return round(float(document.get("creditsUsed", 0)) * 10**9)


def add_user(weir: WeirProcess, *, credits: str, rpm: int | None = None) -> User:
    """A new user, made by the admin API: a command costs as much CPU time as a start of the proxy.

    Where the database had no time to answer, another one is made.
    """
    answers: list[tuple[int, dict[str, Any]]] = []

    def is_answered() -> bool:
        answers.append(_try_to_add(weir, credits, rpm))
        return answers[-1][0] != 503

    wait_until(is_answered, what="a user")
    status, made = answers[-1]
    assert status == 201, made
    return User(made["username"], made["apiKey"], made["keyId"])


def _try_to_add(weir: WeirProcess, credits: str, rpm: int | None) -> tuple[int, dict[str, Any]]:
    wanted = {"username": f"user-{next(_numbers)}", "credits": credits, "rpm": rpm}
    with closing(HTTPConnection("127.0.0.1", weir.port, timeout=PATIENCE_S)) as connection:
        headers = {"Authorization": f"Bearer {weir.admin_token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/admin/users", json.dumps(wanted), headers)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
