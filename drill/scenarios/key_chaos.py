"""Upstream keys that fail in every way and at random, while one of them is always good.

One of the clients sends only what the upstream refuses for its content, its size or its model, to every key.
That must cost nobody else a request.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import gevent

from app.keys.key_state_store import KeyEvent, KeyStateStore, env_store_id
from app.keys.key_states import KeyStatus, Policy, reset
from app.keys.upstream_outcome import FAILURE_REASONS
from drill.load import Call
from drill.mix import CHAT, MESSAGES, Caller, Mix, Request, make_request
from drill.report import Console, Findings
from drill.stage import Drill, Stage
from drill.stillness import Stillness
from drill.wire import Ending

Document = dict[str, Any]

# By then every worker has to leave a key alone that any of them was told to leave alone.
PROPAGATION_S = 2.0

_WORKERS = 4
_KEYS = 5
_COOLDOWN_S = 4
_BOOKS_S = 5.0
# What was sent so shortly before an operator's reset may be answered, and believed, after it.
_RESET_S = 1.0
_MOST_EVENTS = 1_000_000

_NUISANCES = ("flagged", "over_limit", "model_busy", "403", "500", "reset_early", "html_524")
_NUISANCE_RATE = 10.0
_TROUBLE = (
    *(f"limited:{_COOLDOWN_S}",) * 8,
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
)


def key_chaos(drill: Drill) -> Findings:
    """Break keys: no request fails, no key is asked while it cools down, records name the keys asked."""
    findings = Findings("key-chaos")
    secrets = {f"env-{number}": f"sk-drill-chaos-{number:04}" for number in range(1, _KEYS + 1)}
    with drill.stage(
        "key-chaos",
        WEB_CONCURRENCY=str(_WORKERS),
        OHMYGPT_API_KEYS=",".join(secrets.values()),
        UPSTREAM_MAX_ATTEMPTS=str(_KEYS),
        LOG_LEVEL="error",
        # The default promises two seconds and leaves a busy machine nothing to spare. The short level is run
        # beside other tests, so there half the interval has to keep the whole promise.
        KEY_SYNC_MS="500" if drill.level.name == "short" else "1000",
    ) as stage:
        chaos = _Chaos(stage, secrets, drill.random, drill.level.chaos_s)
        stillness = Stillness.of(stage.database, stage.weir.worker_pids())
        try:
            nuisance = stage.callers.pop()
            innocent = Mix(stage.callers, drill.random)
            with (
                stillness.watched(),
                stage.load.steadily(drill.level.rate, innocent.steady),
                stage.load.steadily(_NUISANCE_RATE, lambda: _nuisance(nuisance, drill.random)),
            ):
                chaos.run(drill.console)
        finally:
            stage.upstream.keys(dict.fromkeys(secrets.values(), "ok"))
        stage.close_books(findings)
        refused = Counter(call.status for call in stage.load.calls if call.caller is nuisance)
        findings.expect(not {200, 401, 402} & refused.keys(), f"the nuisance was answered {dict(refused)}")
        for call in stage.load.calls:
            is_good = call.caller is nuisance or (call.status == 200 and call.ending is Ending.WHOLE)
            findings.expect(is_good, f"{call.request_id}: {call.status}, {call.ending.value}")
        entries = stage.upstream.collect()
        records = {record["_id"]: record for record in stage.database["request_logs"].find()}
        # Connections that the nuisance had reset are found dead, which gives their key a second try.
        innocents = [call for call in stage.load.calls if call.caller is not nuisance]
        check_keys(findings, innocents, entries, records, secrets)
        names = {secret: key_id for key_id, secret in secrets.items()}
        # The nuisance comes to keys that others had to leave as a last resort: it may be to blame itself.
        senders = {call.sha256: call.caller.name for call in innocents}
        theirs = [
            entry | {"sender": senders[entry["body_sha256"]]}
            for entry in entries
            if entry["body_sha256"] in senders
        ]
        events = KeyStateStore(stage.database).events_since(chaos.began, _MOST_EVENTS)
        check_cooldowns(findings, theirs, names, chaos.resets, events, stillness)
    findings.figures["the machine stood still for, s"] = round(sum(b - a for a, b in stillness.spans), 1)
    findings.figures["requests/s"] = round(findings.requests / drill.level.chaos_s, 1)
    findings.figures["left out, too many in flight"] = stage.load.overrun
    findings.figures["states changed"] = chaos.changes
    findings.figures["refused to the nuisance"] = dict(refused)
    return findings


def _nuisance(caller: Caller, random: Random) -> Request:
    path = random.choice((CHAT, MESSAGES))
    return make_request(caller, path, f"fault={random.choice(_NUISANCES)}", is_stream=False)


@dataclass
class _Chaos:
    """Changes the states of all keys but the good one and the next good one, and speaks for the operator."""

    stage: Stage
    secrets: Mapping[str, str]
    random: Random
    seconds: float
    resets: list[tuple[str, float]] = field(default_factory=list)
    changes: int = 0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def run(self, console: Console) -> None:
        """Go on until the time is over; the good key changes every sixth part of it."""
        names = sorted(self.secrets)
        began = collected = time.monotonic()
        turn_s = max(3.0, self.seconds / 6)
        turn = 0
        while (passed := time.monotonic() - began) < self.seconds:
            if passed > (turn + 1) * turn_s:
                # The next good key has been good, and known to be so, for a while.
                turn += 1
                self._forgive(names[(turn + 1) % len(names)], is_urgent=True)
            spared = {names[turn % len(names)], names[(turn + 1) % len(names)]}
            key_id = self.random.choice(sorted(self.secrets.keys() - spared))
            if self.random.random() < 0.4:
                self._forgive(key_id)
            else:
                self.stage.upstream.key(self.secrets[key_id], self.random.choice(_TROUBLE))
            self.changes += 1
            gevent.sleep(self.random.uniform(0.1, 0.4))
            if time.monotonic() - collected > _BOOKS_S:
                collected = time.monotonic()
                self.stage.upstream.collect()
                console.say(f"key-chaos: {len(self.stage.load)} requests, {self.changes} changes")

    def _forgive(self, key_id: str, *, is_urgent: bool = False) -> None:
        """Make the key good again, and say so as an operator does (`weir keys reset`).

        Unless it is urgent, leave alone what comes back by itself in seconds.
        """
        secret = self.secrets[key_id]
        self.stage.upstream.key(secret, "ok")
        states = KeyStateStore(self.stage.database)
        store_id, now = env_store_id(secret), datetime.now(UTC)
        found = states.states([store_id], is_env=True).get(store_id)
        is_cooling = found is not None and (found.status, found.last_error) == ("rate_limited",) * 2
        if found is not None and (is_urgent or not is_cooling):
            state, _ = reset(found.restore(now, now, Policy()), now)
            self.resets.append((key_id, now.timestamp()))
            states.put(store_id, key_id, state, is_env=True)


def check_keys(
    findings: Findings,
    calls: Iterable[Call],
    entries: Iterable[Mapping[str, Any]],
    records: Mapping[str, Document],
    secrets: Mapping[str, str],
) -> None:
    """Check that every attempt was made with the key its record names, and no key was tried twice."""
    asked: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        asked[entry["body_sha256"]].append(entry["key"])
    tries = 0
    for call in calls:
        record = records.get(call.request_id or "")
        if record is None:
            continue  # the books have said so
        tried = [attempt["factoryKeyId"] for attempt in record["attempts"]]
        tries += len(tried)
        seen = asked[call.sha256]
        findings.expect(
            [secrets[key_id] for key_id in tried] == seen,
            f"{call.request_id}: {tried}, the upstream saw {seen}",
        )
        findings.expect(record["factoryKeyId"] == tried[-1], f"{call.request_id}: {record['factoryKeyId']}")
        findings.expect(len(set(tried)) == len(tried), f"{call.request_id}: {tried}")
    findings.figures["attempts"] = tries


def check_cooldowns(
    findings: Findings,
    entries: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    resets: Iterable[tuple[str, float]],
    events: Iterable[KeyEvent],
    stillness: Stillness,
) -> None:
    """Check that no key is asked from `PROPAGATION_S` after a 429 until the cooldown it asked for is over.

    While the machine or a worker stands still nobody hears of anything, so that is as much time more.
    By the upstream's own clock and books; a reset, by an operator or a probe, ends a cooldown. What only one
    client has met leaves the key a last resort for the others, so it takes a second client's 429 within the
    first one's cooldown. What was ejected, or banned on the word of clients, is a last resort until a reset.
    """
    asked: dict[str, list[float]] = defaultdict(list)
    met: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for entry in entries:
        asked[names[entry["key"]]].append(entry["began"])
        if entry["status"] == 429 and not entry["fault"]:
            met[names[entry["key"]]].append((entry["ended"], entry["sender"]))
    histories = {key_id: _History() for key_id in names.values()}
    for key_id, at in resets:
        histories[key_id].resets.append(at)
    for event in events:
        if event.to_status == KeyStatus.ERROR or event.why in FAILURE_REASONS:
            histories[event.key_id].ejections.append(event.at.timestamp())
        elif event.why == "probe":
            histories[event.key_id].resets.append(event.at.timestamp())
    cooldowns, slowest = 0, 0.0
    for key_id, moments in met.items():
        history = histories[key_id]
        for limited, sender in moments:
            end = limited + _COOLDOWN_S - 0.1
            is_agreed = any(
                limited - _COOLDOWN_S < other < limited
                and who != sender
                and not history.was_reset(other, end)
                for other, who in moments
            )
            if not is_agreed or history.was_ejected(limited, end):
                continue
            cooldowns += 1
            inside = [
                at - limited - stillness.between(limited, at) for at in asked[key_id] if limited < at < end
            ]
            slowest = max([slowest, *inside])
            late = [after for after in inside if after > PROPAGATION_S]
            findings.expect(not late, f"{key_id} was asked {late[:5]} s after it was limited")
    findings.expect(met, "no key was limited")
    findings.figures["limits watched to their end"] = cooldowns
    findings.figures["last request after a limit, s"] = round(slowest, 2)


@dataclass(slots=True)
class _History:
    """When a key was reset, and when it was ejected or banned, in seconds since 1970."""

    resets: list[float] = field(default_factory=list)
    ejections: list[float] = field(default_factory=list)

    def was_reset(self, start: float, end: float) -> bool:
        """Return whether a reset has ended what was met at `start`, before `end`."""
        return any(start - _RESET_S <= at <= end for at in self.resets)

    def was_ejected(self, start: float, end: float) -> bool:
        """Return whether the key was ejected or banned at some time between `start` and `end`."""
        return any(
            at <= end and not any(at < reset < start for reset in self.resets) for at in self.ejections
        )
