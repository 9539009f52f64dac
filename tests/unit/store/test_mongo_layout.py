"""Where the embedded MongoDB's socket is: what a unix socket's path can be decides."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from app.store.embedded_mongo.errors import EmbeddedMongoError
from app.store.embedded_mongo.layout import Layout

LONGEST = 107
"""Bytes: `sun_path` of Linux has 108, one of them for the zero at the end (unix(7))."""

AT = Path("mongodb") / "mongodb.sock"


def data_dir(parent: Path, socket_bytes: int, filler: str = "x") -> Path:
    """Return a data directory whose socket's path would have this many bytes."""
    room = socket_bytes - len(os.fsencode(parent / "d" / AT))
    return parent / f"d{filler * (room // len(os.fsencode(filler)))}{'x' * (room % len(os.fsencode(filler)))}"


@pytest.fixture
def short() -> Path:
    return Path("/var/lib")


@pytest.mark.parametrize("filler", ["x", "ü"])
def test_a_path_that_can_be_bound_is_used(short: Path, filler: str) -> None:
    directory = data_dir(short, LONGEST, filler)
    assert Layout(directory).socket == directory / AT
    assert len(os.fsencode(directory / AT)) == LONGEST


@pytest.mark.parametrize("filler", ["x", "ü"])
def test_a_byte_more_moves_the_socket_to_a_short_place_of_its_own(short: Path, filler: str) -> None:
    places = [Layout(data_dir(short, LONGEST + more, filler)).socket for more in (1, 2)]
    assert len(set(places)) == 2
    for place in places:
        assert place.parent.parent == Path(tempfile.gettempdir())
        assert place.parent.name.startswith(f"weir-{os.geteuid()}-")


def test_the_short_place_is_the_same_each_time_it_is_looked_for(short: Path) -> None:
    directory = data_dir(short, LONGEST + 1)
    assert Layout(directory).socket == Layout(directory).socket


def test_a_comma_moves_the_socket_too() -> None:
    assert Layout(Path("/var/a,b")).socket.parent.parent == Path(tempfile.gettempdir())


def test_a_temporary_directory_that_is_too_long_gives_way_to_tmp(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "t" * LONGEST)
    assert Layout(data_dir(short, LONGEST + 1)).socket.parent.parent == Path("/tmp")


def test_no_place_at_all_is_an_error(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "t" * LONGEST)
    monkeypatch.setattr(os, "geteuid", lambda: 10**80)
    with pytest.raises(EmbeddedMongoError, match="no place for a unix socket"):
        _ = Layout(data_dir(short, LONGEST + 1)).socket


def test_the_limit_is_the_systems() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        for size, is_bound in ((LONGEST, True), (LONGEST + 1, False)):
            directory = data_dir(Path(parent), size)
            (directory / AT).parent.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as server:
                if is_bound:
                    server.bind(str(directory / AT))
                    assert (directory / AT).is_socket()
                else:
                    with pytest.raises(OSError, match="too long"):
                        server.bind(str(directory / AT))
