"""Starting and stopping the background writer, for gunicorn's worker hooks and for commands."""

import logging
from collections.abc import Callable, Mapping

from workers.log_writer import BatchPolicy, Books, LogWriter, RecordQueue

log = logging.getLogger(__name__)


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


def drain(writer: LogWriter, timeout_s: float, failing_timeout_s: float = 2.0) -> int:
    """Book what is left, for at most `timeout_s`; returns how many records were lost by giving up.

    While the store fails there is no point in waiting long: what is left stays in the journal.
    """
    writer.close()
    left = writer.join(min(timeout_s, failing_timeout_s) if writer.is_failing else timeout_s)
    log.info("log writer stopped: %d records written, %d lost", writer.counts.written, writer.lost)
    return left
