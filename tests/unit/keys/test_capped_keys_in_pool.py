"""What the pool makes of a refusal once it knows that the key has used up its cap."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.keys.key_account import KeyAccount
from app.keys.key_choice import NoKey
from app.keys.key_pool import SharedKeyPool
from app.keys.lease import Lease
from app.keys.upstream_outcome import Finding, KeyOutcome

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
REFUSED = Finding(KeyOutcome.SUSPECT, "unauthorized")
CAPPED = KeyAccount(Decimal(5), Decimal(5))
RAISED = KeyAccount(Decimal(5), Decimal(9))


class Pool:
    """A pool of one key, and a clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.pool = SharedKeyPool(["sk-upstream-1"], now=lambda: self.now)
        (self.store_id,) = self.pool.secrets()

    def told(self, account: KeyAccount, *, decides: bool = False) -> None:
        self.now += timedelta(seconds=1)
        self.pool.note_accounts({self.store_id: account}, decides=decides)

    def refuse(self, client: str = "ann") -> None:
        self.now += timedelta(seconds=1)
        lease = self.pool.acquire(frozenset(), client)
        assert isinstance(lease, Lease)
        self.pool.report(lease, REFUSED, "r1")
        self.pool.release(lease)

    @property
    def state(self) -> tuple[str, str | None]:
        (view,) = self.pool.snapshot()
        return view.status, view.last_error


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_a_key_known_to_be_capped_is_exhausted_at_the_first_refusal(pool: Pool) -> None:
    pool.told(CAPPED)
    assert pool.state == ("healthy", None)  # a cap alone is no refusal
    pool.refuse()
    assert pool.state == ("exhausted", "capped")
    assert pool.pool.has_refused_keys
    assert pool.pool.due_probes() == []
    assert isinstance(pool.pool.acquire(frozenset(), "ann"), NoKey)
    pool.told(RAISED)
    assert pool.state == ("exhausted", "capped")  # one worker of all decides
    pool.told(RAISED, decides=True)
    assert pool.state == ("healthy", None)
    assert [event.why for event in pool.pool.take_events()] == ["capped", "cap raised"]
    assert not pool.pool.has_refused_keys


def test_a_suspicion_from_before_the_account_was_read_is_put_right(pool: Pool) -> None:
    pool.refuse()
    assert pool.pool.has_refused_keys
    pool.told(RAISED, decides=True)
    assert pool.state == ("healthy", "unauthorized")
    pool.told(CAPPED, decides=True)
    assert pool.state == ("exhausted", "capped")
    assert [item.state.status for item in pool.pool.pending()] == ["exhausted"]


def test_keys_of_which_nothing_is_told_are_left_alone(pool: Pool) -> None:
    pool.refuse()
    pool.pool.note_accounts({"another": CAPPED}, decides=True)
    assert pool.state == ("healthy", "unauthorized")
    assert pool.pool.accounts() == {}
