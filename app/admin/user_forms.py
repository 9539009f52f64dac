"""What can be filled in about users and their keys."""

from decimal import Decimal

from flask_wtf import FlaskForm
from wtforms import BooleanField, DecimalField, IntegerField, PasswordField, SelectField, StringField
from wtforms.validators import InputRequired, Length, NumberRange, Optional

_ROLES = ["user", "admin"]
_MAX_RPM = 10_000_000
_NO_LIMIT = "0: no limit; empty: the configured one"


class NewUserForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A user to make."""

    username = StringField("Name", [InputRequired("is required"), Length(max=64)])
    credits = DecimalField("Credit in USD", [Optional()], places=None, default=Decimal(0))
    role = SelectField("Role", choices=_ROLES)
    rpm = IntegerField("Requests a minute", [Optional(), NumberRange(0, _MAX_RPM)], description=_NO_LIMIT)
    password = PasswordField(
        "Password",
        [Optional(), Length(8, 512, "takes 8 characters or more")],
        render_kw={"autocomplete": "new-password"},
        description="Only an admin needs one, to log in here",
    )


class CreditForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Credit to give or to take."""

    amount = DecimalField(
        "Amount in USD",
        [InputRequired("is required"), NumberRange(min=0, message="takes more than 0")],
        places=None,
    )
    reason = StringField("Reason", [InputRequired("is required"), Length(max=500)])
    renews = BooleanField("Begin the validity of the credit anew")


class SettingsForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """What can be changed of a user."""

    role = SelectField("Role", choices=_ROLES)
    rpm = IntegerField("Requests a minute", [Optional(), NumberRange(0, _MAX_RPM)], description=_NO_LIMIT)


class PasswordForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A new password."""

    password = PasswordField(
        "New password",
        [InputRequired("is required"), Length(8, 512, "takes 8 characters or more")],
        render_kw={"autocomplete": "new-password"},
    )


class KeyForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A client key to make."""

    notes = StringField("What it is for", [Length(max=500)])
    rpm = IntegerField("Requests a minute", [Optional(), NumberRange(0, _MAX_RPM)], description=_NO_LIMIT)
