"""Histories of a worker on a simulated disk: requests, batches, crashes, in any order.

Tests run some thousands of them, the drill a million (`drill/scenarios/power_loss.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from app.journal.journal_format import OpenRequest
from tests.support.journal_model import ModelBooks, ModelClock, ModelDisk, Note, Process, segment_paths

LONG_AGO = datetime(2023, 11, 1, tzinfo=UTC)


@dataclass
class History:
    """One history, and what must be true of it at the end."""

    random: Random
    loses_power: bool = False
    has_bit_rot: bool = False
    flips: int = 0
    disk: ModelDisk = field(default_factory=ModelDisk)
    clock: ModelClock = field(default_factory=ModelClock)
    books: ModelBooks = field(default_factory=ModelBooks)
    opened: list[str] = field(default_factory=list)
    # Requests there ever were, those with a record; since the last crash, and safe from the next.
    known: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    recent: set[str] = field(default_factory=set)
    recently_kept: set[str] = field(default_factory=set)
    certain: set[str] = field(default_factory=set)
    certainly_kept: set[str] = field(default_factory=set)

    def run(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            process = Process(self.disk, self.clock, memory=self.random.choice((1, 3, 100)))
            self.note_durability(process)
            for _ in range(self.random.randrange(2, 12)):
                self.step(process)
                self.note_durability(process)
            self.crash()
        process = Process(self.disk, self.clock)
        process.drain(self.books)
        process.queue.tend()
        process.queue.release()
        self.check()

    def step(self, process: Process) -> None:
        what = self.random.randrange(8)
        if what == 0:
            process.queue.tend()
        elif what == 1:
            process.book(self.books, self.random.randrange(1, 6), ack=self.random.random() < 0.8)
        elif what <= 4:
            request_id = self.new_request()
            request = OpenRequest(request_id, "u", "k", LONG_AGO, "openai", "chat")
            assert process.queue.open(request)
            self.opened.append(request_id)
        else:
            if self.opened and self.random.random() < 0.8:
                request_id = self.opened.pop(self.random.randrange(len(self.opened)))
            else:
                request_id = self.new_request()
            assert process.queue.put(Note(request_id))  # type: ignore[arg-type]
            self.kept.add(request_id)
            self.recently_kept.add(request_id)

    def new_request(self) -> str:
        request_id = f"r{len(self.known)}"
        self.known.add(request_id)
        self.recent.add(request_id)
        return request_id

    def note_durability(self, process: Process) -> None:
        if not self.loses_power or not process.journal.log.is_dirty:
            self.certain |= self.recent
            self.certainly_kept |= self.recently_kept

    def crash(self) -> None:
        if self.loses_power and self.random.random() < 0.7:
            self.disk.lose_power(self.random)
        else:
            self.disk.kill_process()
            self.certain |= self.recent
            self.certainly_kept |= self.recently_kept
        self.flips += self.flip_a_bit()
        self.opened.clear()
        self.recent.clear()
        self.recently_kept.clear()

    def flip_a_bit(self) -> int:
        paths = segment_paths(self.disk) if self.has_bit_rot else []
        if not paths:
            return 0
        data = self.disk.names[self.random.choice(paths)].data
        if not data:
            return 0
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return 1

    def check(self) -> None:
        booked = set(self.books.outcomes)
        assert booked <= self.known, "nothing is invented"
        if self.has_bit_rot:
            assert len(self.certain - booked) <= self.flips, "a flipped bit costs one frame"
            assert sum(self.books.charged.values()) - len(booked) <= self.flips
            return
        assert self.certain <= booked, "nothing that was on disk is missing"
        assert set(self.books.charged.values()) <= {1}, "nothing is booked twice"
        assert set(self.books.charged) == booked
        for request_id in self.certainly_kept:
            assert self.books.outcomes[request_id] == "ok", "a record that was on disk is the true one"
        for request_id in booked - self.kept:
            assert self.books.outcomes[request_id] == "interrupted"


def run_histories(
    count: int, *, first: int = 0, loses_power: bool = False, has_bit_rot: bool = False
) -> None:
    for _ in histories(count, first=first, loses_power=loses_power, has_bit_rot=has_bit_rot):
        pass


def histories(
    count: int, *, first: int = 0, loses_power: bool = False, has_bit_rot: bool = False
) -> Iterator[History]:
    """Run histories, one after the other; what is not true of one is raised with its number."""
    for seed in range(first, first + count):
        history = History(Random(seed), loses_power, has_bit_rot)
        try:
            history.run()
        except BaseException as error:
            error.add_note(f"history {seed}")
            raise
        yield history
