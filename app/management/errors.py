"""Why an action of an administrator was not done, in words fit for whoever asked."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pymongo.errors import PyMongoError

from app.adapters.mongo.connection import store_problem
from app.adapters.mongo.provider_keys import KeyFileError
from app.adapters.mongo.users import AlreadyExistsError
from app.core.ports import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Refusal(Exception):
    """The action cannot be done; the text says why."""


class Missing(Refusal):
    """What was asked for does not exist."""


class Conflict(Refusal):
    """It cannot be done as things are now."""


class Unusable(Refusal):
    """A value that cannot be used: of `field`, a name the caller knows. `lines` are bad lines of a file."""

    def __init__(self, field: str, message: str, lines: list[tuple[int, str]] | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.lines = lines or []


def asks_store(method: Callable[P, T]) -> Callable[P, T]:
    """Turn what stores raise into `Refusal`s, and the driver's errors into `StoreUnavailable`."""

    @wraps(method)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
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
