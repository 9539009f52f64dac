"""What one test leaves to the next: however it ends, a lab opens with good upstream keys."""

from collections.abc import Callable

import pytest

from simulator import Script
from simulator.launcher import wait_until
from tests.support.lab import CHAT, Lab
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess

NO_MONEY = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "No money left"}


def run_out(lab: Lab) -> None:
    """Have the only key exhausted by an answer that no attempt counts as an error."""
    lab.plain(CHAT, compact({"error": NO_MONEY}))
    wait_until(lambda: lab.plain(CHAT, "").response.status == 502, what="a key that does not serve")


def limit_the_model(lab: Lab) -> None:
    """Have the only key limited for one model, which its own state does not show."""
    wait_until(lambda: lab.plain(CHAT, "fault=model_busy,retry_after=30").record["attempts"], what="a try")
    assert lab.plain(CHAT, "").response.status == 429
    limited = {"modelLimits": {"$exists": True}}
    wait_until(lambda: lab.weir.database["upstream_key_states"].find_one(limited), what="the stored limit")


@pytest.mark.parametrize("spoil", [run_out, limit_the_model])
def test_a_lab_opens_with_good_keys_whatever_the_one_before_did(
    weir: WeirProcess, upstream: UpstreamProcess, spoil: Callable[[Lab], None]
) -> None:
    spoil(Lab(weir, upstream))  # and its books are never looked at, as in a test that was cut short

    assert Lab(weir, upstream).plain(CHAT, "").response.status == 200


def test_good_keys_are_left_alone(weir: WeirProcess, upstream: UpstreamProcess) -> None:
    def versions() -> list[int]:
        return [state["stateVersion"] for state in weir.database["upstream_key_states"].find()]

    Lab(weir, upstream).plain(CHAT, Script.body(b"{}", status=402))
    suspected = {"suspectedBy": {"$exists": True}}
    wait_until(lambda: weir.database["upstream_key_states"].find_one(suspected), what="the stored suspicion")
    Lab(weir, upstream)
    before = versions()
    assert before
    Lab(weir, upstream)
    assert versions() == before
