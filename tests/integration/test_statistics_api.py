"""Statistics over HTTP: what is taken, what is answered."""

import pytest
from test_admin_api import NOW, OLD_KEY, bearer, client

from app.core.periods import ADMIN_PERIODS

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
        ("timeseries?metric=heat", "metric"),
        ("timeseries?by=key", "by"),
        ("timeseries?bucket=week", "bucket"),
        ("timeseries?bucket=5m&period=24h", "bucket"),
        ("timeseries?bucket=hour&period=all", "bucket"),
        ("timeseries?top=0", "top"),
        ("timeseries?top=21", "top"),
        ("timeseries?perod=24h", "perod"),
        ("model-stats?period=week", "period"),
        ("metrics/rate-limit?period=week", "period"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(client, path, parameter):
    answer = ask(client, path, 400)
    assert answer["parameter"] == parameter
    assert answer["error"].startswith(f"{parameter}: ") or parameter == "period"


@pytest.mark.parametrize("path", ["usage?by=user&", "timeseries?", "metrics/rate-limit?"])
def test_a_bad_period_names_the_valid_ones(client, path):
    assert ask(client, f"{path}period=week", 400)["valid_periods"] == list(ADMIN_PERIODS)
