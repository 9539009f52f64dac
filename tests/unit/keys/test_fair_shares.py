from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_shares import LEFT, Kind, QuotaNeed, QuotaShare, fair_shares, reshared, wanted

WANTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 40), min_size=1)


@given(st.integers(0, 100), WANTS, st.integers(0, 1000))
def test_all_of_a_limit_is_divided_and_nobody_is_starved(
    limit: int, wants: dict[str, int], turn: int
) -> None:
    shares = fair_shares(limit, wants, turn)
    assert shares.keys() == wants.keys()
    assert sum(shares.values()) == limit
    for name, want in wants.items():
        assert shares[name] >= min(want, limit // len(wants))
    if sum(wants.values()) <= limit:
        assert all(shares[name] >= want for name, want in wants.items())
    else:
        assert all(shares[name] <= want for name, want in wants.items())


def test_what_cannot_be_divided_moves_on_from_worker_to_worker() -> None:
    wants = {"a": 3, "b": 1, "c": 1, "d": 0}
    served = [{name for name, share in fair_shares(1, wants, turn).items() if share} for turn in range(4)]
    assert set.union(*served) == {"a", "b", "c"}
    assert all(len(names) == 1 for names in served)


def test_a_worker_that_has_used_its_share_up_wants_more() -> None:
    assert [wanted(share, peak, 10) for share, peak in ((0, 0), (4, 3), (4, 4), (8, 8))] == [1, 3, 8, 10]
    assert wanted(0, 0, 0) == 0


NEEDS = st.builds(QuotaNeed, st.just(10), st.integers(0, 12), st.integers(0, 12))
SHARES = st.dictionaries(
    st.sampled_from("bcde"),
    st.builds(lambda s, w: {Kind.IN_FLIGHT: QuotaShare(s, w)}, *[st.integers(0, 4)] * 2),
)
SILENCE = st.dictionaries(st.sampled_from("bcde"), st.sampled_from([0.0, 9.0, 11.0, 100.0]))


@given(NEEDS, SHARES, SILENCE, st.integers(0, 9), st.booleans())
def test_a_worker_changes_its_own_share_only_and_never_takes_what_others_hold(
    need: QuotaNeed, held: dict, silent_s: dict[str, float], turn: int, is_leaving: bool
) -> None:
    after = reshared("a", {Kind.IN_FLIGHT: need}, held, silent_s, turn, is_leaving=is_leaving)
    mine = after.pop("a", {}).get(Kind.IN_FLIGHT, QuotaShare(0, 0))
    alive = {name: shares for name, shares in held.items() if silent_s.get(name, 0) < 10}
    assert after == alive
    others = sum(shares[Kind.IN_FLIGHT].slots for shares in alive.values())
    assert mine.slots >= need.occupied
    assert mine.slots <= max(need.occupied, need.limit - others)
    assert not is_leaving or mine in (QuotaShare(need.occupied, LEFT), QuotaShare(0, 0))


def test_what_a_dead_worker_has_sent_counts_for_a_minute_more() -> None:
    held = {"b": {Kind.RATE: QuotaShare(5, 0), Kind.IN_FLIGHT: QuotaShare(5, 0)}}
    needs = {Kind.RATE: QuotaNeed(10, 0, 10), Kind.IN_FLIGHT: QuotaNeed(10, 0, 10)}
    mine = reshared("a", needs, held, {"b": 15.0}, 0)["a"]
    assert {kind: share.slots for kind, share in mine.items()} == {Kind.RATE: 5, Kind.IN_FLIGHT: 10}
    assert reshared("a", needs, held, {"b": 70.0}, 0)["a"][Kind.RATE].slots == 10
