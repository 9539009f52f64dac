"""What a backup of 1,000,000 booked records costs: time, size and memory of both commands. `make volume`.

The records are booked by the product, which takes most of the time.
"""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import uuid_utils
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.users import UserStore
from app.persistence.booking import Booking
from app.records.records import AttemptRecord, ExchangeRecord, Outcome, SequencedRecord, UsageSource
from app.store.connection import connect
from bench.crowd import make_indexes
from tests.support.temporary_mongo import temporary_mongo

ROOT = Path(__file__).resolve().parents[2]
USERS, BATCH = 100, 5_000


def record(random: Random, created_at: datetime, keys: list[str]) -> dict[str, Any]:
    """A record as there are most of, with figures that do not repeat."""
    user, tokens, out = random.randrange(USERS), random.randrange(20_000), random.randrange(2_000)
    request_id = str(uuid_utils.uuid7())
    return ExchangeRecord(
        request_id,
        user_id=f"user-{user}",
        user_key_id=keys[user],
        created_at=created_at,
        api_format="openai",
        outcome=Outcome.OK,
        status_code=200,
        factory_key_id=f"pool-{random.randrange(5)}",
        model=f"model-{random.randrange(8)}",
        upstream_model="model-2026-10-01",
        endpoint="chat",
        stream=True,
        input_tokens=tokens,
        output_tokens=out,
        usage_source=UsageSource.UPSTREAM,
        usage_raw={"prompt_tokens": tokens, "completion_tokens": out, "total_tokens": tokens + out},
        cost_nano_usd=tokens * 1_250 + out * 10_000,
        upstream_status_code=200,
        upstream_request_id=f"chatcmpl-{random.randbytes(12).hex()}",
        latency_ms=random.randrange(20_000),
        ttft_ms=random.randrange(900),
        overhead_ms=1,
        attempts=(AttemptRecord("pool-1", 200, random.randrange(900)),),
        bytes_out=out * 250,
    ).to_document()


def make(db: Database[Any], number: int) -> None:
    """Book so many records, of the last ten days."""
    random, now = Random(1), datetime.now(UTC).replace(microsecond=0)
    for user in range(USERS):
        UserStore(db).add(f"user-{user}", now=now - timedelta(days=11), credits_usd=Decimal(1_000_000))
    keys = [ClientKeyStore(db).add(f"user-{user}", now=now).key_id for user in range(USERS)]
    step = timedelta(days=10) / number
    settlements = [Booking(db, f"w{worker}") for worker in range(2)]
    for first in range(0, number, BATCH):
        places = range(first, min(first + BATCH, number))
        batch = [
            SequencedRecord(place, record(random, now - timedelta(days=10) + place * step, keys))
            for place in places
        ]
        settlements[first // BATCH % 2].apply(batch)
    make_indexes(db)


def run(uri: str, data_dir: str, name: str, *args: str) -> tuple[dict[str, Any], float, float]:
    """Run a command; what it printed, the seconds it took, and the MB of memory it had."""
    env = {
        "MONGODB_URI": uri,
        "MONGODB_DB_NAME": name,
        "SECRET_KEY": "volume-of-a-million",
        "DATA_DIR": data_dir,
    }
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "wsgi", *args, "--json"],
        cwd=ROOT, env=env, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, printed
    return json.loads(printed), time.monotonic() - started, usage.ru_maxrss / 1024


def main() -> int:
    """Make, back up, restore, verify, print; 1 if the copy does not agree."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with temporary_mongo() as uri, TemporaryDirectory() as directory:
        db = connect(uri, "million")
        started = time.monotonic()
        make(db, number)
        stored = db.command("dbStats")
        print(f"{number:,} records booked in {time.monotonic() - started:.0f} s", flush=True)
        print(
            f"BSON {stored['dataSize'] / 1e6:.0f} MB, on disk {stored['totalSize'] / 1e6:.0f} MB", flush=True
        )
        file = str(Path(directory) / "weir.backup")
        made, seconds, memory = run(uri, directory, "million", "backup", file)
        print(f"backup: {seconds:.1f} s, {made['bytes'] / 1e6:.0f} MB, {memory:.0f} MB of memory", flush=True)
        run(uri, directory, "again", "init")
        done, seconds, memory = run(uri, directory, "again", "restore", file)
        print(f"restore: {seconds:.1f} s, {done['records']:,} records, {memory:.0f} MB of memory", flush=True)
        verified, seconds, _ = run(uri, directory, "again", "verify")
        print(f"verify: {seconds:.1f} s, consistent: {verified['consistent']}")
        db.client.close()
    return 0 if verified["consistent"] and done["records"] == number else 1


if __name__ == "__main__":
    sys.exit(main())
