"""The pages that change things: what an administrator does with them, and what is stored and shown then."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from io import BytesIO

import pytest

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.users import UserStore
from app.admin.resources import resource_pages
from app.keys.key_account import KeyAccount
from app.management.administration import build_administration
from app.ohmygpt.account import Balance
from app.ohmygpt.readings import Readings, account_document
from app.persistence.booking import Booking
from app.settings import Settings
from app.statistics.stats_store import StatsStore
from app.store.connection import connect
from app.store.key_cipher import KeyCipher
from tests.contract.booking_world import sequenced
from tests.support.dashboard import DashboardWorld

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = "sk-upstream-abcdefghijklmnopqrstuvwxyz"
ENV_KEY = "sk-env-0123456789-0123456789"
OLD_KEY = "sk-troll-ABCDEFGHIJKLMNOPQRSTUVWX"
PAGES = ("/customers", "/keys", "/upstream", "/upstream/models", "/upstream/proxies", "/settings/audit")


@pytest.fixture
def world(database, tmp_path) -> DashboardWorld:
    world = DashboardWorld(database)
    settings = Settings(data_dir=tmp_path, ohmygpt_api_keys=ENV_KEY)
    administration = build_administration(settings, database, KeyCipher("secret"))
    world.more_pages = resource_pages(administration, world.customers(administration), world.upstream)
    return world


@pytest.fixture
def admin(world):
    return world.admin()


def said(browser, path: str) -> str:
    """What a page says, without its markup."""
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    return words_of(answer)


def words_of(answer) -> str:
    text = re.sub(r"<(style|script).*?</\1>", "", answer.text, flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


def send(browser, path: str, from_page: str, **fields: str) -> str:
    """Send a page's form and follow; what the page after it says."""
    answer = browser.post(path, from_page, **fields)
    if answer.status_code == 400:  # the page again, with what was typed and what is wrong with it
        return words_of(answer)
    assert answer.status_code == 303, answer.text
    return said(browser, answer.headers["Location"].removeprefix("/admin"))


def bind(browser, key_id: str, priority: str):
    """Bind a key to the first proxy; the page after it."""
    fields = {"bind-key_id": key_id, "bind-proxy_id": "proxy-1", "bind-priority": priority}
    answer = browser.post("/upstream/bindings", "/upstream/proxies", **fields)
    return browser.get("/upstream/proxies") if answer.status_code == 303 else answer


def make(browser, name: str = "alice", **fields: str):
    return browser.post("/customers", "/customers", username=name, role="user", credits="5", **fields)


def shown_key(browser, answer):
    """The page that shows the key a form has made."""
    assert answer.status_code == 303, answer.text
    return browser.get(answer.headers["Location"].removeprefix("/admin"))


def last_action(database):
    return database.admin_audit.find_one(sort=[("_id", -1)])


# What all of them have in common


@pytest.mark.parametrize("page", PAGES)
def test_strangers_are_sent_to_the_login(world, page):
    answer = world.browser().get(page)
    assert answer.status_code == 303
    assert "/login" in answer.headers["Location"]


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_page_says_what_to_do(admin, page):
    assert 'class="empty' in admin.get(page).text


@pytest.mark.parametrize(
    "page", [*PAGES, "/customers/alice", "/upstream/keys/env-1", "/upstream/proxies/proxy-1"]
)
def test_pages_keep_the_policy_and_name_their_fields(admin, page):
    make(admin)
    admin.post("/upstream/proxies", "/upstream/proxies", kind="http", host="h", port="1")
    bind(admin, "env-1", "2")
    text = admin.get(page).text
    assert " style=" not in text
    assert " onclick=" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert [name for name in set(ids) if ids.count(name) > 1] == [], "ids twice"
    fields = re.findall(r'<(?:input|select|textarea)(?![^>]*type="hidden")[^>]*>', text)
    for field in fields:
        found = re.search(r' id="([^"]+)"', field)
        assert "aria-label=" in field or (found and f'for="{found[1]}"' in text), field


