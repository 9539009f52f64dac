"""Worker processes sharing one MongoDB, as far as a user's credit is concerned."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from booking_world import record
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.directory import CachedDirectory
from app.accounts.users import UserStore
from app.common.money import NANO
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import CreditHolds
from app.credit.reservation import CreditExhausted, Reservation
from app.persistence.booking import Booking
from app.records.records import Outcome, SequencedRecord

CENT = NANO // 100


@dataclass
class World:
    """One database with the user `ann`, whose money is given and read in nano-dollars."""

    db: Database[dict[str, Any]]
    now: float = 1000.0

    def put_ann(self, credits: int, ref_credits: int = 0) -> None:
        """`ann` with so much credit and nothing used."""
        self.db["usersNew"].insert_one(
            {"_id": "ann", "credits": credits / NANO, "refCredits": ref_credits / NANO, "creditsUsed": 0.0}
        )

    def change_ann(self, **fields: Any) -> None:
        self.db["usersNew"].update_one({"_id": "ann"}, {"$set": fields})

    @property
    def ann(self) -> dict[str, Any]:
        found = self.db["usersNew"].find_one({"_id": "ann"})
        assert found is not None
        return found

    @property
    def holds(self) -> dict[str, Any]:
        return self.ann.get("holds", {})

    def money(self, field: str) -> int:
        return round(self.ann.get(field, 0) * NANO)

    def workers(self, number: int) -> list["Worker"]:
        return [Worker(self, f"w{index}") for index in range(number)]


class Worker:
    """A process: its cache, its gate, its numbered records and their booking."""

    def __init__(self, world: World, name: str = "w1", holds: CreditHolds | None = None) -> None:
        self.world = world
        self.directory = CachedDirectory(
            UserStore(world.db),
            ClientKeyStore(world.db),
            clock=lambda: world.now,
            spawn=lambda task: task(),
        )
        self.gate = MongoCreditGate(
            self.directory,
            holds or CreditHolds(world.db),
            clock=lambda: world.now,
            pause=lambda seconds: time.sleep(seconds / 50),
        )
        self.booking = Booking(world.db, name)
        self.records: list[SequencedRecord] = []
        self._seq = 0
        # Settling never yields under gevent; among threads it needs this.
        self._turn = threading.Lock()
        self._booking = threading.Lock()

    def reserve(self, estimate: int = CENT, least: int = 1) -> Reservation | None:
        """A new request of `ann`; None when it was refused."""
        try:
            return self.gate.reserve("ann", str(uuid4()), estimate, None, least)
        except CreditExhausted:
            return None

    def settle(self, reservation: Reservation, cost: int = CENT, outcome: Outcome = Outcome.OK) -> None:
        """The request ends: its record, its charge, its reservation, in one go."""
        with self._turn:
            self._put(reservation, cost, outcome, reservation.hold_nano)
            self.directory.note_charge("ann", cost)
            self.gate.release(reservation)

    def die(self, running: list[Reservation]) -> "Worker":
        """The process is gone; another one replays its journal, which knows no holds of what was running."""
        for reservation in running:
            self._put(reservation, 0, Outcome.INTERRUPTED, 0)
        heir = Worker(self.world)
        heir.booking = self.booking
        heir.records = self.records
        return heir

    def book(self) -> None:
        """Everything put so far reaches MongoDB, and the directory hears of it."""
        with self._booking:
            with self._turn:
                batch, self.records = self.records, []
            if not batch:
                return
            booked = self.booking.apply(batch)
            with self._turn:
                for user_id, nano in booked.charges.items():
                    self.directory.charges_booked(user_id, nano)

    def _put(self, reservation: Reservation, cost: int, outcome: Outcome, hold: int) -> None:
        self._seq += 1
        booked = record(
            self._seq,
            request_id=reservation.request_id,
            cost_nano_usd=cost,
            outcome=outcome,
            hold_nano_usd=hold,
        )
        self.records.append(SequencedRecord(self._seq, booked.to_document()))


def at_once(tasks: list[Callable[[], Any]]) -> list[Any]:
    """The results of all tasks, each in its own thread, started together."""
    barrier = threading.Barrier(len(tasks))
    results: list[Any] = [None] * len(tasks)

    def run(index: int, task: Callable[[], Any]) -> None:
        barrier.wait(300)
        results[index] = task()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(500)
    return results
