"""What a filter of the request log selects, counted and summed up by a real database."""

from datetime import UTC, timedelta

import pytest
from booking_world import NOON, record

from app.accounts.client_keys import ClientKeyStore
from app.records import request_logs
from app.records.log_filter import LogFilter
from app.records.records import AttemptRecord, Attribution, Outcome
from app.records.request_logs import RequestLogStore

NOW = NOON + timedelta(hours=2)


@pytest.fixture
def store(database):
    logs = RequestLogStore(database)
    logs.ensure_indexes()
    return logs


@pytest.fixture
def filled(database, store):
    """Six ordinary ones, a refusal that stands for ten, a failed one, one that was tried twice."""
    tried = tuple(AttemptRecord(key, 200, 5) for key in ("pool-1", "pool-2"))
    program = Attribution(client_name="curl/8.5.0")
    records = [record(n, endpoint="chat", latency_ms=100 * (n + 1), cost_nano_usd=10**n) for n in range(6)]
    records += [
        record(10, outcome=Outcome.REJECTED, status_code=429, count=10, model=None, requested_model="new"),
        record(11, outcome=Outcome.UPSTREAM_ERROR, status_code=502, latency_ms=20_000, attribution=program),
        record(12, attempts=tried, cost_nano_usd=10**9, user_id="bob", endpoint="messages"),
    ]
    database.request_logs.insert_many([item.to_document() for item in records])
    return store


def facets(found):
    return {facet.name: dict(facet.values) for facet in found.facets}


def test_a_filter_is_counted_over_time_and_by_what_records_say(filled):
    found = filled.breakdown(LogFilter(), NOW, UTC)
    assert found.since is None
    assert (found.sums["requests"], found.sums["failed"]) == (18, 11)
    assert found.sums["costNanoUsd"] == 111_111 + 10**9 + record(10).cost_nano_usd + record(11).cost_nano_usd
    assert facets(found)["outcome"] == {"ok": 7, "rejected": 10, "upstream_error": 1}
    assert facets(found)["status"] == {200: 7, 429: 10, 502: 1}
    assert facets(found)["model"]["new"] == 10
    assert facets(found)["user"] == {"ann": 17, "bob": 1}
    assert facets(found)["client"] == {"curl/8.5.0": 1}
    assert facets(found)["endpoint"]["chat"] == 6
    assert sum(bar.requests for bar in found.bars) == 18
    refused = [bar for bar in found.bars if bar.counts["refused"]]
    assert [bar.counts["refused"] for bar in refused] == [10]
    assert refused[0].start <= record(10).created_at < refused[0].end


@pytest.mark.parametrize(
    ("view", "requests"), [("failed", 11), ("refused", 10), ("slow", 1), ("expensive", 1), ("retried", 1)]
)
def test_views_select_what_they_say(filled, view, requests):
    wanted = LogFilter.parse({"view": view}, NOW, UTC)
    assert filled.breakdown(wanted, NOW, UTC).sums["requests"] == requests
    assert filled.breakdown(LogFilter(), NOW, UTC).views[view] == requests
    listed, _ = filled.find(wanted, 50)
    assert sum(found.get("count", 1) for found in listed) == requests


def test_every_value_counted_is_a_filter_that_finds_as_many(filled):
    for name, values in facets(filled.breakdown(LogFilter(), NOW, UTC)).items():
        for value, number in values.items():
            wanted = LogFilter.parse({name: str(value)}, NOW, UTC)
            assert filled.breakdown(wanted, NOW, UTC).sums["requests"] == number, (name, value)


def test_a_range_is_all_that_is_counted(filled):
    wanted = LogFilter(start=record(2).created_at, end=record(5).created_at)
    found = filled.breakdown(wanted, NOW, UTC)
    assert found.sums["requests"] == 3
    assert found.bars[0].start <= wanted.start
    assert found.bars[-1].end >= wanted.end


def test_beyond_the_bound_it_says_since_when_it_counts(filled, monkeypatch):
    monkeypatch.setattr(request_logs, "BROKEN_DOWN", 4)
    found = filled.breakdown(LogFilter(), NOW, UTC)
    assert record(4).created_at < found.since <= record(5).created_at
    assert found.sums["requests"] == 13
    assert filled.breakdown(LogFilter(user="bob"), NOW, UTC).since is None


def test_what_takes_too_long_is_tried_with_less_and_then_given_up(filled, monkeypatch):
    asked = []

    def slow(wanted, most, now, tz):
        asked.append(most)
        raise request_logs.ExecutionTimeout("operation exceeded time limit")

    monkeypatch.setattr(filled, "_breakdown", slow)
    assert filled.breakdown(LogFilter(), NOW, UTC) is None
    assert asked == [request_logs.BROKEN_DOWN, request_logs.BROKEN_DOWN // 10]


def test_nothing_at_all_is_counted_as_nothing(store):
    found = store.breakdown(LogFilter(), NOW, UTC)
    assert (found.sums["requests"], found.failure_share, found.p95_ms) == (0, None, None)


def test_a_key_is_found_by_its_name_and_by_what_is_shown_of_it(database, store):
    keys = ClientKeyStore(database)
    named = keys.add("ann", now=NOON, more={"keyName": "production backend"})
    other = keys.add("ann", now=NOON)
    database.request_logs.insert_many(
        [record(n, user_key_id=key.key_id).to_document() for n, key in enumerate((named, other))]
    )
    for text in ("production backend", "Production", named.hint, named.secret[-4:], named.key_id):
        wanted = store.with_known_keys(LogFilter(key=text))
        assert [found["_id"] for found in store.find(wanted, 5)[0]] == ["r000000"], text
        assert store.totals(wanted)["requests"] == 1
    assert store.find(store.with_known_keys(LogFilter(key="nothing like it")), 5)[0] == []


def test_neighbours_are_those_of_the_filter(filled):
    wanted = LogFilter(user="ann", outcome="ok")
    third = filled.get("r000003")
    assert filled.neighbours(wanted, third) == ("r000004", "r000002")
    assert filled.neighbours(wanted, filled.get("r000005")) == (None, "r000004")
    assert filled.neighbours(wanted, filled.get("r000000")) == ("r000001", None)
    assert filled.neighbours(wanted, third, "-cost") == ("r000004", "r000002")
    assert filled.neighbours(wanted, filled.get("r000012"), "-latency") == (None, "r000005")
