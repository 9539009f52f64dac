"""How pages have something done: by whom, and what is said about it afterwards."""

from collections.abc import Callable

from flask import flash, request
from flask_login import current_user
from flask_wtf import FlaskForm
from wtforms.fields import Field

from app.management.audit import Actor
from app.management.errors import Refusal, Unusable


def actor() -> Actor:
    """The admin at the keyboard, for the audit log."""
    return Actor(current_user.name, "dashboard", request.remote_addr)


def attempt(action: Callable[[], str]) -> bool:
    """Do it and say what it returns, or say why not."""
    try:
        flash(action(), "success")
    except Refusal as refusal:
        flash(_sentence(refusal), "danger")
        return False
    return True


def is_filled(form: FlaskForm) -> bool:
    """Whether the form can be used; what is wrong with it is said."""
    if form.validate():
        return True
    for field in form:
        for error in field.errors:
            flash(f"{field.label.text}: {error}", "danger")
    return False


def text_of(field: Field) -> str | None:
    """What was typed, without blanks around it; None for nothing."""
    return (field.data or "").strip() or None


def _sentence(refusal: Refusal) -> str:
    text = str(refusal)
    if isinstance(refusal, Unusable) and refusal.field:
        text = f"{refusal.field}: {text}"
    return f"{text[:1].upper()}{text[1:]}."
