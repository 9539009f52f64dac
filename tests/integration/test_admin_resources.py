"""The admin API's resources over a real MongoDB: shapes, statuses, what is stored, what is never shown."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect

from app.accounts.credentials import hash_client_key
from app.accounts.users import GRANTED, UserStore
from app.factory import EXTENSION
from app.persistence.booking import Booking
from app.verify.reconciliation import Reconciliation
from tests.contract.booking_world import sequenced
from tests.support.admin_api import ENV_KEY, MODELS_FILE, Admin, admin_app

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = "sk-upstream-abcdefghijklmnopqrstuvwxyz"
OLD_KEY = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"
MASKED = "sk-upstr...wxyz"


@pytest.fixture
def app(database, mongo_uri, tmp_path):
    with admin_app(mongo_uri, database.name, tmp_path / "var", models_file=MODELS_FILE) as app:
        yield app


@pytest.fixture
def admin(app) -> Admin:
    return Admin(app)


def add(admin, name="alice", **fields):
    answer = admin("POST", "/users", {"username": name, "credits": 5, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json


def balances_agree(database) -> bool:
    results = {result.name: result for result in Reconciliation(database, retention_s=0).run(NOW)}
    return results["balances"].difference_count == 0


# Users


def test_a_user_is_made_with_a_key_that_is_shown_once(admin, database):
    made = add(admin, credits="1.5", rpm=9, role="admin", password="long enough now")
    assert set(made) == {"username", "apiKey", "keyId", "credits", "creditsNanoUsd"}
    assert (made["username"], made["credits"]) == ("alice", 1.5)
    assert hash_client_key(made["apiKey"]) == made["keyId"]
    stored = database.usersNew.find_one({"_id": "alice"})
    assert (stored["credits"], stored[GRANTED], stored["rpm"]) == (1.5, 1_500_000_000, 9)
    assert UserStore(database).login("alice").password.matches("long enough now")
    assert made["apiKey"] not in admin("GET", "/users/alice").text + admin("GET", "/keys").text
    (line,) = admin.get("/users/alice/ledger")["entries"]
    assert (line["change"], line["amountNanoUsd"], line["by"]) == ("opening", 1_500_000_000, "admin-token")


def test_a_name_is_taken_once(admin):
    add(admin)
    answer = admin("POST", "/users", {"username": "alice"})
    assert (answer.status_code, answer.json["error"]) == (409, "user alice exists already")


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "username"),
        ({"username": "a b"}, "username"),
        ({"username": "env"}, "username"),
        ({"username": "admin-token"}, "username"),
        ({"username": "a", "credits": -1}, "credits"),
        ({"username": "a", "credits": "0.0000000001"}, "credits"),
        ({"username": "a", "credits": 1_000_001}, "credits"),
        ({"username": "a", "credits": "NaN"}, "credits"),
        ({"username": "a", "role": "root"}, "role"),
        ({"username": "a", "rpm": -1}, "rpm"),
        ({"username": "a", "password": "short"}, "password"),
        ({"username": "a", "password": "change-me-please"}, "password"),
        ({"username": "grandmother", "password": "grandmother-1"}, "password"),
        ({"username": "a", "isAdmin": True}, "isAdmin"),
    ],
)
def test_a_user_that_cannot_be_is_refused(admin, database, body, parameter):
    answer = admin("POST", "/users", body)
    assert answer.status_code == 400
    assert answer.json["parameter"] == parameter
    assert answer.json["error"].startswith(f"{parameter}: ")
    assert database.usersNew.count_documents({}) == database.user_keys.count_documents({}) == 0


def test_users_are_searched_sorted_and_paged(admin, database):
    for number, name in enumerate(("ann", "Bob", "carl", "dan", "old")):
        UserStore(database).add(name, now=NOW + timedelta(hours=number), credits_usd=Decimal(number))
        database.usersNew.update_one({"_id": name}, {"$set": {"creditsUsed": number % 3 / 10}})
    database.usersNew.update_one({"_id": "old"}, {"$unset": {"creditsUsed": ""}, "$set": {"isActive": False}})

    def names(query):
        return [user["username"] for user in admin.get(f"/users?{query}")["users"]]

    assert names("") == ["Bob", "ann", "carl", "dan", "old"]
    assert names("search=A") == ["ann", "carl", "dan"]
    assert names("search=.") == []
    assert names("sort=spend") == ["carl", "Bob", "ann", "dan", "old"]
    assert names("sort=credits") == ["old", "dan", "carl", "Bob", "ann"]
    assert names("sort=created") == ["old", "dan", "carl", "Bob", "ann"]
    assert names("sort=activity") == ["Bob", "ann", "carl", "dan", "old"]
    for order in ("name", "spend", "created"):
        seen, cursor = [], ""
        while cursor is not None:
            page = admin.get(f"/users?sort={order}&limit=2&cursor={cursor}")
            assert page["stats"] == {"total": 5, "activeUsers": 4}
            seen += [user["username"] for user in page["users"]]
            cursor = page["nextCursor"]
        assert seen == names(f"sort={order}")


@pytest.mark.parametrize("cursor", ["x", "!!", "WzEsMl0", "WyJuYW1lIiwwLDFd"])
def test_a_cursor_of_something_else_is_refused(admin, cursor):
    for path in ("/users", "/audit", "/ohmygpt/events"):
        answer = admin("GET", f"{path}?cursor={cursor}")
        assert (answer.status_code, answer.json["parameter"]) == (400, "cursor"), path


def test_a_user_of_earlier_software_is_shown_without_its_secrets(admin, database):
    database.usersNew.insert_one(
        {
            "_id": "old",
            "passwordHash": "h" * 30,
            "passwordSalt": "s" * 30,
            "apiKey": "sk-trollllm-" + "0123456789abcdef" * 4,
            "credits": 1.25,
            "creditsUsed": 0.5,
            "discordId": "77",
            "holds": {"r1": {"nano": 5}},
            "applied": {"w1": 7},
            "sessionToken": "stranger",
            "createdAt": NOW,
            "lastUsedAt": NOW,
        }
    )
    answer = admin("GET", "/users/old")
    shown = answer.json
    assert (shown["username"], shown["credits"], shown["creditsBurned"], shown["discordId"]) == (
        "old", 1.25, 0.5, "77",
    )  # fmt: skip
    assert shown["lastActivity"] == "2026-11-23T12:00:00.000Z"
    assert shown["apiKey"] == "sk-troll...cdef"
    assert shown["hasPassword"] is True
    for hidden in ("hhhh", "ssss", "holds", "applied", "stranger", 'password"', "0123456789abcdef"):
        assert hidden not in answer.text + admin("GET", "/users").text


def test_what_cannot_be_read_of_a_user_does_not_break_the_list(admin, database):
    database.usersNew.insert_one(
        {"_id": "odd", "credits": "much", "createdAt": "then", "rpm": 1.0, "role": 7}
    )
    shown = admin.get("/users")["users"][0]
    assert (shown["credits"], shown["createdAt"], shown["rpm"], shown["role"]) == (0.0, None, 1, "7")


def test_credit_is_added_and_taken_away_exactly(admin, database):
    add(admin, credits="0.1")
    answer = admin("POST", "/users/alice/credits/add", {"amount": "0.200000001", "reason": "gift"})
    assert answer.json == {
        "success": True,
        "message": "alice has 0.300000001 USD, had 0.1",
        "user": {
            "username": "alice",
            "credits": 0.300000001,
            "creditsNanoUsd": 300_000_001,
            "expiresAt": None,
        },
    }
    assert admin("POST", "/users/alice/credits/add", {"amount": -0.05}).status_code == 200
    stored = database.usersNew.find_one({"_id": "alice"})
    assert (stored["credits"], stored[GRANTED]) == (0.250000001, 250_000_001)
    lines = admin.get("/users/alice/ledger")["entries"]
    assert [(line["amountNanoUsd"], line["balanceAfterNanoUsd"], line["reason"]) for line in lines] == [
        (-50_000_000, 250_000_001, None),
        (200_000_001, 300_000_001, "gift"),
        (100_000_000, 100_000_000, None),
    ]
    assert all(line["via"] == "api" and line["requestId"] for line in lines)
    assert balances_agree(database)


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "credits/add", "amount"),
        ("PATCH", "credits", "credits"),
        ("POST", "refCredits/add", "amount"),
        ("PATCH", "refCredits", "refCredits"),
    ],
)
def test_a_change_of_credit_can_be_repeated_with_its_key(admin, method, path, field):
    add(admin, credits=1)

    def change(amount, key="invoice-7"):
        headers = {**admin.headers, "Idempotency-Key": key}
        return admin.client.open(
            f"/api/admin/users/alice/{path}", method=method, headers=headers, json={field: amount}
        )

    first, again = change(5), change(5)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json == again.json
    refused = change(6)
    assert refused.status_code == 409
    assert "take a new one" in refused.json["error"]
    assert change(5, "a b").status_code == 400
    assert change(5, "x" * 129).json["parameter"] == "Idempotency-Key"
    keys = [line["idempotencyKey"] for line in admin.get("/users/alice/ledger")["entries"]]
    assert keys == ["invoice-7", None]


def test_no_more_is_taken_away_than_is_left(admin, database):
    add(admin, credits=5)
    answer = admin("POST", "/users/alice/credits/add", {"amount": -5.01})
    assert (answer.status_code, answer.json["error"]) == (409, "only 5 USD is left to take away")
    assert len(admin.get("/users/alice/ledger")["entries"]) == 1


def test_credit_is_set_and_the_books_still_agree(admin, database):
    made = add(admin, credits=5)
    record = sequenced(1, user_id="alice", user_key_id=made["keyId"], cost_nano_usd=2_000_000_000)
    Booking(database, "w1").apply([record])
    answer = admin("PATCH", "/users/alice/credits", {"credits": 10})
    told = {"username": "alice", "credits": 10.0, "creditsNanoUsd": 10_000_000_000, "expiresAt": None}
    assert answer.json["user"] == told
    assert admin("PATCH", "/users/alice/refCredits", {"refCredits": 1}).json == {
        "success": True,
        "message": "alice has 1 USD, had 0",
        "user": {"username": "alice", "refCredits": 1.0, "refCreditsNanoUsd": 1_000_000_000},
    }
    assert admin("POST", "/users/alice/refCredits/add", {"amount": -0.25}).json["user"]["refCredits"] == 0.75
    stored = database.usersNew.find_one({"_id": "alice"})
    assert (stored["credits"], stored["refCredits"], stored["creditsUsed"]) == (10.0, 0.75, 2.0)
    assert stored[GRANTED] == 12_750_000_000
    assert balances_agree(database)
    assert database.creditsResetLogs.find_one({"username": "alice"})["creditsBefore"] == 3.0


def test_validity_is_renewed_unless_that_is_declined(admin, database):
    database.usersNew.insert_one(
        {"_id": "old", "credits": 0, "purchasedAt": NOW - timedelta(days=9), "expiresAt": NOW}
    )
    kept = admin("POST", "/users/old/credits/add", {"amount": 1, "resetExpiration": False})
    assert kept.json["user"]["expiresAt"] == "2026-11-23T12:00:00.000Z"
    admin("PATCH", "/users/old/credits", {"credits": 1})
    stored = database.usersNew.find_one({"_id": "old"})
    assert stored["expiresAt"] - stored["purchasedAt"] == timedelta(days=9)
    assert abs(stored["purchasedAt"] - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_user_is_changed_disabled_and_enabled(admin, database):
    add(admin, rpm=5)
    UserStore(database).add("root", now=NOW, role="admin")
    body = {"role": "admin", "rpm": None, "expiresAt": "2027-01-01T00:00:00Z", "onClientAbort": "cancel"}
    shown = admin("PATCH", "/users/alice", body).json
    assert (shown["role"], shown["rpm"], shown["onClientAbort"]) == ("admin", None, "cancel")
    assert shown["expiresAt"] == "2027-01-01T00:00:00.000Z"
    assert admin("PATCH", "/users/alice", {"role": None, "expiresAt": None}).json["expiresAt"] is None
    assert UserStore(database).get("alice").role == "admin"
    assert admin("POST", "/users/alice/disable").json["isActive"] is False
    assert admin("POST", "/users/alice/enable").json["isActive"] is True
    assert admin("PUT", "/users/alice/password", {"password": "quite another one"}).status_code == 200
    assert UserStore(database).login("alice").password.matches("quite another one")
    assert admin("PATCH", "/users/alice", {"expiresAt": "0001-01-01T00:00:00+14:00"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users/root/disable", None),
        ("PATCH", "/users/root", {"isActive": False}),
        ("PATCH", "/users/root", {"role": "user"}),
        ("PATCH", "/users/root", {"expiresAt": "2026-01-01T00:00:00Z"}),
    ],
)
def test_the_last_admin_stays_one(admin, database, method, path, body):
    UserStore(database).add("root", now=NOW, role="admin")
    before = admin.get("/users/root")
    refused = admin(method, path, body)
    assert refused.status_code == 409
    assert refused.json["error"] == "no owner would be left who can log in: make another one first"
    assert admin.get("/users/root") == before
    assert admin.get("/audit")["entries"][0]["outcome"] == "refused"
    UserStore(database).add("second", now=NOW, role="admin")
    assert admin(method, path, body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/users/nobody", None),
        ("GET", "/users/nobody/ledger", None),
        ("PATCH", "/users/nobody", {"rpm": 1}),
        ("PATCH", "/users/nobody", {}),
        ("PATCH", "/users/nobody/credits", {"credits": 1}),
        ("POST", "/users/nobody/credits/add", {"amount": 1}),
        ("POST", "/users/nobody/credits/add", {"amount": -1}),
        ("PATCH", "/users/nobody/refCredits", {"refCredits": 1}),
        ("POST", "/users/nobody/disable", None),
        ("PUT", "/users/nobody/password", {"password": "long enough now"}),
        ("GET", "/keys/wk_nothing", None),
        ("GET", f"/keys/{OLD_KEY}", None),
        ("PATCH", "/keys/wk_nothing", {}),
        ("DELETE", "/keys/wk_nothing", None),
        ("DELETE", "/keys/wk_nothing?permanent=true", None),
        ("POST", "/keys/wk_nothing/reset", None),
        ("GET", "/ohmygpt/keys/none", None),
        ("DELETE", "/ohmygpt/keys/none", None),
        ("DELETE", "/ohmygpt/keys/env-1", None),
        ("PATCH", "/ohmygpt/keys/none", {"rpm": 5}),
        ("PATCH", "/ohmygpt/keys/env-1", {"rpm": 5}),
        ("POST", "/ohmygpt/keys/none/reset", None),
        ("POST", "/ohmygpt/keys/env-2/reset", None),
        ("DELETE", "/ohmygpt/backup-keys/none", None),
        ("POST", "/ohmygpt/backup-keys/none/restore", None),
        ("PATCH", "/ohmygpt/bindings/a/b", {"priority": 2}),
        ("DELETE", "/ohmygpt/bindings/a/b", None),
        ("DELETE", "/ohmygpt/bindings/a", None),
        ("GET", "/proxies/none", None),
        ("PATCH", "/proxies/none", {"name": "x"}),
        ("DELETE", "/proxies/none", None),
        ("GET", "/proxies/none/health", None),
        ("POST", "/proxies/none/check", None),
    ],
)
def test_what_does_not_exist_is_404_in_words(admin, database, method, path, body):
    database.user_keys.insert_one({"_id": OLD_KEY, "name": "old"})
    answer = admin(method, path, body)
    assert answer.status_code == 404
    assert answer.json["error"]
    assert database.usersNew.count_documents({}) == 0


# Client keys


def test_client_keys_are_made_listed_changed_and_revoked(admin, database):
    add(admin)
    made = admin("POST", "/keys", {"name": "alice", "notes": "chat", "rpm": 3})
    assert made.status_code == 201
    key = made.json
    assert set(key) == {"id", "name", "created_at", "apiKey", "hint"}
    listed = admin.get("/keys?user=alice")
    assert (listed["total"], listed["active"]) == (2, 2)
    shown = admin.get(f"/keys/{key['id']}")
    assert (shown["name"], shown["notes"], shown["rpm"], shown["hint"]) == ("alice", "chat", 3, key["hint"])
    paused = admin("PATCH", f"/keys/{key['id']}", {"isActive": False, "notes": "web"}).json
    assert (paused["id"], paused["is_active"]) == (key["id"], False)
    assert paused["updated_at"]
    assert admin("PATCH", f"/keys/{key['id']}", {"isActive": True}).json["is_active"] is True
    revoked = admin("DELETE", f"/keys/{key['id']}").json
    assert (revoked["id"], revoked["revoked"]) == (key["id"], True)
    assert admin("PATCH", f"/keys/{key['id']}", {"isActive": True}).status_code == 409
    assert admin.get("/keys")["active"] == 1
    deleted = admin("DELETE", f"/keys/{key['id']}?permanent=true").json
    assert (deleted["id"], deleted["deleted"]) == (key["id"], True)
    assert database.user_keys.count_documents({}) == 1


def test_a_key_needs_a_user(admin):
    answer = admin("POST", "/keys", {"name": "nobody"})
    assert (answer.status_code, answer.json["error"]) == (400, "name: there is no user nobody")


def test_a_key_of_earlier_software_is_shown_and_changed_by_a_derived_id(admin, database):
    database.user_keys.insert_one({"_id": OLD_KEY, "name": "old", "tier": "dev", "tokensUsed": 5.0})
    shown = admin("GET", "/keys")
    (key,) = shown.json["keys"]
    assert (key["id"], key["tier"], key["tokensUsed"]) == (hash_client_key(OLD_KEY), "dev", 5)
    reset = admin("POST", f"/keys/{key['id']}/reset")
    assert (reset.json["id"], reset.json["tokens_used"], reset.json["requests_count"]) == (key["id"], 0, 0)
    assert database.user_keys.find_one({"_id": OLD_KEY})["resetAt"] is not None
    assert admin("DELETE", f"/keys/{key['id']}").status_code == 200
    assert database.user_keys.find_one({"_id": OLD_KEY})["isActive"] is False
    assert OLD_KEY not in shown.text + reset.text + admin("GET", "/audit").text


def test_a_key_pasted_for_its_id_is_not_kept_in_the_audit_log(admin):
    admin("DELETE", f"/keys/{OLD_KEY}")
    (entry,) = admin.get("/audit")["entries"]
    assert (entry["target"], entry["outcome"]) == ("client-key:sk-troll...VWX", "refused")


def test_a_revoked_key_and_a_disabled_user_are_refused_at_once_where_it_was_done(app, admin):
    key = add(admin)["apiKey"]
    client, headers = app.test_client(), {"Authorization": f"Bearer {key}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    admin("POST", "/users/alice/disable")
    assert client.get("/v1/models", headers=headers).status_code == 401
    admin("POST", "/users/alice/enable")
    assert client.get("/v1/models", headers=headers).status_code == 200
    admin("DELETE", f"/keys/{hash_client_key(key)}")
    assert client.get("/v1/models", headers=headers).status_code == 401


# OhMyGPT keys


def test_upstream_keys_are_added_listed_masked_reset_and_deleted(app, admin, database):
    made = admin("POST", "/ohmygpt/keys", {"id": "k1", "apiKey": KEY})
    assert made.status_code == 201
    assert (made.json["id"], made.json["_id"], made.json["apiKey"]) == ("k1", "k1", MASKED)
    assert {key.key_id for key in app.extensions[EXTENSION].key_pool.snapshot()} == {"env-1", "k1"}
    database.ohmygpt_keys.update_one({"_id": "k1"}, {"$set": {"status": "error", "lastError": "banned"}})
    listed = admin("GET", "/ohmygpt/keys")
    assert [(key["id"], key["source"], key["status"]) for key in listed.json["keys"]] == [
        ("env-1", "env", "healthy"),
        ("k1", "store", "error"),
    ]
    assert (listed.json["totalKeys"], listed.json["healthyKeys"]) == (2, 1)
    assert admin.get("/ohmygpt/stats") == {"totalKeys": 2, "healthyKeys": 1}
    assert ENV_KEY not in listed.text
    assert KEY not in listed.text
    reset = admin("POST", "/ohmygpt/keys/k1/reset").json
    assert reset == {"success": True, "message": "k1 is healthy"}
    assert admin("POST", "/ohmygpt/keys/env-1/reset").status_code == 200
    events = admin.get("/ohmygpt/events?limit=1")
    assert events["events"][0]["keyId"] == "env-1"
    following = admin.get(f"/ohmygpt/events?limit=1&cursor={events['nextCursor']}")
    assert following["events"][0]["keyId"] == "k1"
    assert admin.get("/ohmygpt/events?key=k1")["events"][0]["to"] == "healthy"
    assert admin("DELETE", "/ohmygpt/keys/k1").json["success"] is True
    assert admin.get("/ohmygpt/stats")["totalKeys"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"id": "k 1", "apiKey": KEY},
        {"id": "env-9", "apiKey": KEY},
        {"id": "k" * 51, "apiKey": KEY},
        {"id": "k1", "apiKey": "short"},
        {"id": "k1", "apiKey": "with blanks in it"},
        {"id": "k1"},
    ],
)
def test_a_key_that_cannot_be_is_refused_and_not_repeated(admin, database, body):
    for path in ("/ohmygpt/keys", "/ohmygpt/backup-keys"):
        answer = admin("POST", path, body)
        assert answer.status_code == 400
        assert str(body.get("apiKey")) not in answer.text
    assert "blanks" not in admin("GET", "/audit").text


@pytest.mark.parametrize("path", ["/ohmygpt/keys", "/ohmygpt/backup-keys"])
def test_a_file_is_imported_whole_or_not_at_all(admin, path):
    bad = admin.text(f"{path}/import", f"a|{KEY}\nb{KEY}\n# note\nc|short\n")
    assert bad.status_code == 400
    assert bad.json["error"] == "nothing was imported: 2 of the lines cannot be used"
    assert bad.json["details"] == [
        {"parameter": "line 2", "message": "is not id|key"},
        {
            "parameter": "line 4",
            "message": "the key takes 8 to 512 printable ASCII characters without spaces",
        },
    ]
    assert KEY not in bad.text
    good = admin.text(f"{path}/import", f"a|{KEY}\nb|{KEY}2\n")
    assert (good.status_code, good.json) == (201, {"imported": 2, "ids": ["a", "b"]})
    again = admin.text(f"{path}/import", f"a|{KEY}3\n")
    assert again.json["details"] == [{"parameter": "line 1", "message": "there is a key a already"}]
    assert KEY not in admin("GET", path).text + admin("GET", "/audit").text


def test_backup_keys_are_added_listed_restored_and_deleted(admin, database):
    made = admin("POST", "/ohmygpt/backup-keys", {"id": "b1", "apiKey": KEY})
    assert made.status_code == 201
    assert set(made.json) == {"id", "maskedApiKey", "isUsed", "activated", "createdAt"}
    assert made.json["maskedApiKey"] == MASKED
    assert admin("POST", "/ohmygpt/backup-keys", {"id": "b1", "apiKey": KEY}).status_code == 409
    used = {"isUsed": True, "activated": True, "usedFor": "k9", "usedAt": NOW}
    database.ohmygpt_backup_keys.update_one({"_id": "b1"}, {"$set": used})
    listed = admin.get("/ohmygpt/backup-keys")
    assert (listed["total"], listed["available"], listed["used"]) == (1, 0, 1)
    assert (listed["keys"][0]["usedFor"], listed["keys"][0]["usedAt"]) == ("k9", "2026-11-23T12:00:00.000Z")
    database.ohmygpt_keys.insert_one({"_id": "b1", "apiKey": KEY, "fromBackup": "b1"})
    assert admin("POST", "/ohmygpt/backup-keys/b1/restore").status_code == 409
    database.ohmygpt_keys.delete_one({"_id": "b1"})
    assert admin("POST", "/ohmygpt/backup-keys/b1/restore").json["success"] is True
    assert admin.get("/ohmygpt/backup-keys")["available"] == 1
    assert admin("DELETE", "/ohmygpt/backup-keys/b1").json["success"] is True


# Proxies and bindings


def proxy(admin, **fields):
    body = {"type": "http", "host": "10.0.0.1", "port": 3128, **fields}
    answer = admin("POST", "/proxies", body)
    assert answer.status_code == 201, answer.text
    return answer.json


def test_proxies_are_added_listed_changed_and_deleted(admin, database):
    first = proxy(admin, username="u", password="p-secret-p", name="Frankfurt")
    assert (first["id"], first["hasAuth"], first["name"]) == ("proxy-1", True, "Frankfurt")
    assert proxy(admin, type="socks5", host="::1")["id"] == "proxy-2"
    assert proxy(admin, id="mine")["id"] == "mine"
    answer = admin("POST", "/proxies", {"id": "mine", "type": "http", "host": "h", "port": 1})
    assert answer.status_code == 409
    database.proxies.update_one({"_id": "mine"}, {"$set": {"isActive": False}})
    listed = admin("GET", "/proxies")
    assert {name: count for name, count in listed.json.items() if name != "proxies"} == {
        "total": 3,
        "healthy": 0,
        "unhealthy": 0,
        "unknown": 2,
        "inactive": 1,
    }
    assert "p-secret-p" not in listed.text + admin("GET", "/audit").text
    changed = admin("PATCH", "/proxies/proxy-1", {"port": 8080, "isActive": False}).json
    assert (changed["port"], changed["host"], changed["hasAuth"], changed["isActive"]) == (
        8080, "10.0.0.1", True, False,
    )  # fmt: skip
    assert admin("PATCH", "/proxies/proxy-1", {"username": ""}).json["hasAuth"] is False
    assert "password" not in database.proxies.find_one({"_id": "proxy-1"})
    assert admin("DELETE", "/proxies/proxy-1").json["message"] == "proxy-1 is deleted, and 0 bindings with it"


@pytest.mark.parametrize(
    "body",
    [
        {"type": "ftp", "host": "h", "port": 1},
        {"type": "http", "host": "http://h", "port": 1},
        {"type": "http", "host": "h", "port": 0},
        {"type": "http", "host": "h", "port": 65536},
        {"type": "http", "host": "h", "port": 1, "password": "x-secret-x"},
        {"type": "http", "host": "h", "port": 1, "username": "a:b", "password": "x-secret-x"},
        {"id": "../x", "type": "http", "host": "h", "port": 1},
        {"host": "h", "port": 1},
    ],
)
def test_a_proxy_that_cannot_be_is_refused(admin, body):
    answer = admin("POST", "/proxies", body)
    assert answer.status_code == 400
    assert "x-secret-x" not in answer.text
    assert admin.get("/proxies")["total"] == 0


def test_a_proxy_that_is_there_already_is_refused_and_named(admin, database):
    login = {"username": "u", "password": "p-secret-p"}
    proxy(admin, name="Frankfurt", host="gate.example.com", **login)
    for body, said in (
        ({"name": " frankfurt", "host": "h"}, "there is a proxy named Frankfurt already: proxy-1"),
        ({"id": "frankfurt", "host": "h"}, "there is a proxy named Frankfurt already: proxy-1"),
        (
            {"host": "Gate.Example.com.", **login},
            "proxy-1 is this proxy already: http, Gate.Example.com., port 3128, with the same login",
        ),
    ):
        answer = admin("POST", "/proxies", {"type": "http", "port": 3128, **body})
        assert (answer.status_code, answer.json["error"]) == (409, said)
    # Behind one address there may be many ways out, told by login, and another server at another port.
    proxy(admin, host="gate.example.com", username="u", password="p-other-p")
    proxy(admin, host="gate.example.com", username="v", password="p-secret-p")
    proxy(admin, host="gate.example.com", port=1080, **login)
    assert admin("PATCH", "/proxies/proxy-4", {"port": 3128}).status_code == 409
    assert admin("PATCH", "/proxies/proxy-4", {"name": "FRANKFURT"}).status_code == 409
    assert admin.get("/proxies/proxy-4")["port"] == 1080
    assert (
        admin("PATCH", "/proxies/proxy-1", {"name": "frankfurt", "host": "gate.example.com"}).status_code
        == 200
    )
    # Those of before, when nobody looked, can be changed in all else.
    database.proxies.update_one({"_id": "proxy-4"}, {"$set": {"port": 3128, "name": "frankfurt"}})
    kept = {"name": "frankfurt", "port": 3128, "isActive": False}
    assert admin("PATCH", "/proxies/proxy-4", kept).json["isActive"] is False


def test_a_check_says_how_a_proxy_fares(admin):
    proxy(admin, host="127.0.0.1", port=1)
    checked = admin("POST", "/proxies/proxy-1/check").json
    assert (checked["status"], checked["failCount"]) == ("unhealthy", 1)
    assert checked["lastError"]
    health = admin.get("/proxies/proxy-1/health")
    assert [entry["status"] for entry in health["history"]] == ["unhealthy"]
    assert health["history"][0]["errorMessage"] == checked["lastError"]


def test_bindings_are_added_listed_changed_and_deleted(admin):
    proxy(admin, name="Frankfurt")
    admin("POST", "/ohmygpt/keys", {"id": "k1", "apiKey": KEY})
    made = admin("POST", "/ohmygpt/bindings", {"proxyId": "proxy-1", "ohmygptKeyId": "k1", "priority": 3})
    assert made.status_code == 201
    assert (made.json["proxyId"], made.json["ohmygptKeyId"], made.json["priority"]) == ("proxy-1", "k1", 3)
    assert admin("POST", "/ohmygpt/bindings", {"proxyId": "proxy-1", "ohmygptKeyId": "k1"}).status_code == 409
    assert (
        admin("POST", "/ohmygpt/bindings", {"proxyId": "proxy-1", "ohmygptKeyId": "env-1"}).status_code == 201
    )
    listed = admin.get("/ohmygpt/bindings")
    assert set(listed) == {"total", "bindings", "byProxy", "proxies", "keys"}
    assert [(row["proxyName"], row["keyStatus"]) for row in listed["bindings"]] == [
        ("Frankfurt", "healthy")
    ] * 2
    assert listed["byProxy"] == {"proxy-1": listed["bindings"]}
    assert [key["id"] for key in listed["keys"]] == ["env-1", "k1"]
    assert admin.get("/ohmygpt/bindings/proxy-1")["bindings"] == listed["bindings"]
    changed = admin("PATCH", "/ohmygpt/bindings/proxy-1/k1", {"priority": 1, "isActive": False}).json
    assert (changed["priority"], changed["isActive"]) == (1, False)
    assert admin("DELETE", "/ohmygpt/bindings/proxy-1/k1").json["success"] is True
    assert admin("DELETE", "/ohmygpt/bindings/proxy-1").json["message"] == "1 binding of proxy-1 deleted"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"proxyId": "none", "ohmygptKeyId": "env-1"}, "proxyId"),
        ({"proxyId": "proxy-1", "ohmygptKeyId": "none"}, "ohmygptKeyId"),
        ({"proxyId": "proxy-1", "ohmygptKeyId": "env-1", "priority": 11}, "priority"),
    ],
)
def test_a_binding_that_leads_nowhere_is_refused(admin, body, parameter):
    proxy(admin)
    answer = admin("POST", "/ohmygpt/bindings", body)
    assert (answer.status_code, answer.json["parameter"]) == (400, parameter)


def test_bindings_are_repaired(admin, database):
    proxy(admin)
    for key_id, fields in (("new", {}), ("dead", {"replacedBy": "new"}), ("well", {})):
        database.ohmygpt_keys.insert_one({"_id": key_id, "apiKey": KEY, **fields})
    for proxy_id, key_id in (
        ("proxy-1", "dead"),
        ("proxy-1", "well"),
        ("proxy-1", "gone"),
        ("proxy-9", "well"),
    ):
        database.ohmygpt_bindings.insert_one({"proxyId": proxy_id, "ohmygptKeyId": key_id, "priority": 2})
    done = admin("POST", "/ohmygpt/repair-bindings").json
    assert (done["checked"], done["repaired"], done["deleted"]) == (4, 1, 2)
    assert done["message"] == "4 checked, 1 repaired, 2 deleted"
    assert len(done["details"]) == 3
    rows = admin.get("/ohmygpt/bindings")["bindings"]
    assert [(row["ohmygptKeyId"], row["priority"]) for row in rows] == [
        ("dead", 2),
        ("new", 2),
        ("well", 2),
    ]
    again = admin("POST", "/ohmygpt/repair-bindings").json
    assert (again["checked"], again["repaired"], again["deleted"]) == (3, 0, 0)


# The audit log


def test_every_action_is_in_the_audit_log_with_its_outcome(admin, database):
    UserStore(database).add("root", now=NOW, role="admin")
    admin("PUT", "/users/root/password", {"password": "long enough now"})
    basic = "Basic " + b64encode(b"root:long enough now").decode()
    answer = admin.client.post(
        "/api/admin/users",
        json={"username": "alice", "credits": 2, "password": "never kept here"},
        headers={"Authorization": basic},
    )
    assert answer.status_code == 201
    admin("POST", "/users/nobody/disable")
    entries = admin.get("/audit")["entries"]
    assert [(entry["action"], entry["target"], entry["outcome"]) for entry in entries] == [
        ("users.disable", "user:nobody", "refused"),
        ("users.add", "user:alice", "done"),
        ("users.password", "user:root", "done"),
    ]
    assert entries[0]["reason"] == "there is no user nobody"
    made = entries[1]
    assert (made["actor"], made["via"], made["address"]) == ("root", "api", "127.0.0.1")
    assert made["requestId"] == answer.headers["x-request-id"]
    assert made["details"] == {"credits": "2", "role": "user", "rpm": None}
    assert "never kept" not in admin("GET", "/audit").text
    assert [entry["actor"] for entry in admin.get("/audit?actor=root")["entries"]] == ["root"]
    assert len(admin.get("/audit?outcome=done&target=user:alice&action=users.add")["entries"]) == 1
    day_before = datetime.fromisoformat(made["at"]).date() - timedelta(days=1)
    for times, count in ((f"period={day_before}", 0), ("to=1h", 0), ("period=1h", 3), ("from=2020-01-01", 3)):
        assert len(admin.get(f"/audit?{times}")["entries"]) == count, times
    split = made["at"]
    assert [entry["target"] for entry in admin.get(f"/audit?to={split}")["entries"]] == ["user:root"]
    assert len(admin.get(f"/audit?from={split}&actor=root")["entries"]) == 1
    assert admin("GET", "/audit?from=nonsense").json["parameter"] == "from"
    first = admin.get("/audit?limit=2")
    assert [entry["target"] for entry in admin.get(f"/audit?cursor={first['nextCursor']}")["entries"]] == [
        "user:root"
    ]


def test_nothing_is_done_that_the_audit_log_cannot_know_of(app, admin, database, monkeypatch):
    database.command("create", "admin_audit", validator={"never": {"$exists": True}})
    answer = admin("POST", "/users", {"username": "alice"})
    assert answer.status_code == 503
    assert answer.json["hint"].startswith("nothing was done: ")
    assert database.usersNew.count_documents({}) == 0


def test_an_action_the_database_failed_at_ends_as_unknown(app, admin, database, monkeypatch):
    add(admin)
    users = app.extensions[EXTENSION].administration.users

    def lose_the_answer(*args, **options):
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(users._ledger, "add", lose_the_answer)
    answer = admin("POST", "/users/alice/credits/add", {"amount": 5})
    assert answer.status_code == 503
    assert "may have been done all the same" in answer.json["hint"]
    (entry, _made) = admin.get("/audit")["entries"]
    assert (entry["outcome"], entry["reason"]) == ("unknown", "connection closed")


def test_an_ending_that_was_not_taken_is_said_by_whoever_looks_next(app, admin, database, monkeypatch):
    store = app.extensions[EXTENSION].administration.audit._store

    def fail(*args):
        raise AutoReconnect("connection closed")

    with monkeypatch.context() as patched:
        patched.setattr(store, "finish", fail)
        add(admin)
        assert database.admin_audit.find_one()["outcome"] == "begun"
    (entry,) = admin.get("/audit")["entries"]
    assert (entry["outcome"], entry["reason"]) == ("done", None)


def test_what_a_process_that_died_has_begun_ends_as_unknown(admin, database):
    entry = {"actor": "root", "via": "cli", "action": "users.add", "target": "user:x", "outcome": "begun"}
    now = datetime.now(UTC)
    database.admin_audit.insert_many(
        [entry | {"_id": ObjectId(), "at": now - timedelta(minutes=minutes)} for minutes in (0, 6)]
    )
    assert [found["outcome"] for found in admin.get("/audit")["entries"]] == ["begun", "unknown"]


def test_commands_are_in_the_audit_log_too(app, admin):
    assert app.test_cli_runner().invoke(args=["init"]).exit_code == 0
    result = app.test_cli_runner().invoke(args=["users", "add", "cleo", "--credits", "1", "--json"])
    assert result.exit_code == 0, result.output
    result = app.test_cli_runner().invoke(args=["users", "credit", "cleo", "-0.5", "--reason", "oops"])
    assert result.exit_code == 0, result.output
    (credited, _made) = admin.get("/audit")["entries"]
    assert (credited["via"], credited["action"]) == ("cli", "users.credits.add")
    assert credited["actor"]
    assert [line["reason"] for line in admin.get("/users/cleo/ledger")["entries"]] == ["oops", None]


# Who may


def test_a_page_of_another_site_cannot_use_a_browsers_credentials(admin):
    def post(**headers):
        return admin.client.post("/api/admin/ohmygpt/repair-bindings", headers=admin.headers | headers)

    assert post(**{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert post(**{"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert post(Origin="https://evil.example").status_code == 403
    assert post(Origin="null").status_code == 403
    assert post(**{"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}).status_code == 200
    assert post(Origin="http://localhost").status_code == 200
    assert post().status_code == 200


# Limits

LIMITS = {
    "rpm": 9,
    "tpm": 1000,
    "maxParallel": 3,
    "models": ["claude-*", "gpt-5"],
    "budgets": [{"usd": "10", "per": "month"}, {"usd": 2.5, "per": "day", "models": "claude-*"}],
}
SHOWN = [{"usd": "10", "per": "month"}, {"usd": "2.5", "per": "day", "models": "claude-*"}]


def given(view) -> dict:
    """A view's limits, as they were given."""
    names = ("usd", "per", "models")
    budgets = [{name: item[name] for name in names if name in item} for item in view["budgets"]]
    return {**{name: view[name] for name in LIMITS}, "budgets": budgets}