@pytest.mark.parametrize(
    "path",
    [
        "/customers",
        "/customers/alice/credit",
        "/customers/alice/debit",
        "/customers/alice/active",
        "/customers/alice/settings",
        "/customers/alice/limits",
        "/customers/alice/password",
        "/customers/alice/keys",
        "/keys/wk_1/revoke",
        "/keys/wk_1/active",
        "/keys/wk_1/delete",
        "/keys/wk_1/limits",
        "/keys/wk_1/rotate",
        "/upstream/pool/add",
        "/upstream/spares/import",
        "/upstream/pool/env-1/reset",
        "/upstream/pool/a/limits",
        "/upstream/pool/a/delete",
        "/upstream/spares/a/restore",
        "/upstream/spares/a/delete",
        "/upstream/proxies",
        "/upstream/proxies/a",
        "/upstream/proxies/a/active",
        "/upstream/proxies/a/check",
        "/upstream/proxies/a/delete",
        "/upstream/bindings",
        "/upstream/bindings/repair",
        "/upstream/bindings/a/b",
        "/upstream/bindings/a/b/delete",
    ],
)
def test_no_form_works_without_its_token(admin, database, path):
    assert admin.bare_post(path, username="x", amount="1", reason="x").status_code == 400
    assert database.admin_audit.count_documents({}) == 0


@pytest.mark.parametrize("page", PAGES)
def test_while_the_store_is_away_pages_say_so(world, tmp_path, page):
    away = connect("mongodb://127.0.0.1:1/", "none", serverSelectionTimeoutMS=50)
    settings = Settings(data_dir=tmp_path)
    administration = build_administration(settings, away, KeyCipher("secret"))
    world.stats = StatsStore(away)
    world.more_pages = resource_pages(administration, world.customers(administration, away), world.upstream)
    answer = world.admin().get(page)
    away.client.close()
    assert answer.status_code == 200
    assert "The database cannot answer" in answer.text


# Users


def test_a_user_is_made_and_the_key_is_shown_once(admin, database):
    answer = shown_key(admin, make(admin, rpm="9"))
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    secret = re.search(r"sk-weir-\w+", answer.text)[0]
    assert database.user_keys.find_one()["_id"] == hash_client_key(secret)
    assert UserStore(database).get("alice").rpm == 9
    for page in (*PAGES, "/customers/alice"):
        assert secret not in admin.get(page).text
    text = said(admin, "/customers/alice")
    assert "Balance $5.00" in text
    assert "Opening balance $5.00 $0.00 $5.00 – admin-token (dashboard)" in text
    assert "User created" in text
    entry = last_action(database)
    assert (entry["via"], entry["action"], entry["outcome"]) == ("dashboard", "users.add", "done")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"username": ""}, "Name is required"),
        ({"username": "a b"}, "takes 1 to 64 letters"),
        ({"username": "bob", "credits": "much"}, "Not a valid decimal value"),
        ({"username": "bob", "credits": "-1"}, "takes an amount of 0 or more"),
        ({"username": "bob", "credits": "NaN"}, "takes an amount in USD"),
        ({"username": "bob", "rpm": "-1"}, "Number must be between"),
        ({"username": "bob", "role": "root"}, "Not a valid choice"),
        ({"username": "bob", "password": "short"}, "takes 12 characters or more"),
        ({"username": "alice"}, "User alice exists already"),
    ],
)
def test_a_user_that_cannot_be_is_refused_in_words(admin, database, fields, says):
    make(admin)
    assert says in send(admin, "/customers", "/customers", **{"role": "user", "credits": "1", **fields})
    assert database.usersNew.count_documents({}) == 1


def test_users_are_searched_sorted_and_paged(admin, database):
    for number in range(60):
        UserStore(database).add(f"user-{number:02}", now=NOW, credits_usd=Decimal(number))
    assert listed(admin, "search=USER-0&sort=-balance") == [f"user-0{n}" for n in range(9, -1, -1)]
    assert listed(admin, "sort=balance")[:2] == ["user-00", "user-01"]
    assert listed(admin, "state=empty") == ["user-00"]
    assert len(listed(admin)) == 50
    page = admin.get("/customers?sort=-name").text
    assert "1 to 50 of 60 users" in page
    more = unescape(re.search(r'rel="next" href="/admin/customers\?([^"]+)"', page)[1])
    assert listed(admin, more) == [f"user-0{n}" for n in range(9, -1, -1)]
    assert listed(admin, "page=99") == [f"user-{n}" for n in range(50, 60)], "the last one there is"
    assert "No user's name contains “<b>”" in said(admin, "/customers?search=%3Cb%3E")
    for nonsense in ("page=x", "page=-1", "page=99999999999999999999", "sort=--", "sort=x", "state=x"):
        assert listed(admin, nonsense)[0] == "user-00", nonsense
    assert admin.get("/customers?period=nonsense").status_code == 400


