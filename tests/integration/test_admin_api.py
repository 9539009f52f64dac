"""The admin API through Flask: who may use it, what it takes, what it answers."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId
from flask import Flask

from app.api.admin import admin_blueprint
from app.common.errors import StoreUnavailable
from app.persistence.booking import Booking
from app.pricing.model_table import ModelTable
from app.records import request_logs
from app.records.records import ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.records.request_logs import RequestLogStore
from app.statistics.periods import ADMIN_PERIODS
from app.statistics.stats_store import StatsStore
from tests.support.logins import PlainGuard

NOW = datetime(2026, 11, 23, 12, 20, 30, tzinfo=UTC)
TOKEN = "admin-töken"
OLD_KEY = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"

ROUTES = [
    "/api/admin/model-stats",
    "/api/admin/metrics",
    "/api/admin/user-stats",
    "/api/admin/metrics/rate-limit",
    "/api/admin/usage?by=user",
    "/api/admin/timeseries",
    "/api/admin/request-logs",
    "/api/admin/request-logs/breakdown",
    "/api/admin/request-logs/r0",
    "/api/admin/request-logs/export",
]


class FixedClock:
    def utcnow(self):
        return NOW

    def monotonic(self):
        return 0.0

    def new_request_id(self):
        return "x"


def verify_admin(username, password):
    if password != "right":
        return None
    return "admin" if username == "root" else "user"


def client_of(logs, stats, models=()):
    app = Flask("test")
    app.register_blueprint(
        admin_blueprint(
            logs=logs,
            stats=stats,
            models=ModelTable.from_toml(models) if models else ModelTable(()),
            clock=FixedClock(),
            tz=UTC,
            guard=PlainGuard(TOKEN, verify_admin),
        )
    )
    return app.test_client()


@pytest.fixture
def client(database):
    records = [
        ExchangeRecord(
            f"r{n}",
            "ann",
            "wk_1" if n else OLD_KEY,
            NOW - timedelta(hours=10 * n),
            "openai",
            Outcome.OK if n < 4 else Outcome.UPSTREAM_ERROR,
            200 if n < 4 else 502,
            factory_key_id="pool-1",
            model="gpt" if n % 2 else "claude",
            input_tokens=100,
            output_tokens=n,
            usage_source=UsageSource.UPSTREAM,
            cost_nano_usd=1_000,
            latency_ms=100,
            ttft_ms=20,
            usage_raw={"prompt_tokens": 100},
        )
        for n in range(6)
    ]
    database["usersNew"].insert_one({"_id": "ann", "credits": 1.0})
    batch = [SequencedRecord(n, record.to_document()) for n, record in enumerate(records, start=1)]
    Booking(database, "w1").apply(batch)
    return client_of(RequestLogStore(database), StatsStore(database))


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}".encode().decode("latin-1")}


def basic(name, password):
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(bearer("wrong"), id="a wrong token"),
        pytest.param(bearer(""), id="an empty token"),
        pytest.param({"Authorization": "Digest x"}, id="another scheme"),
        pytest.param({"Authorization": "Basic !!!"}, id="broken Basic"),
        pytest.param(basic("root", "wrong"), id="a wrong password"),
    ],
)
def test_without_an_admins_credentials_nothing_is_answered(client, route, headers):
    answer = client.get(route, headers=headers)
    assert answer.status_code == 401
    assert answer.json["error"]
    assert "Authorization: Bearer" in answer.json["hint"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_a_user_who_is_no_admin_is_forbidden(client):
    answer = client.get(ROUTES[0], headers=basic("ann", "right"))
    assert answer.status_code == 403
    assert answer.json["error"] == "the role user does not allow this: it takes viewer"


@pytest.mark.parametrize("headers", [bearer(), basic("root", "right")])
def test_an_admin_is_let_in(client, headers):
    for route in ROUTES:
        answer = client.get(route, headers=headers)
        assert answer.status_code == 200, route
        assert answer.headers["Cache-Control"] == "no-store"


def test_no_configured_token_lets_nobody_in(database):
    app = Flask("test")
    app.register_blueprint(
        admin_blueprint(
            logs=None,
            stats=None,
            models=ModelTable(()),
            clock=FixedClock(),
            tz=UTC,
            guard=PlainGuard("", verify_admin),
        )
    )
    assert app.test_client().get(ROUTES[0], headers=bearer("")).status_code == 401


def test_model_stats(client):
    answer = client.get("/api/admin/model-stats", headers=bearer()).json
    assert answer["period"] == "all"
    assert [row["model"] for row in answer["models"]] == ["gpt", "claude"]
    assert answer["models"][0] == {
        "model": "gpt",
        "inputTokens": 300,
        "outputTokens": 9,
        "cacheWriteTokens": 0,
        "cacheHitTokens": 0,
        "cacheHitShare": 0.0,
        "totalTokens": 309,
        "creditsBurned": 3e-06,
        "costNanoUsd": 3000,
        "upstreamCostNanoUsd": None,
        "toldRequestCount": 0,
        "toldCostNanoUsd": 0,
        "marginNanoUsd": None,
        "upstreamDriftPercent": None,
        "requestCount": 3,
        "successCount": 2,
        "errorCount": 1,
        "rejectedCount": 0,
        "avgLatencyMs": 100.0,
        "p50LatencyMs": answer["models"][0]["p50LatencyMs"],
        "p95LatencyMs": answer["models"][0]["p95LatencyMs"],
        "p99LatencyMs": answer["models"][0]["p99LatencyMs"],
        "avgTtftMs": 20.0,
    }
    assert 95 <= answer["models"][0]["p99LatencyMs"] <= 105


@pytest.mark.parametrize(("period", "number"), [("1h", 1), ("24h", 3), ("today", 2), ("7d", 6), ("all", 6)])
def test_periods(client, period, number):
    rows = client.get(f"/api/admin/model-stats?period={period}", headers=bearer()).json
    assert rows["period"] == period
    assert sum(row["requestCount"] for row in rows["models"]) == number
    assert (
        client.get(f"/api/admin/metrics?period={period}", headers=bearer()).json["total_requests"] == number
    )


@pytest.mark.parametrize("route", ROUTES[:3])
def test_a_bad_period_names_the_valid_ones(client, route):
    answer = client.get(f"{route}?period=fortnight", headers=bearer())
    assert answer.status_code == 400
    assert answer.json["valid_periods"] == list(ADMIN_PERIODS)
    assert "'fortnight'" in answer.json["error"]


def test_metrics_and_user_stats(client):
    metrics = client.get("/api/admin/metrics", headers=bearer()).json
    assert metrics["timestamp"] == "2026-11-23T12:20:30.000Z"
    assert (metrics["total_requests"], metrics["success_rate"]) == (6, 66.67)
    users = client.get("/api/admin/user-stats", headers=bearer()).json
    assert (users["total_users"], users["total_credits_used"]) == (1, 6e-06)


def test_the_request_log_is_paged(client):
    seen, cursor = [], ""
    while cursor is not None:
        answer = client.get(f"/api/admin/request-logs?limit=4&cursor={cursor}", headers=bearer()).json
        seen += [record["id"] for record in answer["requests"]]
        cursor = answer["nextCursor"]
    assert seen == ["r0", "r1", "r2", "r3", "r4", "r5"]


def test_the_request_log_is_filtered(client):
    url = "/api/admin/request-logs?model=gpt&status=5xx&from=7d&outcome=upstream_error&user=ann"
    answer = client.get(url, headers=bearer()).json
    assert [record["id"] for record in answer["requests"]] == ["r5"]


def test_the_request_log_is_broken_down(client):
    found = client.get("/api/admin/request-logs/breakdown?period=all", headers=bearer()).json
    assert (found["since"], found["requests"], found["views"]["failed"]) == (None, 6, found["failed"])
    assert found["creditsCost"] == found["costNanoUsd"] / 10**9 > 0
    assert sum(bar[name] for bar in found["bars"] for name in ("ok", "refused", "left", "failed")) == 6
    by = {facet["by"]: facet for facet in found["facets"]}
    assert {row["value"]: row["requests"] for row in by["user"]["values"]} == {"ann": 6}
    assert OLD_KEY not in str(found)
    failed = client.get("/api/admin/request-logs?view=failed", headers=bearer()).json["requests"]
    assert len(failed) == found["failed"] > 0
    last = client.get("/api/admin/request-logs/breakdown?period=yesterday", headers=bearer()).json
    assert last["requests"] == 2


def test_a_breakdown_that_takes_too_long_says_so(client, monkeypatch):
    monkeypatch.setattr(RequestLogStore, "breakdown", lambda *_: None)
    answer = client.get("/api/admin/request-logs/breakdown", headers=bearer())
    assert (answer.status_code, answer.json["hint"]) == (503, "narrow the time")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("view=odd", "view"),
        ("period=today&from=1h", "period"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=abc", "cursor"),
        ("status=abc", "status"),
        ("outcome=good", "outcome"),
        ("apiFormat=x", "apiFormat"),
        ("from=soon", "from"),
    ],
)
def test_a_bad_parameter_is_named(client, query, parameter):
    answer = client.get(f"/api/admin/request-logs?{query}", headers=bearer())
    assert answer.status_code == 400
    assert answer.json["parameter"] == parameter
    assert answer.json["error"].startswith(f"{parameter}: ")


def test_a_record_shows_dates_as_text_and_no_client_key(client):
    answer = client.get("/api/admin/request-logs/r0", headers=bearer())
    assert answer.json["createdAt"] == "2026-11-23T12:20:30.000Z"
    assert answer.json["userKeyId"] == "sk-troll...VWX"
    assert answer.json["usageRaw"] == {"prompt_tokens": 100}
    listed = client.get("/api/admin/request-logs", headers=bearer())
    assert OLD_KEY not in answer.text + listed.text
    assert listed.json["requests"][1]["userKeyId"] == "wk_1"


def test_records_of_earlier_software_are_shown(client, database):
    native = ObjectId()
    database["request_logs"].insert_one({"_id": native, "userKeyId": OLD_KEY, "createdAt": NOW})
    answer = client.get(f"/api/admin/request-logs/{native}", headers=bearer())
    assert answer.json["id"] == str(native)


def test_a_record_that_does_not_exist(client):
    answer = client.get("/api/admin/request-logs/nothing", headers=bearer())
    assert answer.status_code == 404
    assert answer.json["error"] == "there is no record of a request nothing"


def test_while_the_store_is_down_the_answer_says_so():
    class Down:
        def __getattr__(self, name):
            def fail(*_args, **_options):
                raise StoreUnavailable("connection refused")

            return fail

    client = client_of(Down(), Down())
    for route in ROUTES:
        answer = client.get(route, headers=bearer())
        assert answer.status_code == 503
        assert answer.json == {"error": "the database cannot answer", "hint": "connection refused"}
        assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize(("form", "media_type"), [("csv", "text/csv"), ("jsonl", "application/x-ndjson")])
def test_an_export_has_what_the_filters_choose_oldest_first(client, form, media_type):
    answer = client.get(f"/api/admin/request-logs/export?format={form}&model=gpt", headers=bearer())
    assert answer.status_code == 200
    assert answer.mimetype == media_type
    assert answer.headers["Content-Disposition"] == f'attachment; filename="request-logs.{form}"'
    lines = answer.text.splitlines()[form == "csv" :]
    ids = [line.split(",")[0] if form == "csv" else json.loads(line)["id"] for line in lines]
    assert ids == ["r5", "r3", "r1"]
    assert OLD_KEY not in client.get("/api/admin/request-logs/export?format=csv", headers=bearer()).text


def test_a_page_says_how_far_was_looked(client, monkeypatch):
    monkeypatch.setattr(request_logs, "LOOKED_THROUGH_BY_TIME", 2)
    answer = client.get("/api/admin/request-logs?q=zzz", headers=bearer()).json
    assert answer["requests"] == []
    assert answer["searchedTo"] == "2026-11-23T02:20:30.000Z"
    assert answer["nextCursor"]
    whole = client.get("/api/admin/request-logs?limit=200", headers=bearer()).json
    assert (whole["nextCursor"], whole["searchedTo"]) == (None, None)


def test_prices_are_listed_with_those_to_come_and_who_pays_another_share():
    models = """
        [[models]]
        id = "a"
        input = 3
        output = 15
        changes = [{ from = 2026-12-01, output = 16 }]
        [[models]]
        id = "b"
        aliases = ["other"]
        units = { image = 0.04 }
        [groups.resellers]
        price_factor = "0.8"
    """
    client = client_of(None, None, models)
    answer = client.get("/api/admin/prices", headers=bearer()).json
    assert (answer["version"], answer["groups"]) == (
        ModelTable.from_toml(models).version,
        {"resellers": "0.8"},
    )
    prices = {model["id"]: model["prices"] for model in answer["models"]}
    assert [(row["effectiveFrom"], row["tokens"]["output"]) for row in prices["a"]] == [
        (None, "15"),
        ("2026-12-01T00:00:00.000Z", "16"),
    ]
    assert [row["units"] for row in prices["b"]] == [{"image": "0.04"}]
    found = client.get("/api/admin/prices?model=OTH*", headers=bearer()).json
    assert [model["id"] for model in found["models"]] == ["b"]
    assert client.get(f"/api/admin/prices?model={'a' * 200}", headers=bearer()).status_code == 400
