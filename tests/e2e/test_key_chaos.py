"""Upstream keys that fail in every way and at random: as long as one is good, no client notices."""

import hashlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.adapters.mongo.key_states import KeyStateStore, env_store_id
from app.core.key_states import Policy, reset
from tests.support.lab import CHAT, MESSAGES, Lab
from tests.support.raw_http import RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

SECRETS = {f"env-{number}": f"sk-upstream-chaos-{number:04}" for number in range(1, 6)}
COOLDOWN_S = 4
PROPAGATION_S = 2.0
DURATION_S = 20.0
HANDOVER_S = 10.0
TROUBLE = [
    f"limited:{COOLDOWN_S}",
    f"limited:{COOLDOWN_S}",
    "exhausted",
    "bad",
    "banned",
    "status:500",
    "status:503",
    "flaky:0.5",
    "play:fault=no_answer",
    "play:fault=reset_early",
    "play:fault=html_502",
    "play:fault=insufficient_quota",
    "ok",
    "ok",
]


@dataclass
class Chaos:
    """Flips the states of all keys but the one that is good, and speaks for the operator."""

    weir: WeirProcess
    upstream: UpstreamProcess
    seed: int
    resets: list[tuple[str, datetime]] = field(default_factory=list)
    until: float = 0.0

    def run(self) -> None:
        rng, began = random.Random(self.seed), time.monotonic()
        good, coming = "env-1", "env-2"
        is_handed_over = False
        while (now := time.monotonic()) < self.until:
            spared = {good, coming}
            if now - began > HANDOVER_S and not is_handed_over:
                # From here on the second key is the good one: it was good, and known to be, for a while.
                is_handed_over = True
                good, coming = coming, "env-3"
                self.forgive(coming)
                spared = {good, coming}
            key_id = rng.choice(sorted(SECRETS.keys() - spared))
            if rng.random() < 0.4:
                self.forgive(key_id)
            else:
                self.upstream.key(SECRETS[key_id], rng.choice(TROUBLE))
            time.sleep(rng.uniform(0.1, 0.4))

    def forgive(self, key_id: str) -> None:
        """The key is good again, and an operator says so."""
        self.upstream.key(SECRETS[key_id], "ok")
        states = KeyStateStore(self.weir.database)
        store_id, now = env_store_id(SECRETS[key_id]), datetime.now(UTC)
        found = states.env_states([store_id]).get(store_id)
        if found is not None:
            state, _ = reset(found.restore(now, now, Policy()), now)
            self.resets.append((key_id, now))
            states.put(store_id, key_id, state, is_env=True)


@pytest.fixture
def chaotic(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """Two workers that exchange key states as often as they do by default."""
    with WeirProcess(
        tmp_path_factory.mktemp("chaos"),
        upstream.url,
        WEB_CONCURRENCY="2",
        OHMYGPT_API_KEYS=",".join(SECRETS.values()),
        UPSTREAM_MAX_ATTEMPTS=str(len(SECRETS)),
        KEY_SYNC_MS="1000",
    ) as weir:
        yield weir


@pytest.mark.slow
def test_no_request_fails_while_one_key_is_good(chaotic: WeirProcess, upstream: UpstreamProcess) -> None:
    lab = Lab(chaotic, upstream)
    chaos = Chaos(chaotic, upstream, seed=20261123, until=time.monotonic() + DURATION_S)
    flipping = threading.Thread(target=chaos.run)
    flipping.start()
    try:
        with ThreadPoolExecutor(4) as clients:
            results = list(clients.map(lambda n: _client(lab, n, chaos.until), range(4)))
    finally:
        flipping.join()
        for secret in SECRETS.values():
            upstream.key(secret, "ok")
    sent = [answer for part in results for answer in part]
    assert len(sent) > 50  # many more, unless the machine is busy
    failed = [(status, is_whole) for _, _, status, is_whole in sent if status != 200 or not is_whole]
    assert failed == []

    records = [chaotic.wait_record(request_id) for _, request_id, _, _ in sent]
    _check_keys(lab, sent, records)
    limited = _check_cooldowns(records, chaos.resets)
    troubled = [record for record in records if len(record["attempts"]) > 1]
    assert limited > 0
    assert len(troubled) > 5
    assert {record["outcome"] for record in records} == {"ok"}
    assert chaotic.log_messages("ERROR") == []


def _client(lab: Lab, number: int, until: float) -> list[tuple[str, str, int, bool]]:
    """Requests one after the other: (hash of the body as sent upstream, request id, status, whole or not)."""
    done = []
    turn = 0
    while time.monotonic() < until:
        turn += 1
        path = CHAT if turn % 2 else MESSAGES
        messages: list[dict[str, Any]] = [{"role": "user", "content": f"nonce {number}-{turn}"}]
        if turn % 3:
            body = lab.stream_body(path, "chunks=3,flush,delay_ms=5", messages=messages)
        else:
            body = lab.body(path, "first_ms=10", messages=messages)
        with RawConnection(lab.weir.url) as connection:
            connection.request("POST", path, lab.headers(), body)
            answer = connection.read_response()
        done.append((hashlib.sha256(body).hexdigest(), answer.request_id, answer.status, answer.is_whole))
        time.sleep(0.01)
    return done


def _check_keys(lab: Lab, sent: list[tuple[str, str, int, bool]], records: list[dict[str, Any]]) -> None:
    """Every attempt was made with the key that its record names."""
    seen: dict[str, list[str]] = defaultdict(list)
    for entry in lab.wait_entries(len(sent)):
        seen[entry["body_sha256"]].append(entry["key"])
    for (digest, _, _, _), record in zip(sent, records, strict=True):
        tried = [attempt["factoryKeyId"] for attempt in record["attempts"]]
        assert [SECRETS[key_id] for key_id in tried] == seen[digest]
        assert record["factoryKeyId"] == tried[-1]
        assert len(set(tried)) == len(tried)


def _check_cooldowns(records: list[dict[str, Any]], resets: list[tuple[str, datetime]]) -> int:
    """No key is asked again between the time by which all must know of its limit and the limit's end."""
    asked: dict[str, list[datetime]] = defaultdict(list)
    limits: list[tuple[str, datetime]] = []
    for record in records:
        moment = record["createdAt"] + timedelta(milliseconds=record["overheadMs"])
        for attempt in record["attempts"]:
            key_id = attempt["factoryKeyId"]
            asked[key_id].append(moment)
            moment += timedelta(milliseconds=attempt["latencyMs"])
            if attempt.get("error") == "rate_limit_exceeded":
                limits.append((key_id, moment))
    for key_id, moment in limits:
        begin, end = moment + timedelta(seconds=PROPAGATION_S), moment + timedelta(seconds=COOLDOWN_S - 0.1)
        if any(key == key_id and moment - timedelta(seconds=1) <= at <= end for key, at in resets):
            continue
        late = [at for at in asked[key_id] if begin < at < end]
        assert late == [], f"{key_id} was limited at {moment}"
    return len(limits)
