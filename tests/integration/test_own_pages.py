"""Users who are logged in: their own pages, by password and by key, and nothing of anybody else."""

import re
from datetime import timedelta
from html import unescape

import pytest

from app.accounts.client_keys import ClientKeyStore
from app.accounts.login_tries import TRIES_PER_ADDRESS
from app.accounts.users import UserStore
from app.persistence.booking import Booking
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord, UsageSource
from tests.support.dashboard import NOON, PASSWORD, TOKEN, Away, Browser, DashboardWorld

SECRETS = ("pool-secret-name", "their-model-name", "req_upstream", "no money", "bob")
PAGES = ("/me", "/me/keys", "/me/keys/new", "/me/statements", "/me/requests")


def record(number: int, user: str, key_id: str) -> SequencedRecord:
    made = ExchangeRecord(
        f"{user}-{number}",
        user,
        key_id,
        NOON - timedelta(hours=3 * number, minutes=5),
        "openai",
        Outcome.OK if number else Outcome.UPSTREAM_ERROR,
        200 if number else 502,
        factory_key_id="pool-secret-name",
        model="gpt",
        upstream_model="their-model-name",
        upstream_request_id="req_upstream",
        input_tokens=1234,
        output_tokens=10,
        usage_source=UsageSource.UPSTREAM,
        cost_nano_usd=1_500_000,
        latency_ms=100,
        attempts=(AttemptRecord("pool-secret-name", 200, 7),),
        error_message=None if number else "pool-secret-name has no money",
        told_message=None if number else "the operator must see to it",
    )
    return SequencedRecord(1 + number + 100 * (user == "bob"), made.to_document())


class World(DashboardWorld):
    """Two users, ann and bob, with three requests each."""

    def __init__(self, database) -> None:
        super().__init__(database)
        self.secrets, self.key_ids = {}, {}
        for name in ("ann", "bob"):
            self.add_user(name, role="user")
            database.usersNew.update_one({"_id": name}, {"$set": {"credits": 5.0}})
            made = ClientKeyStore(database).add(name, now=NOON)
            self.secrets[name], self.key_ids[name] = made.secret, made.key_id
            batch = [record(number, name, made.key_id) for number in range(3)]
            Booking(database, f"w-{name}").apply(batch)

    def by_key(self, name: str = "ann") -> Browser:
        browser = self.browser()
        assert browser.log_in(token=self.secrets[name]).location == "/admin/me"
        return browser

    def by_password(self, name: str = "ann") -> Browser:
        browser = self.browser()
        assert browser.log_in(username=name, password=PASSWORD).location == "/admin/me"
        return browser


@pytest.fixture
def world(database) -> World:
    return World(database)


@pytest.fixture(params=["key", "password"])
def ann(request, world) -> Browser:
    return world.by_key() if request.param == "key" else world.by_password()


