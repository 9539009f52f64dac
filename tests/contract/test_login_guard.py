"""Tries to log in are bounded by address and by name, and whoever has the right secret gets in."""

import hashlib
from datetime import UTC, datetime, timedelta

import gevent
import pytest

from app.accounts.login_guard import AdminLoginGuard
from app.accounts.login_tries import (
    KEYS_PER_ADDRESS,
    SLOW_S,
    TRIES_PER_ADDRESS,
    TRIES_PER_NAME,
    TRIES_PER_NAME_AND_ADDRESS,
    TooManyTries,
    password_counters,
)
from app.accounts.rate_limiter import SharedRateLimiter
from app.accounts.users import LOGIN_NETWORKS, PasswordHash, UserStore, hash_password
from app.common.errors import StoreUnavailable
from tests.support.logins import Inline

NOW = datetime(2026, 11, 30, 12, 0, 1, tzinfo=UTC)
TOKEN, PASSWORD = "the-admin-tökén", "correct horse battery"
# Few rounds, so that only names nobody has take their time.
HASHED = PasswordHash(hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), b"00", 1, 64).hex(), "00", 1)
HOME, ELSEWHERE, STRANGER = "198.51.100.1", "198.51.100.2", "203.0.113.1"


class World:
    """A guard, an admin called root, and a clock that sleeping moves."""

    def __init__(self, database) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.while_asleep = self.while_deriving = lambda: None
        self.users = UserStore(database)
        self.users.add("root", now=NOW, role="admin", password=HASHED)
        self.derived = 0
        self.threads = Inline()
        self.guard = AdminLoginGuard(
            TOKEN,
            self.users,
            SharedRateLimiter("w1", lambda: self.now.timestamp()),
            self,
            monotonic=lambda: self.now.timestamp(),
            sleep=self.sleep,
        )

    def __len__(self) -> int:
        return self.threads.queued

    def apply(self, function, args):
        self.derived += 1
        self.while_deriving()
        return function(*args)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.while_asleep()

    def password(self, given=PASSWORD, address=STRANGER, name="root"):
        """What comes of a try: a role, None, or `slow` or `refused`."""
        before = len(self.slept)
        try:
            return self.guard.check_password(name, given, address)
        except TooManyTries:
            return "slow" if len(self.slept) > before else "refused"

    def token(self, given, address=STRANGER):
        try:
            return self.guard.check_token(given.encode(), address)
        except TooManyTries:
            return "refused"


@pytest.fixture
def world(database):
    return World(database)


def test_the_right_token_passes_whatever_was_tried(world):
    tries = [world.token(f"guess-{number}") for number in range(TRIES_PER_ADDRESS + 5)]
    assert tries == [False] * TRIES_PER_ADDRESS + ["refused"] * 5
    assert world.token(TOKEN) is True
    assert world.token("guess", address=HOME) is False
    world.now += timedelta(minutes=1)
    assert world.token("guess") is False


def test_without_a_token_none_is_right(world, database):
    guard = AdminLoginGuard(
        "", world.users, SharedRateLimiter("w", lambda: 0.0), world, monotonic=lambda: 0.0, sleep=world.sleep
    )
    assert guard.check_token(b"", HOME) is False


def test_tokens_passwords_and_names_are_tries_of_one_address(world):
    for _ in range(TRIES_PER_ADDRESS - 1):
        assert world.token("x") is False
    assert world.password("x", name="nobody") is None
    assert world.token("x") == "refused"
    assert world.password("x", name="somebody") == "slow"
    assert world.password("x", name="somebody", address=HOME) is None


def test_a_network_of_ipv6_is_one_address(world):
    for number in range(TRIES_PER_ADDRESS):
        assert world.token("x", address=f"2001:db8::{number:x}") is False
    assert world.token("x", address="2001:db8::ffff") == "refused"
    assert world.token("x", address="2001:db8:0:1::1") is False


def test_tries_of_a_name_are_counted_from_everywhere(world):
    for number in range(TRIES_PER_NAME):
        assert world.password("x", address=f"203.0.113.{number}") is None
    assert world.password("x", address="203.0.113.200") == "slow"
    assert world.derived == TRIES_PER_NAME + 1


