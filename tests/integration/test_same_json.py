"""Commands and the admin API show each resource alike."""

import json

import pytest

from tests.contract.booking_world import sequenced
from tests.support.admin_api import Admin, admin_app

KEY = "sk-upstream-abcdefghijklmnopqrstuvwxyz"
OF_THE_LIST = ("proxyName", "keyStatus")


@pytest.fixture
def app(database, mongo_uri, tmp_path):
    with admin_app(mongo_uri, database.name, tmp_path / "var") as app:
        yield app


@pytest.fixture
def run(app):
    def run(command: str):
        result = app.test_cli_runner().invoke(args=[*command.split(), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    run("init")
    return run


@pytest.fixture
def admin(app) -> Admin:
    return Admin(app)


def test_users_and_their_keys(run, admin, database):
    made = admin("POST", "/users", {"username": "ann", "credits": "0.3", "rpm": 7}).json
    database.usersNew.insert_one({"_id": "old", "apiKey": "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX", "credits": 1})
    assert set(run("users add bob")) == set(made)
    assert run("users list")["users"] == admin.get("/users")["users"]
    shown = run("users show ann")
    assert (
        run("client-keys list ann")["keys"] == shown.pop("clientKeys") == admin.get("/keys?user=ann")["keys"]
    )
    assert shown == admin.get("/users/ann")
    assert run("users disable ann") == admin.get("/users/ann")
    assert run("client-keys list") == admin.get("/keys")
    answer = admin("POST", "/users/bob/credits/add", {"amount": 1}).json["user"]
    credited = run("users credit bob 1")
    assert credited.pop("added") == 1
    assert credited == answer | {"credits": 2, "creditsNanoUsd": 2_000_000_000}


def test_client_keys_that_are_made_and_revoked(run, admin):
    run("users add ann")
    made = [run("client-keys add ann"), admin("POST", "/keys", {"name": "ann"}).json]
    assert set(made[0]) == set(made[1])
    revoked = [run(f"client-keys revoke {made[0]['id']}"), admin("DELETE", f"/keys/{made[1]['id']}").json]
    assert [set(answer) for answer in revoked] == [{"id", "revoked", "revoked_at"}] * 2


def test_upstream_keys_and_what_happened_to_them(run, admin, database):
    for number in (1, 2):
        admin("POST", "/ohmygpt/keys", {"id": f"k{number}", "apiKey": KEY})
        admin("POST", "/ohmygpt/backup-keys", {"id": f"s{number}", "apiKey": KEY})
    database.ohmygpt_keys.update_one({"_id": "k1"}, {"$set": {"status": "error", "suspectedBy": "ann"}})
    assert run("keys list") == admin.get("/ohmygpt/keys")
    assert run("keys limit k2 --rpm 5") == admin.get("/ohmygpt/keys/k2")
    limited = admin("PATCH", "/ohmygpt/keys/k2", {"rpm": None, "weight": 2}).json
    assert (limited["rpm"], limited["weight"]) == (None, 2)
    assert limited == admin.get("/ohmygpt/keys/k2")
    assert run("keys reset k1") == admin.get("/ohmygpt/keys/k1")
    events = admin.get("/ohmygpt/events")["events"]
    assert run("keys events")["events"] == events != []
    assert run("backup-keys list") == admin.get("/ohmygpt/backup-keys")


def test_proxies_and_bindings(run, admin):
    proxy = {"id": "p1", "type": "http", "host": "127.0.0.1", "port": 1, "username": "u", "password": "pass"}
    admin("POST", "/proxies", proxy)
    assert run("proxies list") == admin.get("/proxies")
    assert run("proxies disable p1") == admin.get("/proxies/p1")
    run("bindings add p1 env-1")
    (bound,) = admin.get("/ohmygpt/bindings")["bindings"]
    assert run("bindings list")["bindings"] == [
        {name: value for name, value in bound.items() if name not in OF_THE_LIST}
    ]


def test_records(run, admin, database):
    database.request_logs.insert_one(sequenced(1, user_id="ann", user_key_id="env").document)
    (record,) = admin.get("/request-logs")["requests"]
    assert run("logs tail") == record
