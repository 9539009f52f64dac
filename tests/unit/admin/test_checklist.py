"""The first steps tick themselves off."""

from app.admin.checklist import first_steps
from app.management.first_steps import FirstSteps

NOTHING = FirstSteps(has_user=False, has_client_key=False, has_answered=False)


def done(found: FirstSteps, usable_keys: int = 0, models: int = 0) -> list[bool]:
    return [step.is_done for step in first_steps(found, usable_keys, models)]


def test_each_step_is_done_by_itself() -> None:
    assert done(NOTHING) == [False] * 5
    assert done(NOTHING, usable_keys=2) == [True, False, False, False, False]
    assert done(NOTHING, models=1) == [False, True, False, False, False]
    assert done(FirstSteps(True, False, False)) == [False, False, True, False, False]
    assert done(FirstSteps(True, True, True), 1, 1) == [True] * 5


def test_who_sends_requests_under_a_name_of_the_staff_needs_no_other_user() -> None:
    assert done(FirstSteps(has_user=False, has_client_key=True, has_answered=False))[2:4] == [True, True]


def test_every_step_leads_to_where_it_is_taken() -> None:
    endpoints = [step.door.endpoint for step in first_steps(NOTHING, 0, 0)]
    assert endpoints == [
        "upstream.upstream", "prices.versions", "users.all_users", "users.all_users", "requests.table",
    ]  # fmt: skip
