"""Floods of refused requests: few records, exact counts, no paid record lost."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from app.journal.disk import RealDisk
from app.journal.documents import interrupted_document
from app.journal.recovery import scan
from app.store.embedded_mongo import EmbeddedMongo
from simulator.launcher import wait_until
from tests.support.lab import CHAT, MESSAGES
from tests.support.metrics_page import ADMIN_TOKEN, ask_json, scrape, value
from tests.support.raw_http import RawConnection
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

OWN = 60
"""Records a minute and key of their own; the tests may last two minutes, and begin within a third."""

REFUSED = [
    (CHAT, b'{"model": "%s", "messages": []}' % (b"x" * 250), 404),
    (MESSAGES, b"no json" * 40, 400),
    ("/v1/no/such/path", b"{}", 404),
]

_HELLO = {"messages": [{"role": "user", "content": "hello"}]}
_OF_CHAT = {"model": "gpt-test", "user": "sim:out=5"} | _HELLO
_OF_MESSAGES = {"model": "claude-test", "max_tokens": 9, "metadata": {"user_id": "sim:out=5"}} | _HELLO
PAID = [
    (path, compact(body | {"stream": stream}))
    for path, body in ((CHAT, _OF_CHAT), (MESSAGES, _OF_MESSAGES))
    for stream in (False, True)
]


def flood(weir: WeirProcess, count: int) -> int:
    """So many refused requests of each kind in both formats, one after the other; returns how many."""
    headers = {"Authorization": f"Bearer {weir.environment['PROXY_API_KEY']}"}
    with RawConnection(weir.url) as connection:
        for number in range(count):
            path, body, status = REFUSED[number % len(REFUSED)]
            connection.request("POST", path, headers, body)
            assert connection.read_response().status == status
    return count


def list_models(weir: WeirProcess, count: int) -> int:
    """So many lists of models, which cost nothing and go nowhere; returns how many."""
    headers = {"Authorization": f"Bearer {weir.environment['PROXY_API_KEY']}"}
    with RawConnection(weir.url) as connection:
        for _ in range(count):
            connection.request("GET", "/v1/models", headers)
            assert connection.read_response().status == 200
    return count


def pay(weir: WeirProcess) -> int:
    """A request that is served and charged in each format, streamed and not; returns how many."""
    headers = {"Authorization": f"Bearer {weir.environment['PROXY_API_KEY']}"}
    with RawConnection(weir.url) as connection:
        for path, body in PAID:
            connection.request("POST", path, headers, body)
            assert connection.read_response().status == 200
    return len(PAID)


def requests(records: list[dict[str, Any]]) -> int:
    return sum(record.get("count", 1) for record in records)


@pytest.mark.wire(115)
def test_a_flood_of_refusals_leaves_few_records_which_everything_counts_in_full(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    weir = WeirProcess(tmp_path / "weir", upstream.url, ADMIN_TOKEN=ADMIN_TOKEN, REFUSAL_RECORDS_RPM=str(OWN))
    with weir:
        sent = flood(weir, 1500)
        assert value(scrape(weir), "weir_requests_total") == sent
        weir.stop()  # and with it the minute
        weir.start()
        wait_until(lambda: requests(weir.records()) == sent, what="all of them")
        records = weir.records()
        assert len(records) <= 3 * (OWN + len(REFUSED))
        assert {record["outcome"] for record in records} == {"rejected"}
        kinds = {(r["apiFormat"], r["endpoint"], r["statusCode"]) for r in records if r.get("count", 1) > 1}
        assert kinds == {
            ("openai", "chat", 404),
            ("anthropic", "messages", 400),
            ("openai", "unknown", 404),
        }
        # Sums are brought up to date after the records they count.
        summed = "/api/admin/metrics?period=1h"
        wait_until(lambda: ask_json(weir, summed)["total_requests"] == sent, what="the sums")
        usage = ask_json(weir, "/api/admin/usage?by=user&period=24h")
        assert (usage["total"]["requestCount"], usage["total"]["rejectedCount"]) == (sent, sent)
        for bucket in ("5m", "hour"):
            series = ask_json(weir, f"/api/admin/timeseries?period=4h&bucket={bucket}")
            assert sum(row["total"] for row in series["buckets"]) == sent
        wait_until(lambda: ask_json(weir, "/api/admin/verify")["pendingCount"] == 0, what="all to be booked")
        report = ask_json(weir, "/api/admin/verify")
        assert report["consistent"], report
        assert ask_json(weir, "/api/admin/health")["lostRecords"] == 0


@pytest.mark.wire(116)
def test_a_flood_with_the_database_away_costs_no_paid_record(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """The smallest journal, a short queue, every refusal with a record of its own: as bad as it gets."""
    store = EmbeddedMongo(tmp_path / "store", None)
    environment = {"MONGODB_URI": store.uri, "JOURNAL_MAX_MB": "1", "LOG_QUEUE_SIZE": "100"}
    environment |= {"ADMIN_TOKEN": ADMIN_TOKEN, "JOURNAL_FULL": "refuse"}
    weir = WeirProcess(tmp_path / "weir", upstream.url, **environment)
    with weir:
        sent = paid = 0
        for _ in range(20):
            sent += flood(weir, 200) + list_models(weir, 50)
            paid += pay(weir)
            ready = ask_json(weir, "/ready")
            assert (ready["journal"], ready["lostRecords"]) == ("ok", 0)
        assert ask_json(weir, "/api/admin/health")["journalBytes"] > 512 * 1024
        store.start()
        try:
            wait_until(lambda: len(weir.records({"costNanoUsd": {"$gt": 0}})) == paid, what="all paid")
            weir.stop()
            weir.start()
            # What the stop had no time for is booked by the new worker, and sums follow records.
            wait_until(lambda: requests(weir.records()) >= sent + paid, what="all of them")
            records = weir.records()
            assert requests([record for record in records if not record["attempts"]]) == sent
            assert sum(bool(record["attempts"]) for record in records) == paid
            assert len(records) < 1500 + paid
            wait_until(lambda: summed(weir) >= sent + paid, what="the sums")
            assert summed(weir) == sent + paid
            weir.stop()
        finally:
            store.stop()


def summed(weir: WeirProcess) -> int:
    """How many requests the hourly sums count."""
    return sum(document["requests"] for document in weir.database["request_rollups"].find())


def noted(weir: WeirProcess) -> int:
    """How many refusals the journal knows of that are not closed."""
    (slot,) = (weir.data_dir / "journal").glob("0*")
    opens = scan(RealDisk(), str(slot), None).opens.values()
    return requests([interrupted_document(entry, 0) for _, entry in opens])


@pytest.mark.wire(117)
def test_a_killed_worker_loses_no_refusals_but_those_of_its_last_moment(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    with WeirProcess(tmp_path / "weir", upstream.url, REFUSAL_RECORDS_RPM="5") as weir:
        sent = flood(weir, 400)
        wait_until(lambda: requests(weir.records()) + noted(weir) == sent, what="the sums in the journal")
        (worker,) = weir.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: requests(weir.records()) == sent, what="what was left")
        assert {record["outcome"] for record in weir.records()} == {"rejected"}
        assert value(scrape(weir), "weir_recovered_interrupted_total") == 0