def test_limits_are_given_changed_and_taken_away(admin, database):
    user = add(admin, **LIMITS)
    extra = {"keyName": "laptop", "allowedIps": ["10.0.0.0/8"], "expiresAt": "2027-01-31T00:00:00Z"}
    made = admin("POST", "/keys", {"name": "alice", **LIMITS, **extra}).json
    for path in ("/users/alice", f"/keys/{made['id']}"):
        view = admin.get(path)
        assert given(view) == {**LIMITS, "budgets": SHOWN}
        assert view["budgets"][0]["leftNanoUsd"] == 10_000_000_000
        assert view["budgets"][1]["beginsAnew"] is not None
    key = admin.get(f"/keys/{made['id']}")
    assert (key["keyName"], key["allowedIps"]) == ("laptop", ["10.0.0.0/8"])
    assert key["expiresAt"].startswith("2027-01-31T00:00:00")
    assert (key["name"], admin.get(f"/keys/{user['keyId']}")["budgets"]) == ("alice", [])
    for path, more in (("/users/alice", {}), (f"/keys/{made['id']}", dict.fromkeys(extra))):
        assert admin("PATCH", path, {"tpm": 7}).status_code == 200
        view = admin.get(path)
        assert (view["tpm"], view["rpm"], given(view)["budgets"]) == (7, 9, SHOWN)
        assert admin("PATCH", path, {**dict.fromkeys(LIMITS), **more}).status_code == 200
        view = admin.get(path)
        assert given(view) == {**dict.fromkeys(LIMITS), "budgets": []}
    stored = database.user_keys.find_one({"_id": made["id"]})
    assert stored.keys().isdisjoint({*LIMITS, *extra})
    assert "budgetSpent" not in database.usersNew.find_one({"_id": "alice"}) or not any(
        database.usersNew.find_one({"_id": "alice"})["budgetSpent"].values()
    )
    actions = [entry["details"] for entry in database.admin_audit.find({"action": "users.change"})]
    assert any("budgets" in details for details in actions)


