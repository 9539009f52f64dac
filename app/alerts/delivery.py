"""Hands an alert to its destinations, through a process that can be ended (`send.py`)."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from app.alerts.conditions import Alert

TIMEOUT_S: Final = 60.0
"""For all destinations together."""

_PROGRAM = Path(__file__).with_name("send.py")
_LONGEST_RESULT = 100


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of one destination; `problem` is None where the alert was taken."""

    number: int
    name: str
    problem: str | None


def destination_name(number: int, url: str) -> str:
    """Say which destination is meant: all of a URL but its scheme may be secret, the host included."""
    return f"{number + 1} ({urlsplit(url).scheme})"


def deliver(alert: Alert, urls: Sequence[str], numbers: Sequence[int]) -> list[Delivery]:
    """Send the alert to the destinations with these numbers, from 0; return what came of each.

    Takes `TIMEOUT_S` at most. With gevent's patches other greenlets go on meanwhile.
    """
    if not numbers:
        return []
    job = {"urls": [urls[number] for number in numbers], "title": alert.title, "body": alert.text}
    command = [sys.executable, "-I", str(_PROGRAM)]
    late = "it took longer than a minute"
    try:
        done = subprocess.run(  # noqa: S603  a program of ours, its input on standard input
            command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        output, missing = done.stdout, "apprise does not run here"
    except subprocess.TimeoutExpired as error:
        output, missing = error.stdout or b"", late
    except OSError as error:
        output, missing = b"", f"no process for it: {error.strerror}"
    said = output.decode(errors="replace").splitlines()
    results = [line[:_LONGEST_RESULT] for line in said] + [missing] * (len(numbers) - len(said))
    return [
        Delivery(number, destination_name(number, urls[number]), None if result == "sent" else result)
        for number, result in zip(numbers, results, strict=False)
    ]