def listed(admin, query: str = "") -> list[str]:
    """The users a list has, in its order."""
    return re.findall(r'title="([^"]+)"><bdi>', admin.get(f"/customers?{query}").text)


def spend(database, user: str, key: str, nano: int, at: datetime, seq: int) -> None:
    """Book a request."""
    row = {"user_id": user, "user_key_id": key, "cost_nano_usd": nano, "created_at": at}
    Booking(database, "w1").apply([sequenced(seq, **row)])


def test_users_and_keys_are_listed_with_what_they_spend(world, database):
    for name, credit in (("ann", 10), ("bob", 3), ("eve", 9)):
        UserStore(database).add(name, now=NOW - timedelta(days=90), credits_usd=Decimal(credit))
    keys = {name: ClientKeyStore(database).add(name, now=NOW) for name in ("ann", "bob")}
    for seq, (user, days, dollars) in enumerate(
        (("ann", 0, 1), ("ann", 2, 1), ("bob", 1, 2), ("ann", 40, 5)), 1
    ):
        key = keys[user].key_id
        spend(database, user, key, dollars * 10**9, NOW - timedelta(days=days), seq)
    spend(database, "gone", "wk_gone", 7 * 10**9, NOW - timedelta(days=3), 5)
    admin = world.admin()
    assert listed(admin, "sort=-spend") == ["ann", "bob", "eve"]
    page = said(admin, "/customers?sort=-spend")
    assert "no user of this name any more" in page
    assert re.search(r"ann \$3\.00 \d+ days \$2\.00 \$2\.00 2 ", page), page
    assert listed(admin, "sort=left") == ["bob", "ann", "eve"]
    assert listed(admin, "sort=-spend&period=2026-10") == ["ann", "bob", "eve"]
    assert re.search(r"eve \$9\.00 – \$0\.00", page)
    keys_page = said(admin, "/keys?sort=-spend&period=2026-10")
    assert keys_page.index(keys["ann"].hint) < keys_page.index(keys["bob"].hint)
    assert "$5.00" in keys_page
    lines = admin.get("/customers.csv?sort=-spend").text.splitlines()
    assert [line.split(",")[0] for line in lines] == ["user", "gone", *listed(admin, "sort=-spend")]
    assert lines[2].startswith("ann,,user,yes,3000000000,2000000000,2000000000,7000000000,")
    user_page = said(admin, "/customers/ann")
    assert "2026-11 so far $2.00 2 0" in user_page
    assert "2026-10 $5.00 1 0" in user_page


def pay(admin, amount: str, reason: str = "x", *, name: str = "alice", way: str = "credit", **more) -> str:
    """Give credit to a user, or take it away."""
    page = f"/customers/{name}"
    fields = {
        f"{way}-{field}": value for field, value in {"amount": amount, "reason": reason, **more}.items()
    }
    return send(admin, f"{page}/{way}", page, **fields)


def test_credit_and_debit_with_a_reason_are_in_the_ledger(admin, database):
    make(admin)
    text = pay(admin, "2.5", "invoice 17")
    assert "alice has $7.50 now, had $5.00." in text
    assert "Credit given $2.50 $5.00 $7.50 invoice 17" in text
    assert "Credit taken -$0.000000001 $7.50" in pay(admin, "0.000000001", way="debit")
    assert UserStore(database).get("alice").credits_nano == 7_499_999_999
    assert "Only 7.499999999 USD is left to take away." in pay(admin, "100", way="debit")
    refused = admin.post(
        "/customers/alice/debit", "/customers/alice", **{"debit-amount": "9", "debit-reason": "r"}
    )
    dialog = refused.text[refused.text.index('id="debit" open') :]
    assert "left to take away" in dialog[: dialog.index("</details>")], "it is said in the form itself"
    assert "is required" in pay(admin, "1", "")
    for way in ("credit", "debit"):
        for amount in ("0", "-1", "NaN"):
            assert "takes " in pay(admin, amount, way=way)
    assert database.credit_ledger.count_documents({}) == 3


def test_a_form_that_is_refused_keeps_what_was_typed(admin):
    make(admin)
    place = "/customers/alice"
    fields = {"debit-amount": "100", "debit-reason": "a reason"}
    refused = admin.post(f"{place}/debit", place, **fields)
    assert refused.status_code == 400
    assert 'value="a reason"' in refused.text
    refused = admin.post(f"{place}/limits", place, budgets="1/year", models="gpt-*")
    assert refused.status_code == 400
    assert 'value="gpt-*"' in refused.text
    assert re.search(r'id="budgets-error">[^<]*takes one of', refused.text)


