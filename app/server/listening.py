"""The address the server answers on: taken before anything is started, listened on once everything is.

gunicorn would try five times, a second each, in lines that name no variable, while the embedded MongoDB runs
already.
"""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gunicorn import sock
from gunicorn.systemd import listen_fds
from gunicorn.util import is_ipv6

from app.common.errors import SettingsError

_PROC = Path("/proc")
_LISTENING = "0A"


def is_usual(server: Any) -> bool:
    """Tell whether gunicorn is to bind plain addresses: it may have been given sockets, or paths."""
    has_sockets = server.master_pid or listen_fds(unset_environment=False)
    return not (has_sockets or server.cfg.reuse_port) and all(
        isinstance(address, tuple) for address in server.cfg.address
    )


def bind(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Bind each address without listening on it; raises `SettingsError`."""
    bound = []
    for address in addresses:
        family = socket.AF_INET6 if is_ipv6(address[0]) else socket.AF_INET
        bound.append(socket.socket(family, socket.SOCK_STREAM))
        # Connections of an earlier run that are not quite over must not stand in the way.
        bound[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound[-1].bind(address)
        except OSError as error:
            for one in bound:
                one.close()
            raise refusal(*address, error) from None
    return bound


def listen(server: Any, bound: Sequence[socket.socket]) -> None:
    """Hand the sockets to gunicorn, which listens on them; raises `SettingsError`."""
    host, port = bound[0].getsockname()[:2]
    try:
        server.LISTENERS = sock.create_sockets(server.cfg, server.log, [one.detach() for one in bound])
    except OSError as error:  # another start was faster
        raise refusal(host, port, error) from None


def refusal(host: str, port: int, error: OSError) -> SettingsError:
    """Say in one line why an address cannot be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return SettingsError(f"PORT: {port} is in use{_by_whom(port)}: stop that, or set another PORT")
    if error.errno == errno.EACCES:
        return SettingsError(f"PORT: {port} takes rights that this user has not: set one from 1024 on")
    reason = "is no address of this machine"
    if error.errno != errno.EADDRNOTAVAIL:
        reason = f"cannot be listened on ({error.strerror})"
    return SettingsError(f"HOST: {host} {reason}: takes 127.0.0.1, 0.0.0.0 (all addresses), or one of them")


def _by_whom(port: int) -> str:
    """Name the process that listens on a port, as far as this user may see it."""
    users = sorted(_holders(_inodes(port)))
    if not users:
        return ""
    try:
        name = (_PROC / str(users[0]) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""  # it has ended meanwhile
    return f" by process {users[0]} ({''.join(c if c.isprintable() else '?' for c in name)})"


def _inodes(port: int) -> set[str]:
    """Find the sockets that listen on a port, whatever the address."""
    lines = [line.split() for table in ("tcp", "tcp6") for line in _lines(_PROC / "net" / table)]
    return {
        fields[9]
        for fields in lines
        if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port
    }


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text().splitlines()[1:]
    except OSError:
        return []


def _holders(inodes: set[str]) -> Iterator[int]:
    """Find the processes that have one of these sockets open."""
    links = {f"socket:[{inode}]" for inode in inodes}
    for entry in _PROC.glob("[0-9]*") if links else ():
        try:
            if any(os.readlink(fd) in links for fd in (entry / "fd").iterdir()):
                yield int(entry.name)
        except OSError:
            continue  # somebody else's, or gone meanwhile
