"""`/api/user` of the whole application: users see themselves and nobody else."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr

from app.adapters.mongo.client_keys import ClientKeyStore
from app.adapters.mongo.settlement import Settlement
from app.adapters.mongo.users import UserStore
from app.core.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.factory import create_app
from app.settings import Settings

FIXED = "fixed-key-of-the-operator"
ROUTES = ("me", "detailed-usage", "request-logs", "request-history", "credits-usage")
SECRETS = ("pool-secret-name", "their-model-name", "req_upstream", "bob")


def records(user, key, count, first):
    now = datetime.now(UTC)
    return [
        SequencedRecord(
            first + n,
            ExchangeRecord(
                f"{user}-{n:04}",
                user,
                key,
                now - timedelta(hours=2 * n, minutes=5),
                "openai",
                Outcome.OK if n else Outcome.UPSTREAM_ERROR,
                200 if n else 502,
                factory_key_id="pool-secret-name",
                model="gpt",
                upstream_model="their-model-name",
                upstream_request_id="req_upstream",
                input_tokens=100,
                output_tokens=10,
                usage_source=UsageSource.UPSTREAM,
                cost_nano_usd=1_000_000,
                latency_ms=100,
                attempts=(AttemptRecord("pool-secret-name", 200, 7),),
            ).to_document(),
        )
        for n in range(count)
    ]


@pytest.fixture
def world(mongo_uri, database, tmp_path):
    users, keys = UserStore(database), ClientKeyStore(database)
    now = datetime.now(UTC)
    secrets = {}
    batch = []
    for number, name in enumerate(("ann", "bob")):
        users.add(name, now=now - timedelta(days=3), credits_usd=Decimal(5))
        made = keys.add(name, now=now)
        secrets[name] = made.secret
        batch += records(name, made.key_id, 30 + number, 1 + 100 * number)
    Settlement(database, "w1").apply(batch)
    settings = Settings(
        mongodb_uri=SecretStr(mongo_uri),
        mongodb_db_name=database.name,
        data_dir=tmp_path,
        proxy_api_key=SecretStr(FIXED),
    )
    app = create_app(settings)
    yield app.test_client(), secrets
    app.extensions["weir"].database.client.close()


def ask(world, path, key="ann", status=200):
    client, secrets = world
    answer = client.get(f"/api/user/{path}", headers={"Authorization": f"Bearer {secrets.get(key, key)}"})
    assert answer.status_code == status, answer.text
    return answer.json


def test_me(world):
    me = ask(world, "me")
    assert (me["username"], me["role"], me["expiresAt"], me["rateLimitRpm"]) == ("ann", "user", None, None)
    assert (me["credits"], me["creditsUsed"], me["totalInputTokens"]) == (4.97, 0.03, 3000)
    assert me["keyId"].startswith("wk_")


def test_detailed_usage(world):
    usage = ask(world, "detailed-usage?period=24h")
    assert (usage["requestCount"], usage["successCount"]) == (12, 11)
    assert (usage["inputTokens"], usage["outputTokens"]) == (1200, 120)
    assert usage["creditsBurned"] == 0.012
    assert ask(world, "detailed-usage")["period"] == "24h"


def test_credits_usage(world):
    assert ask(world, "credits-usage") == {
        "last1h": 0.001,
        "last24h": 0.012,
        "last7d": 0.03,
        "last30d": 0.03,
    }


def test_request_logs_are_paged_by_number(world):
    first = ask(world, "request-logs?period=7d&limit=20")
    assert (first["total"], first["totalIsMore"], first["totalPages"], first["page"]) == (30, False, 2, 1)
    second = ask(world, "request-logs?period=7d&limit=20&page=2")
    ids = [record["id"] for record in first["requests"] + second["requests"]]
    assert ids == [f"ann-{n:04}" for n in range(30)]
    assert ask(world, "request-logs?period=1h")["total"] == 1
    assert ask(world, "request-logs?period=7d&page=9")["requests"] == []


def test_request_history_by_time(world):
    assert ask(world, "request-history?from=24h")["total"] == 12
    older = ask(world, "request-history?to=24h&limit=5")
    assert (older["total"], len(older["requests"])) == (18, 5)


@pytest.mark.parametrize("name", ["ann", "bob"])
def test_nobody_sees_others_or_the_upstream(world, name):
    others = "bob" if name == "ann" else "ann"
    for route in ROUTES:
        text = str(ask(world, route, key=name))
        assert f"'{others}" not in text
        for secret in SECRETS[:3]:
            assert secret not in text
    for record in ask(world, "request-logs?period=30d&limit=100", key=name)["requests"]:
        assert record["id"].startswith(name)
        assert record["upstream"] is None
        assert not {"factoryKeyId", "attempts", "upstreamModel", "userId", "usageRaw"} & set(record)


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_valid_key_nothing_is_said(world, route):
    client, secrets = world
    for headers in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer sk-none"}):
        answer = client.get(f"/api/user/{route}", headers=headers)
        assert (answer.status_code, set(answer.json)) == (401, {"error", "hint"})
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    both = {"Authorization": f"Bearer {secrets['ann']}", "x-api-key": secrets["bob"]}
    assert client.get(f"/api/user/{route}", headers=both).status_code == 401
    for headers in ({"x-api-key": secrets["ann"]}, {"Authorization": f"bEaReR {secrets['ann']}"}):
        answer = client.get(f"/api/user/{route}", headers=headers)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    fixed = ask(world, route, key=FIXED, status=403)
    assert fixed == {
        "error": "this key belongs to no user",
        "hint": "use a client key of your own",
    }


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("detailed-usage?period=3d", "period"),
        ("detailed-usage?user=bob", "user"),
        ("request-logs?page=0", "page"),
        ("request-logs?limit=101", "limit"),
        ("request-logs?page=201&limit=50", "page"),
        ("request-history?from=soon", "from"),
        ("me?x=1", "x"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(world, path, parameter):
    assert ask(world, path, status=400)["parameter"] == parameter