def test_a_key_is_made_with_all_limits(admin, database):
    make(admin)
    fields = {"key-key_name": "laptop", "key-tpm": "9", "key-models": "gpt-*", "key-budgets": "1/day"}
    fields |= {"key-allowed_ips": "::1", "key-expires_at": "2027-01-31T10:00"}
    assert shown_key(admin, admin.post("/customers/alice/keys", "/customers/alice", **fields))
    made = database.user_keys.find_one({"keyName": "laptop"})
    assert (made["tpm"], made["models"], made["allowedIps"]) == (9, ["gpt-*"], ["::1/128"])
    assert made["expiresAt"].replace(tzinfo=UTC) == datetime(2027, 1, 31, 10, tzinfo=UTC)


def test_validity_is_renewed_when_that_is_asked_for(admin, database):
    database.usersNew.insert_one(
        {"_id": "old", "credits": 0, "purchasedAt": NOW - timedelta(days=9), "expiresAt": NOW}
    )
    pay(admin, "1", name="old")
    assert database.usersNew.find_one()["expiresAt"] == NOW
    pay(admin, "1", name="old", renews="y")
    stored = database.usersNew.find_one()
    assert stored["expiresAt"] - stored["purchasedAt"] == timedelta(days=9)
    assert stored["purchasedAt"] > NOW - timedelta(days=1)


def test_a_user_is_disabled_enabled_changed_and_given_a_password(admin, database):
    make(admin)
    assert "alice is disabled" in send(admin, "/customers/alice/active", "/customers/alice", active="no")
    assert "disabled" in said(admin, "/customers")
    assert "alice is enabled" in send(admin, "/customers/alice/active", "/customers/alice", active="yes")
    assert "alice is changed;" in send(
        admin, "/customers/alice/settings", "/customers/alice", role="owner", expires_at="2027-01-31T10:00"
    )
    send(admin, "/customers/alice/limits", "/customers/alice", rpm="0")
    user = UserStore(database).get("alice")
    assert (user.role, user.rpm) == ("owner", 0)
    assert user.expires_at == datetime(2027, 1, 31, 10, tzinfo=UTC)
    assert 'value="2027-01-31T10:00"' in admin.get("/customers/alice").text
    send(admin, "/customers/alice/settings", "/customers/alice", role="owner", on_client_abort="cancel")
    user = UserStore(database).get("alice")
    assert (user.expires_at, user.on_client_abort) == (None, "cancel")
    for form, field in (("active", {"active": "no"}), ("settings", {"role": "user"})):
        assert "No owner would be left" in send(
            admin, f"/customers/alice/{form}", "/customers/alice", **field
        )
    UserStore(database).add("second", now=NOW, role="admin")
    send(admin, "/customers/alice/settings", "/customers/alice", role="user")
    send(admin, "/customers/alice/limits", "/customers/alice", rpm="")
    user = UserStore(database).get("alice")
    assert (user.role, user.rpm) == ("user", None)
    text = send(admin, "/customers/alice/password", "/customers/alice", password="long enough now")
    assert "alice has a new password." in text
    assert UserStore(database).login("alice").password.matches("long enough now")


def test_a_user_who_does_not_exist_is_a_page_that_says_so(admin):
    assert admin.get("/customers/nobody").status_code == 404


def test_a_users_recent_requests_are_shown_escaped(admin, database):
    make(admin)
    document = sequenced(1, user_id="alice", cost_nano_usd=615_000).document
    database.request_logs.insert_one({**document, "model": "<script>alert(1)</script>"})
    text = admin.get("/customers/alice").text
    assert "&lt;script&gt;alert(1)" in text
    assert "$0.000615" in text


# Client keys


