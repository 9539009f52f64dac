"""Scripts: an answer as a list of steps, each with full control of the bytes, the timing and the ending."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from simulator.tokens import Tokens

Headers = Sequence[tuple[str, str]]

FRAMINGS = ("chunked", "length", "close", "none")


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers. Later `Data` follows ``framing``.

    ``chunked``: each `Data` is one chunk, `End` writes the last one. ``length``: the caller gives the
    Content-Length among the headers, or ``length`` does. ``close``: the body ends with the connection.
    ``none``: no framing header is added and no chunk framing done. With ``flush`` false the bytes wait for
    the next step that writes. A header value may hold ``{request_id}``.
    """

    status: int = 200
    headers: Headers = ()
    framing: str = "chunked"
    length: int | None = None
    version: str = "HTTP/1.1"
    reason: str | None = None
    flush: bool = True

    def render(self, request_id: str) -> bytes:
        """Write the bytes, including the blank line."""
        lines = [f"{self.version} {self.status} {self.reason or _reason(self.status)}"]
        lines += [f"{name}: {value.replace('{request_id}', request_id)}" for name, value in self.headers]
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif self.framing == "length" and self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        elif self.framing == "close":
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass(frozen=True, slots=True)
class Data:
    """Body bytes in the framing of the last `Head`; ``per_send`` bytes per system call, ``gap_s`` apart."""

    data: bytes
    per_send: int = 0
    gap_s: float = 0.0
    events: int = 1
    announces: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """Exactly these bytes, whatever the framing."""

    data: bytes
    per_send: int = 0
    gap_s: float = 0.0
    events: int = 0
    announces: Tokens | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The end the framing asks for: the last chunk if chunked (unless ``written`` already), else nothing."""

    written: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class At:
    """Wait until ``seconds`` after the script began: lateness of one step does not delay the next."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until the gate ``name`` is opened (`Simulator.open_gate`)."""

    name: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close in order (FIN) and end the script."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Close with RST (SO_LINGER 0) and end the script."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Keep the connection open and silent until the client leaves."""


Step = Head | Data | Raw | End | Sleep | At | Wait | Close | Reset | Stall


@dataclass(frozen=True, slots=True)
class Script:
    """A whole answer. After the last step the connection is kept if the framing was completed, else closed.

    ``tokens``: what the tally says was spent. ``cut``: the tally calls a full play ``cut``, not ``finished``.
    ``keep_alive``: keep the connection (True) or close it (False) whatever was sent.
    """

    steps: tuple[Step, ...]
    tokens: Tokens | None = None
    cut: bool = False
    keep_alive: bool | None = None

    @property
    def size(self) -> int:
        """Bytes the steps carry, headers not counted."""
        return sum(len(step.data) for step in self.steps if isinstance(step, Data | Raw))

    @classmethod
    def of(cls, *steps: Step, tokens: Tokens | None = None, cut: bool = False) -> Script:
        """Make a script of these steps."""
        return cls(steps, tokens=tokens, cut=cut)

    @classmethod
    def raw(
        cls, data: bytes, *, per_send: int = 0, tokens: Tokens | None = None, cut: bool = False
    ) -> Script:
        """Send exactly these bytes, from the status line on, then close."""
        return cls((Raw(data, per_send, announces=tokens),), tokens=tokens, cut=cut)

    @classmethod
    def body(
        cls,
        data: bytes,
        *,
        status: int = 200,
        content_type: str = "application/json",
        headers: Headers = (),
        tokens: Tokens | None = None,
    ) -> Script:
        """Send a plain answer with Content-Length."""
        head = Head(status, (("Content-Type", content_type), *headers), "length", len(data), flush=False)
        return cls((head, Data(data, announces=tokens), End()), tokens=tokens)

    @classmethod
    def sse(
        cls,
        events: Iterable[bytes],
        *,
        headers: Headers = (),
        per_send: int = 0,
        end: bool = True,
        tokens: Tokens | None = None,
    ) -> Script:
        """Send a chunked event stream, one chunk per item; ``end=False`` closes without the last chunk."""
        head = Head(200, (("Content-Type", "text/event-stream; charset=utf-8"), *headers), "chunked")
        data = [Data(event, per_send) for event in events]
        if tokens is not None and data:
            data[-1] = replace(data[-1], announces=tokens)
        return cls((head, *data, End() if end else Close()), tokens=tokens, cut=not end)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"


_BYTE_STEPS: dict[str, type[Data] | type[Raw]] = {"data": Data, "raw": Raw}
_NAMED_STEPS: dict[str, type[Close] | type[Reset] | type[Stall]] = {
    "close": Close,
    "reset": Reset,
    "stall": Stall,
}


def script_from_json(document: Mapping[str, Any]) -> Script:
    """Build a script from its JSON form (`script_to_json`); raises `ValueError` naming a mistake."""
    steps = tuple(_step_from_json(item) for item in document["steps"])
    tokens = document.get("tokens")
    return Script(
        steps,
        tokens=Tokens(**tokens) if tokens else None,
        cut=bool(document.get("cut", False)),
        keep_alive=document.get("keep_alive"),
    )


def _step_from_json(item: Mapping[str, Any]) -> Step:
    fields = dict(item)
    kind = fields.pop("do", None)
    try:
        if kind == "head":
            fields["headers"] = tuple((str(name), str(value)) for name, value in fields.get("headers", ()))
            if fields.get("framing", "chunked") not in FRAMINGS:
                raise ValueError(f"framing is one of {', '.join(FRAMINGS)}")
            return Head(**fields)
        if kind in _BYTE_STEPS:
            text, encoded = fields.pop("text", ""), fields.pop("base64", None)
            data = base64.b64decode(encoded) if encoded is not None else text.encode()
            announces = fields.pop("announces", None)
            return _BYTE_STEPS[kind](
                data=data, announces=Tokens(**announces) if announces else None, **fields
            )
        if kind in ("sleep", "at"):
            return (Sleep if kind == "sleep" else At)(float(fields["seconds"]))
        if kind == "wait":
            return Wait(str(fields["name"]))
        if kind == "end":
            return End(bool(fields.get("written", False)))
        if kind in _NAMED_STEPS:
            return _NAMED_STEPS[kind]()
    except (TypeError, KeyError) as error:
        raise ValueError(f"bad step {item!r}: {error}") from error
    raise ValueError(f"unknown step {kind!r}")


def script_to_json(script: Script) -> dict[str, Any]:
    """Return the JSON form of a script: what `POST /_sim/scripts` takes."""
    return {
        "steps": [_step_to_json(step) for step in script.steps],
        "tokens": script.tokens.as_dict() if script.tokens else None,
        "cut": script.cut,
        "keep_alive": script.keep_alive,
    }


def _step_to_json(step: Step) -> dict[str, Any]:
    document: dict[str, Any] = {"do": type(step).__name__.lower()}
    for name in step.__slots__:
        value = getattr(step, name)
        if name == "data":
            document["base64"] = base64.b64encode(value).decode()
        elif isinstance(value, Tokens):
            document[name] = value.as_dict()
        else:
            document[name] = value
    return document