def test_a_key_is_made_paused(admin, database):
    add(admin)
    made = admin("POST", "/keys", {"name": "alice", "isActive": False}).json
    assert admin.get(f"/keys/{made['id']}")["isActive"] is False
    assert database.user_keys.find_one({"_id": made["id"]})["isActive"] is False


def test_an_expiry_without_a_zone_is_in_that_of_statistics(database, mongo_uri, tmp_path):
    zone = {"stats_timezone": "Asia/Ho_Chi_Minh"}
    with admin_app(mongo_uri, database.name, tmp_path / "var", models_file=MODELS_FILE, **zone) as app:
        admin = Admin(app)
        made = add(admin, expiresAt="2027-01-31")
        assert admin.get("/users/alice")["expiresAt"] == "2027-01-30T17:00:00.000Z"
        changed = admin("PATCH", "/users/alice", {"expiresAt": "2027-02-01T00:00"})
        assert changed.json["expiresAt"] == "2027-01-31T17:00:00.000Z"
        path = f"/keys/{made['keyId']}"
        for given, shown in (("2027-03-01", "2027-02-28T17"), ("2027-03-01T00:00:00+01:00", "2027-02-28T23")):
            assert admin("PATCH", path, {"expiresAt": given}).status_code == 200
            assert admin.get(path)["expiresAt"] == f"{shown}:00:00.000Z"
        assert admin("PATCH", path, {"expiresAt": "9999-12-31"}).json["parameter"] == "expiresAt"