def test_client_keys_are_made_paused_and_revoked(admin, database):
    make(admin)
    answer = shown_key(
        admin, admin.post("/customers/alice/keys", "/customers/alice", **{"key-notes": "open-webui"})
    )
    secret = re.search(r"sk-weir-\w+", answer.text)[0]
    key_id = hash_client_key(secret)
    assert "open-webui" in said(admin, "/keys")
    assert "open-webui" not in said(admin, "/keys?search=nothing")
    assert "is paused." in send(admin, f"/keys/{key_id}/active", "/keys", active="no")
    assert "is accepted again." in send(admin, f"/keys/{key_id}/active", "/keys", active="yes")
    assert "open-webui" in said(admin, "/keys?state=active&search=WEBUI")
    text = send(admin, f"/keys/{key_id}/revoke", "/keys", next="/admin/customers/alice")
    assert "is revoked" in text
    assert "Ledger" in text, "it came back to the user's page"
    assert database.user_keys.find_one({"_id": key_id})["revokedAt"]
    assert "open-webui" in said(admin, "/keys?state=revoked")
    assert "Client key accepted again" in said(admin, f"/keys/{key_id}")
    assert "is deleted" in send(admin, f"/keys/{key_id}/delete", f"/keys/{key_id}")
    assert database.user_keys.find_one({"_id": key_id}) is None
    assert admin.get(f"/keys/{key_id}").status_code == 404


def test_a_key_of_earlier_software_is_never_in_a_page(admin, database):
    database.user_keys.insert_one({"_id": OLD_KEY, "name": "old"})
    database.usersNew.insert_one({"_id": "old", "apiKey": "sk-trollllm-" + "ab01" * 16})
    derived = hash_client_key(OLD_KEY)
    for page in ("/keys", "/customers/old", "/customers"):
        text = admin.get(page).text
        assert OLD_KEY not in text
        assert "ab01" * 4 not in text
    send(admin, f"/keys/{derived}/revoke", "/keys")
    assert database.user_keys.find_one()["isActive"] is False


# OhMyGPT keys


def test_upstream_keys_are_added_reset_and_deleted(admin, database):
    text = send(admin, "/upstream/pool/add", "/upstream", **{"pool-key_id": "k1", "pool-secret": KEY})
    assert "k1 (sk-upstr...wxyz) is in the pool" in text
    database.ohmygpt_keys.update_one(
        {"_id": "k1"}, {"$set": {"status": "error", "lastError": "account <b>banned</b>"}}
    )
    page = admin.get("/upstream").text
    assert "account &lt;b&gt;banned" in page
    assert KEY not in page
    assert ENV_KEY not in page
    assert "env-1" in page
    assert "k1 is healthy, on all workers and hosts." in send(admin, "/upstream/pool/k1/reset", "/upstream")
    assert "reset by an operator" in said(admin, "/upstream/keys/k1")
    told = account_document(Balance(Decimal("8217.00")), {"k1": KeyAccount(Decimal(7), Decimal(7))}, 0)
    Readings(database).put("account", told, NOW)
    page_says = said(admin, "/upstream")
    assert "OhMyGPT's balance 8217.00" in page_says
    assert "capped at OhMyGPT" in page_says
    assert "7 of 7" in page_says
    assert "https://host.test/v1" in page_says, "without the login in it"
    assert "k1 is deleted" in send(admin, "/upstream/pool/k1/delete", "/upstream")
    assert "There is no key k1." in send(admin, "/upstream/pool/k1/delete", "/upstream")
    text = send(admin, "/upstream/pool/add", "/upstream", **{"pool-key_id": "env-7", "pool-secret": KEY})
    assert "kept for OHMYGPT_API_KEYS" in text


@pytest.mark.parametrize("place", ["pool", "spares"])
def test_a_file_or_lines_are_imported_whole_or_not_at_all(admin, database, place):
    collection = database["ohmygpt_keys" if place == "pool" else "ohmygpt_backup_keys"]
    token = admin.csrf_token("/upstream")

    def upload(content: bytes):
        return admin.client.post(
            f"/upstream/{place}/import",
            data={"csrf_token": token, f"{place}-file": (BytesIO(content), "keys.txt")},
            base_url="http://weir.test/admin",
            content_type="multipart/form-data",
        )

    bad = upload(f"a|{KEY}\nnonsense {KEY}\n".encode())
    assert bad.status_code == 400
    assert "line 2: is not id|key" in bad.text
    assert KEY not in bad.text
    assert collection.count_documents({}) == 0
    assert re.search(r'id="\w+-file-error">the file is not UTF-8 text', upload(b"\xff\xfe").text)
    assert upload(f"a|{KEY}\nb|{KEY}2\n".encode()).status_code == 303
    assert "2 keys are in the" in said(admin, "/upstream")
    text = send(admin, f"/upstream/{place}/import", "/upstream", **{f"{place}-lines": f"c|{KEY}3"})
    assert "1 key is in the" in text
    assert "paste lines" in send(admin, f"/upstream/{place}/import", "/upstream", **{f"{place}-lines": " "})
    assert collection.count_documents({}) == 3


