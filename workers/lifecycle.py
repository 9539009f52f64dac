"""Starting and stopping the background writer, for gunicorn's worker hooks and for commands."""

import logging
import time
from collections.abc import Callable, Mapping

from workers.log_writer import BatchPolicy, LogWriter, RecordQueue, RecordStore

# In how many looks a store is found to hang: a machine that stands still for seconds counts as one.
_LOOKS = 6

log = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0
"""How long a stopping worker may take to book what is left, in seconds."""

STOP_TIMEOUT_S = int(DRAIN_TIMEOUT_S) + 10
"""How long a worker may take to end after its grace period, in seconds: it cuts answers, then drains."""


def start(
    queue: RecordQueue,
    books: RecordStore,
    *,
    batch_size: int,
    flush_ms: int,
    on_booked: Callable[[Mapping[str, int]], None] | None = None,
    on_booked_up_to: Callable[[int], None] | None = None,
) -> LogWriter:
    """Start the writer of this process; call it in a worker, after the fork."""
    writer = LogWriter(
        queue,
        books,
        policy=BatchPolicy(size=batch_size, max_age_s=flush_ms / 1000),
        on_booked=on_booked,
        on_booked_up_to=on_booked_up_to,
    )
    writer.start()
    return writer


def drain(writer: LogWriter, timeout_s: float = DRAIN_TIMEOUT_S, stalled_timeout_s: float = 3.0) -> int:
    """Book what is left, for at most `timeout_s`; return how many records were lost by giving up.

    Where the journal has all that is left, there is no point in waiting for a store that fails or hangs: the
    writer gives up at its first failure, and here it is given up when `stalled_timeout_s` book nothing.
    """
    writer.close()
    deadline = time.monotonic() + timeout_s
    batches, looks = writer.counts.batches, 0
    while not writer.is_done and looks < _LOOKS and (left_s := deadline - time.monotonic()) > 0:
        writer.wait(min(left_s, stalled_timeout_s / _LOOKS))
        is_stalled = writer.counts.batches == batches and not writer.memory_only
        batches, looks = writer.counts.batches, looks + 1 if is_stalled else 0
    lost = writer.terminate()
    log.info("worker stopped: %d records written, %d lost", writer.counts.written, writer.lost)
    return lost
