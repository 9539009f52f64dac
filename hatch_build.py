"""The build's one addition to pyproject.toml: the wheel requires exactly what requirements.lock pins."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class LockedRequirements(MetadataHookInterface):
    """Makes the lock file the wheel's `Requires-Dist`, so that an installation resolves nothing."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the dependencies."""
        root = Path(self.root)
        requirements_in = runpy.run_path(str(root / "app" / "lock_file.py"))["requirements_in"]
        metadata["dependencies"] = requirements_in((root / "requirements.lock").read_text(encoding="utf-8"))
