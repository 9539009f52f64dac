"""How often secrets may be tried in vain: what a wrong try is counted under, and how often in a minute.

The admin token is checked before anything is counted, so that the right one always passes: with the strength
asked of it, it is not found by trying. A password is. So tries of one address are bounded whatever they try,
tries of one name whoever makes them, and beyond that one is checked every `SLOW_S` instead of none: whoever
guesses at a name keeps its owner waiting, not out. An address from which the owner has logged in is counted
by itself, and not touched by what strangers do.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from app.accounts.client_address import counted_network
from app.accounts.credentials import name_digest

TRIES_PER_ADDRESS = 10
TRIES_PER_NAME = 20
"""From all addresses together that the name has never logged in from."""

TRIES_PER_NAME_AND_ADDRESS = 5
KEYS_PER_ADDRESS = 20
"""Unknown client keys at `/api/user`."""

SLOW_S = 3.0
"""Beyond the limits a worker checks one password in this time, for each name or known address."""

_SLOTS = 4096


@dataclass(frozen=True, slots=True)
class Counter:
    """What is counted in a minute, and how much of it is let pass."""

    key: str
    limit: int


def token_counters(address: str | None) -> tuple[Counter, ...]:
    """Return the counters of a wrong admin token."""
    return (Counter(f"login:address:{_slot(address)}", TRIES_PER_ADDRESS),)


def password_counters(name: str, address: str | None, *, is_known: bool) -> tuple[Counter, ...]:
    """Return the counters of a wrong password; the last one's key is also that of its slow turn."""
    digest = name_digest(name)
    own = Counter(f"login:name:{digest}:{_slot(address)}", TRIES_PER_NAME_AND_ADDRESS)
    if is_known:
        return (own,)
    return (*token_counters(address), own, Counter(f"login:name:{digest}", TRIES_PER_NAME))


def client_key_counters(address: str | None) -> tuple[Counter, ...]:
    """Return the counters of a client key that nobody has."""
    return (Counter(f"login:key:{_slot(address)}", KEYS_PER_ADDRESS),)


def _slot(address: str | None) -> int:
    """Return the number of the counter that this address shares with others.

    There are `_SLOTS` of them, so that no number of addresses fills memory or database. Two addresses that
    share a counter share its tries: then a right password waits for the slow turn, as if it were attacked.
    """
    digest = hashlib.sha256(counted_network(address).encode()).digest()
    return int.from_bytes(digest[:4], "big") % _SLOTS


class TooManyTries(Exception):
    """So many wrong secrets came from an address, or for a name, that this one was refused."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many wrong tries: wait {retry_after_s} s")
        self.retry_after_s = retry_after_s


class LoginGuard(Protocol):
    """Checks who comes; all of it may raise `TooManyTries`."""

    def is_token(self, given: bytes) -> bool:
        """Return whether this is the admin token; counts nothing."""

    def check_token(self, given: bytes, address: str | None) -> bool:
        """Return whether this is the admin token; the right one always passes."""

    def check_password(self, name: str, password: str, address: str | None) -> str | None:
        """Return the user's role, None for a wrong name or password; raises `StoreUnavailable`."""

    def count_unknown_key(self, address: str | None) -> None:
        """Take note of a client key that nobody has."""
