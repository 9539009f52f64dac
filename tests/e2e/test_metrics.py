"""Metrics, readiness and health of real workers: right over all of them, and after one was killed."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from app.store.embedded_mongo import EmbeddedMongo
from simulator.launcher import wait_until
from tests.support.lab import CHAT, MESSAGES, Lab
from tests.support.metrics_page import ADMIN_TOKEN, ask, ask_json, differences, expected, scrape, value
from tests.support.raw_http import RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import MODELS_FILE, WeirProcess

PLAYS = ["chunks=3,prompt=90,cached=20,out=6", "fault=400", "fault=503", "reasoning=5,out=9", "fault=cut"]


@pytest.fixture(scope="module")
def two(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """Two workers, with a model table of their own."""
    data_dir = tmp_path_factory.mktemp("two")
    models = data_dir / "models.toml"
    shutil.copy(MODELS_FILE, models)
    with WeirProcess(
        data_dir,
        upstream.url,
        WEB_CONCURRENCY="2",
        ADMIN_TOKEN=ADMIN_TOKEN,
        MODELS_FILE=str(models),
        OHMYGPT_API_KEYS="sk-upstream-first-0123,sk-upstream-second-0123",
    ) as weir:
        wait_until(lambda: value(scrape(weir), "weir_workers") == 2, what="both workers")
        yield weir


def play_all(lab: Lab, rounds: int) -> int:
    """Requests of many kinds, several at a time; returns how many."""
    calls = [
        partial(lab.send, path, lab.stream_body(path, play) if is_stream else lab.body(path, play))
        for path in (CHAT, MESSAGES)
        for is_stream in (True, False)
        for play in PLAYS
        for _ in range(rounds)
    ]
    calls += [partial(lab.send, CHAT, lab.body(CHAT, "ok", model="unheard-of")) for _ in range(rounds)]
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(call) for call in calls]:
            future.result()
    return len(calls)


def check_against_records(weir: WeirProcess) -> None:
    """Every worker's page says what the records say."""
    wanted = expected(weir.records({"outcome": {"$ne": "interrupted"}}))
    for _ in range(
        4
    ):  # now one worker answers, now the other; a page asked for without pause may be a second old
        wait_until(
            lambda: differences(scrape(weir), wanted) == {}, what="a page that says what the records say"
        )
    assert value(scrape(weir), "weir_lost_records_total") == 0


@pytest.mark.slow
def test_the_numbers_are_those_of_the_records_also_after_a_kill(
    two: WeirProcess, upstream: UpstreamProcess
) -> None:
    lab = Lab(two, upstream)
    sent = play_all(lab, 2)
    for _ in range(7):
        lab.refused("POST", CHAT, {"Authorization": "Bearer wrong"})
    lab.refused("GET", "/v1/models", {})
    check_against_records(two)
    # A worker's page may be a moment older than the other's that was right.
    wait_until(lambda: value(scrape(two), "weir_requests_total") == sent, what="the requests")
    refused = {("invalid_api_key",): 7, ("missing_api_key",): 1}
    wait_until(lambda: scrape(two)["weir_unauthenticated_requests_total"] == refused, what="the refused")
    gate = lab.gate()
    with lab.open(CHAT, lab.stream_body(CHAT, f"chunks=2,gate={gate},first_ms=60000")):
        wait_until(lambda: lab.entries()[-1]["end"] == "open", what="the request upstream")
        victim = kill_busy_worker(two)
    wait_until(lambda: two.records({"outcome": "interrupted"}), what="the record of the cut request")
    wait_until(lambda: len(two.worker_pids()) == 2 and victim not in two.worker_pids(), what="a new worker")
    wait_until(lambda: value(scrape(two), "weir_workers") == 2, what="its state")
    sent += play_all(lab, 1)
    check_against_records(two)
    wait_until(lambda: value(scrape(two), "weir_requests_total") == sent, what="the requests")
    wait_until(
        lambda: value(scrape(two), "weir_recovered_interrupted_total") == 1, what="the cut request's count"
    )
    wait_until(lambda: value(scrape(two), "weir_writer_records_total") >= sent, what="the writers' counts")
    # Of the worker that does not answer, the page tells what it wrote a moment ago.
    wait_until(lambda: value(scrape(two), "weir_requests_in_flight") == 0, what="no request to run")
    counts = two.data_dir / "metrics"
    wait_until(lambda: len(list(counts.glob("*/counts_*.db"))) == 2, what="the counts of two workers")


