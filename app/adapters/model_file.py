"""The model table as a file."""

from pathlib import Path

from app.core.pricing import ModelTable, ModelTableError
from app.settings import SettingsError


def load_models(path: Path) -> ModelTable:
    """The model table of a file; raises `SettingsError` naming `MODELS_FILE`."""
    try:
        return ModelTable.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"MODELS_FILE: cannot read {path}: {error}") from None
    except ModelTableError as error:
        raise SettingsError(f"MODELS_FILE: {path}: {error}") from None
