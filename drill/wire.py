"""The load client's side of one request: raw bytes out, and an honest word on what came back."""

import re
import socket
from dataclasses import dataclass
from enum import Enum
from time import monotonic

from drill.mix import Request

_TIMEOUT_S = 60.0
_RECV = 64 * 1024
_OUTPUT = re.compile(rb'"(?:completion_tokens|output_tokens)": ?(\d+)')
_TERMINATORS = (b"data: [DONE]", b'"message_stop"')


class Ending(Enum):
    """How far an answer came."""

    WHOLE = "whole"
    CUT = "cut"
    NONE = "none"
    REFUSED = "refused"
    LEFT = "left"

    def __repr__(self) -> str:
        return self.value


@dataclass(slots=True)
class Answer:
    """What the client got; `output_tokens` is the last count it saw, times are monotonic seconds.

    `REFUSED` means that there was no connection, so no request; `LEFT` that the client left on purpose.
    """

    ending: Ending = Ending.REFUSED
    status: int = 0
    request_id: str | None = None
    output_tokens: int | None = None
    body: bytes = b""
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """From before the connection to the end of the answer."""
        return self.ended - self.began


def ask(port: int, request: Request, *, leave_after: int | None = None) -> Answer:
    """Send one request on a connection of its own; the client leaves after `leave_after` chunks."""
    answer = Answer(began=monotonic())
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
            answer.ending = Ending.NONE
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request.wire)
            AnswerReader(connection, request.is_stream).read(answer, leave_after)
    except OSError:
        # Reset, or silence for too long: what was read until then is what counts.
        if answer.ending is Ending.NONE and answer.status:
            answer.ending = Ending.CUT
    answer.ended = monotonic()
    return answer


class AnswerReader:
    """Reads the answers of a connection, one after the other."""

    def __init__(self, connection: socket.socket, is_stream: bool) -> None:
        self._connection = connection
        self._is_stream = is_stream
        self._buffer = b""

    def read(self, answer: Answer, leave_after: int | None) -> None:
        """Fill in the answer; nothing comes of it if there is none. Raises OSError."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                return
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer.status = int(status_line.split(" ")[1])
        answer.request_id = headers.get("x-request-id")
        answer.ending = Ending.CUT
        pieces: list[bytes] = []
        try:
            if "transfer-encoding" in headers:
                is_framed = self._read_chunks(pieces, leave_after)
            else:
                is_framed = self._read_length(pieces, int(headers.get("content-length", "0")))
        finally:
            answer.body = b"".join(pieces)
            counts = _OUTPUT.findall(answer.body)
            answer.output_tokens = int(counts[-1]) if counts else None
        if leave_after is not None and not is_framed and len(pieces) >= leave_after:
            answer.ending = Ending.LEFT
        elif is_framed and (not self._is_stream or answer.status != 200 or _is_terminated(answer.body)):
            answer.ending = Ending.WHOLE

    def _read_chunks(self, pieces: list[bytes], leave_after: int | None) -> bool:
        while leave_after is None or len(pieces) < leave_after:
            while b"\r\n" not in self._buffer:
                if not self._fill():
                    return False
            size_text, _, self._buffer = self._buffer.partition(b"\r\n")
            size = int(size_text, 16)
            while len(self._buffer) < size + 2:
                if not self._fill():
                    pieces.append(self._buffer[:size])
                    return False
            pieces.append(self._buffer[:size])
            self._buffer = self._buffer[size + 2 :]
            if not size:
                return True
        return False

    def _read_length(self, pieces: list[bytes], length: int) -> bool:
        while len(self._buffer) < length:
            if not self._fill():
                pieces.append(self._buffer)
                return False
        pieces.append(self._buffer[:length])
        self._buffer = self._buffer[length:]
        return True

    def _fill(self) -> bool:
        data = self._connection.recv(_RECV)
        self._buffer += data
        return bool(data)


def _is_terminated(body: bytes) -> bool:
    return any(mark in body for mark in _TERMINATORS)
