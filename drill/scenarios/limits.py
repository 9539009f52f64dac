"""The journal's limit reached while MongoDB is away."""

import http.client
import json
from typing import Any

import gevent

from drill.books import check_sums, read_records
from drill.mix import CHAT, MESSAGES, make_request
from drill.report import Findings
from drill.stage import FIXED_KEY, Drill, Stage
from simulator.launcher import PATIENCE_S, wait_until

ADMIN_TOKEN = "drill-admin-token"  # noqa: S105  of a product that lives for a minute
_REQUESTS = 1500
_AT_ONCE = 8


def journal_limit(drill: Drill) -> Findings:
    """Fill the journal: with `JOURNAL_FULL=pass` traffic goes on, losses counted; with `refuse` none are."""
    findings = Findings("journal-limit")
    _pass_losing(drill, findings)
    _refuse(drill, findings)
    return findings


def _pass_losing(drill: Drill, findings: Findings) -> None:
    with drill.stage(
        "limit-pass",
        users=0,
        ADMIN_TOKEN=ADMIN_TOKEN,
        WEB_CONCURRENCY="1",
        JOURNAL_MAX_MB="1",
        LOG_QUEUE_SIZE="100",
        LOG_LEVEL="error",
    ) as stage:
        assert stage.store is not None  # noqa: S101  it is the drill's own
        stage.store.kill()
        send_many(stage, _REQUESTS)
        suffered = {name: count for name, count in stage.load.endings().items() if name != "whole"}
        findings.expect(not suffered, f"answers suffered from the full journal: {suffered}")
        stage.store.start()
        stage.wait_settled()
        # Records in memory only follow those of the journal.
        wait_until(stage.is_all_booked, PATIENCE_S, "the records in memory to be booked")
        records = read_records(stage.database)
        missing = len(stage.load) - len(records)
        counted = counted_losses(stage)
        findings.requests, findings.records = len(stage.load), len(records)
        findings.whole, findings.lost = stage.load.endings()["whole"], missing
        findings.figures["lost by design, counted by the product"] = counted
        findings.expect(missing > 0, "the limit was not reached")
        findings.expect(counted == missing, f"{missing} records are missing, {counted} are counted as lost")
        known = {call.request_id for call in stage.load.calls}
        findings.expect(known >= records.keys(), "there are records of requests that nobody sent")
        check_sums(findings, stage.database, stage.callers, records)
        stage.verify(findings)
        stage.weir.stop()
        findings.expect(stage.is_settled(), f"something is left in the journal: {stage.slots()}")


def _refuse(drill: Drill, findings: Findings) -> None:
    part = Findings(findings.scenario)
    with drill.stage(
        "limit-refuse",
        users=0,
        WEB_CONCURRENCY="1",
        JOURNAL_MAX_MB="1",
        JOURNAL_FULL="refuse",
        LOG_LEVEL="error",
    ) as stage:
        assert stage.store is not None  # noqa: S101  it is the drill's own
        stage.store.kill()
        send_many(stage, _REQUESTS)
        refused = [call for call in stage.load.calls if call.status == 503]
        part.expect(refused, "the limit was not reached")
        for call in refused:
            part.expect(_is_native(json.loads(call.error), call.model), f"not native: {call.error!r}")
        part.figures["refused with 503"] = len(refused)
        stage.store.start()
        stage.wait_settled()
        wait_until(stage.weir.is_ready, PATIENCE_S, "/ready to say that there is room again")
        after = stage.load.send(make_request(FIXED_KEY, CHAT, "out=20", is_stream=False))
        part.expect(after.status == 200, f"after the recovery requests get {after.status}")
        stage.weir.stop()  # which books the refusals that are only summed up so far
        stage.close_books(part)
    findings.absorb(part)


def send_many(stage: Stage, count: int) -> None:
    """Send `count` requests with the fixed key, streams and plain ones of both formats, eight at once."""

    def some(first: int) -> None:
        for number in range(first, count, _AT_ONCE):
            path = CHAT if number % 2 else MESSAGES
            play = f"prompt={100 + number % 50},out=20,chunks=3"
            stage.load.send(make_request(FIXED_KEY, path, play, is_stream=number % 3 == 0))

    gevent.joinall([gevent.spawn(some, first) for first in range(_AT_ONCE)], raise_error=True)


def counted_losses(stage: Stage) -> int:
    """Return what the (only) worker itself says it has lost."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.weir.port, timeout=PATIENCE_S)
    try:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        connection.request("GET", "/api/admin/verify", headers=headers)
        report: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    (check,) = [check for check in report["checks"] if check["name"] == "lost_records"]
    return sum(int(difference["found"]) for difference in check["differences"])


def _is_native(body: dict[str, Any], model: str) -> bool:
    """Return whether an error has the shape of the endpoint it came from."""
    error = body.get("error", {})
    if model.startswith("claude"):
        return body.get("type") == "error" and {"type", "message"} <= error.keys()
    return "type" not in body and error.get("code") == "journal_full" and "message" in error