def test_a_name_that_one_address_guesses_at_is_free_from_another(world):
    tries = [world.password("x") for _ in range(8)]
    assert tries == [None] * TRIES_PER_NAME_AND_ADDRESS + ["slow"] * 3
    assert world.password(address=HOME) == "admin"
    assert world.slept == [pytest.approx(SLOW_S)] * 3


def test_where_the_owner_has_logged_in_strangers_do_not_matter(world):
    assert world.password(address=HOME) == "admin"
    for number in range(TRIES_PER_NAME):
        world.password("x", address=f"203.0.113.{number}")
    world.guard._slow.add(line_of_strangers())
    assert world.password(address=ELSEWHERE) == "slow"
    world.threads.queued = 64  # strangers have filled the queue
    with pytest.raises(StoreUnavailable, match="too many logins"):
        world.password(address="203.0.113.99", name="another")
    assert world.password(address=HOME) == "admin"
    # Who sits at the owner's place guesses no faster than others.
    assert [world.password("x", address=HOME) for _ in range(6)] == [None] * 5 + ["slow"]
    assert world.password(address=HOME) == "admin"


def line_of_strangers() -> str:
    """Whose turn strangers wait for who guess at root."""
    return password_counters("root", STRANGER, is_known=False)[-1].key


def test_beyond_the_limits_one_is_checked_in_turn(world):
    for _ in range(TRIES_PER_NAME_AND_ADDRESS):
        world.password("x")
    derived = world.derived
    others = []

    def meanwhile():
        world.while_asleep = lambda: None
        others.extend((world.password("x"), world.password()))

    world.while_asleep = meanwhile
    assert world.password("x") == "slow"
    assert others == ["slow", "slow"]  # even the right one: its turn is the next
    assert world.derived == derived + 1
    assert world.password() == "admin"


def test_tries_that_come_together_are_checked_one_by_one(world):
    world.while_deriving = gevent.sleep  # lets the others run
    tries = [gevent.spawn(world.password, "x") for _ in range(8)]
    gevent.joinall(tries)
    assert [str(one.value) for one in tries] == ["None"] * TRIES_PER_NAME_AND_ADDRESS + ["slow"] * 3
    right = [gevent.spawn(world.password, address=HOME) for _ in range(16)]
    gevent.joinall(right)
    assert [one.value for one in right] == ["admin"] * 16


def test_names_nobody_has_wait_as_long_and_cost_nothing(world):
    for _ in range(TRIES_PER_ADDRESS):
        world.token("x")
    world.users.add("ann", now=NOW, role="admin")
    world.users.add("gone", now=NOW, role="admin", password=HASHED)
    world.users.set_active("gone", False)
    assert [world.password(name=name) for name in ("nobody", "ann", "gone")] == ["slow"] * 3
    assert world.slept == [pytest.approx(SLOW_S)] * 3
    assert world.derived == 0
    assert world.password() == "admin"


def test_only_so_many_wait(world):
    for _ in range(TRIES_PER_ADDRESS):
        world.token("x")
    world.guard._slowed = 256
    assert world.password(name="nobody") == "refused"
    assert world.password(address=HOME) == "admin"


def test_what_is_remembered_of_places_is_bounded_and_ends_with_the_password(world, database):
    for number in range(10):
        for _ in range(2):
            assert world.password(address=f"198.51.100.{number}") == "admin"
    places = [f"198.51.100.{number}" for number in range(2, 10)]
    assert database.usersNew.find_one({"_id": "root"})[LOGIN_NETWORKS] == places
    world.users.set_password("root", hash_password("another of the same"))
    assert world.password("another of the same", address=STRANGER) == "admin"
    assert database.usersNew.find_one({"_id": "root"})[LOGIN_NETWORKS] == [STRANGER]


def test_whoever_knows_the_password_is_told_by_role_and_remembered(world, database):
    world.users.set_fields("root", {"role": "user"})
    assert world.password() == "user"
    assert database.usersNew.find_one({"_id": "root"})[LOGIN_NETWORKS] == [STRANGER]


def test_unknown_client_keys_are_counted_apart(world):
    for _ in range(KEYS_PER_ADDRESS):
        world.guard.count_unknown_key(STRANGER)
    with pytest.raises(TooManyTries):
        world.guard.count_unknown_key(STRANGER)
    world.guard.count_unknown_key(HOME)
    assert world.token("x") is False
