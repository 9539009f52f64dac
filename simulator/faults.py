"""Built-in faults: what can go wrong with an answer, by name. `FAULTS` is the documented, closed set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from simulator.call import ANTHROPIC, Call
from simulator.errors import anthropic_type, error_body
from simulator.events import DONE, Event
from simulator.plan import Plan
from simulator.script import Close, End, Raw, Reset, Sleep, Stall

Breaker = Callable[[Plan, Call], None]

_RESET_DELAY_S = 0.05
_ENDLESS_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what it does, for the documentation, and the function that does it to a plan."""

    doc: str
    apply: Breaker


FAULTS: dict[str, Fault] = {}


def _fault(doc: str, name: str = "") -> Callable[[Breaker], Breaker]:
    def register(function: Breaker) -> Breaker:
        FAULTS[name or function.__name__.lstrip("_")] = Fault(doc, function)
        return function

    return register


def _split_at(plan: Plan, call: Call) -> tuple[bytes, bytes]:
    """Keep the first ``after`` parts; return the next one cut in halves. Default: half of the parts."""
    after = call.options.after if call.options.after >= 0 else len(plan.parts) // 2
    rest = plan.parts[after:]
    lost = sum(len(part.data) for part in rest)
    plan.parts = plan.parts[:after]
    plan.cut = True
    plan.missing = lost
    data = rest[0].data if rest else b""
    middle = len(data) // 2
    return data[:middle], data[middle:]


# -- endings ----------------------------------------------------------------------------------------------


@_fault("closes between events after `after` of them, without the last chunk (plain: short body)")
def _cut(plan: Plan, call: Call) -> None:
    first, _ = _split_at(plan, call)
    if not plan.streamed and not plan.parts and plan.framing != "chunked":
        plan.half_part, plan.missing = first, plan.missing - len(first)
    plan.ending = (Close(),)


@_fault("closes inside an event, after a whole HTTP chunk")
def _cut_mid_event(plan: Plan, call: Call) -> None:
    first, _ = _split_at(plan, call)
    plan.parts.append(Event(first))
    plan.missing -= len(first)
    plan.ending = (Close(),)


@_fault("closes inside an HTTP chunk: its size line promises more than is sent")
def _cut_mid_chunk(plan: Plan, call: Call) -> None:
    first, second = _split_at(plan, call)
    plan.half_part = first
    plan.missing = len(second) if plan.framing == "chunked" else plan.missing - len(first)
    plan.ending = (Close(),)


@_fault("ends cleanly (last chunk and all) after `after` events, before any terminator")
def _eof(plan: Plan, call: Call) -> None:
    first, _ = _split_at(plan, call)
    if not plan.streamed:
        plan.parts.append(Event(first))
    plan.missing = 0


@_fault("ends cleanly inside an event")
def _eof_mid_event(plan: Plan, call: Call) -> None:
    first, _ = _split_at(plan, call)
    plan.parts.append(Event(first))
    plan.missing = 0


@_fault("resets the connection (RST) after `after` events, 50 ms after the last byte")
def _reset(plan: Plan, call: Call) -> None:
    _split_at(plan, call)
    plan.ending = (Sleep(_RESET_DELAY_S), Reset())


@_fault("goes silent after `after` events until the client leaves")
def _stall(plan: Plan, call: Call) -> None:
    _split_at(plan, call)
    plan.ending = (Stall(),)


@_fault("sends a chunk size that is no number after `after` events")
def _bad_chunk(plan: Plan, call: Call) -> None:
    _split_at(plan, call)
    plan.ending = (Raw(b"zz\r\nno such chunk\r\n"), Close())


# -- events -----------------------------------------------------------------------------------------------


@_fault("the format's own error event after `after` events, then a clean end")
def _error_event(plan: Plan, call: Call) -> None:
    _split_at(plan, call)
    plan.missing = 0
    if call.format == ANTHROPIC:
        error = {"type": anthropic_type(529), "message": "Overloaded"}
        body = msgspec.json.encode({"type": "error", "error": error, "request_id": "req_sim"})
        plan.parts.append(Event(b"event: error\ndata: " + body + b"\n\n"))
    elif call.endpoint == "responses":
        flat = {"type": "error", "code": "server_error", "message": "The model failed", "param": None}
        plan.parts.append(Event(b"event: error\ndata: " + msgspec.json.encode(flat) + b"\n\n"))
    else:
        plan.parts.append(_error_data(500))


