"""Files that come with Weir and are no modules: the model table, gunicorn's configuration, the lock file."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_file(name: str) -> Path:
    """Return where a file is: beside this module in the wheel, at the top of the repository."""
    packaged = _PACKAGE / name
    return packaged if packaged.exists() else _PACKAGE.parent / name
