"""Workers are killed while responses go on in the background: each is charged once, none is lost."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from simulator.launcher import wait_until
from tests.support.raw_http import RawConnection
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user, used_nano_usd
from tests.support.weir_process import WeirProcess

RESPONSES = "/v1/responses"
COST = 30 * 1_000 + 12 * 10_000
_KILLS = 4
_CLIENTS = 4


class Client:
    """Makes responses and asks about them again and again, whatever becomes of the proxy meanwhile."""

    def __init__(self, weir: WeirProcess, user: User, is_over: Event) -> None:
        self.weir, self.user, self.is_over = weir, user, is_over
        self.made: list[str] = []

    def run(self, number: int) -> list[str]:
        while not self.is_over.is_set():
            try:
                self.make(polls=number % 3)
                for object_id in self.made[-3:] * 2:
                    self.ask("GET", f"{RESPONSES}/{object_id}")
            except (OSError, ValueError, AssertionError):
                time.sleep(0.05)  # killed under it
        return self.made

    def make(self, polls: int) -> None:
        body = {"model": "gpt-test", "input": "x", "background": True, "metadata": {"polls": str(polls)}}
        status, answer = self.ask("POST", RESPONSES, compact(body))
        if status == 200:
            self.made.append(json.loads(answer)["id"])

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.user.key}", "Content-Type": "application/json"}
        with RawConnection(self.weir.url) as connection:
            connection.request(method, target, headers, body)
            response = connection.read_response()
        assert response.is_whole
        return response.status, response.body


def made_so_far(clients: list[Client]) -> int:
    return sum(len(client.made) for client in clients)


def pending_holds(weir: WeirProcess, user: User) -> list[str]:
    holds = weir.database["usersNew"].find_one({"_id": user.name}).get("holds", {})
    return [name for name in holds if name.startswith("pending-")]


def verified(weir: WeirProcess) -> dict[str, Any]:
    with RawConnection(weir.url) as connection:
        connection.request("GET", "/api/admin/verify", {"Authorization": f"Bearer {weir.admin_token}"})
        report: dict[str, Any] = json.loads(connection.read_response().body)
    return report


@pytest.mark.slow
def test_killed_workers_lose_no_charge_and_make_none_twice(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(tmp_path / "kills", upstream.url, WEB_CONCURRENCY="2", BACKGROUND_POLL_S="0.5") as weir:
        user, is_over = add_user(weir, credits="100"), Event()
        clients = [Client(weir, user, is_over) for _ in range(_CLIENTS)]
        with ThreadPoolExecutor(_CLIENTS) as threads:
            running = [threads.submit(client.run, number) for number, client in enumerate(clients)]
            for _ in range(_KILLS):
                made_before = made_so_far(clients)
                wait_until(lambda n=made_before: made_so_far(clients) > n + 1, what="work")  # type: ignore[misc]
                time.sleep(0.5)
                os.kill(weir.worker_pids()[0], signal.SIGKILL)
                wait_until(weir.is_up, what="the workers to be there again")
            is_over.set()
            made = [object_id for client in running for object_id in client.result(120)]
        assert len(made) > _KILLS
        objects, logs = weir.database["upstream_objects"], weir.database["request_logs"]
        settled = {"_id": {"$in": made}, "settledBy": {"$exists": True}}
        charges = {"settles": {"$exists": True}, "costNanoUsd": {"$gt": 0}}
        # A claim may be a killed worker's, whose record is booked by whoever adopts its journal; and so may
        # what it began be known only then.
        charged: list[str] = []

        def is_all_charged() -> bool:
            charged[:] = [record["settles"]["id"] for record in logs.find(charges)]
            is_pending = objects.count_documents({"state": "pending"})
            is_settled = not is_pending and objects.count_documents(settled) == len(made)
            return (
                is_settled and set(charged) >= set(made) and used_nano_usd(weir, user) == COST * len(charged)
            )

        wait_until(is_all_charged, what=f"{len(made)} responses to be settled and charged")
        assert len(charged) == len(set(charged)), "one was charged twice"
        assert set(logs.distinct("costNanoUsd", charges)) == {COST}
        wait_until(lambda: not pending_holds(weir, user), what="the holds to go")
        assert logs.count_documents({"costNanoUsd": {"$gt": 0}}) == len(charged)
        wait_until(lambda: verified(weir)["pendingCount"] == 0, what="all to be booked")
        report = verified(weir)
        assert report["consistent"], report
