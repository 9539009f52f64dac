"""How long the store is waited for."""

from collections.abc import Callable

import pytest
from pymongo.errors import NetworkTimeout, OperationFailure, PyMongoError

from app.store.driver import in_time


def failing_once(error: PyMongoError) -> Callable[[], str]:
    problems = [error]

    def look() -> str:
        if problems:
            raise problems.pop()
        return "found"

    return look


def test_a_store_is_asked_again_after_the_machine_stood_still() -> None:
    times = iter([10.0, 13.0])
    look = failing_once(NetworkTimeout("timed out"))
    assert in_time(2.0, look, monotonic=lambda: next(times)) == "found"


@pytest.mark.parametrize(
    ("error", "after_s"), [(NetworkTimeout("timed out"), 2.1), (OperationFailure("no"), 3.0)]
)
def test_a_store_that_is_silent_or_refuses_is_asked_once(error: PyMongoError, after_s: float) -> None:
    times = iter([10.0, 10.0 + after_s])
    with pytest.raises(type(error)):
        in_time(2.0, failing_once(error), monotonic=lambda: next(times))
