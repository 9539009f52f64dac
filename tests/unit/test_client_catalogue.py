"""The programs that `make clients` runs are pinned, at the versions it tells, and are what it says."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.clients.cases import CASES, SENTENCE, Ask
from tests.clients.catalogue import CLIENTS, chosen
from tests.clients.running import Client


def pinned(lock: Path) -> dict[str, str]:
    """Versions by package, of either kind of lock."""
    text = lock.read_text(encoding="utf-8")
    if lock.suffix == ".lock":
        return dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", text, re.MULTILINE))
    packages = json.loads(text)["packages"]
    return {path.removeprefix("node_modules/"): has["version"] for path, has in packages.items() if path}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_is_pinned_at_the_version_that_is_told(client: Client) -> None:
    versions = pinned(client.places[-1].lock)
    # opencode-ai is a package of installers: what it would install is what is pinned.
    assert client.version in (versions.get(client.package), versions.get("opencode-linux-x64-baseline"))


def test_names_are_told_apart_and_stand_for_families() -> None:
    assert max(Counter(client.name for client in CLIENTS).values()) == 1
    assert [client.name for client in chosen(["codex"])] == ["codex", "codex-provider"]
    assert {client.endpoint for client in chosen(["*-responses"])} == {"responses"}
    with pytest.raises(KeyError, match="netscape"):
        chosen(["netscape"])


def test_whoever_has_no_part_in_a_case_is_known_and_says_why() -> None:
    names = {case.name for case in CASES}
    assert {name for client in CLIENTS for name in (*client.skips, *client.shows)} <= names
    assert all(reason for client in CLIENTS for reason in client.skips.values())


def test_no_lock_names_a_host_to_install_from() -> None:
    for client in CLIENTS:
        for place in client.places:
            text = place.lock.read_text(encoding="utf-8")
            assert '"resolved"' not in text
            assert "--index-url" not in text
            assert "--find-links" not in text


def test_a_stream_stands_still_only_after_a_part_of_the_text() -> None:
    (streamed,) = (case for case in CASES if case.ask is Ask.STREAMED)
    assert "gate=g,after=7" in streamed.play("g", "look")
    assert SENTENCE.split()[0] not in SENTENCE.split()[1:]
