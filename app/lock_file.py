"""What requirements.lock pins, as the requirements of a package.

The build of the wheel runs this file by itself (`hatch_build.py`): it imports nothing of this project.
"""

import re

_HASHES = re.compile(r"(\s*\\?\s+--hash=\S+)+")
_COMMENT = re.compile(r"^#.*\n", re.MULTILINE)


def requirements_in(text: str) -> list[str]:
    """Return the pins without their hashes: `name==version`, and a marker where there is one."""
    return [line for line in _HASHES.sub("", _COMMENT.sub("", text)).splitlines() if line]
