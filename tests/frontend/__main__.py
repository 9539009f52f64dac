"""Checks the types of the dashboard's scripts, and that what is vendored is what its package has.

`python -m tests.frontend`. Needs npm; where there is none it says so, and fails nothing. The scripts' own
tests are run by `tests/unit/test_frontend.py`: they need node only.
"""

import shutil
import subprocess
import sys

from simulator.launcher import ROOT
from tests.clients.environments import NodeEnvironment
from tests.frontend.vendored import VENDOR, vendored
from tools.environment import SetUpError

TOOLS = NodeEnvironment("frontend", ROOT / "tests")


def main() -> int:
    """Install the checker, compare, check; the exit status."""
    if shutil.which("npm") is None:
        print("NOT RUN: types of the dashboard's scripts, as there is no npm: apt install npm")
        return 0
    try:
        TOOLS.make()
    except SetUpError as error:
        print(f"weir: {error}", file=sys.stderr)
        return 1
    for package in vendored():
        for name, origin in package.files.items():
            if (VENDOR / name).read_bytes() != (TOOLS.directory / "node_modules" / origin).read_bytes():
                print(f"weir: vendor/{name} is not {origin} of {package.name} {package.version}")
                return 1
    command = [TOOLS.program(".bin/tsc"), "--project", "tests/frontend/tsconfig.json"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
