"""`/api/user` of the whole application: users see themselves and nobody else."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import SecretStr

from app.accounts.client_keys import ClientKeyStore
from app.accounts.login_tries import KEYS_PER_ADDRESS
from app.accounts.users import UserStore
from app.api.user import REQUESTS_PER_KEY
from app.factory import create_app
from app.management.audit import Actor
from app.persistence.booking import Booking
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.settings import Settings
from tests.support.admin_api import Admin, admin_app

FIXED = "fixed-key-of-the-operator"
THIS_MONTH = "statements/THIS-MONTH"
"""Of the month it is when that is asked: the tests may begin in another, and are named before they begin."""
ROUTES = ("me", "detailed-usage", "request-logs", "request-history", "credits-usage", THIS_MONTH)
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
                error_message=None if n else "pool-secret-name has no money",
                told_message=None if n else "the operator must see to it",
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
    Booking(database, "w1").apply(batch)
    settings = Settings(
        mongodb_uri=SecretStr(mongo_uri),
        mongodb_db_name=database.name,
        data_dir=tmp_path,
        proxy_api_key=SecretStr(FIXED),
    )
    app = create_app(settings)
    yield app.test_client(), secrets
    app.extensions["weir"].database.client.close()


def url(path):
    return "/api/user/" + path.replace("THIS-MONTH", f"{datetime.now(UTC):%Y-%m}")


def ask(world, path, key="ann", status=200):
    client, secrets = world
    answer = client.get(url(path), headers={"Authorization": f"Bearer {secrets.get(key, key)}"})
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
    compared = ask(world, "detailed-usage?period=24h&compare=previous")
    assert compared["previous"]["to"] == compared["from"]
    assert compared["previous"]["costNanoUsd"] >= 0


def test_the_own_statement_adds_up_and_prints(world):
    client, secrets = world
    # The records may be of two months.
    today = datetime.now(UTC)
    this_month = f"statements/{today:%Y-%m}"
    before = f"statements/{today.replace(day=1) - timedelta(days=1):%Y-%m}"
    charged = 0
    for path in (this_month, before):
        found = client.get(f"/api/user/{path}", headers={"x-api-key": secrets["ann"]})
        if path == before and found.status_code == 404:
            continue
        own = found.json
        assert set(own) == {"month", "from", "to", "timezone", "state", "hasBegun", "isOver", "statement"}
        sums = own["statement"]
        assert sums["user"] == "ann"
        given = sums["creditsNanoUsd"] - sums["debitsNanoUsd"]
        assert sums["closingNanoUsd"] == sums["openingNanoUsd"] + given - sums["chargesNanoUsd"]
        assert sum(line["costNanoUsd"] for line in sums["charges"]) == sums["chargesNanoUsd"]
        assert all("by" not in line for line in sums["ledger"])
        charged += sums["chargesNanoUsd"]
    assert charged == 30_000_000
    headers = {"x-api-key": secrets["ann"]}
    page = client.get(f"/api/user/{this_month}?format=html", headers=headers)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "ann" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    lines = client.get(f"/api/user/{this_month}?format=csv", headers=headers).text.splitlines()
    assert "kind" in lines[0].split(",")
    assert lines[-1].split(",")[lines[0].split(",").index("kind")] == "closing"
    assert ask(world, "statements/2026-13", status=400)["error"]


def test_a_key_bound_to_addresses_tells_nothing_elsewhere(world):
    client, _ = world
    app = client.application
    keys = app.extensions["weir"].administration.client_keys
    operator = Actor("root", "cli")
    bound = keys.add(operator, "ann")
    keys.change(operator, bound.key_id, {"allowedIps": ["10.9.9.0/24"]})
    headers = {"Authorization": f"Bearer {bound.secret}"}
    for route in (*ROUTES, "limits", "keys"):
        elsewhere = client.get(url(route), headers=headers)
        assert (elsewhere.status_code, "not accepted from where" in elsewhere.text) == (403, True)
    models = client.get("/v1/models", headers=headers)
    assert (models.status_code, models.json["error"]["code"]) == (403, "address_not_allowed")
    inside = {"REMOTE_ADDR": "10.9.9.7"}
    assert client.get("/api/user/me", headers=headers, environ_base=inside).status_code == 200
    assert client.get("/v1/models", headers=headers, environ_base=inside).status_code == 200


def test_credits_usage(world):
    assert ask(world, "credits-usage") == {
        "last1h": 0.001,
        "last24h": 0.012,
        "last7d": 0.03,
        "last30d": 0.03,
        "last1hNanoUsd": 1_000_000,
        "last24hNanoUsd": 12_000_000,
        "last7dNanoUsd": 30_000_000,
        "last30dNanoUsd": 30_000_000,
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


@pytest.mark.parametrize(
    ("expired", "kept"),
    [
        ("request-logs?period=30d", "request-logs?period=1h"),
        ("request-history?from=8d", "request-history?from=6d"),
        ("request-history?to=8d", "request-history"),
    ],
)
def test_a_time_whose_records_have_expired_leads_to_the_sums(world, database, expired, kept):
    database["request_logs"].create_index("createdAt", name="expiry", expireAfterSeconds=7 * 86_400)
    told = ask(world, expired)
    assert "detailed-usage" in told["hint"]
    assert datetime.fromisoformat(told["expiredBefore"]) < datetime.now(UTC) - timedelta(days=6)
    assert not {"expiredBefore", "hint"} & set(ask(world, kept))


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
        assert record.get("errorMessage") == (None if record["isSuccess"] else "the operator must see to it")
        assert not {"toldMessage", "factoryKeyId", "attempts", "upstreamModel", "userId", "usageRaw"} & set(
            record
        )


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_valid_key_nothing_is_said(world, route):
    client, secrets = world
    for headers in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer sk-none"}):
        answer = client.get(url(route), headers=headers)
        assert (answer.status_code, set(answer.json)) == (401, {"error", "hint"})
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    both = {"Authorization": f"Bearer {secrets['ann']}", "x-api-key": secrets["bob"]}
    assert client.get(url(route), headers=both).status_code == 401
    for headers in ({"x-api-key": secrets["ann"]}, {"Authorization": f"bEaReR {secrets['ann']}"}):
        answer = client.get(url(route), headers=headers)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    fixed = ask(world, route, key=FIXED, status=403)
    assert fixed == {
        "error": "this key belongs to no user",
        "hint": "use a client key of your own",
    }


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("detailed-usage?period=5d", "period"),
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


def test_a_key_may_ask_so_often_and_an_address_may_guess_so_often(database, mongo_uri, tmp_path):
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        right = {"x-api-key": Admin(app)("POST", "/users", {"username": "ann"}).json["apiKey"]}
        wrong = {"x-api-key": "sk-nobody-has-this"}

        def answers(headers, first):
            """The answers up to the first that is another: a minute may end in between."""
            found = []
            while not found or found[-1].status_code == first:
                found.append(app.test_client().get("/api/user/me", headers=headers))
            return found

        guesses = answers(wrong, 401)
        assert len(guesses) > KEYS_PER_ADDRESS
        asked = answers(right, 200)  # whoever else guesses from there
        assert len(asked) > REQUESTS_PER_KEY
        for refused, says in ((guesses[-1], "too many wrong tries: wait"), (asked[-1], "too many requests")):
            assert refused.status_code == 429
            assert refused.json["error"].startswith(says)
            assert 1 <= int(refused.headers["Retry-After"]) <= 60


def call(world, method, path, body=None, key="ann"):
    client, secrets = world
    return client.open(
        f"/api/user/{path}",
        method=method,
        json=body,
        headers={"Authorization": f"Bearer {secrets.get(key, key)}"},
    )


def test_users_manage_keys_of_their_own(world, database):
    made = call(
        world, "POST", "keys", {"keyName": "ci", "maxParallel": 2, "budgets": [{"usd": 1, "per": "day"}]}
    )
    assert made.status_code == 201, made.text
    key_id, secret = made.json["id"], made.json["apiKey"]
    assert database.user_keys.find_one({"_id": key_id})["name"] == "ann"
    assert {key["id"] for key in ask(world, "keys")["keys"]} >= {key_id}
    assert ask(world, "limits", key=secret)["key"]["maxParallel"] == 2
    changed = call(world, "PATCH", f"keys/{key_id}", {"maxParallel": None, "budgets": None, "keyName": "new"})
    assert (changed.json["maxParallel"], changed.json["budgets"], changed.json["keyName"]) == (
        None,
        [],
        "new",
    )
    rotated = call(world, "POST", f"keys/{key_id}/rotate", {"overlapHours": 1}).json
    assert (rotated["id"], rotated["oldUntil"] > rotated["created_at"]) == (key_id, True)
    assert ask(world, "me", key=rotated["apiKey"])["keyId"] == key_id
    assert call(world, "DELETE", f"keys/{key_id}").json["revoked"] is True
    assert ask(world, f"keys/{key_id}")["isActive"] is False
    assert call(world, "POST", f"keys/{key_id}/rotate", {}).status_code == 409
    entry = database.admin_audit.find_one({"action": "client-keys.rotate"})
    assert (entry["actor"], entry["via"]) == ("ann", "api")
    assert rotated["apiKey"] not in str(list(database.admin_audit.find()))


def test_nobody_reaches_the_keys_of_others(world, database):
    bobs = database.user_keys.find_one({"name": "bob"})["_id"]
    for method, path, body in (
        ("GET", f"keys/{bobs}", None),
        ("PATCH", f"keys/{bobs}", {"keyName": "mine"}),
        ("DELETE", f"keys/{bobs}", None),
        ("POST", f"keys/{bobs}/rotate", {}),
    ):
        assert call(world, method, path, body).status_code == 404
    assert bobs not in str(ask(world, "keys"))
    assert call(world, "POST", "keys", {"name": "bob"}).status_code == 400
    assert call(world, "GET", "keys", key=FIXED).status_code == 403


@pytest.mark.parametrize("limit", [{"rpm": 5}, {"models": ["o*"]}, {"expiresAt": "2099-01-01T00:00:00Z"}])
def test_a_key_with_limits_cannot_make_one_without(world, database, limit):
    secret = call(world, "POST", "keys", limit).json["apiKey"]
    own = call(world, "GET", "me", key=secret).json["keyId"]
    for method, path, body in (
        ("GET", "keys", None),
        ("POST", "keys", {}),
        ("PATCH", f"keys/{own}", dict.fromkeys(limit)),
        ("POST", f"keys/{own}/rotate", {}),
        ("DELETE", f"keys/{own}", None),
    ):
        assert call(world, method, path, body, key=secret).status_code == 403
    assert ask(world, "limits", key=secret)["user"]["budgets"] == []


def test_a_user_cannot_make_any_number_of_keys(world, database, monkeypatch):
    monkeypatch.setattr("app.management.client_keys.MAX_OWN_KEYS", 2)
    assert call(world, "POST", "keys", {}).status_code == 201
    assert call(world, "POST", "keys", {}).status_code == 409
