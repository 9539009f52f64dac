"""Growth: what a request, a record and an idle worker cost with 10, 10,000 and 1,000,000 of everything.

A proxy and a MongoDB of its own for each size, measured in turn. A size is that many users, client keys and
records (and a fifth of it hourly sums) at the start of a reading, which adds some thousands of records.
Upstream keys are measured apart: a pool is bought key by key, so nobody has a million.
"""

import http.client
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.accounts.credentials import hash_client_key
from app.persistence.booking import Booking
from app.records.records import ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.store.key_cipher import KeyCipher
from bench import crowd
from bench.machine import cpu_seconds
from bench.native import Aim
from bench.run import Bench, Figure, Results, Row, Site
from bench.shapes import Level, plain
from bench.weir import WeirTarget
from simulator.launcher import resident_bytes

SIZES = (10, 10_000, 1_000_000)
POOLS = (10, 1_000, 10_000)
ONE, TEN, COLD = "growth, one user", "growth, ten users", "growth, another user each time"
REST, BOOKING, POOL = "growth, at rest", "growth, booking", "growth, upstream keys"

_SECRET_KEY = "bench-secret-key-bench-secret-key"
_ADMIN_TOKEN = "bench-admin-token"
# More users than there are of any size: the load client stays below the size itself.
_MANY = 100_000_000
# The next reading begins this many requests further on, so that it has other users than the last one.
_STRIDE = 6151
_SETTLE_S, _REST_S = 5.0, 10.0
_BATCH, _BATCHES = 500, 20
_MIB = 1024 * 1024


class GrownWeir(WeirTarget):
    """The proxy over a database of this size, with so many upstream keys beside the configured ones.

    With `owners` there are only so many users, to whom all the records belong.
    """

    def __init__(
        self, site: Site, directory: Path, size: int, pool: int = 0, owners: int | None = None
    ) -> None:
        self.name = f"weir-pool-{pool}" if pool else f"weir-{size}"
        self.name += f"-of-{owners}" if owners else ""
        # Kept for ever: else MongoDB would delete the oldest meanwhile, and they would seem to be missing.
        settings = {"SECRET_KEY": _SECRET_KEY, "ADMIN_TOKEN": _ADMIN_TOKEN, "LOG_RETENTION_DAYS": "0"}
        super().__init__(
            site.upstream.port, directory / self.name, (site.proxy_core,), site.load_core, settings
        )
        self.size = size
        self.users = 1
        self.is_cold = False
        self._pool = pool
        self._owners = owners
        self._say = site.say
        self._asked = 0

    @property
    def aim(self) -> Aim:
        """One user of these after the other; other ones than in the last reading."""
        assert self.proxy is not None
        self._asked += _STRIDE
        return Aim(self.proxy.port, crowd.client_key(0), users=self.users, from_request=self._asked)

    def fill(self) -> None:
        """Make what is not there yet from an earlier run."""
        database = self.database()
        crowd.fill(database, self.size, self._say, self._owners)
        if self._pool and not database["ohmygpt_keys"].estimated_document_count():
            cipher = KeyCipher(_SECRET_KEY)
            crowd.make_upstream_keys(database, self._pool, cipher, datetime.now(UTC))

    def prepare(self) -> None:
        """Empty the caches if they are to be empty."""
        if not self.is_cold:
            return
        assert self.proxy is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)
        connection.request("POST", "/reload", headers={"Authorization": f"Bearer {_ADMIN_TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"POST /reload: {answer.status}")

    @property
    def token(self) -> str:
        """The admin token."""
        return _ADMIN_TOKEN

    def asked(self, path: str) -> float:
        """Ask the admin API; return the milliseconds until the answer was read."""
        assert self.proxy is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=300)
        began = time.monotonic()
        connection.request("GET", f"/api/admin{path}", headers={"Authorization": f"Bearer {_ADMIN_TOKEN}"})
        answer = connection.getresponse()
        text = answer.read()
        took = 1000 * (time.monotonic() - began)
        connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"GET {path}: {answer.status} {text[:200]!r}")
        return took

    def _add_user(self) -> str:
        return crowd.client_key(0)