def test_what_cannot_be_used_of_a_key_is_said_beside_its_field_and_the_name_stays(admin):
    place = "/upstream/pool/add"
    refused = admin.post(place, "/upstream", **{"pool-key_id": "berlin", "pool-secret": "a b c d e f"})
    assert refused.status_code == 400
    assert 'value="berlin"' in refused.text
    assert re.search(r'id="pool-secret-error">[^<]*printable ASCII', refused.text)
    send(admin, place, "/upstream", **{"pool-key_id": "berlin", "pool-secret": KEY})
    taken = admin.post(place, "/upstream", **{"pool-key_id": "berlin", "pool-secret": KEY})
    assert re.search(r'id="pool-key_id-error">[^<]*already', taken.text)
    assert KEY not in taken.text
    assert admin.post("/upstream/nowhere/add", "/upstream").status_code == 404


def test_a_keys_limits_are_filled_in_and_taken_away(admin, database):
    send(admin, "/upstream/pool/add", "/upstream", **{"pool-key_id": "k1", "pool-secret": KEY})
    page = "/upstream/keys/k1"
    text = send(admin, "/upstream/pool/k1/limits", page, weight="3", rpm="60", max_in_flight="0")
    assert "k1 is changed" in text
    assert "State paused" in text
    stored = database.ohmygpt_keys.find_one()
    assert (stored["weight"], stored["rpm"], stored["maxInFlight"]) == (3, 60, 0)
    assert last_action(database)["action"] == "keys.limit"
    refused = admin.post("/upstream/pool/k1/limits", page, weight="0", rpm="many")
    assert refused.status_code == 400
    assert re.search(r'id="weight-error">takes 1 or more', refused.text)
    assert 'value="many"' in refused.text
    assert "no limit" in send(admin, "/upstream/pool/k1/limits", page)
    assert database.ohmygpt_keys.find_one().keys().isdisjoint({"weight", "rpm", "maxInFlight"})
    assert "comes from OHMYGPT_API_KEYS: change it there" in send(
        admin, "/upstream/pool/env-1/limits", page, rpm="5"
    )
    assert admin.get("/upstream/keys/nothing").status_code == 404


def test_keys_are_shown_with_what_they_spent_and_the_same_one_twice_is_said(admin, database):
    for name in ("k1", "k2"):
        send(admin, "/upstream/pool/add", "/upstream", **{"pool-key_id": name, "pool-secret": KEY})
    rows = [
        sequenced(1, factory_key_id="k1", cost_nano_usd=1_500_000_000, created_at=NOW),
        sequenced(2, factory_key_id="left", cost_nano_usd=500_000_000, created_at=NOW),
        sequenced(3, factory_key_id=None, outcome="rejected", created_at=NOW),
    ]
    Booking(database, "w").apply(rows)
    text = said(admin, "/upstream?period=24h")
    assert "$1.50 75.0 %" in text
    assert "$0.50 25.0 %" in text
    assert "not in the pool" in text
    assert "the same key as k1" in text
    assert "Requests 2 sent upstream" in text
    assert "$1.50" in said(admin, "/upstream/keys/k1?period=24h")


def test_spare_keys_are_restored_and_deleted(admin, database):
    send(admin, "/upstream/spares/add", "/upstream", **{"spares-key_id": "b1", "spares-secret": KEY})
    database.ohmygpt_backup_keys.update_one({"_id": "b1"}, {"$set": {"isUsed": True, "usedFor": "k9"}})
    assert "k9" in said(admin, "/upstream")
    assert "b1 is available again." in send(admin, "/upstream/spares/b1/restore", "/upstream")
    assert "b1 is deleted." in send(admin, "/upstream/spares/b1/delete", "/upstream")
    assert database.ohmygpt_backup_keys.count_documents({}) == 0


# Proxies and bindings