@_fault('`data: {"error":…}` without an event name, in either format, then a clean end')
def _error_chunk(plan: Plan, call: Call) -> None:
    _split_at(plan, call)
    plan.missing = 0
    plan.parts.append(_error_data(500))


def _error_data(status: int) -> Event:
    return Event(b"data: " + error_body("openai", status) + b"\n\n")


@_fault("one event of broken JSON after `after` events; the rest follows")
def _bad_json(plan: Plan, call: Call) -> None:
    after = call.options.after if call.options.after >= 0 else len(plan.parts) // 2
    name = b"event: content_block_delta\n" if call.format == ANTHROPIC else b""
    plan.parts.insert(after, Event(name + b'data: {"broken": \n\n'))


@_fault("everything but the terminator ([DONE], message_stop), then a clean end")
def _no_done(plan: Plan, call: Call) -> None:
    plan.parts.pop()


@_fault("no finish reason, no terminator, and the last event (usage) lacks its blank line; clean end")
def _no_blank(plan: Plan, call: Call) -> None:
    plan.cut = True
    plan.parts = [part for part in plan.parts[:-1] if b'"finish_reason":"' not in part.data]
    last = plan.parts[-1]
    plan.parts[-1] = last._replace(data=last.data[:-2])


@_fault("an HTML fragment after the terminator")
def _garbage_after_done(plan: Plan, call: Call) -> None:
    plan.parts.append(Event(b"<html><body>502 Bad Gateway</body></html>\n"))


@_fault("the terminator twice", "double_done")
def _double_done(plan: Plan, call: Call) -> None:
    plan.parts.append(Event(DONE) if call.format != ANTHROPIC else plan.parts[-1])


@_fault("`size` bytes (default 40 MB) of one data line without a newline before the first event")
def _endless_line(plan: Plan, call: Call) -> None:
    block = b"x" * _ENDLESS_BLOCK
    size = call.options.size or 40_000_000
    blocks, rest = divmod(size, _ENDLESS_BLOCK)
    line = [Event(b'data: {"pad":"'), *([Event(block)] * blocks), Event(block[:rest] + b'"}\n\n')]
    plan.parts = [*line, *plan.parts]
    plan.options = replace(plan.options, flush=True)


# -- headers and framing ----------------------------------------------------------------------------------


@_fault("`Connection: x-foo` and the header it names")
def _x_foo(plan: Plan, call: Call) -> None:
    plan.extra_headers += [("Connection", "x-foo"), ("X-Foo", "for the next hop only")]


@_fault("says `Content-Encoding: gzip` over a plain body")
def _gzip_lie(plan: Plan, call: Call) -> None:
    plan.options = replace(plan.options, encoding="identity")
    plan.extra_headers.append(("Content-Encoding", "gzip"))


@_fault("Content-Length ten bytes longer than the body, then close")
def _long_length(plan: Plan, call: Call) -> None:
    plan.length_error = 10
    plan.ending = (Close(),)
    plan.cut = True


@_fault("Content-Length ten bytes shorter than the body, then close")
def _short_length(plan: Plan, call: Call) -> None:
    plan.length_error = -10
    plan.ending = (Close(),)
    plan.cut = True


@_fault("`Transfer-Encoding: chunked` twice")
def _double_te(plan: Plan, call: Call) -> None:
    plan.options = replace(plan.options, framing="chunked")
    plan.extra_headers.append(("Transfer-Encoding", "chunked"))


@_fault("Content-Length beside Transfer-Encoding")
def _both_framings(plan: Plan, call: Call) -> None:
    plan.options = replace(plan.options, framing="chunked")
    plan.extra_headers.append(("Content-Length", "5"))


@_fault("a header of 200 kB")
def _huge_header(plan: Plan, call: Call) -> None:
    plan.extra_headers.append(("X-Huge", "h" * 200_000))


@_fault("103 Early Hints before the answer")
def _early_hints(plan: Plan, call: Call) -> None:
    plan.before = (Raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"),)


@_fault("a trailer after the last chunk")
def _trailers(plan: Plan, call: Call) -> None:
    plan.options = replace(plan.options, framing="chunked", flush=True)
    plan.ending = (Raw(b"0\r\nX-Trailer: 1\r\n\r\n"), End(written=True))


@_fault("a whole answer, then the connection closes without having said so")
def _silent_close(plan: Plan, call: Call) -> None:
    plan.keep_alive = False


@_fault("text/html as the content type of a good answer")
def _html_type(plan: Plan, call: Call) -> None:
    plan.content_type = "text/html; charset=UTF-8"
