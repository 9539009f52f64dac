"""What can be filled in about users and their keys."""

from datetime import datetime, tzinfo
from decimal import Decimal
from typing import Any

from flask_wtf import FlaskForm
from wtforms import (
    BooleanField,
    DateTimeLocalField,
    DecimalField,
    IntegerField,
    PasswordField,
    SelectField,
    StringField,
)
from wtforms.fields import Field, SelectChoice
from wtforms.validators import InputRequired, Length, NumberRange, Optional, ValidationError

from app.accounts.limits import MAX_NUMBER, NO_LIMITS, LimitError, Limits, budget_text, parse_budget
from app.accounts.roles import BILLING, OWNER, USER, VIEWER, role_name
from app.admin.acting import text_of
from app.common.secret_strength import PASSWORD_MIN_CHARS
from app.management.client_keys import MAX_OVERLAP_HOURS, ClientKey
from app.management.errors import Unusable
from app.management.limits import MAX_NAME
from app.management.users import User

_ROLES = [USER, VIEWER, BILLING, OWNER]
_MAX_RPM = 10_000_000
_NONE = "0 or empty: no limit"
_NO_LIMIT = "0: no limit; empty: the configured one"
_FACTOR = "0.8: pays 80 per cent; empty: the group's, else 1"
_GROUP = "Of the model table, for its price factor"
_MINUTES = "%Y-%m-%dT%H:%M"
_LEAVING = [
    SelectChoice("", "as configured"),
    SelectChoice("drain", "read the answer to its end"),
    SelectChoice("cancel", "break it off"),
]


def _more_than_nothing(_form: FlaskForm, field: Field) -> None:
    if field.data is None or not field.data.is_finite() or field.data <= 0:
        raise ValidationError("takes more than 0")


class CreditForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Credit to give or to take."""

    amount = DecimalField(
        "Amount in USD",
        [InputRequired("is required"), _more_than_nothing],
        places=None,
    )
    reason = StringField("Reason", [InputRequired("is required"), Length(max=500)])
    renews = BooleanField("Start the credit's validity again")


def _minute(moment: datetime | None, tz: tzinfo) -> datetime | None:
    """Return a moment as a field shows it, which knows neither seconds nor zones."""
    return moment and moment.astimezone(tz).replace(second=0, microsecond=0, tzinfo=None)


class LimitsForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Limits of a user or a key."""

    rpm = IntegerField("Requests a minute", [Optional(), NumberRange(0, _MAX_RPM)], description=_NO_LIMIT)
    tpm = IntegerField("Tokens a minute", [Optional(), NumberRange(0, MAX_NUMBER)], description=_NONE)
    max_parallel = IntegerField(
        "Requests at once", [Optional(), NumberRange(0, MAX_NUMBER)], description=_NONE
    )
    models = StringField("Only these models", [Length(max=2000)], description="claude-*, gpt-5.2; empty: all")
    budgets = StringField(
        "Budgets",
        [Length(max=2000)],
        description="10/month 2.5/day:claude-* (5h, day, week, month, total); empty: none",
    )

    def given(self) -> dict[str, Any]:
        """Return the limits as `app.management` takes them: what is empty is none. Raises `Unusable`."""
        try:
            budgets = [parse_budget(text) for text in (self.budgets.data or "").split()]
        except LimitError as error:
            raise Unusable(error.field, str(error)) from None
        return {
            "rpm": self.rpm.data,
            "tpm": self.tpm.data,
            "maxParallel": self.max_parallel.data,
            "models": self.models.data or None,
            "budgets": budgets or None,
        }

    @staticmethod
    def shown(rpm: int | None, limits: Limits | None) -> dict[str, Any]:
        """Return what the fields hold for these limits."""
        limits = limits or NO_LIMITS
        return {
            "rpm": rpm,
            "tpm": limits.tpm,
            "max_parallel": limits.max_parallel,
            "models": ", ".join(limits.models or ()),
            "budgets": " ".join(map(budget_text, limits.budgets)),
        }


