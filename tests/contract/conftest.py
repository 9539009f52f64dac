"""What holds for all tests over a real MongoDB."""

import pymongo
import pytest


@pytest.fixture(autouse=True)
def _slow_is_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that takes longer on a busy machine answers in time: who is to find it away, has it away."""
    bounded = pymongo.timeout
    monkeypatch.setattr(pymongo, "timeout", lambda seconds: bounded(seconds and max(60.0, seconds)))
