"""Asking the store for parts of a page, so that what does not need it is drawn while it is away."""

from collections.abc import Callable
from typing import TypeVar

from flask import g

from app.core.ports import StoreUnavailable

T = TypeVar("T")


def ask(question: Callable[[], T]) -> T | None:
    """The answer, or None when the store cannot give one.

    Once it has failed it is not asked again for the same page: every failure takes seconds to show.
    """
    if store_problem() is not None:
        return None
    try:
        return question()
    except StoreUnavailable as error:
        g.store_problem = str(error)
        return None


def store_problem() -> str | None:
    """Why the store did not answer while this page was made; None when it did."""
    problem: str | None = g.get("store_problem")
    return problem
