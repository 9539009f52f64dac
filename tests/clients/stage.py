"""A running Weir with the simulated upstream behind it, its users, and the books of both sides."""

import itertools
import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from prometheus_client.parser import text_string_to_metric_families

from app.shipped import shipped_file
from simulator.launcher import PATIENCE_S, Overdue, wait_until
from tests.clients.cases import Caller
from tests.support.lab import Lab
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

LIMIT_RPM = 3
"""Requests a minute of a user whose limit a client runs into: enough for what one run of any client sends."""

_ADMIN_TOKEN = "admin-token-of-the-clients"
_FILLER = "gpt-4o-mini"
"""What is asked for in a client's place; no client asks for it."""

_TOKENS = ("fresh", "cache_read", "cache_write_5m", "cache_write_1h", "output")
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Account:
    """Who a client is to Weir; `name` is None for a key that Weir does not know."""

    name: str | None
    key: str


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of a client, from its record."""

    endpoint: str
    status: int
    outcome: str
    forwarded: int


class Stage:
    """Weir and its upstream. `mark` before a client runs; `new_records` and `troubles` afterwards."""

    def __init__(self, weir: WeirProcess, upstream: UpstreamProcess) -> None:
        self.weir = weir
        self.upstream = upstream
        self.mark()

    @property
    def url(self) -> str:
        """Where Weir is."""
        return self.weir.url

    def account(self, caller: Caller) -> Account:
        """A new user of this kind, with a key."""
        if caller is Caller.UNKNOWN:
            return Account(None, "sk-weir-" + "0" * 40)
        name = f"client-{next(_names)}"
        body: dict[str, Any] = {"username": name, "credits": "0" if caller is Caller.BROKE else "50"}
        if caller is Caller.LIMITED:
            body["rpm"] = LIMIT_RPM
        made = json.loads(self._ask("/api/admin/users", body))
        return Account(name, made["apiKey"])

    def use_up(self, account: Account) -> None:
        """Send as many requests as the user may still send within this minute."""
        body = {"model": _FILLER, "messages": [{"role": "user", "content": "hello"}]}
        try:
            for _ in range(LIMIT_RPM):
                self._ask("/v1/chat/completions", body, token=account.key)
        except HTTPError as refused:
            if refused.code != 429:
                raise

    def is_refused(self, account: Account) -> bool:
        """Whether a request of the user's has met the limit since `mark`."""
        return any(record["statusCode"] == 429 for record in self.new_records(account))

    def unauthenticated(self) -> int:
        """How many requests without a known key there have been."""
        name = "weir_unauthenticated_requests"
        for family in text_string_to_metric_families(self._ask("/metrics")):
            if family.name == name:
                return int(sum(sample.value for sample in family.samples if sample.name == f"{name}_total"))
        return 0

    def mark(self) -> None:
        """Begin anew: what was before is no longer looked at."""
        self._lab = Lab(self.weir, self.upstream)

    def settle(self) -> None:
        """Wait until every request that the upstream has got is over, and its record is booked."""
        wait_until(
            lambda: all(entry["end"] != "open" for entry in self._lab.entries()),
            PATIENCE_S,
            "the upstream's end",
        )
        self._lab.fence()
        # The proxy may hear of an end later than the upstream, and book it after the fence.
        with suppress(Overdue):
            wait_until(lambda: self._attempts() >= len(self._lab.entries()), PATIENCE_S)

    def new_records(self, account: Account | None = None) -> list[dict[str, Any]]:
        """Records since `mark`, oldest first: of all, or what this user's client has sent."""
        records = [record for record in self._lab.new_records() if record["userKeyId"] != "env"]
        if account is None:
            return records
        own = (record for record in records if record["userId"] == account.name)
        return [record for record in own if _FILLER not in (record["model"], record.get("requestedModel"))]

    def troubles(self) -> Iterator[str]:
        """What the books of Weir and of the upstream disagree about since `mark`, in words."""
        attempts, records, entries = self._attempts(), self.new_records(), self._lab.entries()
        if attempts != len(entries):
            yield f"{attempts} attempts in the records, {len(entries)} requests upstream"
        charged = Counter(_charged(record) for record in records if record["usageSource"] == "upstream")
        spent = Counter(_spent(entry) for entry in entries if entry["end"] == "finished" and entry["spent"])
        if charged != spent:
            yield f"charged {dict(charged - spent)}, spent {dict(spent - charged)}"
        if errors := self.weir.log_messages("ERROR"):
            yield f"Weir has logged an error: {errors[-1]}"

    def _attempts(self) -> int:
        return sum(len(record["attempts"]) for record in self.new_records())

    def _ask(self, path: str, body: object = None, token: str = _ADMIN_TOKEN) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data, headers), timeout=PATIENCE_S
        ) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Start Weir with the model table it is shipped with, and its upstream; end both."""
    keys = ",".join(f"sk-upstream-clients-{number:04}" for number in range(4))
    with (
        UpstreamProcess() as upstream,
        WeirProcess(
            directory / "weir",
            upstream.url,
            OHMYGPT_API_KEYS=keys,
            MODELS_FILE=str(shipped_file("models.toml")),
            ADMIN_TOKEN=_ADMIN_TOKEN,
            RATE_LIMIT_RPM="2000",
            # Longer than it takes to open the gate: were the answer given up at that very moment, its rest
            # would have been sent and not read.
            ABORT_DRAIN_S="60",
        ) as weir,
    ):
        yield Stage(weir, upstream)


def sent(record: dict[str, Any]) -> Sent:
    """What a record says of the request."""
    return Sent(record["endpoint"], record["statusCode"], record["outcome"], len(record["attempts"]))


def _charged(record: dict[str, Any]) -> tuple[int, ...]:
    names = ("inputTokens", "cacheHitTokens", "cacheWriteTokens", "outputTokens")
    return tuple(int(record[name]) for name in names)


def _spent(entry: dict[str, Any]) -> tuple[int, ...]:
    fresh, read, write, write_1h, output = (entry["spent"][name] for name in _TOKENS)
    return (fresh, read, write + write_1h, output)
