"""How pages have something done: by whom, and what is said about it afterwards."""

import re
from collections.abc import Callable

from flask import flash, request
from flask_login import current_user
from flask_wtf import FlaskForm
from wtforms.fields import Field

from app.management.audit import Actor
from app.management.errors import ManagementError, Unusable


def actor() -> Actor:
    """Return who is at the keyboard, for the audit log."""
    return Actor(current_user.name, "dashboard", request.remote_addr, role=current_user.role_name)


def attempt(action: Callable[[], str]) -> bool:
    """Do the action and show what it returns, or show why it was refused."""
    try:
        flash(action(), "success")
    except ManagementError as refusal:
        flash(_sentence(refusal), "danger")
        return False
    return True


def show_refusal(form: FlaskForm, refusal: ManagementError) -> None:
    """Show why an action was refused: beside the field it is about, if the form has that, else above them."""
    name = re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", getattr(refusal, "field", ""))
    field = form._fields.get(name)
    if field is None:
        form.form_errors = [*form.form_errors, _sentence(refusal)]
    else:
        field.errors = [*field.errors, str(refusal)]


def sent(form: FlaskForm, action: Callable[[], str]) -> bool:
    """Check the form and do the action; show what is wrong in the form, to be drawn again."""
    if not form.validate():
        return False
    try:
        flash(action(), "success")
    except ManagementError as refusal:
        show_refusal(form, refusal)
        return False
    return True


def is_filled(form: FlaskForm) -> bool:
    """Return whether the form can be used; shows what is wrong with it."""
    if form.validate():
        return True
    for field in form:
        for error in field.errors:
            flash(f"{field.label.text}: {error}", "danger")
    return False


def text_of(field: Field) -> str | None:
    """Return what was typed, without blanks around it; None for nothing."""
    return (field.data or "").strip() or None


def _sentence(refusal: ManagementError) -> str:
    text = str(refusal)
    if isinstance(refusal, Unusable) and refusal.field:
        text = f"{refusal.field}: {text}"
    return f"{text[:1].upper()}{text[1:]}."
