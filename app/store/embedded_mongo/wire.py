"""MongoDB's wire protocol, as much of it as a readiness check takes.

A MongoClient would do, but not in gunicorn's master: its monitor threads do not survive the fork and the
monkey patching of the workers.
"""

import socket
import struct

import bson

_HEADER = struct.Struct("<iiii")  # length, request id, response to, opcode
_OP_MSG = 2013
_BODY_PREFIX = struct.pack("<IB", 0, 0)  # no flags; one section of kind 0, a document
_MAX_REPLY = 64 * 1024


def ping(socket_path: str, timeout_s: float = 1.0) -> bool:
    """Return whether a MongoDB server behind this socket answers `ping`, each step within `timeout_s`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(socket_path)
            connection.sendall(_message({"ping": 1, "$db": "admin"}))
            return _read_ok(connection)
    except (OSError, EOFError, ValueError, bson.errors.InvalidBSON):
        return False


def _message(command: dict[str, object]) -> bytes:
    body = _BODY_PREFIX + bson.encode(command)
    return _HEADER.pack(_HEADER.size + len(body), 1, 0, _OP_MSG) + body


def _read_ok(connection: socket.socket) -> bool:
    length, _, _, opcode = _HEADER.unpack(_read_exactly(connection, _HEADER.size))
    if opcode != _OP_MSG or not _HEADER.size < length <= _MAX_REPLY:
        raise ValueError("not an OP_MSG reply")
    body = _read_exactly(connection, length - _HEADER.size)
    return bool(bson.decode(body[len(_BODY_PREFIX) :]).get("ok") == 1)


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise EOFError("the server closed the connection")
        data += chunk
    return data
