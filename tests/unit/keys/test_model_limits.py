"""Limits of single models: whom they keep from a key, for how long, and how workers agree on them."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.keys.model_limits import (
    MAX_MODELS,
    Claim,
    ModelLimits,
    closed_until,
    fresh,
    is_claimed,
    is_closed,
    longest,
    merged,
    met,
    served,
)

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def after(*steps: tuple[str, float, float | None], model: str = "m") -> ModelLimits:
    """The limits after (client, moment, told) in a row."""
    limits: ModelLimits = {}
    for client, moment, told_s in steps:
        limits = met(limits, model, client, at(moment), at(moment), told_s)
    return limits


def test_a_limit_that_one_client_has_met_is_its_own() -> None:
    limits = after(("ann", 0, 60))
    assert is_closed(limits, "m", "ann", at(59))
    assert not is_closed(limits, "m", "ann", at(60))
    assert not is_closed(limits, "m", "bob", at(1))
    assert is_claimed(limits, "m", at(1))
    assert not is_closed(limits, "other", "ann", at(1))


def test_two_clients_make_it_everybodys_as_far_as_they_agree() -> None:
    limits = after(("ann", 0, 3600), ("bob", 1, 10), ("ann", 2, 5))
    assert closed_until(limits["m"], "ann") == at(3600)
    assert closed_until(limits["m"], "bob") == closed_until(limits["m"], "eve") == at(11)


def test_without_a_word_a_limit_is_short_and_grows_while_it_is_met_again_right_away() -> None:
    limits: ModelLimits = {}
    moment, waits = 0.0, []
    for _ in range(8):
        limits = met(limits, "m", "ann", at(moment), at(moment), None)
        until = limits["m"][0].until
        waits.append((until - at(moment)).total_seconds())
        moment += waits[-1] + 0.5
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    later = met(limits, "m", "ann", at(moment + 100), at(moment + 100), None)
    assert later["m"][0].until == at(moment + 102)


def test_many_at_once_are_one() -> None:
    limits: ModelLimits = {}
    for _ in range(100):
        limits = met(limits, "m", "ann", at(0), at(1), None)
    assert closed_until(limits["m"], "ann") == at(3)


def test_a_success_ends_the_memory_of_what_was_over_when_it_was_sent() -> None:
    limits = after(("ann", 0, 5), ("bob", 0, 9))
    assert served(limits, "m", at(4)) is limits
    assert served(limits, "other", at(99)) is limits
    assert [claim.client for claim in served(limits, "m", at(6))["m"]] == ["bob"]
    assert served(limits, "m", at(9)) == {}
    assert fresh(limits, at(60)) == limits
    assert fresh(limits, at(69)) == {}


def test_the_number_of_models_is_bounded_and_the_longest_stay() -> None:
    limits: ModelLimits = {}
    for number in range(2 * MAX_MODELS):
        limits = met(limits, f"m{number}", "ann", at(0), at(0), 10 + number)
    assert set(limits) == {f"m{number}" for number in range(MAX_MODELS, 2 * MAX_MODELS)}


MOMENTS = st.integers(0, 5).map(lambda count: at(10 * count))
CLAIMS = st.builds(Claim, MOMENTS, MOMENTS, st.sampled_from("abc"))
LIMITS = st.dictionaries(st.sampled_from("mn"), st.lists(CLAIMS, min_size=1, max_size=4).map(longest))


@given(LIMITS, LIMITS, LIMITS)
def test_merging_is_commutative_associative_and_idempotent(
    a: ModelLimits, b: ModelLimits, c: ModelLimits
) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(a, merged(b, c)) == merged(merged(a, b), c)
    assert merged(a, a) == a


@given(st.lists(CLAIMS, max_size=8), st.sampled_from("abcd"), MOMENTS)
def test_the_two_longest_claims_say_what_all_do(claims: list[Claim], client: str, now: datetime) -> None:
    active = {claim.client for claim in claims if claim.until > now}
    is_kept_away = client in active or len(active) > 1
    assert is_closed({"m": longest(claims)}, "m", client, now) == is_kept_away
