"""Keys that die under hundreds of requests at once, on two hosts with four workers each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent

from drill.load import Load
from drill.mix import CHAT, MESSAGES, Caller, make_request
from drill.processes import Weir
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending
from simulator import Script, Wait
from simulator.launcher import PATIENCE_S, wait_until

_WORKERS = 4
_AT_ONCE = 200
_SPARES = 5
_KEYS = {f"main-{number}": f"sk-drill-main-{number:04}" for number in range(6)}
_WAVES = (["main-0"], ["main-1", "main-2"])
_DEATHS = {"main-0": "exhausted", "main-1": "exhausted", "main-2": "error"}
_REFUSALS = {
    "exhausted": (402, b'{"error":{"type":"insufficient_balance_error","message":"balance too low"}}'),
    "error": (403, b'{"error":{"type":"account_disabled","message":"no"}}'),
}
# Time in which a backup key too many would be used.
_AFTERMATH_S = 3.0


def spare_keys(drill: Drill) -> Findings:
    """Let keys die: exactly one backup key is used for each, and no request fails."""
    findings = Findings("spare-keys")
    shared: dict[str, Any] = {
        "OHMYGPT_API_KEYS": "",
        "SECRET_KEY": "drill-secret-of-both-hosts",
        "WEB_CONCURRENCY": str(_WORKERS),
        "UPSTREAM_MAX_ATTEMPTS": "6",
        "LOG_LEVEL": "error",
    }
    with drill.stage("spare-keys", users=1, is_started=False, **shared) as stage:
        stage.import_keys("keys", _KEYS)
        stage.import_keys("backup-keys", {f"spare-{n}": f"sk-drill-spare-{n:04}" for n in range(_SPARES)})
        # Most of the first burst goes to the key that dies.
        stage.database["ohmygpt_keys"].update_one({"_id": "main-0"}, {"$set": {"weight": 10}})
        dead: list[str] = []
        with _second_host(drill, stage) as second:
            loads = (stage.load, Load(second.port))
            for wave in _WAVES[: 1 if drill.level.name == "short" else None]:
                dead += wave
                _let_die(stage, loads, wave, len(dead))
                _check_pool(stage, dead, findings)
        stage.load.calls += loads[1].calls
        failures = Counter(
            entry["key"] for entry in stage.upstream.collect() if entry["status"] in (402, 403)
        )
        findings.figures["failures at once"] = {key_id: failures[_KEYS[key_id]] for key_id in dead}
        findings.expect(failures[_KEYS["main-0"]] >= _AT_ONCE, f"only {failures} failures")
        stage.close_books(findings)
        for call in stage.load.calls:
            is_good = call.status == 200 and call.ending is Ending.WHOLE
            findings.expect(is_good, f"{call.request_id}: {call.status}, {call.ending.value}")
        findings.figures["keys that died, backup keys used"] = (len(dead), len(_used(stage)))
    return findings


@contextmanager
def _second_host(drill: Drill, stage: Stage) -> Iterator[Weir]:
    """Run a gunicorn of its own with data of its own, beside the same database."""
    directory = drill.directory / "spare-keys" / "second-host"
    directory.mkdir()
    own = ("PORT", "DATA_DIR")
    shared = {name: value for name, value in stage.weir.environment.items() if name not in own}
    with Weir(directory, drill.upstream.url, shared) as second:
        starting = [gevent.spawn(weir.start) for weir in (stage.weir, second)]
        gevent.joinall(starting, raise_error=True)
        yield second


def _let_die(stage: Stage, loads: Sequence[Load], wave: Sequence[str], dead: int) -> None:
    """Have these keys die under a burst; returns when as many backup keys are used, and some time later."""
    gate = f"burst-{dead}"
    for key_id in wave:
        status, body = _REFUSALS[_DEATHS[key_id]]
        script = Script.body(body, status=status)
        held = stage.upstream.script(key_id, Script((Wait(gate), *script.steps)))
        stage.upstream.key(_KEYS[key_id], f"play:{held}")
    burst = gevent.spawn(_burst, stage.callers, loads, f"chunks=3,out=9,hold={gate}")
    try:
        # No answer begins before all requests of the burst are on their way.
        stage.upstream.wait_gate(gate, len(loads) * _AT_ONCE)
    finally:
        stage.upstream.open_gate(gate)
    burst.get()
    # They are used at most once in ten seconds.
    wait_until(lambda: len(_used(stage)) >= dead, PATIENCE_S, f"{dead} backup keys")
    stage.console.say(f"spare-keys: {', '.join(wave)} dead and replaced")
    gevent.sleep(_AFTERMATH_S)
    _burst(stage.callers, loads, "out=9")


def _burst(callers: Sequence[Caller], loads: Sequence[Load], play: str) -> None:
    """Send `play` on each host at the same moment, of several clients: one alone bans no key."""
    requests = [
        (load, make_request(callers[n // 2 % 2], (CHAT, MESSAGES)[n % 2], play, is_stream=n % 3 > 0))
        for load in loads
        for n in range(_AT_ONCE)
    ]
    asked = [gevent.spawn(load.send, request) for load, request in requests]
    gevent.joinall(asked, raise_error=True)


def _used(stage: Stage) -> list[dict[str, Any]]:
    return list(stage.database["ohmygpt_backup_keys"].find({"isUsed": True}))


def _check_pool(stage: Stage, dead: Sequence[str], findings: Findings) -> None:
    """Check that each dead key is kept, with the one backup key that took its place; all others are good."""
    used = {spare["usedFor"]: spare["_id"] for spare in _used(stage)}
    findings.expect(
        len(_used(stage)) == len(dead), f"{len(_used(stage))} backup keys for {len(dead)} dead ones"
    )
    findings.expect(
        sorted(used) == sorted(dead), f"backup keys were used for {sorted(used)}, dead are {dead}"
    )
    keys = {key["_id"]: key for key in stage.database["ohmygpt_keys"].find()}
    findings.expect(keys.keys() == _KEYS.keys() | set(used.values()), f"the pool is {sorted(keys)}")
    for key_id in dead:
        key = keys.get(key_id, {})
        found = (key.get("status"), key.get("replacedBy"))
        findings.expect(found == (_DEATHS[key_id], used.get(key_id)), f"{key_id} is kept as {found}")
    for key_id in keys.keys() - set(dead):
        findings.expect(keys[key_id]["status"] == "healthy", f"{key_id} is {keys[key_id]['status']}")
