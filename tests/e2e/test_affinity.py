"""Conversations over many upstream keys and two workers: what they cost, and where they go without their key.

The upstream keeps a cache of prompts for each key, as vendors do for each account.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from simulator.launcher import wait_until
from tests.support.lab import MESSAGES
from tests.support.raw_http import RawConnection
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

KEYS = [f"sk-upstream-affinity-{number:04}" for number in range(30)]
ALONE = "sk-upstream-alone"
TURNS = 16
MODEL = "claude-test"
PRICES = {"input_tokens": 3.0, "cache_read_input_tokens": 0.3, "cache_creation_input_tokens": 3.75}
OUTPUT_PRICE = 15.0
"""US dollars for a million tokens of this model in the table of the tests."""


@pytest.fixture(scope="module")
def weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    keys = {"OHMYGPT_API_KEYS": ",".join(KEYS), "WEB_CONCURRENCY": "2"}
    with WeirProcess(tmp_path_factory.mktemp("affinity"), upstream.url, **keys) as process:
        yield process


@pytest.fixture(autouse=True)
def caching(upstream: UpstreamProcess) -> Iterator[None]:
    upstream.behave(MODEL, "cache=300,out=40")
    yield
    upstream.reset(keep_scripts=True)


@dataclass
class Task:
    """What an agent does: it asks, is answered, looks something up and asks again, with all that was said."""

    goal: str
    ask: Callable[[bytes], dict[str, Any]]
    messages: list[dict[str, Any]] = field(default_factory=list)
    cost_usd: float = 0.0

    def turn(self) -> None:
        """Ask once, with what there is to be cached marked as SDKs mark it: the system prompt and the end."""
        if not self.messages:
            self.messages.append(said("user", f"{self.goal}: the tests of module {self.goal} fail. " * 10))
        last = self.messages[-1]
        marked = {**last, "content": [{**last["content"][0], "cache_control": {"type": "ephemeral"}}]}
        system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
        body = {
            "model": MODEL,
            "max_tokens": 100,
            "system": system,
            "messages": [*self.messages[:-1], marked],
        }
        usage = self.ask(compact(body))["usage"]
        self.cost_usd += sum(usage[name] * price for name, price in PRICES.items()) / 1e6
        self.cost_usd += usage["output_tokens"] * OUTPUT_PRICE / 1e6
        count = len(self.messages)
        self.messages.append(said("assistant", f"I look at file {count} of {self.goal}. " * 8))
        self.messages.append(said("user", f"Here is file {count} of {self.goal}: it has a fault. " * 40))


SYSTEM = "You are an agent that repairs programs. Look first, change little, run the tests.\n" * 150


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def asking(url: str, key: str) -> Callable[[bytes], dict[str, Any]]:
    """Ask there, on a new connection each time, so that it may be any worker's."""

    def ask(body: bytes) -> dict[str, Any]:
        with RawConnection(url) as connection:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request("POST", MESSAGES, headers, body)
            response = connection.read_response()
        assert response.status == 200, response.body
        answer: dict[str, Any] = json.loads(response.body)
        return answer

    return ask


def served_by(upstream: UpstreamProcess, since: int) -> list[str]:
    """The keys that served what was asked since then; other proxies of the tests may ask about theirs."""
    asked = (entry for entry in upstream.tally(since) if entry["method"] == "POST")
    return [entry["key"] for entry in asked if entry["status"] == 200]


def test_tasks_over_thirty_keys_cost_what_they_cost_with_one(
    weir: WeirProcess, upstream: UpstreamProcess
) -> None:
    alone = [Task(goal, asking(upstream.url, ALONE)) for goal in ("red", "green", "blue")]
    shared = [Task(task.goal, asking(weir.url, CLIENT_KEY)) for task in alone]
    for task in alone:
        for _ in range(TURNS):
            task.turn()
    before = upstream.last_seq()
    with ThreadPoolExecutor(len(shared)) as pool:
        list(pool.map(lambda task: [task.turn() for _ in range(TURNS)], shared))
    assert len(set(served_by(upstream, before))) <= len(shared)
    for one, many in zip(alone, shared, strict=True):
        assert many.messages == one.messages
    cost, wanted = sum(task.cost_usd for task in shared), sum(task.cost_usd for task in alone)
    assert wanted < cost + 1e-9
    assert cost <= 1.10 * wanted
    wait_until(lambda: weir.record_count() == len(shared) * TURNS, what="the records")
    booked = sum(record["costNanoUsd"] for record in weir.records())
    assert booked == pytest.approx(cost * 1e9, abs=len(shared) * TURNS)


def test_a_conversation_goes_on_without_its_key_and_returns_and_outlives_a_worker(
    weir: WeirProcess, upstream: UpstreamProcess
) -> None:
    task = Task("yellow", asking(weir.url, CLIENT_KEY))

    def key_of_a_turn() -> str:
        before = upstream.last_seq()
        task.turn()
        (key,) = served_by(upstream, before)
        return key

    def all_go_to(key: str) -> bool:
        return {key_of_a_turn() for _ in range(4)} == {key}

    first = key_of_a_turn()
    assert all_go_to(first)
    upstream.key(first, "limited:2")
    second = key_of_a_turn()
    assert second != first
    assert key_of_a_turn() == second, "all workers and attempts agree on the next one"
    upstream.key(first, "ok")
    # Workers read each other's states of the keys once a second: one may send it on while the other uses it
    # again.
    wait_until(lambda: all_go_to(first), what="its first key to come back")
    killed, _ = workers = weir.worker_pids()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(set(weir.worker_pids()) - {killed}) == len(workers), what="another worker")
    wait_until(lambda: all_go_to(first), what="both workers to use its first key")
