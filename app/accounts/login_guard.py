"""Who comes as an admin, and how often somebody may try to: the same for dashboard and APIs."""

import hmac
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol
from weakref import WeakValueDictionary

from gevent.lock import BoundedSemaphore
from pymongo.errors import PyMongoError

from app.accounts.client_address import counted_network
from app.accounts.login_tries import (
    SLOW_S,
    Counter,
    TooManyTries,
    client_key_counters,
    password_counters,
    token_counters,
)
from app.accounts.rate_window import RateLimiter
from app.accounts.users import Login, UserStore
from app.common.errors import StoreUnavailable
from app.store.driver import store_problem

_MOST_QUEUED = 64
"""Passwords of strangers that wait to be derived; of known addresses twice as many."""

_MOST_SLOWED = 256
"""Tries beyond the limits that wait for their answer; further ones are refused at once."""


class Threads(Protocol):
    """Where passwords are derived, off the event loop: gevent's `ThreadPool`, which has no types."""

    def __len__(self) -> int:
        """Return how many calls are under way or waiting."""

    def apply(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call the function in a thread; wait for its result and return it."""


class AdminLoginGuard:
    """Checks the admin token and passwords, within the limits of `app.accounts.login_tries`."""

    def __init__(
        self,
        token: str,
        users: UserStore,
        limiter: RateLimiter,
        threads: Threads,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> None:
        self._token = token.encode()
        self._users = users
        self._limiter = limiter
        self._threads = threads
        self._monotonic = monotonic
        self._sleep = sleep
        # One at a time for each counter: those that come together must not all find tries left.
        self._turns: WeakValueDictionary[str, BoundedSemaphore] = WeakValueDictionary()
        self._slow: set[str] = set()
        self._slowed = 0

    def is_token(self, given: bytes) -> bool:
        """Return whether this is the admin token; counts nothing."""
        return bool(self._token) and hmac.compare_digest(given, self._token)

    def check_token(self, given: bytes, address: str | None) -> bool:
        """Return whether this is the admin token.

        The right one always passes; wrong ones raise `TooManyTries`.
        """
        if self.is_token(given):
            return True
        self._count(token_counters(address))
        return False

    def check_password(self, name: str, password: str, address: str | None) -> str | None:
        """Return the role of the user whose name and password these are; None for wrong ones.

        Takes tenths of a second, in a thread. Raises `StoreUnavailable`, and `TooManyTries` where no tries
        are left and it was not this caller's slow turn.
        """
        try:
            login = self._users.login(name)
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        is_known = counted_network(address) in login.networks
        counters = password_counters(name, address, is_known=is_known)
        came_of_it = self._within_limits(counters, lambda: self._matches(login, password, is_known))
        if came_of_it is False:
            return None
        if came_of_it is not True:
            self._check_slowly(counters[-1].key, login, password, is_known, came_of_it)
        if not is_known:
            self._remember(name, address)
        return login.role

    def count_unknown_key(self, address: str | None) -> None:
        """Count a client key that nobody has; raises `TooManyTries` for one too many."""
        self._count(client_key_counters(address))

    def _within_limits(self, counters: Sequence[Counter], check: Callable[[], bool]) -> bool | int:
        """Return what `check` says, counting a False; the seconds to wait where no tries are left."""
        wait_s = self._exceeded(counters)
        if wait_s is not None:
            return wait_s
        with ExitStack() as turns:
            for counter in counters:
                turns.enter_context(self._turns.setdefault(counter.key, BoundedSemaphore()))
            wait_s = self._exceeded(counters)
            if wait_s is not None:
                return wait_s
            is_right = check()
            if not is_right:
                self._count(counters)
            return is_right

    def _check_slowly(self, line: str, login: Login, password: str, is_known: bool, wait_s: int) -> None:
        """Return if it is the right password and this try's turn; else raise `TooManyTries`, after a while.

        A name without a user waits as long as one with: the time tells nothing, and nothing is derived.
        """
        if self._slowed >= _MOST_SLOWED:
            raise TooManyTries(wait_s)
        until = self._monotonic() + SLOW_S
        has_turn = line not in self._slow
        self._slowed += 1
        if has_turn:
            self._slow.add(line)
        try:
            if has_turn and login.has_password and self._matches(login, password, is_known):
                return
            self._sleep(max(0.0, until - self._monotonic()))
        finally:
            self._slowed -= 1
            if has_turn:
                self._slow.discard(line)
        raise TooManyTries(wait_s)

    def _matches(self, login: Login, password: str, is_known: bool) -> bool:
        if len(self._threads) >= (2 * _MOST_QUEUED if is_known else _MOST_QUEUED):
            raise StoreUnavailable("too many logins at once")
        matches: bool = self._threads.apply(login.password.matches, (password,))
        return matches

    def _remember(self, name: str, address: str | None) -> None:
        try:
            self._users.add_login_network(name, counted_network(address))
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error

    def _exceeded(self, counters: Sequence[Counter]) -> int | None:
        """Return the seconds until there are tries again; None: some are left."""
        found = [self._limiter.hit(counter.key, counter.limit, cost=0) for counter in counters]
        return max((one.retry_after_s for one in found if not one.allowed), default=None)

    def _count(self, counters: Sequence[Counter]) -> None:
        found = [self._limiter.hit(counter.key, counter.limit) for counter in counters]
        waits = [one.retry_after_s for one in found if not one.allowed]
        if waits:
            raise TooManyTries(max(waits))
