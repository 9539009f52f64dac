from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pymongo
import pytest
from pymongo import timeout as bounded
from pymongo.errors import ServerSelectionTimeoutError

from app.accounts.client_keys import ClientKey, ClientKeyStore
from app.accounts.credentials import hash_client_key
from app.accounts.directory import CachedDirectory
from app.accounts.funds import Balance
from app.accounts.principal import Principal
from app.accounts.read_cache import CachePolicy
from app.accounts.users import User, UserStore
from app.common.errors import StoreUnavailable
from app.store.connection import connect

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DOLLAR = 10**9


class FakeStore:
    """Users and keys in memory, both readers in one."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.keys: dict[str, ClientKey] = {}
        self.account_keys: dict[str, str] = {}
        self.is_down = False
        self.queries = 0

    def get(self, username: str) -> User | None:
        self._query()
        return self.users.get(username)

    def find_username_by_api_key(self, secret: str) -> str | None:
        self._query()
        return self.account_keys.get(secret)

    def find(self, secret: str) -> ClientKey | None:
        self._query()
        return self.keys.get(secret)

    def _query(self) -> None:
        self.queries += 1
        if self.is_down:
            raise ServerSelectionTimeoutError("down")

    def put_user(self, name: str, **fields) -> None:
        defaults = {"role": "user", "is_active": True, "credits_nano": 5 * DOLLAR}
        self.users[name] = User(
            username=name, **defaults | {"ref_credits_nano": 0, "credits_used_nano": 0} | fields
        )

    def put_key(self, secret: str, name: str, **fields) -> None:
        defaults = {"is_active": True, "hint": "…"}
        self.keys[secret] = ClientKey(stored_id=hash_client_key(secret), username=name, **defaults | fields)


class Bench:
    def __init__(self, proxy_api_key: str | None = None, policy: CachePolicy | None = None) -> None:
        self.store = FakeStore()
        self.store.put_user("alice")
        self.store.put_key("sk-1", "alice")
        self.clock = 1000.0
        self.background: list[Callable[[], None]] = []
        self.directory = CachedDirectory(
            self.store,
            self.store,
            clock=lambda: self.clock,
            spawn=self.background.append,
            proxy_api_key=proxy_api_key,
            policy=policy,
            now=lambda: NOW,
        )

    def run_background(self) -> None:
        while self.background:
            self.background.pop(0)()

    def balance(self, user_id: str = "alice") -> int:
        balance = self.directory.balance(user_id)
        assert balance is not None
        return balance.nano_usd


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_key_leads_to_its_user(bench: Bench) -> None:
    expires = NOW + timedelta(days=1)
    bench.store.put_user("alice", expires_at=expires, on_client_abort="cancel", rpm=7)
    assert bench.directory.find("sk-1") == Principal(
        user_id="alice",
        user_key_id=hash_client_key("sk-1"),
        rpm=7,
        user_rpm=7,
        on_client_abort="cancel",
    )


def test_the_price_factor_and_the_group_come_with_the_user(bench: Bench) -> None:
    bench.store.put_user("alice", price_factor="0.8", group="friends")
    found = bench.directory.find("sk-1")
    assert found is not None
    assert (found.price_factor, found.group) == ("0.8", "friends")


@pytest.mark.parametrize(
    ("stored", "factor"), [("0.8", "0.8"), (0.8, "0.8"), (2, "2"), (True, None), ([], None), ("", None)]
)
def test_a_factor_that_a_shell_has_written_is_read(stored: object, factor: str | None) -> None:
    assert User.from_document({"_id": "ann", "priceFactor": stored, "group": 7}).price_factor == factor


@pytest.mark.parametrize(("key_rpm", "expected"), [(None, 7), (3, 3), (0, 0)])
def test_the_limit_of_a_key_comes_before_its_users(bench: Bench, key_rpm: int | None, expected: int) -> None:
    bench.store.put_user("alice", rpm=7)
    bench.store.put_key("sk-1", "alice", rpm=key_rpm)
    assert bench.directory.find("sk-1").rpm == expected


def test_the_second_lookup_asks_nothing(bench: Bench) -> None:
    bench.directory.find("sk-1")
    queries = bench.store.queries
    bench.directory.find("sk-1")
    bench.directory.balance("alice")
    assert bench.store.queries == queries


def test_an_account_key_is_recorded_under_the_user(bench: Bench) -> None:
    bench.store.account_keys["sk-trollllm-1"] = "alice"
    assert bench.directory.find("sk-trollllm-1").user_key_id == "user:alice"


def refuse_unknown(bench: Bench) -> None:
    del bench.store.keys["sk-1"]


def refuse_revoked(bench: Bench) -> None:
    bench.store.put_key("sk-1", "alice", is_active=False)


def refuse_expired(bench: Bench) -> None:
    bench.store.put_key("sk-1", "alice", expires_at=NOW)


def refuse_disabled(bench: Bench) -> None:
    bench.store.put_user("alice", is_active=False)


def refuse_orphaned(bench: Bench) -> None:
    bench.store.put_key("sk-1", "nobody")


REFUSALS = [refuse_unknown, refuse_revoked, refuse_expired, refuse_disabled, refuse_orphaned]


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_key_is_refused(bench: Bench, refuse: Callable[[Bench], None]) -> None:
    refuse(bench)
    assert bench.directory.find("sk-1") is None


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_refusal_ends_within_seconds_even_after_a_long_idle_time(
    bench: Bench, refuse: Callable[[Bench], None]
) -> None:
    refuse(bench)
    bench.directory.find("sk-1")
    bench.store.put_user("alice")
    bench.store.put_key("sk-1", "alice")
    bench.clock += 31
    assert bench.directory.find("sk-1") is not None


@pytest.mark.parametrize("refuse", REFUSALS)
@pytest.mark.parametrize("idle_s", [2, 25, 31, 3600, 86_000])
def test_a_key_is_refused_two_seconds_later_however_long_it_was_idle(
    bench: Bench, refuse: Callable[[Bench], None], idle_s: float
) -> None:
    assert bench.directory.find("sk-1") is not None
    refuse(bench)
    bench.clock += idle_s
    assert bench.directory.find("sk-1") is None


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_key_in_use_is_refused_within_two_seconds(bench: Bench, refuse: Callable[[Bench], None]) -> None:
    """Renewals behind requests may come as late as they like: they only spare a wait."""
    bench.directory.find("sk-1")
    refuse(bench)
    served = 0
    for _ in range(20):
        bench.clock += 0.1
        served += bench.directory.find("sk-1") is not None
    assert served < 20
    assert bench.directory.find("sk-1") is None


def test_credit_that_was_taken_is_gone_within_two_seconds(bench: Bench) -> None:
    assert bench.balance() == 5 * DOLLAR
    bench.store.put_user("alice", credits_nano=0)
    bench.clock += 2
    assert bench.balance() == 0
    funds = bench.directory.funds("alice")
    assert funds is not None
    assert funds.balance == 0


def test_a_key_in_use_is_looked_up_behind_its_requests(bench: Bench) -> None:
    bench.directory.find("sk-1")
    for _ in range(50):
        bench.clock += 0.5
        queries = bench.store.queries
        assert bench.directory.find("sk-1") is not None
        assert bench.store.queries == queries
        bench.run_background()
    assert bench.store.queries < 2 * 50


def test_a_revoked_key_is_not_served_after_an_outage(bench: Bench) -> None:
    bench.directory.find("sk-1")
    bench.store.is_down = True
    bench.clock += 3600
    assert bench.directory.find("sk-1") is not None
    bench.store.is_down = False
    refuse_revoked(bench)
    bench.directory.store_answers()
    assert bench.directory.find("sk-1") is None


@pytest.mark.parametrize("secret", ["", "x" * 513, "schlüssel", "\udc80"])
def test_what_cannot_be_a_key_is_not_looked_up(bench: Bench, secret: str) -> None:
    assert bench.directory.find(secret) is None
    assert bench.store.queries == 0


def test_floods_of_bad_keys_ask_once_per_key(bench: Bench) -> None:
    for _ in range(5):
        for number in range(50):
            assert bench.directory.find(f"bad-{number}") is None
    assert bench.store.queries == 100  # user_keys and usersNew once each


def test_known_keys_work_through_an_outage_of_hours(bench: Bench) -> None:
    bench.directory.find("sk-1")
    bench.store.is_down = True
    for _ in range(3):
        bench.clock += 3600
        assert bench.directory.find("sk-1").user_id == "alice"
        assert bench.balance() == 5 * DOLLAR
        bench.run_background()


def test_unknown_keys_cannot_be_judged_in_an_outage(bench: Bench) -> None:
    bench.store.is_down = True
    with pytest.raises(StoreUnavailable, match="down"):
        bench.directory.find("sk-1")
    with pytest.raises(StoreUnavailable):
        bench.directory.balance("alice")


def test_secrets_are_not_kept(bench: Bench) -> None:
    bench.directory.find("sk-1")
    bench.directory.find("sk-unknown")
    held = str(vars(bench.directory._keys)) + str(vars(bench.directory._accounts))
    assert "sk-" not in held


def test_the_fixed_key_has_no_user_and_no_limit() -> None:
    bench = Bench(proxy_api_key="fixed-ключ")
    principal = bench.directory.find("fixed-ключ")
    assert (principal.user_id, principal.user_key_id, principal.is_metered) == ("env", "env", False)
    assert bench.directory.balance("env") is None
    bench.directory.note_charge("env", 5)
    assert bench.store.queries == 0
    assert bench.directory.find("fixed") is None


def test_no_fixed_key_means_no_user_env(bench: Bench) -> None:
    assert bench.directory.balance("env") == Balance(0)


def test_both_kinds_of_credit_count(bench: Bench) -> None:
    expires = NOW + timedelta(days=1)
    bench.store.put_user("alice", credits_nano=-DOLLAR, ref_credits_nano=3 * DOLLAR, expires_at=expires)
    assert bench.directory.balance("alice") == Balance(2 * DOLLAR, expires)


def test_a_balance_is_never_below_zero(bench: Bench) -> None:
    bench.store.put_user("alice", credits_nano=-DOLLAR)
    assert bench.balance() == 0


def test_a_charge_counts_at_once_and_once(bench: Bench) -> None:
    assert bench.balance() == 5 * DOLLAR
    bench.directory.note_charge("alice", 2 * DOLLAR)
    assert bench.balance() == 3 * DOLLAR
    bench.store.put_user("alice", credits_nano=3 * DOLLAR)  # the writer books it
    assert bench.balance() == 3 * DOLLAR  # the cached document is still the old one
    bench.directory.charges_booked("alice", 2 * DOLLAR)
    assert bench.balance() == 3 * DOLLAR
    bench.run_background()
    assert bench.balance() == 3 * DOLLAR
    assert not bench.directory._booked
    assert not bench.directory._pending


def test_users_who_come_once_do_not_pile_up() -> None:
    directory = Bench(policy=CachePolicy(max_entries=10)).directory
    for number in range(5000):
        directory.find(f"sk-{number}")
        directory.note_charge(f"user-{number}", DOLLAR)
        directory.charges_booked(f"user-{number}", DOLLAR)
    assert len(directory._booked) < 1500
    assert not directory._pending


def test_a_read_that_a_booking_overtakes_does_not_lose_the_charge(bench: Bench) -> None:
    bench.directory.note_charge("alice", 2 * DOLLAR)
    before = bench.store.users["alice"]
    real_get = bench.store.get

    def get_from_before_the_booking(username: str) -> User | None:
        real_get(username)
        bench.store.put_user("alice", credits_nano=3 * DOLLAR)
        bench.directory.charges_booked("alice", 2 * DOLLAR)
        return before

    bench.store.get = get_from_before_the_booking
    assert bench.balance() == 3 * DOLLAR
    bench.store.get = real_get
    bench.clock += 6
    bench.balance()
    bench.run_background()
    assert bench.balance() == 3 * DOLLAR


def test_several_charges_are_booked_in_parts(bench: Bench) -> None:
    for _ in range(3):
        bench.directory.note_charge("alice", DOLLAR)
    bench.store.put_user("alice", credits_nano=3 * DOLLAR)
    bench.directory.charges_booked("alice", 2 * DOLLAR)
    bench.balance()
    bench.run_background()
    assert bench.balance() == 2 * DOLLAR


def test_credit_just_bought_counts_within_a_second(bench: Bench) -> None:
    bench.store.put_user("alice", credits_nano=0)
    assert bench.balance() == 0
    bench.store.put_user("alice", credits_nano=DOLLAR)
    assert bench.balance() == 0
    bench.clock += 1
    assert bench.balance() == DOLLAR


def test_a_refused_balance_stands_in_an_outage(bench: Bench) -> None:
    bench.store.put_user("alice", credits_nano=0)
    bench.balance()
    bench.store.is_down = True
    bench.clock += 20
    assert bench.balance() == 0


def test_own_writes_are_seen_at_once(bench: Bench) -> None:
    bench.directory.find("sk-1")
    bench.store.put_user("alice", credits_nano=DOLLAR)
    bench.directory.user_changed("alice", True)
    assert bench.balance() == DOLLAR
    refuse_revoked(bench)
    bench.directory.key_changed(hash_client_key("sk-1"), False)
    assert bench.directory.find("sk-1") is None
    bench.store.put_key("sk-1", "alice")
    bench.directory.key_changed(hash_client_key("sk-1"), True)
    assert bench.directory.find("sk-1") is not None
    refuse_disabled(bench)
    bench.directory.outdate_all()
    assert bench.directory.find("sk-1") is None


@pytest.mark.parametrize("is_old", [False, True])
def test_a_user_who_was_written_to_is_served_while_the_store_does_not_answer(
    bench: Bench, is_old: bool
) -> None:
    bench.directory.find("sk-1")
    bench.store.is_down = True
    bench.directory.user_changed("alice", True)
    bench.directory.key_changed(hash_client_key("sk-1"), True)
    bench.directory.outdate_all()
    bench.clock += 3600 * is_old
    queries = bench.store.queries
    for _ in range(5):
        assert bench.directory.find("sk-1") is not None
        assert bench.balance() == 5 * DOLLAR
    assert bench.store.queries == queries + 1, "the first one waits for the store, and no other"

    bench.store.is_down = False
    bench.store.put_user("alice", credits_nano=DOLLAR)
    bench.clock += 1
    bench.balance()
    bench.run_background()
    assert bench.balance() == DOLLAR


def test_who_was_disabled_or_revoked_here_stays_out_while_the_store_does_not_answer(bench: Bench) -> None:
    bench.store.put_key("sk-2", "alice")
    bench.directory.find("sk-1")
    bench.directory.find("sk-2")
    bench.store.is_down = True
    bench.directory.key_changed(hash_client_key("sk-2"), False)
    with pytest.raises(StoreUnavailable):
        bench.directory.find("sk-2")
    assert bench.directory.find("sk-1") is not None
    bench.directory.user_changed("alice", False)
    bench.clock += 1
    with pytest.raises(StoreUnavailable):
        bench.directory.find("sk-1")


def real_directory(db) -> CachedDirectory:
    return CachedDirectory(
        UserStore(db), ClientKeyStore(db), clock=lambda: 1000.0, spawn=lambda work: None, now=lambda: NOW
    )


def test_keys_and_balances_come_out_of_mongodb(database) -> None:
    UserStore(database).add("alice", now=NOW, credits_usd=Decimal("0.3"))
    new = ClientKeyStore(database).add("alice", now=NOW)
    database.usersNew.insert_one(
        {"_id": "old", "apiKey": "sk-trollllm-1", "credits": 0.1, "refCredits": 0.2, "isActive": True}
    )
    database.user_keys.insert_one({"_id": "sk-troll-1", "name": "old", "isActive": True, "expiresAt": NOW})
    database.user_keys.insert_one({"_id": "sk-troll-2", "name": "old", "isActive": True})
    directory = real_directory(database)
    assert directory.find(new.secret).user_key_id == new.key_id
    assert directory.balance("alice") == Balance(300_000_000)
    assert directory.find("sk-trollllm-1").user_key_id == "user:old"
    assert directory.find("sk-troll-1") is None
    assert directory.find("sk-troll-2").user_key_id == "sk-troll-2"
    assert directory.balance("old") == Balance(300_000_000)


def test_odd_fields_of_existing_documents_do_no_harm(database) -> None:
    odd = {"expiresAt": "2026-01-01", "rpm": float("nan"), "onClientAbort": 5, "credits": "many"}
    database.usersNew.insert_one({"_id": "old", **odd})
    database.user_keys.insert_one({"_id": "sk-troll-1", "name": "old", "expiresAt": "soon", "rpm": -1})
    directory = real_directory(database)
    assert directory.find("sk-troll-1") == Principal(user_id="old", user_key_id="sk-troll-1")
    assert directory.balance("old") == Balance(0)


def test_a_store_that_is_gone_is_unavailable(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pymongo, "timeout", lambda _seconds: bounded(0.05))
    socket = str(tmp_path / "none.sock").replace("/", "%2F")
    db = connect(f"mongodb://{socket}/", "fproxy")
    with pytest.raises(StoreUnavailable):
        real_directory(db).find("sk-1")
    db.client.close()


def test_a_rotated_key_is_revoked_whichever_secret_it_came_with(database) -> None:
    """Also where both are cached: whoever has it revoked refuses both at once."""
    UserStore(database).add("alice", now=NOW)
    store = ClientKeyStore(database)
    made = store.add("alice", now=NOW)
    rotated = store.rotate(store.get(made.key_id), now=NOW, until=NOW + timedelta(hours=1))
    directory = real_directory(database)
    for secret in (made.secret, rotated.secret):
        assert directory.find(secret).user_key_id == made.key_id
    store.revoke(made.key_id, now=NOW)
    directory.key_changed(made.key_id, False)
    for secret in (made.secret, rotated.secret):
        assert directory.find(secret) is None


def test_the_old_secret_ends_to_the_second(database) -> None:
    UserStore(database).add("alice", now=NOW)
    store = ClientKeyStore(database)
    made = store.add("alice", now=NOW)
    store.rotate(store.get(made.key_id), now=NOW, until=NOW + timedelta(hours=1))
    now = [NOW]
    directory = CachedDirectory(
        UserStore(database), store, clock=lambda: 1000.0, spawn=lambda work: None, now=lambda: now[0]
    )
    now[0] = NOW + timedelta(minutes=59, seconds=59)
    assert directory.find(made.secret) is not None
    now[0] += timedelta(seconds=1)
    assert directory.find(made.secret) is None


def test_who_would_be_calling_has_the_limits_of_now(database) -> None:
    UserStore(database).add("alice", now=NOW, more={"tpm": 7})
    made = ClientKeyStore(database).add("alice", now=NOW, more={"maxParallel": 3})
    caller = real_directory(database).caller("alice", made.key_id)
    assert (caller.user_id, caller.user_key_id) == ("alice", made.key_id)
    assert (caller.user_limits.tpm, caller.key_limits.max_parallel) == (7, 3)
    gone = real_directory(database).caller("nobody", "wk_gone")
    assert gone == Principal("nobody", "wk_gone")
