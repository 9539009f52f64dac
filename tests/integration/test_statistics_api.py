"""Statistics over HTTP: what is taken, what is answered."""

import csv
import io
from datetime import timedelta

import pytest
from test_admin_api import NOW, OLD_KEY, bearer, client

from app.statistics.periods import ADMIN_PERIODS

__all__ = ["client"]


def ask(client, path, status=200):
    answer = client.get(f"/api/admin/{path}", headers=bearer())
    assert answer.status_code == status, answer.text
    return answer.json


def test_usage_by_each(client):
    users = ask(client, "usage?by=user")
    assert (users["by"], users["period"], users["otherCount"], users["other"]) == ("user", "all", 0, None)
    (row,) = users["rows"]
    assert (row["key"], row["requestCount"], row["errorCount"], row["creditsBurned"]) == ("ann", 6, 2, 6e-06)
    assert row["totalTokens"] == row["inputTokens"] + row["outputTokens"] == 615
    assert users["total"]["requestCount"] == 6
    assert {row["key"] for row in ask(client, "usage?by=model")["rows"]} == {"gpt", "claude"}
    assert [row["key"] for row in ask(client, "usage?by=factoryKey&period=24h")["rows"]] == ["pool-1"]


def test_usage_by_key_shows_no_client_key(client):
    answer = ask(client, "usage?by=key&limit=1")
    assert (len(answer["rows"]), answer["otherCount"]) == (1, 1)
    both = ask(client, "usage?by=key")
    assert {row["key"] for row in both["rows"]} == {"wk_1", "sk-troll...VWX"}
    assert OLD_KEY not in str(both)


def test_a_series_adds_up_and_names_its_buckets(client):
    answer = ask(client, "timeseries?period=24h&by=model")
    assert {name: answer[name] for name in ("metric", "period", "by", "bucket", "timezone")} == {
        "metric": "requests",
        "period": "24h",
        "by": "model",
        "bucket": "hour",
        "timezone": "UTC",
    }
    assert len(answer["buckets"]) == 25
    assert sum(bucket["total"] for bucket in answer["buckets"]) == 3
    assert answer["keys"] == ["claude", "gpt"]
    last = answer["buckets"][-1]
    assert last == {
        "start": "2026-11-23T12:00:00.000Z",
        "total": 1,
        "series": {"claude": 1, "gpt": 0},
        "other": 0,
    }


def test_every_metric_has_its_values(client):
    values = {
        metric: ask(client, f"timeseries?period=7d&metric={metric}")["buckets"][-1]["total"]
        for metric in ("requests", "tokens", "cost", "latency", "errors")
    }
    assert values["tokens"] == {
        "inputTokens": 200,
        "outputTokens": 1,
        "cacheWriteTokens": 0,
        "cacheHitTokens": 0,
    }
    assert (values["requests"], values["cost"], values["errors"]) == (2, 2e-06, 0)
    assert 95 <= values["latency"]["p99"] <= 105
    assert (values["latency"]["avg"], values["latency"]["avgTtft"]) == (100.0, 20.0)
    nothing = ask(client, "timeseries?period=7d&metric=latency")["buckets"][0]
    assert nothing["total"] == {"p50": None, "p95": None, "p99": None, "avg": None, "avgTtft": None}


def test_rate_limited_requests_are_counted(client):
    assert ask(client, "metrics/rate-limit?period=7d") == {
        "total_429": 0,
        "user_key_429": 0,
        "friend_key_429": 0,
        "period": "7d",
        "from": "2026-11-16T12:20:30.000Z",
        "to": "2026-11-23T12:20:30.000Z",
        "timezone": "UTC",
        "timestamp": "2026-11-23T12:20:30.000Z",
    }


