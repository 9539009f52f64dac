"""Counts survive their worker, add up over all of them, and stay within bounds."""

import os
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import __version__
from app.metrics import metric_names as names
from app.metrics import series
from app.metrics.directory import MetricsDirectory
from app.metrics.exposition import Snapshot
from app.metrics.gauges import WorkerGauges, key_states
from app.metrics.recorder import RequestRecorder
from app.metrics.series import Cell, SeriesStore, read_series
from app.metrics.status import WorkerStatus, across_workers, forget, live_states
from app.metrics.worker_metrics import WorkerMetrics
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, UsageSource


def record(**changes: Any) -> ExchangeRecord:
    values: dict[str, Any] = {
        "request_id": "r",
        "user_id": "ann",
        "user_key_id": "wk",
        "created_at": datetime(2026, 11, 23, tzinfo=UTC),
        "api_format": "openai",
        "outcome": Outcome.OK,
        "status_code": 200,
        "model": "gpt",
        "factory_key_id": "env-2",
        "input_tokens": 200,
        "output_tokens": 24,
        "cache_hit_tokens": 1000,
        "cost_nano_usd": 615_000,
        "costs": (500_000, 0, 0, 115_000, 0),
        "latency_ms": 1026,
        "ttft_ms": 66,
        "overhead_ms": 3,
        "attempts": (AttemptRecord("env-1", None, 5, "unreachable"), AttemptRecord("env-2", 200, 7)),
    }
    return ExchangeRecord(**values | changes)