def said(browser, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def shown_secret(browser, answer) -> str:
    assert answer.status_code == 303, answer.text
    page = browser.get(answer.headers["Location"].removeprefix("/admin")).text
    [secret] = set(re.findall(r"sk-weir-\w{40}", page))
    return secret


def test_users_see_their_usage_keys_statements_and_requests(world, ann):
    usage = said(ann, "/me")
    assert "Spent in 2026-11 $0.0045" in usage
    assert "gpt 3 3,702" in usage
    assert "Make a key" in said(ann, "/me/keys")
    assert "2026-11 not over yet CSV" in said(ann, "/me/statements")
    assert said(ann, "/me/requests").count("gpt") == 3
    failed = said(ann, "/me/requests/ann-0")
    assert "the operator must see to it" in failed
    statement = ann.get("/me/statements/2026-11")
    assert statement.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "ann" in statement.text
    csv = ann.get("/me/statements/2026-11.csv")
    assert csv.headers["Content-Disposition"] == 'attachment; filename="statement-2026-11.csv"'
    assert "0.004500000" in csv.text


def test_the_end_of_the_own_requests_says_what_has_expired(world, ann, database):
    assert "have expired" not in said(ann, "/me/requests")
    database.request_logs.create_index("createdAt", expireAfterSeconds=7 * 86_400)
    page = ann.get("/me/requests").text
    assert 'id="expired"' in page
    assert "have expired" in said(ann, "/me/requests")
    assert 'href="/admin/me/statements"' in page


def test_nothing_of_others_or_of_the_operator_is_on_any_page(world, ann):
    pages = (*PAGES, f"/me/keys/{world.key_ids['ann']}", "/me/requests/ann-0", "/me/statements/2026-11")
    for page in (*pages, "/me/statements/2026-11.csv", f"/me/keys/{world.key_ids['ann']}/edit"):
        text = ann.get(page).text
        for secret in (*SECRETS, world.secrets["ann"], world.key_ids["bob"]):
            assert secret not in text, (page, secret)


@pytest.mark.parametrize(
    "path",
    ["/me/requests/bob-0", "/me/keys/{bob}", "/me/keys/{bob}/edit", "/me/keys/wk_none", "/me/requests/none",
     "/me/statements/2031-01-01", "/me/statements/x.csv"],
)  # fmt: skip
def test_what_is_anothers_is_not_there(world, ann, path):
    assert ann.get(path.format(bob=world.key_ids["bob"])).status_code == 404


@pytest.mark.parametrize("action", ["edit", "rotate", "revoke"])
def test_another_users_key_cannot_be_changed(world, ann, database, action):
    before = database.user_keys.find_one({"_id": world.key_ids["bob"]})
    path = f"/me/keys/{world.key_ids['bob']}/{action}"
    assert ann.post(path, "/me/keys/new", hours="1", key_name="mine").status_code == 404
    assert database.user_keys.find_one({"_id": world.key_ids["bob"]}) == before


def test_a_user_who_is_no_more_than_that_gets_no_other_page(world, ann):
    assert ann.get("/").location == "/admin/me"
    assert ann.get("/settings/audit").status_code in (403, 404)
    assert 'href="/admin/"' not in ann.get("/me").text


def test_keys_are_made_changed_rotated_and_revoked(world, ann, database):
    form = {"key_name": "laptop", "rpm": "9", "models": "gpt-*", "budgets": "1/day", "notes": "for tests"}
    made = ann.post("/me/keys/new", "/me/keys/new", **form, allowed_ips="10.0.0.0/8")
    secret = shown_secret(ann, made)
    key = ClientKeyStore(database).find(secret)
    assert (key.username, key.key_name, key.rpm, key.notes) == ("ann", "laptop", 9, "for tests")
    assert key.limits.models == ("gpt-*",)
    place = f"/me/keys/{key.key_id}"
    assert "laptop" in said(ann, place)
    assert 'value="1/day"' in ann.get(f"{place}/edit").text
    assert ann.post(f"{place}/edit", f"{place}/edit", key_name="desktop").status_code == 303
    key = ClientKeyStore(database).find(secret)
    assert (key.key_name, key.rpm, key.limits) == ("desktop", None, None)
    other = shown_secret(ann, ann.post(f"{place}/rotate", place, hours="0"))
    assert ClientKeyStore(database).find(other).key_id == key.key_id
    assert ann.post(f"{place}/revoke", place).status_code == 303
    assert not ClientKeyStore(database).get(key.key_id).is_active
    entry = database.admin_audit.find_one({"action": "client-keys.revoke"})
    assert (entry["actor"], entry["role"], entry["via"]) == ("ann", "user", "dashboard")


def test_what_cannot_be_used_is_said_beside_the_field_and_what_was_typed_stays(world, ann, database):
    refused = ann.post("/me/keys/new", "/me/keys/new", key_name="laptop", budgets="1/year")
    assert refused.status_code == 400
    assert 'value="laptop"' in refused.text
    assert re.search(r'id="budgets-error">[^<]*takes one of', refused.text)
    assert database.user_keys.count_documents({"name": "ann"}) == 1


def test_a_session_of_a_key_ends_when_the_key_does(world, database):
    keys = ClientKeyStore(database)
    browser = world.by_key()
    keys.set_fields(world.key_ids["ann"], {"isActive": False})
    assert browser.get("/me").status_code == 303
    keys.set_fields(world.key_ids["ann"], {"isActive": True})
    assert browser.get("/me").status_code == 200
    keys.rotate(keys.get(world.key_ids["ann"]), now=NOON, until=NOON + timedelta(hours=1))
    assert browser.get("/me").status_code == 303


def test_a_session_of_a_key_ends_with_its_time(world, database):
    ClientKeyStore(database).set_fields(world.key_ids["ann"], {"expiresAt": NOON + timedelta(hours=1)})
    browser = world.by_key()
    world.clock.forward(minutes=59)
    assert browser.get("/me").status_code == 200
    world.clock.forward(minutes=1)
    assert browser.get("/me").status_code == 303


def test_a_session_of_a_secret_that_was_rotated_ends_with_that(world, database):
    keys = ClientKeyStore(database)
    keys.rotate(keys.get(world.key_ids["ann"]), now=NOON, until=NOON + timedelta(hours=1))
    browser = world.by_key()
    world.clock.forward(minutes=61)
    assert browser.get("/me").status_code == 303


def test_who_rotates_the_key_they_came_with_goes_on(world):
    browser = world.by_key()
    place = f"/me/keys/{world.key_ids['ann']}"
    secret = shown_secret(browser, browser.post(f"{place}/rotate", place, hours="1"))
    assert browser.get("/me").status_code == 200
    assert world.browser().log_in(token=secret).location == "/admin/me"


def test_who_revokes_the_key_they_came_with_is_out(world):
    browser = world.by_key()
    place = f"/me/keys/{world.key_ids['ann']}"
    browser.post(f"{place}/revoke", place)
    assert browser.get("/me").status_code == 303
    assert world.browser().log_in(token=world.secrets["ann"]).status_code == 401


@pytest.mark.parametrize("fields", [{"isActive": False}, {"allowedIps": ["10.0.0.0/8"]}])
def test_a_key_that_is_not_accepted_opens_nothing(world, database, fields):
    ClientKeyStore(database).set_fields(world.key_ids["ann"], fields)
    assert world.browser().log_in(token=world.secrets["ann"]).status_code == 401


def test_a_disabled_user_opens_nothing_and_is_out(world):
    browser, other = world.by_key(), world.by_password()
    UserStore(world.database).set_active("ann", False)
    assert browser.get("/me").status_code == other.get("/me").status_code == 303
    assert world.browser().log_in(token=world.secrets["ann"]).status_code == 401


def test_who_came_with_a_limited_key_manages_none(world, database):
    ClientKeyStore(database).set_fields(world.key_ids["ann"], {"rpm": 5})
    browser = world.by_key()
    assert browser.get("/me").status_code == 200
    assert "/me/keys" not in browser.get("/me").text
    for path in ("/me/keys", "/me/keys/new", f"/me/keys/{world.key_ids['ann']}"):
        assert browser.get(path).status_code == 403
    token = browser.csrf_token("/me")
    assert browser.bare_post("/me/keys/new", csrf_token=token).status_code == 403
    assert database.user_keys.count_documents({"name": "ann"}) == 1


def test_a_key_of_an_owner_opens_no_more_than_the_owners_own_pages(world):
    UserStore(world.database).set_fields("ann", {"role": "owner"})
    browser = world.by_key()
    assert browser.get("/me").status_code == 200
    assert browser.get("/").location == "/admin/me"
    by_name = world.browser()
    assert by_name.log_in(username="ann", password=PASSWORD).location == "/admin/"
    assert by_name.get("/me").status_code == 200


def test_wrong_keys_are_counted_and_a_right_one_passes(world):
    browser = world.browser()
    tries = [browser.log_in(token=f"sk-weir-{n:040}").status_code for n in range(TRIES_PER_ADDRESS + 1)]
    assert tries == [401] * TRIES_PER_ADDRESS + [429]
    assert browser.log_in(token=world.secrets["ann"]).location == "/admin/me"


def test_an_account_key_of_earlier_software_opens_the_pages_and_is_not_in_the_cookie(world, database):
    secret = "sk-trollllm-" + "ab01" * 16
    database.usersNew.update_one({"_id": "ann"}, {"$set": {"apiKey": secret}})
    browser = world.browser()
    assert browser.log_in(token=secret).location == "/admin/me"
    assert browser.get("/me/keys").status_code == 200
    assert secret not in browser.cookie()
    database.usersNew.update_one({"_id": "ann"}, {"$set": {"apiKey": secret + "x"}})
    assert browser.get("/me").status_code == 303


def test_while_the_database_is_away_the_token_works_and_a_key_is_told_why_not(world):
    world.accounts = Away()
    refused = world.browser().log_in(token=world.secrets["ann"])
    assert refused.status_code == 503
    assert "The admin token works" in refused.text
    assert world.browser().log_in(token=TOKEN).status_code == 303


def test_the_holder_of_the_token_has_no_pages_of_their_own(world):
    admin = world.admin()
    assert admin.get("/me").status_code == 403
    assert 'href="/admin/me"' not in admin.get("/").text