def test_rate_limited_requests_of_friend_keys_are_counted_apart(client, database):
    logs = [{"statusCode": 429, "createdAt": NOW}, {"statusCode": 429, "createdAt": NOW, "friendKeyId": "f"}]
    database["request_logs"].insert_many(logs)
    found = ask(client, "metrics/rate-limit?period=1h")
    assert (found["total_429"], found["user_key_429"], found["friend_key_429"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("usage", "by"),
        ("usage?by=colour", "by"),
        ("usage?by=user&limit=0", "limit"),
        ("usage?by=user&limit=1001", "limit"),
        ("usage?by=user,user", "by"),
        ("usage?by=day,month", "by"),
        ("usage?by=user,model,key", "by"),
        ("usage?by=user&cursor=x", "cursor"),
        ("usage?by=user&cursor=WzEsLTFd", "cursor"),
        ("usage?by=user&compare=next", "compare"),
        ("usage?by=user&period=24h&from=2026-11-01", "period"),
        ("metrics?from=2026-11-02&to=2026-11-01", "from"),
        ("metrics?from=tomorrow", "from"),
        ("timeseries?metric=heat", "metric"),
        ("timeseries?by=colour", "by"),
        ("timeseries?bucket=week", "bucket"),
        ("timeseries?bucket=5m&period=24h", "bucket"),
        ("timeseries?bucket=hour&period=all", "bucket"),
        ("timeseries?top=0", "top"),
        ("timeseries?top=21", "top"),
        ("timeseries?perod=24h", "perod"),
        ("model-stats?period=fortnight", "period"),
        ("metrics/rate-limit?period=fortnight", "period"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(client, path, parameter):
    answer = ask(client, path, 400)
    assert answer["parameter"] == parameter
    assert answer["error"].startswith(f"{parameter}: ") or parameter == "period"


@pytest.mark.parametrize("path", ["usage?by=user&", "timeseries?", "metrics/rate-limit?"])
def test_a_bad_period_names_the_valid_ones(client, path):
    assert ask(client, f"{path}period=fortnight", 400)["valid_periods"] == list(ADMIN_PERIODS)


def test_two_words_and_times(client):
    answer = ask(client, "usage?by=user,model&from=2026-11-01&to=2026-11-24")
    assert (answer["by"], answer["period"], answer["timezone"]) == ("user,model", None, "UTC")
    assert (answer["from"], answer["to"]) == ("2026-11-01T00:00:00.000Z", "2026-11-24T00:00:00.000Z")
    assert {(row["user"], row["model"]) for row in answer["rows"]} <= {("ann", "gpt"), ("ann", "claude")}
    assert all(row["key"] is None for row in answer["rows"])
    assert sum(row["costNanoUsd"] for row in answer["rows"]) == answer["total"]["costNanoUsd"] > 0


@pytest.mark.parametrize("by", ["key", "user,day", "endpoint"])
def test_pages_of_usage_are_of_the_same_requests(client, database, by):
    whole = ask(client, f"usage?by={by}&period=7d")
    seen, path = [], f"usage?by={by}&period=7d&limit=1"
    page = ask(client, path)
    while True:
        assert (page["from"], page["to"], page["total"]) == (whole["from"], whole["to"], whole["total"])
        seen += page["rows"]
        if page["nextCursor"] is None:
            break
        later = {"_id": f"late-{len(seen)}", "userId": "ann", "createdAt": NOW + timedelta(seconds=1)}
        database["request_logs"].insert_one(later | {"creditsCost": 5.0})
        page = ask(client, f"{path}&cursor={page['nextCursor']}")
    assert seen == whole["rows"]
    assert OLD_KEY not in str(seen)


def test_usage_beside_the_period_before(client):
    answer = ask(client, "usage?by=user&period=24h&compare=previous")
    assert answer["previous"]["to"] == answer["from"]
    (row,) = answer["rows"]
    assert row["previous"]["requestCount"] == answer["previous"]["total"]["requestCount"]
    assert ask(client, "usage?by=user&compare=previous")["previous"] is None
    metrics = ask(client, "metrics?period=7d&compare=previous")
    assert metrics["previous"]["to"] == metrics["from"]


@pytest.mark.parametrize(
    "path",
    ["metrics?", "user-stats?", "model-stats?", "timeseries?metric=cost&by=model&", "usage?by=user&"],
)
def test_every_statistic_beside_the_period_before(client, path):
    for period in ("24h", "yesterday", "week", "2026-11"):
        whole = ask(client, f"{path}period={period}&compare=previous")
        before = whole.pop("previous")
        assert (before["to"], before["timezone"]) == (whole["from"], "UTC")
        plain = ask(client, f"{path}period={period}")
        for row in whole.get("rows", ()):
            assert row.pop("previous")["requestCount"] >= 0
        assert {**whole, "timestamp": None, "nextCursor": None} == {
            **plain,
            "timestamp": None,
            "nextCursor": None,
        }
        assert "previous" not in plain
        if not path.startswith("usage"):
            again = ask(client, f"{path}from={before['from']}&to={before['to']}")
            # Of a series the buckets and keys are those of the period that it is compared with.
            names = {"from", "to", "models", "creditsBurned", "total_credits_used"} & set(again)
            assert {name: before[name] for name in names} == {name: again[name] for name in names}
    assert ask(client, f"{path}compare=previous")["previous"] is None
    ask(client, f"{path}compare=next", 400)


def test_a_series_beside_the_one_before_has_its_keys_and_buckets(client):
    answer = ask(client, "timeseries?period=1h&bucket=5m&by=model&compare=previous")
    before = answer["previous"]
    assert (before["keys"], before["bucket"]) == (answer["keys"], "5m")
    assert len(before["buckets"]) in (12, 13)
    for bucket in before["buckets"]:
        assert set(bucket["series"]) == set(answer["keys"])


def test_a_series_by_what_only_records_say(client, database):
    logs = database["request_logs"]
    said = {"endUser": "bob", "sessionId": "s1", "clientName": "curl/8.5.0", "tags": ["a", "b"]}
    some = {"outcome": "ok", "isSuccess": True, "createdAt": NOW, "latencyMs": 100, "costNanoUsd": 5}
    logs.insert_many(
        [
            {"_id": "1", **some, **said},
            {"_id": "2", **some, **said, "endUser": "cat", "tags": ["b", "c"]},
            {"_id": "3", **some, "tags": ["d"], "count": 3},
        ]
    )
    everything = ask(client, "timeseries?period=7d")["buckets"]
    for by, expected in (
        ("endUser", {"bob": 1, "cat": 1}),
        ("session", {"s1": 2}),
        ("client", {"curl/8.5.0": 2}),
        ("tag", {"d": 3, "b": 2, "a": 1, "c": 1}),
    ):
        answer = ask(client, f"timeseries?period=7d&by={by}")
        assert answer["countedFrom"] == "records"
        assert answer["keys"] == list(expected)
        assert answer["buckets"][-1]["series"] == expected
    (last, *_) = ask(client, "timeseries?period=7d&by=tag&top=2")["buckets"][::-1]
    records = logs.count_documents({"createdAt": {"$gte": NOW - timedelta(hours=12)}})
    # What has one of the tags shown is no other; what has both is in both.
    assert last["series"] == {"d": 3, "b": 2}
    assert last["other"] == last["total"] - 5
    assert last["total"] >= records
    assert everything
    cost = ask(client, "timeseries?period=7d&by=tag&metric=cost")["buckets"][-1]
    assert cost["seriesNanoUsd"] == {"a": 5, "b": 10, "c": 5, "d": 5}
    latency = ask(client, "timeseries?period=7d&by=tag&metric=latency")["buckets"][-1]["series"]
    assert 95 <= latency["b"]["p50"] <= 105


def test_a_series_by_client_key_or_endpoint_shows_no_secret(client):
    keys = ask(client, "timeseries?by=key&period=all")
    assert set(keys["keys"]) == {"wk_1", "sk-troll...VWX"}
    assert OLD_KEY not in str(keys)
    assert OLD_KEY not in client.get("/api/admin/timeseries?by=key&format=csv", headers=bearer()).text
    endpoints = ask(client, "timeseries?by=endpoint&period=all")
    assert sum(bucket["total"] for bucket in endpoints["buckets"]) == 6
    rows = ask(client, "usage?by=endpoint")["rows"]
    assert set(endpoints["keys"]) == {row["key"] for row in rows}


def test_sums_as_csv(client, database):
    database["request_logs"].insert_one(
        {"_id": "formula", "userId": "=1+1", "model": "gpt", "createdAt": NOW, "creditsCost": 1.0}
    )

    def csv_of(path):
        answer = client.get(f"/api/admin/{path}&format=csv", headers=bearer())
        assert (answer.status_code, answer.mimetype) == (200, "text/csv"), answer.text
        return answer, list(csv.DictReader(io.StringIO(answer.text)))

    answer, rows = csv_of("usage?by=user,day&period=2026-11&limit=1")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage-2026-11.csv"'
    assert {"'=1+1", "ann"} == {row["user"] for row in rows}
    assert (
        sum(int(row["costNanoUsd"]) for row in rows) == ask(client, "metrics?period=2026-11")["costNanoUsd"]
    )
    _, rows = csv_of("model-stats?period=month")
    assert (
        sum(int(row["requestCount"]) for row in rows) == ask(client, "metrics?period=month")["total_requests"]
    )
    for metric in ("requests", "cost", "latency"):
        answer, rows = csv_of(f"timeseries?metric={metric}&by=user&period=7d")
        assert {row["user"] for row in rows} == {"ann", "'=1+1", ""}
    _, rows = csv_of("timeseries?metric=tokens&period=7d")
    assert list(rows[0]) == ["start", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens"]


def test_sums_as_csv_beside_the_period_before(client, database):
    """Each figure is what JSON says, now and then; empty where there is no period before."""

    def csv_of(path):
        answer = client.get(f"/api/admin/{path}&format=csv&compare=previous", headers=bearer())
        assert answer.status_code == 200, answer.text
        return list(csv.DictReader(io.StringIO(answer.text)))

    earlier = {"isSuccess": True, "createdAt": NOW - timedelta(days=10), "model": "older", "creditsCost": 2.0}
    database["request_logs"].insert_many(
        {"_id": f"e{user}", "userId": user, **earlier} for user in ("ann", "old")
    )
    rows = csv_of("usage?by=user&period=7d")
    told = {row["user"]: row for row in ask(client, "usage?by=user&period=7d&compare=previous")["rows"]}
    assert {row["user"] for row in rows} == set(told)
    for row in rows:
        was = told[row["user"]]["previous"]
        assert int(row["previousRequestCount"]) == was["requestCount"]
        assert int(row["previousCostNanoUsd"]) == was["costNanoUsd"]
    assert {row["user"]: row["previousCostNanoUsd"] for row in rows}["ann"] == "2000000000"
    assert {row["previousRequestCount"] for row in csv_of("usage?by=user&period=all")} == {""}

    models = {row["model"]: row for row in csv_of("model-stats?period=7d")}
    assert (models["older"]["requestCount"], models["older"]["previousRequestCount"]) == ("0", "2")
    assert all(row["previousRequestCount"] == "0" for name, row in models.items() if name != "older")

    buckets = csv_of("timeseries?metric=cost&period=7d")
    previous = ask(client, "timeseries?metric=cost&period=7d&compare=previous")["previous"]["buckets"]
    assert [row["previousStart"] for row in buckets][: len(previous)] == [b["start"] for b in previous]
    assert sum(int(row["previousCostNanoUsd"] or 0) for row in buckets) == 4_000_000_000
    assert {row["previousCostNanoUsd"] for row in csv_of("timeseries?metric=cost&period=all")} == {""}


def test_all_sums_agree(client):
    """Of requests that reached no model, too."""
    for period in ("all", "month", "24h"):
        number = ask(client, f"metrics?period={period}")["total_requests"]
        models = ask(client, f"model-stats?period={period}")["models"]
        assert sum(row["requestCount"] for row in models) == number
        assert ask(client, f"usage?by=user&period={period}")["total"]["requestCount"] == number


def test_exact_costs_over_time(client):
    answer = ask(client, "timeseries?metric=cost&by=model&period=7d")
    last = answer["buckets"][-1]
    assert last["totalNanoUsd"] == sum(last["seriesNanoUsd"].values()) + last["otherNanoUsd"] == 2000


def test_the_log_by_outcomes_amounts_and_parts_of_names(client, database):
    def ids(query):
        return [found["requestId"] for found in ask(client, f"request-logs?{query}")["requests"]]

    whole = ids("")
    failed = ids("outcome=failed")
    assert failed == ids("outcome=upstream_error,rejected")
    assert set(failed) | set(ids("outcome=ok")) == set(whole)
    assert ids("user~=NN") == whole
    assert ids("user~=nobody") == []
    assert set(ids("model~=cla")) == set(ids("model=claude"))
    database["request_logs"].update_one(
        {"_id": whole[2]}, {"$set": {"costNanoUsd": 5 * 10**9, "latencyMs": 7777}}
    )
    assert ids("minCostUsd=5") == ids("minLatencyMs=7777&outcome=ok,upstream_error") == [whole[2]]
    assert (
        ids("sort=-cost&from=2026-11-01&limit=1")
        == ids("sort=-latency&from=2026-11-01&limit=1")
        == [whole[2]]
    )
    assert ids("sort=-cost&from=2026-11-01&minLatencyMs=7778") == []
    for sort in ("-cost", "-latency"):
        path, seen = f"request-logs?sort={sort}&from=2020-01-01&limit=1", []
        page = ask(client, path)
        while True:
            seen += [found["requestId"] for found in page["requests"]]
            if page["nextCursor"] is None:
                break
            page = ask(client, f"{path}&cursor={page['nextCursor']}")
        assert seen[0] == whole[2]
        assert sorted(seen) == sorted(ids("from=2020-01-01"))
        whole_page = ids(f"sort={sort}&from=2020-01-01")
        assert whole_page == seen
    other = ask(client, "request-logs?limit=1")["nextCursor"]
    ask(client, f"request-logs?sort=-cost&from=2020-01-01&cursor={other}", 400)
    totals = ask(client, "request-logs?limit=1&totals=1")["totals"]
    assert (totals["requests"], totals["costNanoUsd"] > 5 * 10**9) == (6, True)
    assert totals["creditsCost"] == totals["costNanoUsd"] / 10**9
    assert ask(client, "request-logs?totals=1&user~=nobody")["totals"]["requests"] == 0
    assert ask(client, "request-logs?sort=-cost", 400)["parameter"] == "sort"


def test_a_time_whose_records_have_expired_leads_to_the_sums(client, database):
    database["request_logs"].create_index("createdAt", expireAfterSeconds=30 * 86_400)
    told = ask(client, "request-logs?from=2026-10-01")
    assert (told["expiredBefore"], "usage" in told["hint"]) == ("2026-10-24T12:20:30.000Z", True)
    assert "expiredBefore" not in ask(client, "request-logs?from=2026-11-01")
    assert "expiredBefore" not in ask(client, "request-logs")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("request-logs/breakdown?from=2026-10-01", "request-logs/breakdown?from=2026-11-01"),
        ("usage?by=endUser&period=2026-10", "usage?by=endUser&period=7d"),
        ("usage?by=tag,user&period=all", "usage?by=user&period=all"),
        ("timeseries?by=client&period=2026-10", "timeseries?by=model&period=2026-10"),
        ("metrics/rate-limit?period=2026-10", "metrics/rate-limit?period=24h"),
    ],
)
def test_whatever_is_counted_from_records_says_that_some_have_expired(client, database, path, kept):
    assert "expiredBefore" not in ask(client, path)
    database["request_logs"].create_index("createdAt", expireAfterSeconds=30 * 86_400)
    told = ask(client, path)
    assert (told["expiredBefore"], "usage" in told["hint"]) == ("2026-10-24T12:20:30.000Z", True)
    assert "expiredBefore" not in ask(client, kept)


def test_an_export_and_a_missing_record_say_what_has_expired(client, database):
    def export(query):
        return client.get(f"/api/admin/request-logs/export?{query}", headers=bearer()).headers

    assert "X-Weir-Expired-Before" not in export("from=2026-10-01")
    assert "hint" not in ask(client, "request-logs/nobody", 404)
    database["request_logs"].create_index("createdAt", expireAfterSeconds=30 * 86_400)
    assert export("from=2026-10-01")["X-Weir-Expired-Before"] == "2026-10-24T12:20:30.000Z"
    assert "X-Weir-Expired-Before" not in export("from=2026-11-01")
    assert "2026-10-24T12:20:30.000Z" in ask(client, "request-logs/nobody", 404)["hint"]
