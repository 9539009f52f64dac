"""A small world made by the product's own means: users, keys, records booked by two writers, a journal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.users import UserStore
from app.common.money import NANO
from app.journal import Journal, acquire_slot
from app.journal.documents import encode_document
from app.keys.provider_keys import ProviderKeyStore
from app.persistence.booking import Booking
from app.records.records import ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.store.key_cipher import KeyCipher
from app.verify.reconcile import CheckResult, Difference
from app.verify.reconciliation import Reconciliation
from tests.support.credit import give

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOW = NOON + timedelta(hours=3)


@dataclass
class World:
    """What there is, and how to book more of it."""

    db: Database[Any]
    client_keys: dict[str, str] = field(default_factory=dict)
    random: Random = field(default_factory=lambda: Random(7))

    @classmethod
    def build(cls, db: Database[Any], *, size: int = 60, secret: str = "test") -> "World":
        world = cls(db)
        users, keys = UserStore(db), ClientKeyStore(db)
        for name, credit in (("ann", "10"), ("bob", "5.5"), ("poor", "0.01")):
            users.add(name, now=NOON, credits_usd=Decimal(credit))
            world.client_keys[name] = keys.add(name, now=NOON).key_id
        give(db, "ann", Decimal("0.000000001"))
        give(db, "bob", Decimal("-0.5"))
        pool = ProviderKeyStore(db, KeyCipher(secret))
        pool.add("pool-1", "sk-upstream-0123456789", now=NOON)
        pool.add("pool-2", "sk-upstream-9876543210", now=NOON)
        Booking(db, "w1").apply(world.batch(1, size))
        Booking(db, "w2").apply(world.batch(10_001, size))
        return world

    def record(self, number: int) -> ExchangeRecord:
        """One of any user, key, model, hour and ending."""
        random = self.random
        user = random.choice(("ann", "bob", "poor", "env"))
        outcome = random.choice((Outcome.OK, Outcome.OK, Outcome.REJECTED, Outcome.STREAM_ERROR))
        refused = outcome is Outcome.REJECTED
        return ExchangeRecord(
            f"r{number:06}",
            user_id=user,
            user_key_id=self.client_keys.get(user, "env"),
            created_at=NOON + timedelta(minutes=random.randrange(170)),
            api_format="openai",
            outcome=outcome,
            status_code=402 if refused else 200,
            factory_key_id=None if refused else random.choice(("pool-1", "pool-2", "env-1")),
            model=None if refused else random.choice(("gpt", "claude")),
            input_tokens=0 if refused else random.randrange(5000),
            output_tokens=0 if refused else random.randrange(500),
            cache_hit_tokens=0 if refused else random.randrange(50),
            usage_source=UsageSource.UPSTREAM,
            cost_nano_usd=0 if refused else random.randrange(NANO // 1000),
            latency_ms=0 if refused else 1000,
        )

    def batch(self, first: int, count: int) -> list[SequencedRecord]:
        numbers = range(first, first + count)
        return [SequencedRecord(number, self.record(number).to_document()) for number in numbers]


def no_pause(_seconds: float) -> None:
    pass


def reconciliation(db: Database[Any], pause: Callable[[float], None] = no_pause, **options: Any):
    return Reconciliation(db, **{"retention_s": 30 * 86_400, "pause": pause, **options})


def verify(db: Database[Any], **options: Any) -> dict[str, CheckResult]:
    """The outcome of each check, by name."""
    return {result.name: result for result in reconciliation(db, **options).run(NOW)}


def differing(results: dict[str, CheckResult]) -> set[str]:
    """The names of the checks that found something."""
    return {name for name, result in results.items() if result.difference_count}


def only(results: dict[str, CheckResult], name: str, what: str) -> Difference:
    """The one difference of this check with this `what`."""
    (found,) = [found for found in results[name].differences if found.what == what]
    return found


def journal_of(root: str, batch: list[SequencedRecord], *, acked: int | None, close: bool = True) -> Journal:
    """A slot that holds these records under its own numbers, acknowledged up to and with number `acked`."""
    journal = Journal(acquire_slot(root), run_blocking=lambda work, *args: work(*args))
    journal.recover()
    for index, item in enumerate(batch):
        kept = journal.append_close(item.document["_id"], encode_document(item.document)[1])
        assert kept is not None
        if acked is not None and index < acked:
            journal.ack(kept[0])
    if close:
        journal.close()
    return journal