class NewUserForm(LimitsForm):
    """A user to make."""

    username = StringField("Name", [InputRequired("is required"), Length(max=64)])
    credits = DecimalField("Credit in USD", [Optional()], places=None, default=Decimal(0))
    role = SelectField("Role", choices=_ROLES)
    password = PasswordField(
        "Password",
        [Optional(), Length(PASSWORD_MIN_CHARS, 512, f"takes {PASSWORD_MIN_CHARS} characters or more")],
        render_kw={"autocomplete": "new-password"},
        description="To log in here; a user can with a key, too",
    )
    price_factor = StringField("Price factor", [Length(max=20)], description=_FACTOR)
    group = StringField("Group", [Length(max=64)], description=_GROUP)
    expires_at = DateTimeLocalField(
        "Credit valid until", [Optional()], format=_MINUTES, description="Empty: for good"
    )

    def given(self) -> dict[str, Any]:
        """Return limits and what is paid, what is empty as none; raises `Unusable`."""
        prices = {"priceFactor": text_of(self.price_factor), "group": text_of(self.group)}
        return {**super().given(), **prices}


class SettingsForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """What can be changed of a user, beside limits."""

    role = SelectField("Role", choices=_ROLES)
    group = StringField("Group", [Length(max=64)], description=_GROUP)
    price_factor = StringField("Price factor", [Length(max=20)], description=_FACTOR)
    expires_at = DateTimeLocalField(
        "Credit valid until", [Optional()], format=_MINUTES, description="Empty: for good"
    )
    on_client_abort = SelectField(
        "When a client leaves before the end",
        [Optional()],
        choices=_LEAVING,
        description="Read to its end, an answer is charged by the usage it tells, else by estimate",
    )

    @classmethod
    def of(cls, user: User, tz: tzinfo) -> "SettingsForm":
        """Return the form with what the user has."""
        return cls(
            formdata=None,
            role=role_name(user.role),
            group=user.group,
            price_factor=user.price_factor,
            expires_at=_minute(user.expires_at, tz),
            on_client_abort=user.on_client_abort or "",
        )

    def changes(self, user: User, tz: tzinfo) -> dict[str, Any]:
        """Return what is not as the user has it, what is empty as none; times are in `tz`, naive."""
        given = {
            "role": self.role.data,
            "group": text_of(self.group),
            "priceFactor": text_of(self.price_factor),
            "expiresAt": self.expires_at.data,
            "onClientAbort": self.on_client_abort.data or None,
        }
        has = {
            "role": role_name(user.role),
            "group": user.group,
            "priceFactor": user.price_factor,
            "expiresAt": _minute(user.expires_at, tz),
            "onClientAbort": user.on_client_abort,
        }
        return {name: value for name, value in given.items() if value != has[name]}


class KeyLimitsForm(LimitsForm):
    """What can be changed of a client key."""

    key_name = StringField("Name", [Length(max=MAX_NAME)])
    notes = StringField("What it is for", [Length(max=500)])
    allowed_ips = StringField(
        "Only from",
        [Length(max=3000)],
        description="Addresses and networks: 10.0.0.0/8, ::1; empty: anywhere",
    )
    expires_at = DateTimeLocalField(
        "Accepted until", [Optional()], format=_MINUTES, description="Empty: for good"
    )

    def changes(self) -> dict[str, Any]:
        """Return what is filled in as `app.management` takes it; raises `Unusable`."""
        return {
            **self.given(),
            "keyName": (self.key_name.data or "").strip() or None,
            "notes": (self.notes.data or "").strip(),
            "allowedIps": (self.allowed_ips.data or "").strip() or None,
            "expiresAt": self.expires_at.data,
        }

    @classmethod
    def of(cls, key: ClientKey, tz: tzinfo) -> "KeyLimitsForm":
        """Return the form with what the key has."""
        limits = key.limits or NO_LIMITS
        return cls(
            formdata=None,
            key_name=key.key_name,
            notes=key.notes,
            allowed_ips=", ".join(map(str, limits.allowed_ips or ())),
            expires_at=_minute(key.expires_at, tz),
            **cls.shown(key.rpm, key.limits),
        )


class RotateForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Another secret for a client key."""

    hours = IntegerField(
        "Hours for which the present secret stays valid",
        [InputRequired("is required"), NumberRange(0, MAX_OVERLAP_HOURS)],
        default=24,
    )


class PasswordForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A new password."""

    password = PasswordField(
        "New password",
        [
            InputRequired("is required"),
            Length(PASSWORD_MIN_CHARS, 512, f"takes {PASSWORD_MIN_CHARS} characters or more"),
        ],
        render_kw={"autocomplete": "new-password"},
    )
