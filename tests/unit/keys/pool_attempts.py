"""A request's attempts on a pool of keys, as the exchange makes them, for tests that play many clients."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from app.keys.key_choice import NoKey
from app.keys.key_pool import SharedKeyPool
from app.keys.lease import Lease
from app.keys.upstream_outcome import (
    SERVED,
    TRANSPORT_FAILURES,
    Finding,
    RefusedAnswer,
    Verdict,
    is_relayed,
    judge,
    of_failure,
)
from app.wires.client_words import ClientWords
from app.wires.upstream_errors import read_error

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEYS = ("sk-upstream-0", "sk-upstream-1", "sk-upstream-2", "sk-upstream-3")
TRIES = 3

Answer = tuple[int, bytes, str | None]
"""Status, body, `Retry-After`."""
Judged = tuple[Finding, Verdict, bool]
"""The last says that the finding is in doubt."""


def verdict_on(
    answer: Answer | str, now: datetime, *, words: ClientWords | None = None, models: Sequence[str] = ("m",)
) -> Judged:
    """Judge an answer, or a failure by its name in `TRANSPORT_FAILURES`."""
    if isinstance(answer, str):
        may_retry = TRANSPORT_FAILURES[answer][3]
        return of_failure(answer), Verdict.NEXT_KEY if may_retry else Verdict.FAIL, False
    status, body, retry_after = answer
    if is_relayed(status):
        return SERVED, Verdict.RELAY, False
    headers = [("retry-after", retry_after)] if retry_after else []
    row = judge(RefusedAnswer(status, headers, read_error(body), tuple(models), words or ClientWords()), now)
    return row.finding, row.verdict, row.in_doubt


def attempt(
    pool: SharedKeyPool, client: str, model: str, request_id: str, judged: Callable[[str], Judged]
) -> bool:
    """Try a request with up to `TRIES` keys, each judged by its id; tell whether one has served it."""
    tried: list[tuple[Lease, Finding]] = []
    for _ in range(TRIES):
        lease = pool.acquire(frozenset(lease.key.key_id for lease, _ in tried), client, model)
        if isinstance(lease, NoKey):
            return False
        finding, verdict, in_doubt = judged(lease.key.key_id)
        if not in_doubt:
            pool.report(lease, finding, request_id)
        pool.release(lease)
        if verdict is Verdict.RELAY:
            for earlier, blamed in tried:
                pool.report(earlier, blamed.keys_own(), request_id)
            return True
        tried.append((lease, finding))
        if verdict is Verdict.FAIL:
            return False
    return False
