"""Why an action of an administrator was not done, in words fit for the one who asked."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from app.common.errors import StoreUnavailable
from app.keys.provider_keys import KeyFileError
from app.store.driver import AlreadyExistsError, store_problem

P = ParamSpec("P")
T = TypeVar("T")


class ManagementError(Exception):
    """The action cannot be done; the text says why."""


class Missing(ManagementError):
    """What was asked for does not exist."""


class Conflict(ManagementError):
    """It cannot be done as things are now: because of `field`, a name the caller knows, if of any."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Unusable(ManagementError):
    """A value that cannot be used: of `field`, a name the caller knows. `lines` are bad lines of a file."""

    def __init__(self, field: str, message: str, lines: list[tuple[int, str]] | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.lines = lines or []


ACTION_S = 8.0
"""How long an action waits for the database in all, in seconds; the driver alone would wait for a minute."""


def asks_store(method: Callable[P, T]) -> Callable[P, T]:
    """Bound the time, and turn what stores raise into `ManagementError`s and `StoreUnavailable`."""

    @wraps(method)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with pymongo.timeout(ACTION_S):
                return method(*args, **kwargs)
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        except AlreadyExistsError as error:
            raise Conflict(str(error)) from None
        except KeyFileError as error:
            count = len(error.problems)
            text = f"nothing was imported: {count} of the lines cannot be used"
            raise Unusable("", text, error.problems) from None

    return translated
