"""Upstream keys that come, die and are replaced while the proxy runs."""

import json
import subprocess
import sys
from pathlib import Path

from simulator.launcher import ROOT, wait_until
from tests.support.lab import CHAT, Lab, Played
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

FIRST, SPARE = "sk-upstream-life-first", "sk-upstream-life-spare"


def flask(weir: WeirProcess, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={**weir.environment, "PATH": "/usr/bin:/bin"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def knows_a_key(weir: WeirProcess) -> bool:
    """Whether the workers do, whichever answers."""
    return all(weir._pool_counts()["healthy"] for _ in range(16))


def answered(lab: Lab, number: int) -> Played:
    return lab.plain(CHAT, "", seed=number)


def test_keys_come_die_and_are_replaced_without_a_restart(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(
        tmp_path,
        upstream.url,
        OHMYGPT_API_KEYS="",
        WEB_CONCURRENCY="2",
        KEY_SYNC_MS="1000",
        KEY_PROBE_AFTER_S="7200",  # longer than is waited for anything below
    ) as weir:
        lab = Lab(weir, upstream)
        assert answered(lab, 0).response.status == 503
        flask(weir, "keys", "add", "main", "--api-key-stdin", stdin=FIRST)
        wait_until(lambda: knows_a_key(weir), what="both workers to know the new key")
        assert answered(lab, 1).response.status == 200

        flask(weir, "backup-keys", "add", "spare", "--api-key-stdin", stdin=SPARE)
        upstream.key(FIRST, "exhausted")
        died = answered(lab, 2)
        assert (died.response.status, died.response.headers["x-should-retry"]) == (502, "false")
        wait_until(lambda: answered(lab, 3).response.status == 200, what="the backup key")

        keys = {key["id"]: key for key in json.loads(flask(weir, "keys", "list", "--json"))["keys"]}
        assert (keys["main"]["status"], keys["main"]["replacedBy"]) == ("exhausted", "spare")
        assert keys["spare"]["status"] == "healthy"
        dead = weir.database["ohmygpt_keys"].find_one({"_id": "main"}) or {}
        assert (dead["cooldownUntil"] - dead["stateSince"]).total_seconds() == 7200
        ends = {"keyId": "main", "requestId": died.response.request_id}
        wait_until(lambda: weir.database["key_events"].find_one(ends), what="the event")
        events = json.loads(flask(weir, "keys", "events", "main", "--json"))["events"]
        # Each worker may have met the death for itself.
        assert {event["why"] for event in events} == {"replaced by spare", "budget_code"}
        assert [event["why"] for event in events].count("replaced by spare") == 1
        assert died.response.request_id in {event["requestId"] for event in events}

        upstream.key(FIRST, "ok")
        flask(weir, "keys", "reset", "main")
        wait_until(
            lambda: answered(lab, 6).record.get("factoryKeyId") == "main", what="the key that was reset"
        )
        for secret in (FIRST, SPARE):
            assert secret not in weir.log
            assert secret not in str(list(weir.database["ohmygpt_keys"].find()))
            assert secret not in str(list(weir.database["ohmygpt_backup_keys"].find()))
        assert weir.log_messages("ERROR") == []
