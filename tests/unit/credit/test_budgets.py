"""When a budget's periods begin, which buckets count, and what is left: by nothing but the moment."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.limits import PERIODS, Budget, Limits
from app.accounts.principal import Principal
from app.credit.budgets import (
    STEP_S,
    begins_anew,
    bucket,
    bucket_name,
    charged_until,
    claim_on,
    claims_of,
    kept_from,
    since,
    spent_nano,
)

ZONES = ("UTC", "Asia/Kolkata", "America/New_York", "Africa/Cairo", "Pacific/Apia", "Asia/Ho_Chi_Minh")
MOMENTS = st.integers(1_700_000_000, 1_900_000_000).map(lambda at: datetime.fromtimestamp(at, UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("per", "zone", "moment", "begin", "following"),
    [
        ("day", "UTC", "2026-11-30T23:59:59Z", "2026-11-30T00:00Z", "2026-12-01T00:00Z"),
        ("day", "UTC", "2026-12-01T00:00:00Z", "2026-12-01T00:00Z", "2026-12-02T00:00Z"),
        ("day", "Asia/Kolkata", "2026-11-30T18:29:59Z", "2026-11-29T18:30Z", "2026-11-30T18:30Z"),
        ("day", "Asia/Kolkata", "2026-11-30T18:30:00Z", "2026-11-30T18:30Z", "2026-12-01T18:30Z"),
        # 25 and 23 hours long, and a midnight that the clocks skip.
        ("day", "America/New_York", "2026-11-01T12:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("day", "America/New_York", "2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
        ("day", "Africa/Cairo", "2026-04-24T12:00Z", "2026-04-23T22:00Z", "2026-04-24T21:00Z"),
        ("week", "UTC", "2026-11-30T00:00Z", "2026-11-30T00:00Z", "2026-12-07T00:00Z"),
        ("week", "UTC", "2026-11-29T23:59Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("month", "UTC", "2026-11-30T23:59Z", "2026-11-01T00:00Z", "2026-12-01T00:00Z"),
        ("month", "UTC", "2026-12-31T23:59Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("month", "Asia/Ho_Chi_Minh", "2026-11-30T17:00Z", "2026-11-30T17:00Z", "2026-12-31T17:00Z"),
        ("month", "America/New_York", "2026-11-15T00:00Z", "2026-11-01T04:00Z", "2026-12-01T05:00Z"),
    ],
)
def test_calendar_periods(per: str, zone: str, moment: str, begin: str, following: str) -> None:
    tz = ZoneInfo(zone)
    claim = claim_on(Budget(1, per), None, at(moment), tz)
    assert claim.bucket == claim.since == at(begin).timestamp()
    assert begins_anew(claim, {}, at(moment), tz) == at(following)


@given(MOMENTS, st.sampled_from(("day", "week", "month")), st.sampled_from(ZONES))
def test_periods_follow_each_other_without_gap_or_overlap(moment: datetime, per: str, zone: str) -> None:
    tz = ZoneInfo(zone)
    claim = claim_on(Budget(1, per), None, moment, tz)
    following = begins_anew(claim, {}, moment, tz)
    assert following is not None
    assert claim.bucket <= moment.timestamp() < following.timestamp()
    assert bucket(per, following, tz) == following.timestamp()
    assert charged_until(per, claim.bucket, tz) == following
    # Whoever reads it where days begin elsewhere takes it for no shorter.
    elsewhere = charged_until(per, claim.bucket, ZoneInfo("Australia/Eucla"))
    assert elsewhere is not None
    assert elsewhere >= following
    assert bucket(per, following - timedelta(seconds=1), tz) == claim.bucket
    # What one period has spent never counts for the next, and is still there while late bookings come.
    spent = {claim.name: {bucket_name(claim.bucket): 7}}
    assert spent_nano(claim, spent) == 7
    assert spent_nano(claim_on(Budget(1, per), None, following, tz), spent) == 0
    assert kept_from(per, claim.bucket) < claim.bucket


@given(MOMENTS, st.integers(0, 7 * 3600))
def test_what_was_spent_counts_for_five_hours_and_a_quarter_more_at_most(
    moment: datetime, later: int
) -> None:
    budget = Budget(100, "5h")
    spent = {"5h": {bucket_name(bucket("5h", moment, UTC)): 5}}
    now = moment + timedelta(seconds=later)
    claim = claim_on(budget, None, now, UTC)
    counted = spent_nano(claim, spent)
    assert counted == 5 if later < 5 * 3600 else counted in (0, 5)
    assert counted == 0 if later >= 5 * 3600 + STEP_S else True
    again = begins_anew(claim, spent, now, UTC)
    assert again is not None
    if counted:
        assert now < again <= moment + timedelta(seconds=5 * 3600 + STEP_S)
        assert spent_nano(claim_on(budget, None, again, UTC), spent) == 0


def test_a_total_has_one_bucket_and_never_begins_anew() -> None:
    now = at("2026-11-30T00:00Z")
    claim = claim_on(Budget(1, "total"), None, now, UTC)
    assert (claim.since, claim.bucket, begins_anew(claim, {}, now, UTC)) == (0, 0, None)
    assert since("total", now, UTC) == 0


@pytest.mark.parametrize("spent", [{}, {"day": None}, {"day": []}, {"day": {"x": 5, "b": 1, "b1x": 2}}])
def test_what_is_stored_and_cannot_be_read_is_nothing_spent(spent: dict[str, object]) -> None:
    assert spent_nano(claim_on(Budget(1, "day"), None, at("2026-11-30T00:00Z"), UTC), spent) == 0


def test_a_request_is_paid_from_all_budgets_of_user_and_key_that_cover_its_model() -> None:
    principal = Principal(
        "ann",
        "wk_1",
        user_limits=Limits(budgets=(Budget(1, "month"), Budget(2, "day", "gpt-*,o?"))),
        key_limits=Limits(budgets=(Budget(3, "5h"), Budget(4, "month", "claude-*"))),
    )

    def amounts(model: str | None) -> list[int]:
        return [claim.nano_usd for claim in claims_of(principal, model, at("2026-11-30T00:00Z"), UTC)]

    assert amounts(None) == [1, 3]
    assert amounts("gpt-5") == [1, 2, 3]
    assert amounts("o3") == [1, 2, 3]
    assert amounts("claude-x") == [1, 3, 4]
    claims = claims_of(principal, "gpt-5", at("2026-11-30T00:00Z"), UTC)
    assert len({claim.name for claim in claims}) == 3
    assert not any("." in claim.name or claim.name.startswith("$") for claim in claims)


def test_a_key_that_is_its_own_id_is_not_written_anywhere() -> None:
    principal = Principal("ann", "sk-old-secret", key_limits=Limits(budgets=(Budget(3, "day"),)))
    [claim] = claims_of(principal, None, at("2026-11-30T00:00Z"), UTC)
    assert "secret" not in claim.name
    assert claim.name.startswith("wk_")


def test_all_periods_have_names_for_a_field() -> None:
    names = {Budget(1, per, models).name for per in PERIODS for models in (None, "a*", "b.$*")}
    assert len(names) == 3 * len(PERIODS)
    assert not any(set(name) & set(".$*") for name in names)