def kill_busy_worker(weir: WeirProcess) -> int:
    """SIGKILL for the worker that has the only running request, which is upstream already.

    Who answers knows what it does itself; of the other it may know what that did a second ago.
    """
    busy: list[int] = []

    def look() -> bool:
        workers = ask_json(weir, "/api/admin/health")["workers"]
        busy[:] = [worker["pid"] for worker in workers if worker["inFlight"]]
        return len(busy) == 1

    wait_until(look, what="one busy worker")
    os.kill(busy[0], signal.SIGKILL)
    return busy[0]


def test_health_says_what_the_metrics_say(two: WeirProcess, upstream: UpstreamProcess) -> None:
    Lab(two, upstream).plain(CHAT, "out=3")
    pairs = (
        ("lostRecords", "weir_lost_records_total"),
        ("journalDepth", "weir_unbooked_records"),
        ("queueDepth", "weir_queue_records"),
        ("oldestUnsentSeconds", "weir_oldest_unbooked_seconds"),
        ("journalMaxBytes", "weir_journal_max_bytes"),
    )

    def agree() -> bool:
        """Whether they do: the page, and the other worker's state, may be of a second ago."""
        health, page = ask_json(two, "/api/admin/health"), scrape(two)
        return all(health[field] == value(page, name) for field, name in pairs)

    wait_until(agree, what="health and metrics to agree")
    assert ask_json(two, "/api/admin/health")["lostRecords"] == 0

    def told() -> set[int]:
        return {worker["pid"] for worker in ask_json(two, "/api/admin/health")["workers"]}

    wait_until(lambda: told() == set(two.worker_pids()), what="both workers to be told of")


def test_who_may_ask_what(two: WeirProcess) -> None:
    with RawConnection(two.url) as connection:
        for path, status in (
            ("/health", 200),
            ("/ready", 200),
            ("/metrics", 200),
            ("/keys/status", 401),
            ("/reload", 401),
            ("/api/admin/health", 401),
        ):
            connection.request("GET", path, {})
            assert connection.read_response().status == status, path


def test_key_status(two: WeirProcess) -> None:
    two.forgive_keys()  # whatever the tests before have done to them
    wanted = {"total": 2, "healthy": 2, "rate_limited": 0, "exhausted": 0, "error": 0}
    known = [ask_json(two, "/keys/status")] * 10

    def is_known() -> bool:
        """Whether both workers know, whichever answer."""
        known[:] = [ask_json(two, "/keys/status") for _ in known]
        return all(status["stats"] == wanted for status in known)

    wait_until(is_known, what="good keys")
    status = known[0]
    assert status["backup_keys_available"] == 0
    assert [(key["id"], key["status"], key["available"]) for key in status["keys"]] == [
        ("env-1", "healthy", True),
        ("env-2", "healthy", True),
    ]
    assert "sk-upstream" not in ask(two, "/keys/status")[1] + ask(two, "/metrics")[1]


def test_a_reload_reaches_both_workers_and_a_broken_table_changes_nothing(two: WeirProcess) -> None:
    models = Path(two.environment["MODELS_FILE"])
    whole, good, failed = models.read_text(), good_reloads(two), len(failed_reloads(two))
    try:
        models.write_text(whole + '\n[[models]]\nid = "brand-new"\ninput = 1\noutput = 2\n')
        assert ask_json(two, "/reload", "POST")["success"] is True
        wait_until(lambda: good_reloads(two) == good + 2, what="both workers to reload")
        assert all(knows(two, "brand-new") for _ in range(10))
        models.write_text(whole + '\n[[models]]\nid = "worse"\ninput = "x"\noutput = 2\n')
        answer = ask_json(two, "/reload")
        assert (answer["_status"], answer["success"], answer["failed"]) == (500, False, ["models"])
        assert "model 'worse': input: 'x' is not a number (at line " in answer["message"]
        assert "; the old model table (" in answer["message"]
        wait_until(
            lambda: len(failed_reloads(two)) == failed + 2, what="both workers to say that they have not"
        )
        assert all("stays in force" in message for message in failed_reloads(two))
        assert knows(two, "brand-new")
    finally:
        models.write_text(whole)
    assert ask_json(two, "/reload", "POST")["success"] is True
    wait_until(lambda: good_reloads(two) == good + 4, what="both workers to reload again")
    assert not any(knows(two, "brand-new") for _ in range(10))


def failed_reloads(weir: WeirProcess) -> list[str]:
    return [message for message in weir.log_messages("ERROR") if message.startswith("reload failed: ")]