def test_what_a_user_pays_is_given_changed_and_taken_away(admin, database):
    add(admin, priceFactor=0.8, group="resellers")
    view = admin.get("/users/alice")
    assert (view["priceFactor"], view["group"]) == ("0.8", "resellers")
    assert admin("PATCH", "/users/alice", {"priceFactor": "1.250", "rpm": 7}).json["priceFactor"] == "1.25"
    stored = database.usersNew.find_one({"_id": "alice"})
    assert (stored["priceFactor"], stored["group"]) == ("1.25", "resellers")
    assert admin("PATCH", "/users/alice", {"priceFactor": None, "group": None}).json["group"] is None
    assert {"priceFactor", "group"}.isdisjoint(database.usersNew.find_one({"_id": "alice"}))
    made, changed, taken = database.admin_audit.find({"target": "user:alice"}).sort("at", 1)
    assert (made["details"]["priceFactor"], made["details"]["group"]) == ("0.8", "resellers")
    assert changed["details"] == {"priceFactor": "1.25", "rpm": "7"}
    assert taken["details"] == {"priceFactor": None, "group": None}


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"priceFactor": 11}, "priceFactor"),
        ({"priceFactor": -0.1}, "priceFactor"),
        ({"priceFactor": "cheap"}, "priceFactor"),
        ({"priceFactor": "0.1234567891"}, "priceFactor"),
        ({"group": "a b"}, "group"),
        ({"group": ""}, "group"),
    ],
)
def test_a_price_factor_that_cannot_be_is_refused_by_name(admin, body, parameter):
    add(admin)
    answer = admin("PATCH", "/users/alice", body)
    assert (answer.status_code, answer.json["parameter"]) == (400, parameter)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"tpm": -1}, "tpm"),
        ({"maxParallel": 1.5}, "maxParallel"),
        ({"models": ["x" * 200]}, "models"),
        ({"budgets": [{"usd": "1", "per": "year"}]}, "budgets"),
        ({"budgets": [{"usd": "1", "per": "day"}, {"usd": "2", "per": "day"}]}, "budgets"),
        ({"budgets": [{"usd": "-1", "per": "day"}]}, "budgets"),
    ],
)
def test_limits_that_cannot_be_are_refused_by_name(admin, body, parameter):
    made = add(admin)
    for path in ("/users/alice", f"/keys/{made['keyId']}"):
        answer = admin("PATCH", path, body)
        assert answer.status_code == 400, answer.text
        assert answer.json["parameter"].startswith(parameter)
    assert given(admin.get("/users/alice")) == {**dict.fromkeys(LIMITS), "budgets": []}


