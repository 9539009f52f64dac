"""The members of an object, each for itself, and no more of them than an object may have."""

import pytest

from app.wires.json_pairs import MAX_MEMBERS, TooManyMembers, read_pairs


def members(count: int) -> bytes:
    return b",".join(b'"%d":1' % (number // 2) for number in range(count))


def test_members_of_the_same_name_are_all_there() -> None:
    for _ in range(2):
        found = read_pairs(b"{%s}" % members(MAX_MEMBERS))
        assert [key.name for key in found] == [str(number // 2) for number in range(MAX_MEMBERS)]


def test_decoding_stops_at_one_too_many() -> None:
    with pytest.raises(TooManyMembers):
        read_pairs(b"{%s, and no JSON any more" % members(MAX_MEMBERS + 1))
