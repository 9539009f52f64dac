"""The page behind the set-up link: whoever has it becomes the first owner, by name and password."""

from flask import Blueprint, make_response, redirect, render_template, request
from flask_wtf import FlaskForm
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse
from wtforms import PasswordField, StringField
from wtforms.validators import InputRequired, Length

from app.admin.access import Sessions
from app.admin.acting import show_refusal
from app.admin.login import home
from app.common.secret_strength import PASSWORD_MIN_CHARS
from app.exchange.ports import Clock
from app.management.audit import Actor
from app.management.errors import ManagementError
from app.management.first_owner import FirstOwner

_REFUSED = 400


class OwnerForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """The first owner."""

    username = StringField(
        "User name",
        [InputRequired("is required"), Length(max=64)],
        render_kw={"autocomplete": "username"},
    )
    password = PasswordField(
        "Password",
        [
            InputRequired("is required"),
            Length(PASSWORD_MIN_CHARS, 512, f"takes {PASSWORD_MIN_CHARS} characters or more"),
        ],
        render_kw={"autocomplete": "new-password"},
        description=f"{PASSWORD_MIN_CHARS} characters or more",
    )


def setup_pages(first_owner: FirstOwner, sessions: Sessions, clock: Clock) -> Blueprint:
    """Make the page `/setup/<secret>`."""
    routes = Blueprint("setup", __name__)

    @routes.route("/setup/<secret>", methods=["GET", "POST"])
    def setup(secret: str) -> AnyResponse:
        if not first_owner.is_open(secret, clock.utcnow()):
            raise NotFound
        form = OwnerForm()
        if request.method == "GET":
            return make_response(render_template("setup.html", form=form))
        if form.validate():
            actor = Actor("setup-link", "dashboard", request.remote_addr)
            name = (form.username.data or "").strip()
            try:
                first_owner.make(actor, secret, name, form.password.data, clock.utcnow())
            except ManagementError as refusal:
                show_refusal(form, refusal)
            else:
                sessions.open(name)
                return redirect(home(), code=303)
        return make_response(render_template("setup.html", form=form), _REFUSED)

    return routes
