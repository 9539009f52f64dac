"""The dashboard's scripts compute what they should, and what is vendored is as its package has it."""

import hashlib
import json
import shutil
import subprocess

import pytest

from simulator.launcher import ROOT
from tests.frontend.vendored import VENDOR, vendored

FRONTEND = ROOT / "tests" / "frontend"


def test_the_scripts_tests_pass() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("this machine has no node: apt install nodejs")
    tests = sorted(map(str, FRONTEND.glob("*.test.js")))
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_vendored_is_of_the_pinned_package_and_not_touched() -> None:
    pinned = json.loads((FRONTEND / "package-lock.json").read_text())["packages"]
    listed = {"vendor.json"}
    for package in vendored():
        lock = pinned[f"node_modules/{package.name}"]
        assert (package.version, package.integrity) == (lock["version"], lock["integrity"])
        for name, digest in package.sha256.items():
            assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
        assert set(package.sha256) == set(package.files)
        listed |= set(package.files)
    assert {path.name for path in VENDOR.iterdir()} == listed