def test_proxies_are_added_changed_checked_and_deleted(admin, database):
    fields = {"name": "Frankfurt", "kind": "http", "host": "127.0.0.1", "port": "1"}
    text = send(
        admin, "/upstream/proxies", "/upstream/proxies", username="u", password="p-secret-p", **fields
    )
    assert "Frankfurt is added as proxy-1" in text
    assert last_action(database)["details"]["login"] == "changed"
    assert "p-secret-p" not in admin.get("/upstream/proxies/proxy-1").text
    twin = admin.post("/upstream/proxies", "/upstream/proxies", **fields)
    assert (twin.status_code, 'value="Frankfurt"' in twin.text) == (400, True)
    assert 'id="name-error">there is a proxy named Frankfurt already: proxy-1' in twin.text
    before = database.proxies.find_one()["password"]
    send(
        admin,
        "/upstream/proxies/proxy-1",
        "/upstream/proxies/proxy-1",
        username="u",
        password="",
        **fields | {"port": "2"},
    )
    stored = database.proxies.find_one()
    assert (stored["port"], stored["username"]) == (2, "u")
    assert KeyCipher("secret").decrypt(stored["password"]) == "p-secret-p"
    assert before
    assert "is not reached through proxy-1" in send(
        admin, "/upstream/proxies/proxy-1/check", "/upstream/proxies"
    )
    assert "unhealthy" in said(admin, "/upstream/proxies/proxy-1")
    send(admin, "/upstream/proxies/proxy-1", "/upstream/proxies/proxy-1", username="", password="", **fields)
    assert "password" not in database.proxies.find_one()
    assert last_action(database)["details"]["login"] == "changed"
    assert "not used any more" in send(
        admin, "/upstream/proxies/proxy-1/active", "/upstream/proxies", active="no"
    )
    assert "used again" in send(admin, "/upstream/proxies/proxy-1/active", "/upstream/proxies", active="yes")
    assert "proxy-1 is deleted" in send(admin, "/upstream/proxies/proxy-1/delete", "/upstream/proxies")
    text = send(admin, "/upstream/proxies", "/upstream/proxies", **fields | {"host": "http://x", "port": "0"})
    assert "takes 1 to 65535" in text
    refused = admin.post("/upstream/proxies", "/upstream/proxies", **fields | {"host": "", "port": "0"})
    assert refused.status_code == 400
    assert 'value="Frankfurt"' in refused.text
    assert re.search(r'id="port-error">takes 1 to 65535', refused.text)


def test_keys_are_bound_to_proxies_with_priorities_and_repaired(admin, database):
    send(admin, "/upstream/proxies", "/upstream/proxies", name="Frankfurt", kind="http", host="h", port="1")
    assert "login" not in last_action(database)["details"]
    text = words_of(bind(admin, "env-1", "3"))
    assert "Key env-1 goes through proxy-1, priority 3." in text
    text = send(admin, "/upstream/bindings/proxy-1/env-1", "/upstream/proxies", priority="1")
    assert "with priority 1." in text
    assert "takes 1 to 10" in send(
        admin, "/upstream/bindings/proxy-1/env-1", "/upstream/proxies", priority="11"
    )
    database.ohmygpt_bindings.insert_one({"proxyId": "gone", "ohmygptKeyId": "env-1", "priority": 1})
    assert "no such proxy" in said(admin, "/upstream/proxies")
    assert "2 checked, 0 repaired, 1 deleted." in send(
        admin, "/upstream/bindings/repair", "/upstream/proxies"
    )
    assert "is not bound to proxy-1 any more" in send(
        admin, "/upstream/bindings/proxy-1/env-1/delete", "/upstream/proxies"
    )
    text = words_of(bind(admin, "none", "3"))
    assert "there is no key none" in text


# The audit log


def test_the_audit_log_shows_who_did_what_and_can_be_filtered(world, admin):
    make(admin)
    pay(admin, "100", "<i>", way="debit")
    text = said(admin, "/settings/audit")
    assert "users.credits.add user:alice amount: -100 , reason: <i> refused only 5 USD is left" in text
    assert "<i>" not in admin.get("/settings/audit").text
    assert "users.add" not in said(admin, "/settings/audit?result=refused")
    assert "No entry matches" in said(admin, "/settings/audit?actor=nobody")
    world.database.admin_audit.update_many({}, {"$set": {"at": world.clock.now - timedelta(minutes=30)}})
    for times, is_there in (("period=yesterday", False), ("from=1h", True), ("from=2020-01-01&to=1h", False)):
        found = said(admin, f"/settings/audit?{times}&action=users.add")
        assert ("user:alice" in found, "No entry matches" in found) == (is_there, not is_there), times
    refused = admin.get("/settings/audit?from=nonsense")
    assert (refused.status_code, "user:alice" in refused.text) == (400, True)
    # A filter keeps the time, and a time the filter.
    page = admin.get("/settings/audit?from=1h&actor=admin-token").text
    assert '<input type="hidden" name="from" value="1h">' in page
    assert '<input type="hidden" name="actor" value="admin-token">' in page
    world.add_user("root")
    other = world.browser()
    other.log_in(username="root", password="correct horse battery")
    send(other, "/customers/alice/active", "/customers/alice", active="no")
    assert "users.disable" in said(admin, "/settings/audit?actor=root")


