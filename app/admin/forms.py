"""How a form's fields are written into a page."""

from typing import Any

from wtforms.fields import Field


def attributes(field: Field) -> dict[str, Any]:
    """Return a field's attributes that tie it to its help and to what is wrong with it."""
    parts = [part for part, given in (("error", field.errors), ("help", field.description)) if given]
    found: dict[str, Any] = {}
    if parts:
        found["aria-describedby"] = " ".join(f"{field.id}-{part}" for part in parts)
    if field.errors:
        found["aria-invalid"] = "true"
    return found
