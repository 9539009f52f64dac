"""A SECRET_KEY that is not the database's: at the start, at a reload, after an outage."""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from app.cli.store import Store
from app.store.connection import connect
from app.store.deployment import adopt
from app.store.embedded_mongo import EmbeddedMongo
from simulator.launcher import Child, wait_until
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OURS, OTHERS = "9c1f5a7be04d4c6fa2d8", "5b7e0d93c2a84f16b9e1"


def readiness(weir: WeirProcess) -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"{weir.url}/ready", timeout=90)
    return answer.status_code, answer.json()


def with_database(mongo: EmbeddedMongo, work: Callable[[Store], object]) -> None:
    db = connect(mongo.uri, "fproxy")
    work(db)
    db.client.close()


def test_two_hosts_with_secrets_of_their_own_cannot_share_a_database(
    upstream: UpstreamProcess, own_mongo: EmbeddedMongo, tmp_path: Path
) -> None:
    with WeirProcess(tmp_path / "one", upstream.url, MONGODB_URI=own_mongo.uri):
        other = WeirProcess(tmp_path / "two", upstream.url, MONGODB_URI=own_mongo.uri, WEB_CONCURRENCY="2")
        child = Child([sys.executable, "-m", "gunicorn", "wsgi:app"], other.environment, tmp_path / "log")
        assert child.wait() == 4
        assert "answers on" not in child.log
        lines = [line for line in child.log.splitlines() if "SECRET_KEY" in line]
        assert len(lines) == 1
        assert lines[0].startswith("weir: SECRET_KEY is not the one that the database fproxy was set up with")
        secret = (tmp_path / "one" / "secret-key").read_text()
        (tmp_path / "two" / "secret-key").write_text(secret)  # what the line says
        with other:
            wait_until(lambda: readiness(other)[1]["secret_key"] == "ok", what="the check")


def test_a_reload_with_another_secret_is_refused_and_all_goes_on(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    with WeirProcess(tmp_path, upstream.url) as weir:
        wait_until(lambda: readiness(weir)[0] == 200, what="readiness")
        workers = weir.worker_pids()
        secret = tmp_path / "secret-key"
        right = secret.read_text()
        for wrong, reason in ((OTHERS, "SECRET_KEY is not the one"), (None, "there is no SECRET_KEY")):
            secret.write_text(wrong) if wrong else secret.unlink()
            os.kill(weir.pid, signal.SIGHUP)
            wait_until(lambda: f"not reloaded, all goes on as before: {reason}" in weir.log, what="the line")  # noqa: B023
        assert weir.worker_pids() == workers
        secret.write_text(right)
        os.kill(weir.pid, signal.SIGHUP)
        wait_until(lambda: not set(weir.worker_pids()) & set(workers), what="new workers")
        wait_until(lambda: readiness(weir)[1]["secret_key"] == "ok", what="readiness")


def test_another_secret_found_after_an_outage_makes_it_not_ready_until_mended(
    upstream: UpstreamProcess, own_mongo: EmbeddedMongo, tmp_path: Path
) -> None:
    with_database(own_mongo, lambda db: adopt(db, OTHERS, NOW))
    uri = own_mongo.uri
    own_mongo.stop()
    with WeirProcess(tmp_path / "data", upstream.url, MONGODB_URI=uri, SECRET_KEY=OURS) as weir:
        status, checks = readiness(weir)
        assert (status, checks["secret_key"]) == (200, "unchecked")
        own_mongo.start()
        wait_until(lambda: readiness(weir)[0] == 503, what="the check")
        assert readiness(weir)[1]["secret_key"] == "differs"
        wait_until(lambda: "SECRET_KEY is not the one" in weir.log, what="the line")
        errors = [json.loads(line) for line in weir.log.splitlines() if "SECRET_KEY is not the one" in line]
        assert [error["level"] for error in errors] == ["ERROR"]
        with_database(own_mongo, lambda db: db["deployment"].drop())
        wait_until(lambda: readiness(weir)[0] == 200, what="readiness")
