"""A running simulator and the smallest HTTP client that shows every byte."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from simulator import Simulator

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT, MESSAGE = "/v1/chat/completions", "/v1/messages"


class Client:
    """One raw connection per request, unless `open` is used."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def open(self) -> socket.socket:
        return socket.create_connection((self.simulator.host, self.simulator.port), timeout=90)

    def request(
        self, path: str, body: Any = None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> bytes:
        """The bytes of one request."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        fields = {"Host": "x", "Authorization": "Bearer key-1", "Content-Length": str(len(data))}
        fields |= headers or {}
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in fields.items() if value),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + data

    def raw(self, path: str, body: Any = None, **more: Any) -> bytes:
        """Everything the server sends until it closes."""
        headers = {"Connection": "close", **more.pop("headers", {})}
        with self.open() as sock:
            sock.sendall(self.request(path, body, headers=headers, **more))
            return read_all(sock)

    def post(self, path: str, body: Any = None, **more: Any) -> "Answer":
        return Answer(self.raw(path, body, **more))

    def chat(self, model: str, **more: Any) -> "Answer":
        return self.post(CHAT, {"model": model, "messages": MESSAGES, **more})

    def message(self, model: str, **more: Any) -> "Answer":
        return self.post(MESSAGE, {"model": model, "max_tokens": 100, "messages": MESSAGES, **more})

    def stream(self, model: str, **more: Any) -> "Answer":
        return self.chat(model, stream=True, stream_options={"include_usage": True}, **more)


class Answer:
    """A parsed answer; `wire` has the bytes after the headers, `body` the de-chunked ones."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        head, _, self.wire = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.version, _, rest = lines[0].partition(" ")
        self.status = int(rest[:3] or 0)
        self.headers = [tuple(line.split(": ", 1)) for line in lines[1:]]
        self.fields = {name.lower(): value for name, value in self.headers}
        self.ended = True
        self.body = self.wire
        if self.fields.get("transfer-encoding") == "chunked":
            self.body, self.ended = dechunk(self.wire)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunks(self) -> list[Any]:
        """The JSON of each `data:` line, without [DONE]."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The body so far and whether the last chunk was there."""
    parts: list[bytes] = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        if size == b"zz":
            return b"".join(parts), False
        length = int(size, 16)
        if length == 0:
            return b"".join(parts), rest.endswith(b"\r\n")
        parts.append(rest[:length])
        data = rest[length + 2 :]
    return b"".join(parts), False


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Client:
    return Client(simulator)
