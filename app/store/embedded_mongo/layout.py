"""Where things are in a data directory, and the rules on who may see them."""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from app.store.embedded_mongo.errors import EmbeddedMongoError

_SOCKET_NAME = "mongodb.sock"
_MAX_SOCKET_PATH = 107  # bytes: the size of sockaddr_un.sun_path less its closing zero
_URI_OPTIONS = "directConnection=true&w=1&journal=true"


@dataclass(frozen=True)
class Layout:
    """The paths of the embedded MongoDB of one data directory (absolute)."""

    data_dir: Path

    @property
    def owner_lock(self) -> Path:
        """Held, exclusively, by the process that runs the server."""
        return self.data_dir / "mongodb.lock"

    @property
    def users_lock(self) -> Path:
        """Held, shared, by every command that uses a server it does not own."""
        return self.data_dir / "mongodb.users"

    @property
    def uri_file(self) -> Path:
        """The URI of the running server; there is none when none runs."""
        return self.data_dir / "mongodb.uri"

    @property
    def home(self) -> Path:
        """Everything mongod itself writes."""
        return self.data_dir / "mongodb"

    @property
    def database(self) -> Path:
        """mongod's `--dbpath`."""
        return self.home / "db"

    @property
    def log(self) -> Path:
        """mongod's log."""
        return self.home / "mongod.log"

    @property
    def output(self) -> Path:
        """What mongod prints before it has opened its log."""
        return self.home / "mongod.out"

    @property
    def engine_file(self) -> Path:
        """Which engine wrote the database, and its version."""
        return self.home / "engine.json"

    @property
    def socket(self) -> Path:
        """The server's socket: in `home`, or in a short private directory if that path cannot be bound."""
        path = self.home / _SOCKET_NAME
        if _can_be_bound(path):
            return path
        name = f"weir-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]}"
        for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 -- private_directory() checks the owner
            path = Path(parent) / name / _SOCKET_NAME
            if _can_be_bound(path):
                return path
        raise EmbeddedMongoError(
            f"no place for a unix socket: {path} is too long; set TMPDIR to a shorter path"
        )


def layout_of(data_dir: Path) -> Layout:
    """Return the layout of a data directory, which may be given relative to the working directory."""
    return Layout(data_dir.absolute())


def private_directory(path: Path) -> None:
    """Make sure that `path` is a directory of this user that nobody else may enter (0700).

    Raises EmbeddedMongoError if it belongs to another user, OSError if it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise EmbeddedMongoError(
            f"{path} belongs to user id {status.st_uid}, this process runs as {os.geteuid()}: "
            f"run it as the owner, or give the directory over with chown -R {os.geteuid()} {path}"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Replace a file's content in one step, so that a reader sees the old or the new, with mode 0600."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    draft.replace(path)


def uri_of(socket_path: Path) -> str:
    """Return the URI of a server behind a unix socket, with acknowledged writes in its journal."""
    return f"mongodb://{quote(str(socket_path), safe='')}/?{_URI_OPTIONS}"


def socket_of(uri: str) -> str:
    """Return the path of the socket in a URI made by `uri_of`."""
    return unquote(urlsplit(uri).netloc)


def _can_be_bound(path: Path) -> bool:
    # mongod takes a list of addresses, separated by commas.
    return len(os.fsencode(path)) <= _MAX_SOCKET_PATH and "," not in str(path)
