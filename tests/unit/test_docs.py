"""What the documentation promises about the configuration is what the program does."""

import re
from pathlib import Path
from typing import Any

import pytest

from app.settings import ROOT, Settings

_ROW = re.compile(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)
_NONE = "–"

TABLE = {
    name: (default, meaning)
    for name, default, meaning in _ROW.findall(
        (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    )
}


def documented(name: str) -> str:
    """The default in the table, without its quotes."""
    default, _ = TABLE[name]
    return default if default == _NONE else default.strip("`")


def written(value: Any) -> str:
    """A default as a person writes it."""
    if value is None or value == ():
        return _NONE
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_absolute() else f"./{value}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_has_every_variable_and_no_other_in_the_order_of_the_settings() -> None:
    assert list(TABLE) == [field.upper() for field in Settings.model_fields]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_default_in_the_table_is_the_real_one(field: str) -> None:
    assert documented(field.upper()) == written(Settings.model_fields[field].default)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_default_in_the_table_can_be_set(field: str) -> None:
    name, default = field.upper(), documented(field.upper())
    if default != _NONE and not name.endswith(("_DIR", "_FILE")):
        assert getattr(Settings.from_env({name: default}), field) == getattr(Settings.from_env({}), field)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_choice_is_explained(field: str) -> None:
    annotation = str(Settings.model_fields[field].annotation)
    choices = re.findall(r"'([^']+)'", annotation) if "Literal" in annotation else []
    _, meaning = TABLE[field.upper()]
    assert meaning.strip()
    assert [choice for choice in choices if f"`{choice}`" not in meaning] == []
