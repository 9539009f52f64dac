"""What can be filled in about users and their keys."""

from datetime import UTC, tzinfo
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
from wtforms.fields import Field
from wtforms.validators import InputRequired, Length, NumberRange, Optional, ValidationError

from app.accounts.limits import MAX_NUMBER, NO_LIMITS, LimitError, Limits, budget_text, parse_budget
from app.accounts.roles import BILLING, OWNER, USER, VIEWER
from app.common.secret_strength import PASSWORD_MIN_CHARS
from app.management.client_keys import MAX_OVERLAP_HOURS, ClientKey
from app.management.errors import Unusable
from app.management.limits import MAX_NAME

_ROLES = [USER, VIEWER, BILLING, OWNER]
_MAX_RPM = 10_000_000
_NONE = "0 or empty: no limit"
_NO_LIMIT = "0: no limit; empty: the configured one"


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
    renews = BooleanField("Begin the validity of the credit anew")


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
    price_factor = StringField("Price factor", [Length(max=20)], description="0.8: pays 80 per cent")
    group = StringField("Group", [Length(max=64)], description="Of the model table, for its price factor")

    def given(self) -> dict[str, Any]:
        """Return limits and what is paid, what is empty as none; raises `Unusable`."""
        prices = {"priceFactor": self.price_factor.data or None, "group": self.group.data or None}
        return {**super().given(), **prices}


class SettingsForm(LimitsForm):
    """What can be changed of a user."""

    role = SelectField("Role", choices=_ROLES)
    price_factor = StringField(
        "Price factor", [Length(max=20)], description="0.8: pays 80 per cent; empty: the group's, else 1"
    )
    group = StringField("Group", [Length(max=64)], description="Of the model table, for its price factor")

    def given(self) -> dict[str, Any]:
        """Return the settings, what is empty as none; raises `Unusable`."""
        prices = {"priceFactor": self.price_factor.data or None, "group": self.group.data or None}
        return {**super().given(), **prices, "role": self.role.data}


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
        "Accepted until", [Optional()], format="%Y-%m-%dT%H:%M", description="Empty: for good"
    )

    def changes(self, tz: tzinfo) -> dict[str, Any]:
        """Return what is filled in as `app.management` takes it, times in `tz`; raises `Unusable`."""
        expires = self.expires_at.data
        return {
            **self.given(),
            "keyName": (self.key_name.data or "").strip() or None,
            "notes": (self.notes.data or "").strip(),
            "allowedIps": (self.allowed_ips.data or "").strip() or None,
            "expiresAt": expires and expires.replace(tzinfo=tz).astimezone(UTC),
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
            expires_at=key.expires_at.astimezone(tz) if key.expires_at else None,
            **cls.shown(key.rpm, key.limits),
        )


class RotateForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Another secret for a client key."""

    hours = IntegerField(
        "Hours for which the secret of now is accepted",
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
