"""The account behind the keys as workers know it: read by one of all with the management key, told to all."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from app.common.clock import now_ms
from app.keys.key_account import KeyAccount
from app.keys.key_pool import SharedKeyPool
from app.ohmygpt.account import AccountError, Balance, match, read_balance, read_tokens
from app.ohmygpt.asking import NotTold
from app.ohmygpt.readings import Readings, account_document, accounts_of, balance_of

READ_EVERY = timedelta(minutes=5)
LOOK_S = 10.0
"""How often each worker looks at what is stored, in seconds."""
READING = "account"

_SOON = timedelta(minutes=1)

log = logging.getLogger(__name__)


class Books(Protocol):
    """What compares fees with what was booked; `app.services` puts it there, since it knows the sums."""

    def note(self, accounts: Mapping[str, KeyAccount], names: Mapping[str, str], now: datetime) -> None:
        """Take note of a reading: of what keys have used, and of what records call them."""

    def drifts(self, now: datetime) -> Mapping[str, float]:
        """Return how far yesterday's fees were from what was booked, by pool id."""


class LiveAccount:
    """Balance and keys. `ask_balance` and `ask_tokens` return the answers' bodies, or raise `NotTold`.

    The account is read every five minutes; every minute while the pool has a key whose refusal may be that
    of its cap. Both questions are one request each: OhMyGPT takes one in a second.
    """

    def __init__(
        self,
        readings: Readings,
        pool: SharedKeyPool,
        ask_balance: Callable[[], bytes],
        ask_tokens: Callable[[], bytes],
        now: Callable[[], datetime] = now_ms,
        books: "Books | None" = None,
    ) -> None:
        self._books = books
        self._readings = readings
        self._pool = pool
        self._ask_balance = ask_balance
        self._ask_tokens = ask_tokens
        self._now = now
        self.balance = Balance()
        self.read_at: datetime | None = None
        self.drifts: Mapping[str, float] = {}

    def look(self) -> None:
        """Read the account anew if it is this worker's turn, and take over what is stored."""
        now = self._now()
        is_reader = self._readings.claim(READING, now, _SOON if self._pool.has_refused_keys else READ_EVERY)
        has_read = is_reader and self._read(now)
        stored = self._readings.get(READING)
        if (read_at := stored.get("readAt")) is None or (read_at == self.read_at and not has_read):
            return
        self.read_at, self.balance = read_at, balance_of(stored)
        accounts = accounts_of(stored)
        self._pool.note_accounts(accounts, decides=has_read)
        if self._books is not None:
            if has_read:
                self._books.note(accounts, self._pool.names(), now)
            self.drifts = self._books.drifts(now)

    def _read(self, now: datetime) -> bool:
        try:
            balance = read_balance(self._ask_balance())
            tokens = read_tokens(self._ask_tokens())
        except (NotTold, AccountError) as error:
            self._readings.note_problem(READING, str(error))
            log.warning("OhMyGPT's account cannot be read, the last reading stays: %s", error)
            return False
        keys = match(tokens, self._pool.secrets())
        self._readings.put(READING, account_document(balance, keys, len(tokens) - len(keys)), now)
        return True

    def age_s(self) -> float | None:
        """Return how old the last reading is, in seconds; None before the first."""
        return None if self.read_at is None else max(0.0, (self._now() - self.read_at).total_seconds())
