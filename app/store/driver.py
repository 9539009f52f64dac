"""What all stores share of the driver: its errors in words, indexes, long reads in turns."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import gevent
import pymongo
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from app.common.errors import StoreUnavailable

log = logging.getLogger(__name__)

DUPLICATE_KEY = 11000
_INDEX_CONFLICTS = (85, 86)

# After so many records or documents, about a millisecond, waiting requests go first.
_STRIDE = 50

# A wait that was this much longer than it may be was not for the store: this process got no time.
_STOOD_STILL_S = 0.3

Document = dict[str, Any]
Item = TypeVar("Item")
Found = TypeVar("Found")


class AlreadyExistsError(Exception):
    """There is one under this name already."""


def yielding(items: Iterable[Item], stride: int = _STRIDE) -> Iterator[Item]:
    """Yield the items, with other greenlets let through now and then: answers being relayed must not wait.

    `stride` is how many items are done in about a millisecond.
    """
    for count, item in enumerate(items, start=1):
        yield item
        if count % stride == 0:
            gevent.sleep(0)


def in_time(
    timeout_s: float, look: Callable[[], Found], *, monotonic: Callable[[], float] = time.monotonic
) -> Found:
    """Return what the store says within a time, asked once more where this process stood still meanwhile.

    A process that gets no time for seconds hears of the end of its patience before it hears of the answer.
    """
    began = monotonic()
    try:
        with pymongo.timeout(timeout_s):
            return look()
    except PyMongoError as error:
        if not error.timeout or monotonic() - began < timeout_s + _STOOD_STILL_S:
            raise
    with pymongo.timeout(timeout_s):
        return look()


def store_problem(error: PyMongoError) -> str:
    """Describe an error in one line fit for a person: pymongo's own texts run over many lines of topology."""
    text = _first_of_many(error) if isinstance(error, BulkWriteError) else str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    for noise in (", Timeout:", ", full error:", " (configured timeouts:"):
        first = first.split(noise, 1)[0]
    return first[:300]


def _first_of_many(error: BulkWriteError) -> str:
    """Return what went wrong first; the error itself only says that something did."""
    details: Document = dict(error.details)
    problems = [*details.get("writeConcernErrors", ()), *details.get("writeErrors", ())]
    return str(problems[0].get("errmsg")) if problems else str(error)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn the driver's errors into `StoreUnavailable`, with a reason in one line."""
    try:
        yield
    except PyMongoError as error:
        raise StoreUnavailable(store_problem(error)) from error


def make_indexes(collection: Collection[Any], indexes: Iterable[IndexModel]) -> None:
    """Make the indexes that are missing. One the operator has made in another way is left as it is."""
    for index in indexes:
        try:
            collection.create_indexes([index])
        except OperationFailure as error:
            if error.code not in _INDEX_CONFLICTS:
                raise
            log.warning("an index on %s was not made: %s", collection.name, store_problem(error))
