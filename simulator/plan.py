"""From parts (events, or one plain body) to a script: headers, framing, coding, pacing, granularity."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.call import ANTHROPIC
from simulator.coding import encode_parts
from simulator.events import Event
from simulator.grammar import Options
from simulator.script import At, Data, End, Head, Raw, Script, Sleep, Step, Wait
from simulator.tokens import Tokens

_FIXED_DATE = "Mon, 21 Sep 2026 14:13:20 GMT"
_EDGE = (
    ("Date", _FIXED_DATE),
    ("Server", "cloudflare"),
    ("CF-RAY", "8f00000000000000-SIM"),
    ("Set-Cookie", "__cf_bm=simulated; path=/; HttpOnly"),
    ("Strict-Transport-Security", "max-age=31536000"),
    ("Alt-Svc", 'h3=":443"; ma=86400'),
)
_OPENAI = (
    ("x-request-id", "{request_id}"),
    ("openai-organization", "org-sim"),
    ("openai-processing-ms", "12"),
    ("x-ratelimit-limit-requests", "10000"),
    ("x-ratelimit-remaining-requests", "9999"),
    ("x-ratelimit-reset-requests", "6ms"),
)
_ANTHROPIC = (
    ("request-id", "{request_id}"),
    ("anthropic-organization-id", "org-sim"),
    ("anthropic-ratelimit-requests-limit", "4000"),
    ("anthropic-ratelimit-requests-remaining", "3999"),
    ("anthropic-ratelimit-requests-reset", "2026-09-21T14:14:20Z"),
)

SSE = "text/event-stream; charset=utf-8"
JSON = "application/json"


def base_headers(wire_format: str, content_type: str) -> list[tuple[str, str]]:
    """Return the headers a provider behind a front proxy sends; most of them are not for the end client."""
    specific = _ANTHROPIC if wire_format == ANTHROPIC else _OPENAI
    cache = [("Cache-Control", "no-cache")] if content_type == SSE else []
    return [("Content-Type", content_type), *cache, *specific, *_EDGE]


def _sliced(parts: list[Event], size: int) -> list[Event]:
    """Cut each part into slices of at most ``size`` bytes (0: not at all); the last slice tells the usage."""
    if not size:
        return parts
    slices: list[Event] = []
    for data, told in parts:
        last = max(len(data) - 1, 0) // size * size
        slices += [Event(data[i : i + size]) for i in range(0, last, size)]
        slices.append(Event(data[last:], told))
    return slices


@dataclass(slots=True)
class Plan:
    """An answer about to become a script. Faults change it; `script` lowers it to steps."""

    format: str
    options: Options
    content_type: str
    parts: list[Event]
    tokens: Tokens | None = None
    status: int = 200
    extra_headers: list[tuple[str, str]] = field(default_factory=list)
    before: tuple[Step, ...] = ()
    ending: tuple[Step, ...] = (End(),)
    half_part: bytes = b""
    missing: int = 0
    length_error: int = 0
    cut: bool = False
    keep_alive: bool | None = None

    @property
    def streamed(self) -> bool:
        """Whether the parts are events."""
        return self.content_type == SSE

    @property
    def framing(self) -> str:
        """``chunked``, ``length`` or ``close``."""
        options = self.options
        if options.framing != "auto":
            return options.framing
        if options.http == "1.0":
            return "close"
        return "chunked" if self.streamed and not self.length_error else "length"

    def head(self, length: int | None = None) -> Head:
        """Make status line and headers."""
        headers = base_headers(self.format, self.content_type)
        if self.options.encoding != "identity":
            headers.append(("Content-Encoding", self.options.encoding))
        headers += self.extra_headers
        version = f"HTTP/{self.options.http}"
        return Head(self.status, tuple(headers), self.framing, length, version, flush=self.options.paced)

    def script(self) -> Script:
        """Make the steps. ``missing`` bytes are promised by a Content-Length and never sent."""
        options = self.options
        parts = _sliced(encode_parts(self.parts, options.encoding), options.rechunk)
        length = sum(len(part.data) for part in parts) + len(self.half_part) + self.missing
        head = self.head(length + self.length_error if self.framing == "length" else None)
        steps: list[Step] = list(self.before)
        if options.first_ms:
            steps.append(Sleep(options.first_ms / 1000))
        if options.hold:
            steps.append(Wait(options.hold))
        steps.append(head)
        steps += self._paced(parts) if options.paced else self._burst(parts)
        steps += self._half()
        return Script((*steps, *self.ending), self.tokens, self.cut, self.keep_alive)

    def _paced(self, parts: list[Event]) -> list[Step]:
        options = self.options
        steps: list[Step] = []
        start = (options.first_ms + options.ttft_ms) / 1000
        gate_at = min(max(options.after, 0), len(parts)) if options.gate else -1
        for index, (data, announces) in enumerate(parts):
            if index == gate_at:
                steps.append(Wait(options.gate))
            at = start + index * options.delay_ms / 1000
            if at > 0:
                steps.append(At(at))
            steps.append(Data(data, options.per_send, options.gap_ms / 1000, 1, announces))
        if gate_at == len(parts):
            steps.append(Wait(options.gate))
        return steps

    def _burst(self, parts: list[Event]) -> list[Step]:
        """Write all parts at once; what a reader of all of them knows is what the last usage said."""
        if not parts:
            return []
        told = next((part.announces for part in reversed(parts) if part.announces is not None), None)
        if self.framing == "chunked":
            data = b"".join([b"%x\r\n%b\r\n" % (len(part.data), part.data) for part in parts])
        else:
            data = b"".join([part.data for part in parts])
        if self.ending == (End(),) and not self.half_part and self.framing == "chunked":
            self.ending = ()
            return [Raw(data + b"0\r\n\r\n", events=len(parts), announces=told), End(written=True)]
        return [Raw(data, events=len(parts), announces=told)]

    def _half(self) -> list[Step]:
        if not self.half_part:
            return []
        if self.framing == "chunked":
            size = len(self.half_part) + self.missing
            return [Raw(b"%x\r\n%b" % (size, self.half_part), self.options.per_send)]
        return [Raw(self.half_part, self.options.per_send)]
