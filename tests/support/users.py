"""Users of a running instance, made with the command an operator uses."""

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass

from tests.support.processes import ROOT
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
    """`flask users add`, against the database of the running instance."""
    name = f"user-{next(_numbers)}"
    limit = [] if rpm is None else ["--rpm", str(rpm)]
    done = subprocess.run(
        [sys.executable, "-m", "flask", "users", "add", name, "--credits", credits, *limit, "--json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **weir.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    return User(made["username"], made["apiKey"], made["keyId"])
