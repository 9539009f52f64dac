"""Starting and stopping the background writer, for gunicorn's worker hooks and for commands."""

import logging
import re
import socket
import uuid
from collections.abc import Callable, Mapping

from workers.log_writer import BatchPolicy, Books, LogWriter, RecordQueue

log = logging.getLogger(__name__)


def new_writer_id() -> str:
    """An id no other writer has: numbers in the queue start anew with every process, and so must the id."""
    host = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname().split(".")[0])[:20]
    return f"w-{host}-{uuid.uuid4().hex[:12]}"


def start(
    queue: RecordQueue,
    books: Books,
    *,
    batch_size: int,
    flush_ms: int,
    on_booked: Callable[[Mapping[str, int]], None] | None = None,
    on_settled: Callable[[int], None] | None = None,
) -> LogWriter:
    """Start the writer of this process; call it in a worker, after the fork."""
    writer = LogWriter(
        queue,
        books,
        policy=BatchPolicy(size=batch_size, max_age_s=flush_ms / 1000),
        on_booked=on_booked,
        on_settled=on_settled,
    )
    writer.start()
    return writer


def drain(writer: LogWriter, timeout_s: float) -> int:
    """Book what is left, for at most `timeout_s`; returns how many records were left behind."""
    writer.close()
    left = writer.join(timeout_s)
    log.info("log writer stopped: %d records written, %d lost", writer.counts.written, writer.lost)
    return left
