"""Clients that mean no good: how one asks and listens, and a tally of what a kind of attack has got."""

import json
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import Any

import gevent

from drill.mix import CHAT, Caller, next_number
from drill.wire import Answer, AnswerReader, Ending

UPSTREAM_KEYS = b"sk-drill-upstream"
"""What the keys of every drill's upstream begin with."""

_STEP_TIMEOUT_S = 30.0
_PAUSE_S = 0.05


@dataclass(slots=True)
class Haul:
    """What one kind of attack tried and got.

    `answers` are the ids of whole answers with status 200 to requests that cost money; `dropped` counts
    what was asked on connections that ended without an answer, `leaks` answers with an upstream key in them.
    """

    name: str
    tried: int = 0
    dropped: int = 0
    leaks: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[str] = field(default_factory=list)

    def note(self, answer: Answer, *, costs: bool) -> None:
        """Count an answer, or that there was none."""
        if not answer.status:
            self.dropped += 1
            return
        self.statuses[answer.status] += 1
        self.leaks += UPSTREAM_KEYS in answer.body
        if costs and answer.status == 200 and answer.ending is Ending.WHOLE and answer.request_id:
            self.answers.append(answer.request_id)


@dataclass(slots=True)
class Attack:
    """One kind of attack under way: whom it is played against, until when, and what it has got."""

    port: int
    random: Random
    until: float
    haul: Haul

    @property
    def is_over(self) -> bool:
        """Whether it has to end."""
        return time.monotonic() >= self.until

    def connect(self) -> socket.socket:
        """Open a connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=_STEP_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def ask(self, wire: bytes) -> None:
        """Ask for an answer that costs money, on a connection of its own."""
        answer = Answer()
        self.haul.tried += 1
        try:
            with closing(self.connect()) as sock:
                sock.sendall(wire)
                AnswerReader(sock, is_stream=False).read(answer, None)
        except OSError:
            gevent.sleep(_PAUSE_S)
        self.haul.note(answer, costs=True)

    def flood(self, wires: Iterable[bytes], *, at_once: int = 1) -> None:
        """Ask on one connection as fast as the answers come, and on another when it ends."""
        endless = iter(wires)
        while not self.is_over:
            try:
                with closing(self.connect()) as sock:
                    reader = AnswerReader(sock, is_stream=False)
                    while not self.is_over and self._asked(sock, reader, next(endless), at_once):
                        gevent.sleep(0)
            except OSError:
                gevent.sleep(_PAUSE_S)

    def _asked(self, sock: socket.socket, reader: AnswerReader, wire: bytes, at_once: int) -> bool:
        self.haul.tried += at_once
        left = at_once
        try:
            sock.sendall(wire * at_once)
            while left:
                answer = Answer()
                reader.read(answer, None)
                if not answer.status:
                    return False
                left -= 1
                self.haul.note(answer, costs=False)
        finally:
            self.haul.dropped += left
        return True

    def hold(self, first: bytes, more: bytes, every_s: float) -> None:
        """Keep a connection: send what it begins with, then a little at a time; open another when it ends."""
        while not self.is_over:
            answer = Answer()
            self.haul.tried += 1
            try:
                with closing(self.connect()) as sock:
                    sock.sendall(first)
                    sock.settimeout(every_s)
                    while not self.is_over and not _has_more(sock):
                        sock.sendall(more)
                    if not self.is_over:
                        sock.settimeout(_STEP_TIMEOUT_S)
                        AnswerReader(sock, is_stream=False).read(answer, None)
            except OSError:
                gevent.sleep(_PAUSE_S)
            self.haul.note(answer, costs=False)


def _has_more(sock: socket.socket) -> bool:
    """Return whether an answer, or the end of the connection, comes within the socket's time."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def head(key: str | None, path: str = CHAT, *fields: str, is_post: bool = True, length: int = -1) -> bytes:
    """Write a request's head; `length` is that of a JSON body, if there is one."""
    lines = [f"{'POST' if is_post else 'GET'} {path} HTTP/1.1", "Host: weir.drill", *fields]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    if length >= 0:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(caller: Caller, body: bytes, path: str = CHAT, *fields: str) -> bytes:
    """Write a request with a body as it is."""
    return head(caller.key, path, *fields, length=len(body)) + body


def body_of(model: str, play: str, content: str = "", more: Mapping[str, Any] | None = None) -> bytes:
    """Write a body, with `more` members: `play` is what the simulator makes of it (`mix.make_request`)."""
    is_messages = model.startswith("claude")
    told = {"metadata": {"user_id": f"sim:{play}"}} if is_messages else {"user": f"sim:{play}"}
    text = f"hostile {next_number()} {content}"
    members = {"model": model, "messages": [{"role": "user", "content": text}], **told, **(more or {})}
    return json.dumps(members, separators=(",", ":")).encode()
