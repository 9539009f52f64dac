"""What a page is asked, and asking the store for parts of it, so that the rest is drawn while it is away."""

from collections.abc import Callable
from typing import TypeVar

from flask import g, request

from app.admin.question import Question
from app.common.errors import StoreUnavailable

T = TypeVar("T")

LIVE_HEADER = "X-Weir-Live"
"""A page's own script sends it when it asks for the page again."""


def ask(question: Callable[[], T]) -> T | None:
    """Return the answer, or None when the store cannot give one.

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
    """Return why the store did not answer while this page was made; None when it did."""
    problem: str | None = g.get("store_problem")
    return problem


def asked_question(default: str | None = None) -> Question:
    """Return what the current address asks for.

    A page that has a range of its own says so by `default`: its links ask for that range then, too.
    """
    question: Question | None = g.get("question")
    if question is None:
        question = g.question = Question.parse(request.args)
    if default is not None and not question.has_range:
        question = g.question = Question({"period": default, **question.given})
    return question


def is_redrawn() -> bool:
    """Return whether nothing but the live parts of the page is wanted: the rest need not be asked for."""
    return LIVE_HEADER in request.headers or g.get("live_parts") is not None
