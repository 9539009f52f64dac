"""Limits of upstream keys, kept by four workers together under more load than the keys may take."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent

from drill.report import Findings
from drill.stage import Drill
from drill.wire import Ending
from simulator import Script, Sleep

_WORKERS = 4
_CLIENTS = 24
_AT_ONCE = 5
_PER_MINUTE = 40
_SECRETS = {name: f"sk-drill-limit-{name}" for name in ("at-once", "per-minute", "spent", "free")}
# A minute between two requests may be a little less by the time they arrive.
_MINUTE_S = 59.0


def key_limits(drill: Drill) -> Findings:
    """Limit keys: none has more requests at a time or a minute than it may; one worker tries a spent one."""
    findings = Findings("key-limits")
    environment: dict[str, Any] = {
        "OHMYGPT_API_KEYS": "",
        "SECRET_KEY": "drill-secret-of-a-minute",
        "WEB_CONCURRENCY": str(_WORKERS),
        "LOG_LEVEL": "error",
    }
    with drill.stage("key-limits", is_started=False, **environment) as stage:
        stage.import_keys("keys", _SECRETS)
        keys, now = stage.database["ohmygpt_keys"], datetime.now(UTC)
        keys.update_one({"_id": "at-once"}, {"$set": {"maxInFlight": _AT_ONCE, "weight": 10}})
        keys.update_one({"_id": "per-minute"}, {"$set": {"rpm": _PER_MINUTE, "weight": 10}})
        due = now - timedelta(hours=1)
        keys.update_one({"_id": "spent"}, {"$set": {"status": "exhausted", "cooldownUntil": due}})
        refusal = Script.body(b'{"error":{"type":"insufficient_balance_error"}}', status=402)
        slow = drill.upstream.script("spent", Script((Sleep(1.0), *refusal.steps)))
        drill.upstream.key(_SECRETS["spent"], f"play:{slow}")
        stage.weir.start()
        with stage.load.clients(_CLIENTS, stage.mix.next):
            gevent.sleep(drill.level.chaos_s)
        stage.close_books(findings)
        for call in stage.load.calls:
            is_good = call.status == 200 and call.ending is Ending.WHOLE
            findings.expect(is_good, f"{call.request_id}: {call.status}, {call.ending.value}")
        asked: dict[str, list[Mapping[str, Any]]] = {name: [] for name in _SECRETS}
        names = {secret: name for name, secret in _SECRETS.items()}
        for entry in stage.upstream.collect():
            asked[names[entry["key"]]].append(entry)
    most = most_at_once(asked["at-once"])
    findings.expect(most <= _AT_ONCE, f"{most} requests at a time, {_AT_ONCE} are allowed")
    findings.expect(most == _AT_ONCE, f"only {most} requests at a time though {_AT_ONCE} are allowed")
    in_a_minute = most_within([entry["began"] for entry in asked["per-minute"]], _MINUTE_S)
    findings.expect(in_a_minute <= _PER_MINUTE, f"{in_a_minute} requests in a minute of {_PER_MINUTE}")
    findings.expect(
        in_a_minute > _PER_MINUTE / 2, f"only {in_a_minute} requests in a minute of {_PER_MINUTE}"
    )
    findings.expect(len(asked["spent"]) == 1, f"{len(asked['spent'])} trials of the key without money")
    findings.figures["most at a time (limit)"] = (most, _AT_ONCE)
    findings.figures["most in a minute (limit)"] = (in_a_minute, _PER_MINUTE)
    findings.figures["requests by key"] = {name: len(entries) for name, entries in asked.items()}
    return findings


def most_at_once(entries: Iterable[Mapping[str, Any]]) -> int:
    """Count the requests that ran at the same moment, at most, by the upstream's clock."""
    moments = [(entry["began"], 1) for entry in entries]
    moments += [(entry["ended"], -1) for entry in entries]
    most = running = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


def most_within(moments: Sequence[float], seconds: float) -> int:
    """Count the moments that lie within any span of `seconds`, at most."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
