import pytest

from app.verify.reconcile import (
    MAX_SHOWN,
    CheckResult,
    Consistency,
    Difference,
    Look,
    PairVerdict,
    balance_differences,
    differing,
    is_explained,
    judge,
    recheck,
    report_json,
)

SOME = Difference("what", "where", 1, 2, "hint")


def look(before: int, source: int, after: int | None = None) -> Look:
    return Look({"requests": before}, {"requests": source}, None if after is None else {"requests": after})


@pytest.mark.parametrize(
    ("looks", "verdict"),
    [
        ([look(3, 3)], PairVerdict.SAME),
        ([look(2, 3, 3)], PairVerdict.SAME),
        ([look(2, 3), look(3, 4, 5), look(5, 5, 6)], PairVerdict.SAME),
        ([look(4, 3)], PairVerdict.DIFFERENT),
        ([look(2, 3), look(4, 3, 4)], PairVerdict.DIFFERENT),
        ([look(2, 3)], PairVerdict.AHEAD),
        ([look(2, 3), look(2, 3, 2)], PairVerdict.AHEAD),
        ([look(2, 5), look(3, 6, 4), look(3, 7, 4)], PairVerdict.AHEAD),
        ([look(2, 5), look(4, 8, 6), look(7, 11, 9)], PairVerdict.MOVING),
    ],
)
def test_looks_are_judged(looks: list[Look], verdict: PairVerdict) -> None:
    assert judge(looks) is verdict


def test_absent_sums_are_zero() -> None:
    assert judge([Look({}, {"requests": 0})]) is PairVerdict.SAME
    assert differing({"a": 0, "b": 1}, {"c": 2}) == ["b", "c"]


def test_a_single_sum_that_is_too_high_decides() -> None:
    assert judge([Look({"requests": 1, "cost": 5}, {"requests": 2, "cost": 4})]) is PairVerdict.DIFFERENT


def test_only_the_undecided_are_looked_at_again_and_only_while_there_are_any() -> None:
    asked, waited = [], []
    suspects = {"late": [look(1, 2)], "wrong": [look(3, 2)]}

    def derived(keys):
        asked.append(list(keys))
        return {key: {"requests": 2} for key in keys}

    verdicts = recheck(suspects, lambda keys: {key: {"requests": 2} for key in keys}, derived, waited.append)
    assert verdicts == {"late": PairVerdict.SAME, "wrong": PairVerdict.DIFFERENT}
    assert asked == [["late"], ["late"]]
    assert waited == [0.05]


def test_what_stays_behind_is_looked_at_to_the_end() -> None:
    waited: list[float] = []
    verdicts = recheck(
        {"k": [look(1, 2)]}, lambda _: {"k": {"requests": 2}}, lambda _: {}, waited.append, (1, 2)
    )
    assert verdicts == {"k": PairVerdict.AHEAD}
    assert waited == [1, 2]


@pytest.mark.parametrize(
    ("seen", "stuck", "explained"),
    [
        (look(1, 3), 2, True),
        (look(1, 3, 2), 1, True),
        (look(1, 3), 1, False),
        (look(1, 3), 0, False),
        (look(3, 1), 9, False),
        (Look({}, {"costNanoUsd": 5}), 1, True),
    ],
)
def test_records_in_a_journal_explain_no_more_than_they_are(seen: Look, stuck: int, explained: bool) -> None:
    assert is_explained(seen, stuck) is explained


@pytest.mark.parametrize(
    ("granted", "used", "overdraft", "credits", "what"),
    [
        (10, 3, 0, 7, []),
        (10, 12, 2, 0, []),
        (10, 3, 0, 8, ["credits + refCredits (nano-USD)"]),
        (None, 3, 0, 8, []),
        (None, 3, 0, -1, ["credits is negative"]),
        (2, 3, 0, -1, ["credits is negative"]),
        (0, 0, 0, -1, ["credits is negative", "credits + refCredits (nano-USD)"]),
    ],
)
def test_balances(granted: int | None, used: int, overdraft: int, credits: int, what: list[str]) -> None:
    found = balance_differences(
        "user ann",
        granted_nano=granted,
        used_nano=used,
        overdraft_nano=overdraft,
        balances={"credits": credits, "refCredits": 0},
    )
    assert [difference.what for difference in found] == what


def test_a_report_lists_a_bounded_number_and_counts_all() -> None:
    result = CheckResult("users", "title", compared=1)
    result.add([SOME] * (MAX_SHOWN + 5))
    result.add([SOME], is_pending=True)
    report = report_json([result, CheckResult("other", "title")])
    assert report["consistent"] is False
    assert (report["differenceCount"], report["pendingCount"]) == (MAX_SHOWN + 5, 1)
    assert len(report["checks"][0]["differences"]) == MAX_SHOWN
    assert report["checks"][0]["differences"][0] == {
        "what": "what",
        "where": "where",
        "expected": 1,
        "found": 2,
        "hint": "hint",
    }
    assert result.is_full


def test_what_is_pending_is_no_difference() -> None:
    result = CheckResult("users", "title", compared=1)
    result.add([SOME], is_pending=True)
    assert result.state is Consistency.PENDING
    assert report_json([result])["consistent"] is True


@pytest.mark.parametrize(
    ("compared", "notes", "state"),
    [(0, [], Consistency.OK), (1, ["n"], Consistency.OK), (0, ["n"], Consistency.NOT_CHECKED)],
)
def test_a_check_that_could_not_be_made_says_so(compared: int, notes: list[str], state: Consistency) -> None:
    assert CheckResult("x", "title", compared=compared, notes=notes).state is state
