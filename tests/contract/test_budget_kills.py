"""A process that spends is killed again and again around midnight: no charge is lost, none counts twice."""

import random
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.accounts.limits import Budget
from app.common.money import NANO
from app.credit.budgets import FIELD, bucket_name, claim_on
from app.credit.credit_policy import AMPLE_FACTOR
from app.journal import replay
from app.persistence.booking import Booking

ROOT = Path(__file__).resolve().parents[2]
CENT = NANO // 100
BUDGET = Budget(30 * CENT, "day")
STEP = timedelta(seconds=40)

SPENDER = """
import sys, time
import pymongo
from datetime import datetime, timedelta
from uuid import uuid4
from app.accounts.client_keys import ClientKeyStore
from app.accounts.directory import CachedDirectory
from app.accounts.limits import Budget
from app.accounts.users import UserStore
from app.credit.budgets import claim_on
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import CreditHolds
from app.credit.reservation import CreditExhausted
from app.journal import Journal, JournaledQueue, JournalPolicy, acquire_slot
from app.journal.journal_format import OpenRequest
from app.persistence.booking import Booking
from app.records.records import ExchangeRecord, Outcome
from app.store.connection import connect
from datetime import UTC

uri, name, root, moment, step, nano, cost = sys.argv[1:]
moment, step, cost = datetime.fromisoformat(moment), timedelta(seconds=float(step)), int(cost)
bounded = pymongo.timeout
pymongo.timeout = lambda seconds: bounded(max(60.0, seconds))  # slow is not away
db = connect(uri, name)
users, keys = UserStore(db), ClientKeyStore(db)
directory = CachedDirectory(users, keys, clock=time.monotonic, spawn=lambda task: task())
gate = MongoCreditGate(directory, CreditHolds(db), clock=time.monotonic, pause=time.sleep)
queue = JournaledQueue(200)
slot = acquire_slot(root)
queue.attach(Journal(slot, JournalPolicy()))
booking = Booking(db, slot.writer_id)
for number in range(1_000_000):
    moment += step
    if number % 3 == 0 and (batch := queue.take(50, 0)):
        booked = booking.apply(batch)
        queue.acked(batch[-1].seq)
        for user_id, amount in booked.charges.items():
            directory.charges_booked(user_id, amount)
    claims = (claim_on(Budget(int(nano), "day"), None, moment, UTC),)
    request_id = str(uuid4())
    try:
        reservation = gate.reserve("ann", request_id, cost, cost, cost, claims)
    except CreditExhausted as error:
        assert error.claim is not None
        print("refused", moment.isoformat(), flush=True)
        continue
    queue.open(OpenRequest(request_id, "ann", "wk_ann", moment, "openai", "chat"))
    record = ExchangeRecord(
        request_id, "ann", "wk_ann", moment, "openai", Outcome.OK, 200, cost_nano_usd=cost,
        hold_nano_usd=reservation.hold_nano, budgets=tuple(claim.to_document() for claim in claims),
    )
    queue.put(record)
    directory.note_charge("ann", cost)
    gate.release(reservation)
    print("served", moment.isoformat(), flush=True)
"""


def spend_until_killed(arguments: list[str], moment: datetime, lines: int) -> tuple[datetime, Counter[str]]:
    """Let it spend until it has told so often what became of a request; return how far it came."""
    told: Counter[str] = Counter()
    command = [sys.executable, "-c", SPENDER, *arguments[:3], moment.isoformat(), *arguments[3:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, at = line.split()
            told[word] += 1
            moment = datetime.fromisoformat(at)
            if told.total() == lines:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return moment, told


def test_kills_around_midnight_lose_nothing_and_count_nothing_twice(
    database: Any, mongo_uri: str, tmp_path: Path
) -> None:
    database["usersNew"].insert_one({"_id": "ann", "credits": 1000.0, "creditsUsed": 0.0})
    chance = random.Random(5)
    root = str(tmp_path / "journal")
    arguments = [mongo_uri, database.name, root, str(STEP.total_seconds()), str(BUDGET.nano_usd), str(CENT)]
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    moment, told, kills = today - timedelta(minutes=45), Counter[str](), 0
    while moment < today + timedelta(minutes=40):
        moment, said = spend_until_killed(arguments, moment, chance.randrange(15, 35))
        told += said
        kills += 1
    # Whatever the killed ones had not booked is booked by whoever finds their journals, also twice over.
    for _ in range(2):
        replay(root, lambda writer_id: Booking(database, writer_id))
    days = Counter[int]()
    for record in database["request_logs"].find({"costNanoUsd": {"$gt": 0}}):
        [of] = record["budgets"]
        assert of["from"] == claim_on(BUDGET, None, record["createdAt"], UTC).bucket
        days[of["from"]] += record["costNanoUsd"]
    ann = database["usersNew"].find_one({"_id": "ann"})
    assert ann[FIELD]["day"] == {bucket_name(day): nano for day, nano in days.items()}
    assert round(ann["creditsUsed"] * NANO) == days.total() >= told["served"] * CENT
    # A hold that nobody had time to write down ends by itself; until then it is not spent by anybody else.
    assert len(ann.get("holds", {})) <= kills
    # On both sides of midnight the budget was used up, and not passed but by what may start without a hold.
    assert len(days) == 2
    assert told["refused"]
    for nano in days.values():
        assert nano <= BUDGET.nano_usd + BUDGET.nano_usd // AMPLE_FACTOR
        assert nano >= BUDGET.nano_usd - kills * CENT
