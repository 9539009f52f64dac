"""What can be filled in about upstream keys."""

from flask_wtf import FlaskForm
from wtforms import FileField, IntegerField, PasswordField, StringField, TextAreaField
from wtforms.fields import Field
from wtforms.validators import InputRequired, Length, NumberRange, Optional, ValidationError

from app.management.upstream_keys import LEAST, MAX_NUMBER, StoredProviderKey, id_problem


def _possible_id(_form: FlaskForm, field: Field) -> None:
    if (problem := id_problem((field.data or "").strip())) is not None:
        raise ValidationError(problem)


class NewUpstreamKeyForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """A key for the pool or its spares. The key itself is typed unseen."""

    key_id = StringField(
        "Name", [InputRequired("is required"), _possible_id], description="What it is called everywhere"
    )
    secret = PasswordField(
        "Key",
        [InputRequired("is required"), Length(8, 512, "takes 8 to 512 characters")],
        render_kw={"autocomplete": "off"},
        description="Kept encrypted, never shown again",
    )


class ImportForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """Many keys: a file, or lines pasted."""

    file = FileField("File", render_kw={"accept": "text/plain,.txt"})
    lines = TextAreaField(
        "or lines",
        render_kw={"rows": 4, "autocomplete": "off", "spellcheck": "false"},
        description="name|key, one a line: all of them are imported, or none",
    )


class UpstreamLimitsForm(FlaskForm):  # type: ignore[misc]  # it has no types
    """What an operator allows a key; what is empty is no limit."""

    weight = IntegerField(
        "Weight",
        [Optional(), NumberRange(LEAST["weight"], MAX_NUMBER, "takes 1 or more")],
        description="Its share of the load beside the others; empty: 1",
    )
    rpm = IntegerField(
        "Requests a minute",
        [Optional(), NumberRange(LEAST["rpm"], MAX_NUMBER, "takes 0 or more")],
        description="Over all workers; empty: no limit",
    )
    max_in_flight = IntegerField(
        "Requests at a time",
        [Optional(), NumberRange(LEAST["maxInFlight"], MAX_NUMBER, "takes 0 or more")],
        description="Over all workers; empty: no limit; 0 pauses the key",
    )

    @classmethod
    def of(cls, key: StoredProviderKey | None) -> "UpstreamLimitsForm":
        """Return the form with what the key has."""
        if key is None:
            return cls(formdata=None)
        limits = key.limits
        return cls(formdata=None, weight=limits.weight, rpm=limits.rpm, max_in_flight=limits.max_in_flight)

    @property
    def changes(self) -> dict[str, int | None]:
        """What is filled in, by its stored names."""
        return {"weight": self.weight.data, "rpm": self.rpm.data, "maxInFlight": self.max_in_flight.data}
