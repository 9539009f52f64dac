"""What is shown once is found once, by whom it is for, and cannot be read in the database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from app.accounts.shown_once import KEPT, ShownOnce

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECRET = "sk-weir-" + "s" * 40


@pytest.fixture
def once(database):
    return ShownOnce(database)


def test_a_second_look_finds_nothing(once, database):
    place = once.keep(SECRET, "session", NOW)
    assert once.take(place, "session", NOW) == SECRET
    assert once.take(place, "session", NOW) is None
    assert database.shown_once.count_documents({}) == 0


def test_nothing_in_the_database_says_what_it_is_or_where(once, database):
    place = once.keep(SECRET, "session", NOW)
    [stored] = database.shown_once.find()
    assert SECRET not in str(stored)
    assert place not in str(stored)
    assert set(stored) == {"_id", "text", "expiresAt"}


@pytest.mark.parametrize("session_id", ["another", "", "session "])
def test_in_another_session_nothing_is_found_and_nothing_lost(once, session_id):
    place = once.keep(SECRET, "session", NOW)
    assert once.take(place, session_id, NOW) is None
    assert once.take(place[:-1], "session", NOW) is None
    assert once.take("\udcff", "session", NOW) is None
    assert once.take(place, "session", NOW) == SECRET


def test_it_is_kept_for_minutes(once, database):
    place = once.keep(SECRET, "session", NOW)
    assert once.take(place, "session", NOW + KEPT) is None
    place = once.keep(SECRET, "session", NOW)
    assert once.take(place, "session", NOW + KEPT - timedelta(milliseconds=1)) == SECRET
    once.ensure_indexes()
    assert database.shown_once.index_information()["expiresAt_1"]["expireAfterSeconds"] == 0


def test_of_many_who_look_at_once_one_finds_it(once):
    place = once.keep(SECRET, "session", NOW)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: once.take(place, "session", NOW), range(16)))
    assert sorted(found, key=str) == [None] * 15 + [SECRET]