def good_reloads(weir: WeirProcess) -> int:
    """How often a worker has reloaded without a problem: who answers a request is chance, who logs is not."""
    return sum(message.startswith("reloaded") for message in weir.log_messages("INFO"))


def knows(weir: WeirProcess, model: str) -> bool:
    """Whether the worker that happens to answer has the model."""
    headers = {"Authorization": f"Bearer {weir.environment['PROXY_API_KEY']}"}
    with RawConnection(weir.url) as connection:
        connection.request("GET", "/v1/models", headers)
        return f'"{model}"'.encode() in connection.read_response().body


@pytest.mark.slow
def test_a_full_journal_is_not_ready_until_the_store_takes_the_records(
    upstream: UpstreamProcess, tmp_path: Path
) -> None:
    store = EmbeddedMongo(tmp_path / "store", None)
    environment = {"MONGODB_URI": store.uri, "JOURNAL_MAX_MB": "1", "ADMIN_TOKEN": ADMIN_TOKEN}
    with WeirProcess(tmp_path / "weir", upstream.url, **environment) as weir:
        wait_until(lambda: ask_json(weir, "/ready").get("store") == "degraded", what="a degraded store")
        assert ask_json(weir, "/ready")["_status"] == 200
        sent = fill_journal(weir)
        ready = ask_json(weir, "/ready")
        assert (ready["_status"], ready["journal"], ready["lostRecords"]) == (503, "full", 0)
        page = scrape(weir)
        assert value(page, "weir_journal_full") == 1
        assert value(page, "weir_store_up") == 0
        assert value(page, "weir_unbooked_records") == value(page, "weir_requests_total") == sent
        assert value(page, "weir_oldest_unbooked_seconds") > 0
        assert ask_json(weir, "/api/admin/health")["journalDepth"] == sent
        store.start()
        try:
            wait_until(lambda: ask_json(weir, "/ready")["_status"] == 200, what="the store's return")
            wait_until(lambda: weir.record_count() == sent, what="all records")
            check_against_records(weir)
            weir.stop()
        finally:
            store.stop()


def fill_journal(weir: WeirProcess) -> int:
    """Requests until the journal is full; returns how many. Refused ones would not fill it."""
    headers = {"Authorization": f"Bearer {weir.environment['PROXY_API_KEY']}"}
    body = b'{"model": "gpt-test", "messages": [{"role": "user", "content": "hi"}], "user": "sim:out=1"}'
    for sent in range(1, 5000):
        with RawConnection(weir.url) as connection:
            connection.request("POST", CHAT, headers, body)
            assert connection.read_response().status == 200
        if sent % 20 == 0 and ask(weir, "/ready")[0] != 200:
            return sent
    raise AssertionError("the journal does not fill up")


def test_a_draining_worker_is_not_ready(upstream: UpstreamProcess, tmp_path: Path) -> None:
    with WeirProcess(tmp_path / "weir", upstream.url, ADMIN_TOKEN=ADMIN_TOKEN) as weir:
        lab = Lab(weir, upstream)
        gate = lab.gate()
        with (
            RawConnection(weir.url) as kept,
            lab.open(CHAT, lab.stream_body(CHAT, f"out=2,hold={gate}")) as stream,
        ):
            wait_until(lambda: value(scrape(weir), "weir_requests_in_flight") == 1, what="the stream")
            ask_ready(kept)
            assert readiness(kept) == (200, False)
            # A stopping worker hangs up on who is silent. So the question is there when it hears of the stop.
            (worker,) = weir.worker_pids()
            os.kill(worker, signal.SIGSTOP)
            try:
                wait_until(lambda: stands_still(worker), what="the worker to stand still")
                ask_ready(kept)
                weir.terminate()
                wait_until(lambda: is_pending(worker, signal.SIGTERM), what="the worker to be told")
            finally:
                os.kill(worker, signal.SIGCONT)
            assert readiness(kept) == (503, True)
            lab.upstream.open_gate(gate)
            assert stream.read_response().is_whole
        weir.stop()


def stands_still(pid: int) -> bool:
    """Whether all threads of a process have been stopped: the next signal is not taken before it goes on."""
    try:
        stats = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one has ended meanwhile
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process that stands still has been sent a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending.split()[1], 16) >> (number - 1) & 1)


def ask_ready(connection: RawConnection) -> None:
    connection.request("GET", "/ready", {})


def readiness(connection: RawConnection) -> tuple[int, bool]:
    """Status and `draining` of the answer."""
    response = connection.read_response()
    return response.status, b'"draining":true' in response.body
