"""The first steps of a new installation: what is done, and where the next one is taken."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.admin.condition import Door
from app.common.display import counted
from app.management.first_steps import FirstSteps


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do once, in words, and where."""

    what: str
    is_done: bool
    hint: str
    door: Door


def first_steps(found: FirstSteps, usable_keys: int, models: int) -> Sequence[Step]:
    """Return the steps in the order in which they are taken.

    `usable_keys` are upstream keys that can serve now, `models` those that have a price.
    """
    of = {"_anchor": "new-user"}
    return (
        Step(
            "An upstream key that can be used",
            usable_keys > 0,
            "OhMyGPT's, which pays for the requests",
            Door("Add a key", "upstream.upstream", {"_anchor": "add-pool"}),
        ),
        Step(
            "Prices of the models",
            models > 0,
            f"{counted(models, 'models have', one='model has')} a price: check those that you bill for",
            Door("Check the prices", "prices.versions"),
        ),
        Step(
            "A user",
            found.has_user or found.has_client_key,
            "whom requests are charged to, with some credit",
            Door("Make a user", "users.all_users", of),
        ),
        Step(
            "A client key",
            found.has_client_key,
            "which programs send; a user's first one is made along with the user",
            Door("Make a key", "users.all_users", of),
        ),
        Step(
            "A first request that is answered",
            found.has_answered,
            "the page of a new key has commands to copy; it shows here by itself",
            Door("Requests", "requests.table"),
        ),
    )
