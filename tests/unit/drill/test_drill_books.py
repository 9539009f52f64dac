"""The drill's comparison of refusals with the records that stand for many of them."""

import pytest

from drill.books import Audit
from drill.load import Call
from drill.mix import CHAT, make_request
from drill.report import Findings
from drill.stage import FIXED_KEY
from drill.wire import Answer, Ending

STATUS = 503


def refused(request_id: str | None) -> Call:
    ending = Ending.NONE if request_id is None else Ending.WHOLE
    answer = Answer(ending, 0 if request_id is None else STATUS, request_id)
    return Call.of(make_request(FIXED_KEY, CHAT, "out=1", is_stream=False), answer, 0.0)


@pytest.mark.parametrize(
    ("answered", "unanswered", "counted", "lost", "duplicated"),
    [
        (3, 0, 3, 0, 0),
        (3, 0, 2, 1, 0),
        (3, 0, 4, 0, 1),
        (3, 1, 4, 0, 0),
        (3, 1, 5, 0, 1),
    ],
)
def test_a_sum_stands_for_as_many_refusals_as_it_counts(
    answered: int, unanswered: int, counted: int, lost: int, duplicated: int
) -> None:
    calls = [*(refused(f"id-{n}") for n in range(answered)), *(refused(None) for _ in range(unanswered))]
    record = {
        "userId": FIXED_KEY.name,
        "userKeyId": FIXED_KEY.key_id,
        "model": "",
        "outcome": "rejected",
        "statusCode": STATUS,
        "usageSource": "none",
        "count": counted,
    }
    findings = Findings("books")
    Audit(findings, calls, [], {"id-0": record}).run()
    assert (findings.lost, findings.duplicated) == (lost, duplicated)
    assert bool(findings.problems) is bool(lost or duplicated)