def measure(site: Site, level: Level, results: Results, data: Path) -> None:
    """Measure on databases that are made in `data`, or found there."""
    with ExitStack() as stack:
        grown = _started(stack, [GrownWeir(site, data, size) for size in SIZES])
        results.figures[REST] = _at_rest(grown)
        bench = Bench(site, grown, results)
        for name, users, is_cold in ((ONE, 1, False), (TEN, 10, False), (COLD, _MANY, True)):
            # Of ten users nobody stays unknown for long: cold is what has thousands.
            chosen = [target for target in grown if target.size >= 1000 or not is_cold]
            for target in chosen:
                target.users, target.is_cold = min(users, target.size), is_cold
            bench.measure([Figure(name, plain)], level, chosen)
        bench.close_books()
        results.figures[BOOKING] = {
            target.name: {
                **_named("ten users", _booking(target, 10)),
                **(_named("each another", _booking(target, target.size)) if target.size >= _BATCH else {}),
            }
            for target in grown
        }


def measure_pools(site: Site, level: Level, results: Results, data: Path) -> None:
    """Measure growth with upstream keys, one size after the other: they all share the proxies' core."""
    for pool in POOLS:
        with ExitStack() as stack:
            targets = _started(stack, [GrownWeir(site, data, 10, pool)])
            rest = _at_rest(targets)
            bench = Bench(site, targets, results)
            bench.measure([Figure(POOL, plain)], level)
            bench.close_books()
        for name, row in rest.items():
            results.rounds[POOL][name] = [reading | row for reading in results.rounds[POOL][name]]
            results.figures[POOL][name] |= row


def _started(stack: ExitStack, targets: Sequence[GrownWeir]) -> list[GrownWeir]:
    for target in targets:
        stack.callback(target.stop)
        target.start()
    return list(targets)


def _at_rest(targets: Sequence[GrownWeir]) -> dict[str, Row]:
    """Start, memory, and the CPU time (percent of a core) of proxies that nobody asks anything."""
    time.sleep(_SETTLE_S)
    before = [_used(target) for target in targets]
    time.sleep(_REST_S)
    rows = {}
    for target, (proxy_s, store_s) in zip(targets, before, strict=True):
        proxy_after_s, store_after_s = _used(target)
        rows[target.name] = {
            "start_s": target.start_s,
            "memory_mib": sum(resident_bytes(pid) for pid in target.workers()) / _MIB,
            "idle_cpu": 100 * (proxy_after_s - proxy_s) / _REST_S,
            "store_idle_cpu": 100 * (store_after_s - store_s) / _REST_S,
        }
    return rows


def _used(target: GrownWeir) -> tuple[float, float]:
    return cpu_seconds(target.pids()), cpu_seconds(target.database_pids())


def _booking(target: GrownWeir, users: int) -> Row:
    """Measure CPU µs per record, the writer's and MongoDB's, in full batches of `users` users' records."""
    booking = Booking(target.database(), f"Wbench{users}")
    batches = [_batch(number, users) for number in range(_BATCHES)]
    booking.apply(_batch(_BATCHES, users, seq=1))
    began, store_began = time.process_time(), cpu_seconds(target.database_pids())
    for batch in batches:
        booking.apply(batch)
    records = _BATCH * _BATCHES
    return {
        "writer_us": 1e6 * (time.process_time() - began) / records,
        "store_us": 1e6 * (cpu_seconds(target.database_pids()) - store_began) / records,
    }


def _batch(number: int, users: int, seq: int = 0) -> list[SequencedRecord]:
    now = datetime.now(UTC)
    return [
        SequencedRecord(
            seq or (number + 1) * _BATCH + place,
            _document(f"bench-{users}-{now.timestamp()}-{number}-{place}", _user(number, place, users), now),
        )
        for place in range(_BATCH if not seq else 1)
    ]


def _user(number: int, place: int, users: int) -> int:
    return (number * _BATCH + place) * 7919 % users


def _document(request_id: str, user: int, now: datetime) -> dict[str, Any]:
    record = ExchangeRecord(
        request_id=request_id,
        user_id=crowd.user_name(user),
        user_key_id=hash_client_key(crowd.client_key(user)),
        created_at=now,
        api_format="openai",
        outcome=Outcome.OK,
        status_code=200,
        factory_key_id="env-1",
        model="b-plain",
        input_tokens=21,
        output_tokens=27,
        usage_source=UsageSource.UPSTREAM,
        cost_nano_usd=129_000,
        latency_ms=10,
    )
    return record.to_document()


def _named(what: str, row: Mapping[str, float]) -> Row:
    return {f"{key}, {what}": value for key, value in row.items()}
