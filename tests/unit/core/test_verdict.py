import pytest

from app.core.errors import PASSED_THROUGH, UPSTREAM_ACCOUNT, UPSTREAM_FAILED
from app.core.records import Outcome
from app.core.verdict import TRANSPORT_FAILURES, Verdict, client_kind, judge


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_a_verdict_and_a_word_for_the_client(status: int) -> None:
    verdict, kind = judge(status), client_kind(status)
    assert (verdict is Verdict.RELAY) == (200 <= status < 300)
    assert 400 <= kind.status < 600
    if status in (401, 402, 403):
        assert verdict is Verdict.NEXT_KEY
        assert kind is UPSTREAM_ACCOUNT
    elif status == 429 or status >= 500:
        assert verdict is Verdict.NEXT_KEY
    elif not 200 <= status < 300:
        assert verdict is Verdict.FAIL
    if status in PASSED_THROUGH:
        assert kind.status == status
    elif status not in (401, 402, 403):
        assert kind is UPSTREAM_FAILED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
def test_a_redirect_is_neither_followed_nor_relayed(status: int) -> None:
    assert judge(status) is Verdict.FAIL
    assert client_kind(status).status == 502


@pytest.mark.parametrize(
    ("kind", "status", "outcome", "may_retry"),
    [
        ("unreachable", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("no_proxy", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("reset", 502, Outcome.UPSTREAM_UNREACHABLE, True),
        ("timeout", 504, Outcome.UPSTREAM_TIMEOUT, False),
        ("truncated", 502, Outcome.UPSTREAM_TRUNCATED, True),
        ("garbled", 502, Outcome.UPSTREAM_ERROR, False),
    ],
)
def test_every_failure_of_the_transport_has_its_ending(
    kind: str, status: int, outcome: Outcome, may_retry: bool
) -> None:
    told, booked, message, retry = TRANSPORT_FAILURES[kind]
    assert (told.status, booked, retry) == (status, outcome, may_retry)
    assert message.endswith(".")


def test_no_other_failure_is_known() -> None:
    assert set(TRANSPORT_FAILURES) == {
        "unreachable", "no_proxy", "reset", "timeout", "truncated", "garbled",
    }  # fmt: skip
