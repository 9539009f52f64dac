"""Every kind of hostile client beside ordinary traffic: what the honest felt, and what the others got."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gevent

from app.credit.credit_policy import AMPLE_FACTOR
from drill.attacks import ADMIN_TOKEN, ECHOES, KINDS, NO_END, WORDS, Cast, keys_of, status_of
from drill.books import Audit, check_credits, read_records, requests_of
from drill.hostile import Attack, Haul
from drill.latency import Latency
from drill.mix import CHAT, Caller, make_request
from drill.prices import cost_nano, recorded_tokens
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending, ask
from simulator import Data, Head, Script, Stall, Tokens
from simulator.launcher import ProcessTrouble

_RATE = 20.0
_WORKERS = 2
# Beside one kind of attack the p99 of the honest may grow by this factor, or by these milliseconds if that is
# more; what docs/hardening.md aims at is less.
_FACTOR, _FLOOR_MS = 3.0, 150.0
_END_S = 90.0
_REVOKED_S = 10.0


def attacks(drill: Drill) -> Findings:
    """Play attacks beside honest users.

    The honest are served and charged as ever, and nobody has answers or money that are not theirs.
    The short level plays all kinds at once; the others play each by itself first, and say whose attack is
    felt how much.
    """
    findings = Findings("attacks")
    environment: dict[str, Any] = {
        "WEB_CONCURRENCY": str(_WORKERS),
        "LOG_LEVEL": "error",
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "ABORT_DRAIN_S": "5",
        "REFUSAL_RECORDS_RPM": "60",
    }
    with drill.stage("attacks", **environment) as stage:
        honest = tuple(stage.callers)
        cast = _cast(stage)
        _teach(drill)
        workers = set(stage.weir.worker_pids())
        calm = _calm(stage, drill.level.calm_s)
        findings.figures["honest before: p50, p99 (ms)"] = (calm.p50, calm.p99)
        hauls: list[Haul] = []
        for names in (*((name,) for name in drill.level.attack_kinds), tuple(KINDS)):
            played, felt = _play(drill, stage, cast, names, findings)
            hauls += played
            label = names[0] if len(names) == 1 else "all at once"
            ratio = round(felt.p99 / calm.p99, 1) if calm.p99 else None
            findings.figures[f"honest beside {label}: p50, p99 (ms), ratio"] = (felt.p50, felt.p99, ratio)
            drill.console.say(f"attacks: {label}: p99 {felt.p99} ms, {calm.p99} ms before")
            if len(names) == 1:
                bound = max(_FACTOR * calm.p99, calm.p99 + _FLOOR_MS)
                findings.expect(felt.p99 <= bound, f"{label}: p99 {felt.p99} ms, {calm.p99} ms before")
            stage.upstream.collect()
        for haul in hauls:
            _show(findings, haul)
        _check_revoked(findings, stage, cast)
        died = workers - set(stage.weir.worker_pids())
        findings.expect(not died, f"workers died: {died}")
        _close_books(findings, stage, honest, cast, hauls)
    return findings


def _cast(stage: Stage) -> Cast:
    """Make the users of the attackers."""
    wanted = {
        "rich": ("1000",),
        "pauper": ("0.000001",),
        "limited": ("1", "--rpm", "5"),
        "poor-chat": ("1",),
        "poor-messages": ("0.2",),
        "leaver": ("100",),
        "leaked": ("100",),
    }
    made = {name: gevent.spawn(stage.add_user, name, *terms) for name, terms in wanted.items()}
    gevent.joinall(made.values(), raise_error=True)
    rich, pauper, limited, chat, messages, leaver, leaked = (greenlet.get() for greenlet in made.values())

    def revoke() -> None:
        status, output = stage.weir.flask("client-keys", "revoke", leaked.key_id)
        if status:
            raise ProcessTrouble(f"weir client-keys revoke: {output}")

    return Cast(rich, pauper, limited, (chat, messages), leaver, leaked, revoke)


def _teach(drill: Drill) -> None:
    """Tell the upstream the answers that some kinds ask for."""
    chunk = b'data: {"id":"a","model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n'
    stream = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
    tokens = Tokens(fresh=9, output=1)
    drill.upstream.script(
        NO_END, Script.of(stream, Data(chunk), Data(usage + b"data: [DONE]\n\n"), Stall(), tokens=tokens)
    )
    for name in ECHOES:
        status = int(name[-3:])
        error = {"message": f"The user {WORDS} may not do this", "type": "invalid_request_error"}
        drill.upstream.script(name, Script.body(json.dumps({"error": error}).encode(), status=status))


def _calm(stage: Stage, seconds: float) -> Latency:
    began = time.monotonic()
    with stage.load.steadily(_RATE, stage.mix.steady):
        gevent.sleep(seconds)
    return Latency.of(stage.load.calls, began, began + seconds)


def _play(
    drill: Drill, stage: Stage, cast: Cast, names: Iterable[str], findings: Findings
) -> tuple[list[Haul], Latency]:
    """Play these kinds at once beside the honest: what each got, and what the honest felt meanwhile."""
    hauls = [Haul(name) for name in names]
    began = time.monotonic()
    until = began + drill.level.attack_s
    with stage.load.steadily(_RATE, stage.mix.steady), _owner(stage, findings):
        clients = [
            gevent.spawn(client)
            for haul in hauls
            for client in KINDS[haul.name](Attack(stage.weir.port, drill.random, until, haul), cast)
        ]
        try:
            gevent.joinall(clients, timeout=until - began + _END_S, raise_error=True)
            left = sum(not client.dead for client in clients)
            findings.expect(not left, f"{left} attackers still wait for answers")
        finally:
            gevent.killall(clients)
    return hauls, Latency.of(stage.load.calls, began, until)


@contextmanager
def _owner(stage: Stage, findings: Findings) -> Iterator[None]:
    """Have the operator look after their proxy all the while."""
    is_over = False

    def look() -> None:
        while not is_over:
            findings.expect(status_of(stage.weir.port, "/keys/status") == 200, "the operator was kept out")
            findings.expect(status_of(stage.weir.port, "/health") == 200, "/health did not answer")
            gevent.sleep(1.0)

    looking = gevent.spawn(look)
    try:
        yield
    finally:
        is_over = True
        looking.join()
    looking.get()


def _show(findings: Findings, haul: Haul) -> None:
    """Add what a kind got to what is printed; a kind that was played twice has it together."""
    name = f"{haul.name}: tried, dropped, by status, whole answers"
    tried, dropped, statuses, whole = findings.figures.get(name, (0, 0, {}, 0))
    for status, count in haul.statuses.items():
        statuses[status] = statuses.get(status, 0) + count
    findings.figures[name] = (
        tried + haul.tried,
        dropped + haul.dropped,
        dict(sorted(statuses.items())),
        whole + len(haul.answers),
    )
    findings.expect(haul.tried, f"{haul.name}: nothing was tried")


def _check_revoked(findings: Findings, stage: Stage, cast: Cast) -> None:
    """Check that a revoked key is refused by every worker."""
    findings.expect(cast.revoked_at is not None, "the key was not revoked")

    def statuses() -> set[int]:
        request = make_request(cast.leaked, CHAT, "out=5", is_stream=False)
        return {ask(stage.weir.port, request).status for _ in range(8)}

    gevent.sleep(max(0.0, (cast.revoked_at or 0.0) + _REVOKED_S - time.monotonic()))
    told = statuses()
    findings.expect(told == {401}, f"a key revoked {_REVOKED_S:.0f} s ago is answered {sorted(told)}")


def _close_books(
    findings: Findings, stage: Stage, honest: tuple[Caller, ...], cast: Cast, hauls: Sequence[Haul]
) -> None:
    """Compare the honest users one by one, and the others by what they got and what they paid."""
    findings.figures["settled after, s"] = round(stage.wait_settled(), 1)
    stage.verify(findings)
    pool = keys_of(stage.weir.port)
    findings.expect(not (pool["error"] or pool["exhausted"]), f"upstream keys were lost: {pool}")
    stage.weir.stop()  # which books what workers have only summed up so far
    findings.expect(stage.is_settled(), f"something is left in the journal: {stage.slots()}")
    records, entries = read_records(stage.database), stage.upstream.collect()
    calls, names = stage.load.calls, {caller.name for caller in honest}
    hurt = [call for call in calls if call.ending is not Ending.WHOLE or call.status != 200]
    findings.expect(not hurt, f"{len(hurt)} honest answers suffered: {dict(stage.load.endings())}")
    sent = {call.sha256 for call in calls}
    theirs = {_id: record for _id, record in records.items() if record["userId"] in names}
    Audit(findings, calls, [entry for entry in entries if entry["body_sha256"] in sent], theirs).run()
    check_credits(findings, stage.database, (*honest, *cast.users), records)
    others = {_id: record for _id, record in records.items() if record["userId"] not in names}
    _check_answers(findings, others, hauls)
    rest = [entry for entry in entries if entry["body_sha256"] not in sent]
    _check_charges(findings, others, rest)
    _check_money(findings, others, rest, cast)


def _check_answers(findings: Findings, records: Mapping[str, Any], hauls: Sequence[Haul]) -> None:
    """Check that each whole answer was paid for, and each refusal is on record, alone or with others."""
    for haul in hauls:
        nowhere = [_id for _id in haul.answers if _id not in records]
        findings.expect(not nowhere, f"{haul.name}: {len(nowhere)} whole answers have no record")
        free = [_id for _id in haul.answers if _id in records and not records[_id]["costNanoUsd"]]
        findings.expect(not free, f"{haul.name}: {len(free)} whole answers cost nothing, {free[:3]}")
        findings.expect(not haul.leaks, f"{haul.name}: {haul.leaks} answers told an upstream key")
    rejected = [record for record in records.values() if record["outcome"] == "rejected"]
    counted = sum(map(requests_of, rejected))
    answered = sum(
        count
        for haul in hauls
        if haul.name == "refused requests"
        for status, count in haul.statuses.items()
        if status not in (200, 401)
    )
    findings.expect(counted >= answered, f"{answered} refusals, {counted} are on record")
    findings.figures["refusals on record, and records of them"] = (counted, len(rejected))


def _check_charges(
    findings: Findings, records: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> None:
    """Check that what the upstream told of a whole answer is what was charged."""
    known = {entry["request_id"]: entry for entry in entries}
    wrong = 0
    for record in records.values():
        entry = known.get(record.get("upstreamRequestId") or "")
        if entry is not None and record["outcome"] == "ok" and record["usageSource"] == "upstream":
            wrong += recorded_tokens(record) != entry["announced"]
    findings.expect(not wrong, f"{wrong} records of attackers differ from what the upstream told")
    told = sum(cost_nano(entry["model"], entry["announced"]) for entry in entries if entry["announced"])
    charged = sum(record["costNanoUsd"] for record in records.values())
    findings.figures["attackers: told by the upstream, charged (nano-dollars)"] = (told, charged)


def _check_money(
    findings: Findings, records: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], cast: Cast
) -> None:
    """Check that nobody overspends but for the policy's part and one answer, and leaving costs something."""
    for caller in cast.poor:
        costs = [record["costNanoUsd"] for record in records.values() if record["userId"] == caller.name]
        granted = caller.granted_nano or 0
        spent, bound = sum(costs), _WORKERS * granted // AMPLE_FACTOR + max(costs, default=0)
        beyond = max(0, spent - granted)
        findings.expect(beyond <= bound, f"{caller.name} spent {beyond} beyond {granted}, bound {bound}")
        findings.figures[f"{caller.name}: granted, spent, beyond (nano-dollars)"] = (granted, spent, beyond)
    asked = sum(entry["body_sha256"] in cast.left for entry in entries)
    leavers = [record for record in records.values() if record["userId"] == cast.leaver.name]
    paid = sum(record["costNanoUsd"] > 0 for record in leavers)
    findings.expect(asked, "the upstream was asked for nothing that was left before the first byte")
    findings.expect(paid >= asked, f"of {asked} requests left before the first byte {paid} cost something")
    findings.figures["left before the first byte, paid"] = (asked, paid)