def samples(snapshot: Snapshot) -> dict[str, float]:
    page, _ = snapshot.render("")
    return {
        sample.name + "".join(f",{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def recorder_over(store: SeriesStore) -> RequestRecorder:
    return RequestRecorder(store, lambda: {"gpt"})


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"usage_source": UsageSource.ESTIMATE}, "weir_estimated_charges_total", "charged by estimate"),
        ({"unpriced": ("web_search",)}, "weir_unpriced_requests_total", "no price: web_search"),
    ],
)
def test_doubtful_costs_are_counted_and_named_in_the_log_once_a_minute(
    changes: dict[str, Any], name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, store = 0.0, SeriesStore()
    recorder = RequestRecorder(store, lambda: {"gpt"}, lambda: now)
    for _ in range(5):
        recorder.opened()
        recorder.settled(record(**changes))
        recorder.opened()
        recorder.settled(record(**changes, model="who"))
    shown = samples(Snapshot(store.values(), []))
    assert (shown[f"{name},gpt"], shown[f"{name},other"]) == (5, 5)
    assert [said in message for message in caplog.messages] == [True, True]
    now = 60.0
    recorder.opened()
    recorder.settled(record(**changes))
    assert len(caplog.messages) == 3


def test_an_answer_that_was_left_is_not_counted_as_one_that_told_nothing() -> None:
    store = SeriesStore()
    recorder = recorder_over(store)
    recorder.opened()
    recorder.settled(record(usage_source=UsageSource.ESTIMATE, outcome=Outcome.CLIENT_ABORT))
    assert "weir_estimated_charges_total,gpt" not in samples(Snapshot(store.values(), []))


def test_a_request_is_counted_in_every_metric() -> None:
    store = SeriesStore()
    recorder = recorder_over(store)
    recorder.opened()
    recorder.settled(record())
    recorder.refused("invalid_api_key")
    shown = samples(Snapshot(store.values(), []))
    assert recorder.in_flight == 0
    assert shown["weir_requests_total,openai,gpt,ok,200"] == 1
    assert shown["weir_request_duration_seconds_bucket,openai,1.0,gpt"] == 0
    assert shown["weir_request_duration_seconds_bucket,openai,2.5,gpt"] == 1
    assert shown["weir_request_duration_seconds_bucket,openai,+Inf,gpt"] == 1
    assert shown["weir_request_duration_seconds_sum,openai,gpt"] == 1.026
    assert shown["weir_request_duration_seconds_count,openai,gpt"] == 1
    assert shown["weir_time_to_first_token_seconds_sum,openai,gpt"] == 0.066
    assert shown["weir_overhead_seconds_bucket,openai,0.003"] == 1
    assert shown["weir_overhead_seconds_bucket,openai,0.002"] == 0
    assert shown["weir_tokens_total,input,gpt"] == 200
    assert shown["weir_tokens_total,cache_hit,gpt"] == 1000
    assert shown["weir_cost_usd_total,input,gpt"] == 0.0005
    assert shown["weir_cost_usd_total,cache_hit,gpt"] == 0.000115
    assert shown["weir_upstream_attempts_total,env-1,none"] == 1
    assert shown["weir_upstream_attempts_total,env-2,200"] == 1
    assert shown["weir_upstream_key_input_tokens_total,env-2,cache_hit"] == 1000
    assert shown["weir_upstream_key_input_tokens_total,env-2,input"] == 200
    assert shown["weir_unauthenticated_requests_total,invalid_api_key"] == 1
    assert shown["weir_lost_records_total"] == 0


def test_a_request_that_went_nowhere_has_no_durations() -> None:
    store = SeriesStore()
    recorder_over(store).settled(record(outcome=Outcome.REJECTED, status_code=400, attempts=(), ttft_ms=None))
    shown = samples(Snapshot(store.values(), []))
    assert shown["weir_requests_total,openai,gpt,rejected,400"] == 1
    assert shown["weir_overhead_seconds_count,openai"] == 0


def test_label_values_stay_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_KEY_IDS", 3)
    store = SeriesStore()
    recorder = recorder_over(store)
    for number in range(50):
        attempts = (AttemptRecord(f"key-{number}", 200, 1),)
        ended = {"model": f"m{number}", "status_code": 1000 + number, "factory_key_id": f"key-{number}"}
        recorder.settled(record(**ended, attempts=attempts))
        recorder.refused(f"reason {number}")
    shown = samples(Snapshot(store.values(), []))
    assert shown["weir_requests_total,openai,other,ok,other"] == 50
    assert shown["weir_unauthenticated_requests_total,other"] == 50
    assert shown["weir_upstream_attempts_total,other,200"] == 47
    assert shown["weir_upstream_key_input_tokens_total,other,input"] == 47 * 200


def test_counting_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> set[str]:
        raise RuntimeError("no table")

    recorder = RequestRecorder(SeriesStore(), broken)
    recorder.settled(record())
    assert "was not counted" in caplog.text


def test_counts_are_in_the_file_at_once_and_the_next_worker_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "counts_0.db"
    first = SeriesStore()
    first.cell("early").add(1)
    first.attach(path)
    first.cell("a", ("x",)).add(2)
    assert read_series(path) == {("early", (), ""): 1, ("a", ("x",), ""): 2}
    second = SeriesStore()  # the first one was killed: nothing of it was closed
    second.cell("a", ("x",)).add(5)
    second.attach(path)
    second.cell("early").add(1)
    assert second.values() == read_series(path) == {("early", (), ""): 2, ("a", ("x",), ""): 7}
    second.close()
    second.cell("a", ("x",)).add(1)  # goes nowhere, harms nobody
    assert read_series(path)["a", ("x",), ""] == 7
    first.close()


def test_the_file_never_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(series, "FILE_BYTES", 4096)
    store = SeriesStore()
    store.attach(tmp_path / "counts_0.db")
    for number in range(1000):
        store.cell("many", (str(number),)).add(1)
    assert (tmp_path / "counts_0.db").stat().st_size == 4096
    assert 10 < len(read_series(tmp_path / "counts_0.db")) < 1000
    assert len(store.values()) == 1000
    assert caplog.text.count("is full") == 1
    store.close()


def test_slots_are_taken_once_and_reused(tmp_path: Path) -> None:
    directory = MetricsDirectory.create(tmp_path / "metrics")
    slots = [directory.claim() for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]
    directory.release(slots[1])
    assert directory.claim().number == 1
    for slot in slots:
        directory.release(slot)
    directory.remove()
    assert list((tmp_path / "metrics").iterdir()) == []


def test_a_new_master_removes_what_dead_ones_left_and_nothing_else(tmp_path: Path) -> None:
    living = MetricsDirectory.create(tmp_path)
    (tmp_path / "99-dead").mkdir()
    (tmp_path / "99-dead" / "counts_0.db").write_bytes(b"x")
    (tmp_path / "99-dead.lock").touch()
    fresh = MetricsDirectory.create(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {living.path.name, fresh.path.name}
    assert not (tmp_path / "99-dead.lock").exists()
    living.remove()
    fresh.remove()


def test_the_states_of_the_dead_are_not_counted(tmp_path: Path) -> None:
    for pid, age in ((1, 0.0), (2, 0.0), (3, 500.0)):
        WorkerStatus(pid, pid, 1000.0 - age, {"weir_queue_records": pid}).write(tmp_path / f"status_{pid}")
    (tmp_path / "status_4").write_text("{")
    states = live_states(tmp_path.glob("status_?"), now=lambda: 1000.0, is_running=lambda pid: pid != 2)
    assert [state.pid for state in states] == [1]
    forget(list(tmp_path.glob("status_?")), 1)
    assert not (tmp_path / "status_1").exists()
    assert (tmp_path / "status_2").exists()


@pytest.mark.parametrize(
    ("spec", "value"),
    [(names.QUEUE, 7.0), (names.OLDEST, 4.0), (names.STORE_UP, 1.0), (names.MEMORY_ONLY, 0.0)],
)
def test_gauges_of_several_workers_become_one(spec: names.MetricSpec, value: float) -> None:
    gauges: list[dict[str, float]] = [
        {"weir_queue_records": 3, "weir_oldest_unbooked_seconds": 4, "weir_store_up": 1},
        {"weir_queue_records": 4, "weir_oldest_unbooked_seconds": 2, "weir_store_up": 1},
    ]
    assert across_workers(spec, [WorkerStatus(1, 0, 0.0, values) for values in gauges]) == value


def test_unknown_key_states_count_as_errors() -> None:
    assert key_states(["healthy", "odd", "error"]) == {
        "healthy": 1,
        "rate_limited": 0,
        "exhausted": 0,
        "error": 2,
    }


class Queue:
    lost = 0

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return 3

    def status(self) -> None:
        return None

    def oldest_open(self, limit: int) -> list[dict[str, Any]]:
        return self.open[:limit]


class Pool:
    def statuses(self) -> list[str]:
        return []


class Credit:
    ample = held = refused = unverified = 0


class Limiter:
    failed_open = 3


def worker(directory: MetricsDirectory | None = None) -> tuple[WorkerMetrics, Queue]:
    metrics, queue = WorkerMetrics(lambda: {"gpt"}), Queue()
    parts: Any = (queue, Pool(), Credit())
    gauges = WorkerGauges(*parts, lambda: metrics.recorder.in_flight, Limiter())  # type: ignore[arg-type]
    gauges.lost_object_ids = lambda: 5
    metrics.watch(gauges)
    if directory is not None:
        metrics.join(directory)
    return metrics, queue


def test_any_worker_answers_for_all_and_for_those_that_are_gone(tmp_path: Path) -> None:
    directory = MetricsDirectory.create(tmp_path)
    workers = [worker(directory) for _ in range(2)]
    for metrics, queue in workers:
        metrics.recorder.settled(record())
        queue.lost = 2
        metrics.tend()
        metrics.tend()  # taken over once, not twice
    for metrics, _ in workers:
        shown = samples(metrics.snapshot())
        assert shown["weir_requests_total,openai,gpt,ok,200"] == 2
        assert shown["weir_lost_records_total"] == 4
        assert shown["weir_rate_limit_unchecked_total"] == 6
        assert shown["weir_lost_object_ids_total"] == 10
        assert shown["weir_workers"] == 2
        assert shown[f"weir_build_info,{__version__}"] == 1
        assert shown["weir_queue_records"] == 6
        assert metrics.health()["lostRecords"] == 4
        assert metrics.health()["queueDepth"] == 6
    workers[0][0].leave()
    shown = samples(workers[1][0].snapshot())
    assert (shown["weir_workers"], shown["weir_lost_records_total"]) == (1, 4)
    third, _ = worker(directory)
    assert samples(third.snapshot())["weir_requests_total,openai,gpt,ok,200"] == 2
    assert len(list(directory.counts())) == 2
    third.leave()
    workers[1][0].leave()
    directory.remove()


def test_while_workers_are_replaced_both_versions_are_shown() -> None:
    states = [WorkerStatus(pid, pid, 0.0, version=version) for pid, version in enumerate(("2", "1", "2"))]
    shown = samples(Snapshot({}, states))
    assert {name: value for name, value in shown.items() if "build" in name} == {
        "weir_build_info,1": 1,
        "weir_build_info,2": 1,
    }


def test_without_a_place_to_share_a_worker_goes_on_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = MetricsDirectory.create(tmp_path)
    directory.remove()
    metrics, _ = worker(directory)
    assert "this worker's alone" in caplog.text
    metrics.recorder.settled(record())
    assert samples(metrics.snapshot())["weir_requests_total,openai,gpt,ok,200"] == 1
    metrics.leave()


def test_readiness_before_the_journal_is_there() -> None:
    metrics, _ = worker()
    assert metrics.readiness() == (
        False,
        {
            "journal": "starting",
            "store": "ok",
            "secret_key": "unchecked",
            "draining": False,
            "lostRecords": 0,
        },
    )


def test_every_metric_is_on_the_page_in_both_formats() -> None:
    metrics, _ = worker()
    for accept, kind in (
        ("", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
    ):
        page, content_type = metrics.exposition(accept)
        assert content_type.startswith(kind)
        for spec in names.METRICS:
            assert f"# TYPE {spec.name.removesuffix('_total')}" in page.decode()


def test_a_state_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "status_0.json"
    state = WorkerStatus(os.getpid(), 0, 1.5, {"a": 1.0}, {"healthy": 2})
    state.write(path)
    assert WorkerStatus.read(path) == state
    assert list(tmp_path.iterdir()) == [path]


def test_a_cell_counts() -> None:
    cell, kept = Cell(), array("d", [0.0, 0.0])
    cell.add(1)
    cell.place(kept, 1)
    cell.add(2)
    assert (cell.value, kept.tolist()) == (3.0, [0.0, 3.0])


def test_traffic_is_that_of_all_workers_while_somebody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.metrics.directory.WATCHED_S", 60.0)
    directory = MetricsDirectory.create(tmp_path)
    (one, first), (other, second) = (worker(directory) for _ in range(2))
    start = datetime(2026, 11, 23, tzinfo=UTC)
    first.open = [{"id": "r2", "createdAt": start.replace(second=2), "userKeyId": "sk-weir-old-key-as-id"}]
    second.open = [{"id": "r1", "createdAt": start.replace(second=1), "userId": "bob"}]
    other.recorder.opened()
    other.tend()
    assert [found["id"] for found in one.traffic().requests] == ["r2"], "nobody had looked"
    other.tend()
    before = one.traffic()
    assert [found["id"] for found in before.requests] == ["r1", "r2"]
    assert before.requests[0]["createdAt"] == "2026-11-23T00:00:01.000Z"
    assert "sk-weir-old-key-as-id" not in str(before.requests)
    assert (before.in_flight, before.workers, before.is_store_up) == (1, 2, True)
    other.recorder.settled(record())
    one.recorder.opened()
    one.recorder.settled(record(count=2))
    other.tend()
    after = one.traffic()
    # Both pretend to be of one process here, so the later of them stands for both.
    assert after.ended_since({}) == 0
    assert after.ended_since(before.ended) == 1
    for metrics in (one, other):
        metrics.leave()


def test_nobody_lists_requests_when_nobody_looks(tmp_path: Path) -> None:
    directory = MetricsDirectory.create(tmp_path)
    metrics, _ = worker(directory)
    metrics.tend()
    (path,) = directory.states()
    told = WorkerStatus.read(path)
    assert told is not None
    assert told.traffic is None
    directory.watch()
    os.utime(tmp_path / directory.path.name / "watched", (1, 1))
    metrics.tend()
    told = WorkerStatus.read(path)
    assert told is not None
    assert told.traffic is None
    metrics.leave()
