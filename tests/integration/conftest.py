"""What all tests of commands and interfaces share."""

import pytest

from app.cli import checks, upstream_checks
from simulator.launcher import PATIENCE_S


@pytest.fixture(autouse=True)
def _the_doctor_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls for some seconds is no database or upstream that does not answer."""
    for module in (checks, upstream_checks):
        monkeypatch.setattr(module, "_TIMEOUT_S", PATIENCE_S)
