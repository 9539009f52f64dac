"""The model table as a file."""

from pathlib import Path
from typing import Final

from app.common.errors import SettingsError
from app.pricing.model_table import ModelTable
from app.pricing.table_parser import ModelTableError

MAX_TEXT: Final = 1_000_000
"""The longest text of a table, in characters: each is kept in the database, in one document."""


def read_text(path: Path, name: str = "MODELS_FILE") -> str:
    """Read the text of a table; raises `SettingsError`, which says by which name the file was given."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}: cannot read {path}: {error}") from None
    if len(text) > MAX_TEXT:
        raise SettingsError(f"{name}: {path}: longer than {MAX_TEXT} characters")
    return text


def load_models(path: Path) -> ModelTable:
    """Load the model table of a file; raises `SettingsError` naming `MODELS_FILE`."""
    try:
        return ModelTable.from_toml(read_text(path))
    except ModelTableError as error:
        raise SettingsError(f"MODELS_FILE: {path}: {error}") from None