def test_the_audit_log_leads_to_what_was_changed(world, admin):
    make(admin)
    entries = world.database.admin_audit
    entries.insert_one({**entries.find_one({}, {"_id": 0}), "target": "<i>:x"})
    page = admin.get("/settings/audit").text
    assert 'href="/admin/customers/alice">user:alice</a>' in page
    assert "&lt;i&gt;:x</td>" in page, "there is no page of it"


def test_limits_and_budgets_are_given_on_the_pages_of_users_and_keys(admin, database):
    make(admin)
    [key_id] = [key["_id"] for key in database.user_keys.find({"name": "alice"})]
    fields = {
        "rpm": "5",
        "tpm": "100",
        "max_parallel": "2",
        "models": "gpt-*, o3",
        "budgets": "10/month 1/day:o3",
    }
    prices = {"price_factor": "0.80", "group": "friends"}
    send(admin, "/customers/alice/settings", "/customers/alice", role="user", **prices)
    page = send(admin, "/customers/alice/limits", "/customers/alice", **fields)
    assert "a month 10" in page
    assert "a day, o3 1" in page
    stored = database.usersNew.find_one({"_id": "alice"})
    assert (stored["models"], stored["tpm"]) == (["gpt-*", "o3"], 100)
    assert (stored["priceFactor"], stored["group"]) == ("0.8", "friends")
    shown = admin.get("/customers/alice").text
    assert 'value="0.8"' in shown
    assert 'value="friends"' in shown
    place = f"/keys/{key_id}"
    page = send(
        admin,
        f"{place}/limits",
        place,
        **fields,
        key_name="laptop",
        allowed_ips="::1",
        expires_at="2027-01-31T10:00",
    )
    assert "laptop" in page
    stored = database.user_keys.find_one({"_id": key_id})
    assert (stored["allowedIps"], stored["keyName"]) == (["::1/128"], "laptop")
    assert stored["expiresAt"].replace(tzinfo=UTC) == datetime(2027, 1, 31, 10, tzinfo=UTC)
    # The page holds what was given, so that saving it again changes nothing; what is emptied is none.
    form = admin.get(place).text
    for value in ("gpt-*, o3", "10/month 1/day:o3", "2027-01-31T10:00", "::1/128"):
        assert f'value="{value}"' in form
    send(admin, f"{place}/limits", place)
    stored = database.user_keys.find_one({"_id": key_id})
    assert stored.keys().isdisjoint({"budgets", "models", "allowedIps", "expiresAt", "keyName", "rpm"})
    assert "per: takes one of" in send(admin, f"{place}/limits", place, budgets="1/year")
    assert admin.get("/keys/wk_unknown").status_code == 404


@pytest.mark.parametrize("moment", ["0001-01-01T00:00", "9999-12-31T23:59"])
def test_an_expiry_that_cannot_be_is_refused_beside_its_field(admin, moment):
    make(admin)
    place = "/customers/alice"
    refused = [
        admin.post(f"{place}/settings", place, role="user", expires_at=moment),
        admin.post(f"{place}/keys", place, **{"key-expires_at": moment}),
        make(admin, "bob", expires_at=moment),
    ]
    for answer in refused:
        assert answer.status_code == 400
        assert re.search(r'expires_at-error">takes a time in the years', answer.text)


def test_a_key_is_rotated_on_its_page(admin, database):
    make(admin)
    [key_id] = [key["_id"] for key in database.user_keys.find({"name": "alice"})]
    place = f"/keys/{key_id}"
    answer = shown_key(admin, admin.post(f"{place}/rotate", place, hours="2"))
    assert "sk-weir-" in answer.text
    assert "A secret before this one is accepted until" in said(admin, place)
    before = database.user_keys.find_one({"_id": key_id})
    assert "Number must be between 0 and" in send(admin, f"{place}/rotate", place, hours="-1")
    assert database.user_keys.find_one({"_id": key_id}) == before