def test_a_new_budget_begins_with_what_its_period_has_spent(admin, database):
    made = add(admin)
    now = datetime.now(UTC)
    batch = [
        sequenced(number, user_id="alice", user_key_id=key, model=model, created_at=at, cost_nano_usd=cost)
        for number, (key, model, at, cost) in enumerate(
            (
                (made["keyId"], "claude-x", now, 5),
                (made["keyId"], "gpt", now, 70),
                ("wk_other", "claude-x", now, 300),
                (made["keyId"], "claude-x", now - timedelta(days=40), 9000),
            ),
            start=1,
        )
    ]
    Booking(database, "w1").apply(batch)
    budgets = [
        {"usd": "1", "per": "month"},
        {"usd": "1", "per": "5h", "models": "claude-*"},
        {"usd": 1, "per": "total"},
    ]
    for path, spent in (("/users/alice", [375, 305, 0]), (f"/keys/{made['keyId']}", [75, 5, 0])):
        admin("PATCH", path, {"budgets": budgets})
        assert [item["spentNanoUsd"] for item in admin.get(path)["budgets"]] == spent
        # Another amount keeps what was spent.
        admin("PATCH", path, {"budgets": [{"usd": "3", "per": "month"}]})
        [left] = admin.get(path)["budgets"]
        assert (left["spentNanoUsd"], left["leftNanoUsd"]) == (spent[0], 3_000_000_000 - spent[0])
