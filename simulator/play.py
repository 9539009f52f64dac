"""Plays a script on a connection and keeps the tally entry up to date while doing so."""

from __future__ import annotations

import time

from simulator.gates import Gates
from simulator.script import At, Close, Data, End, Head, Raw, Reset, Script, Sleep, Stall, Wait
from simulator.tally import CLIENT_GONE, CUT, FINISHED, Entry
from simulator.wire import PeerGoneError, Wire

_GATE_POLL_S = 0.005


class _Over(Exception):
    """The script closed the connection."""


class Player:
    """One play of one script."""

    def __init__(self, wire: Wire, entry: Entry, gates: Gates) -> None:
        self._wire = wire
        self._entry = entry
        self._gates = gates
        self._held = b""
        self._framing = "none"
        self._complete = False
        self._started = time.monotonic()

    def play(self, script: Script) -> tuple[str, bool]:
        """Run all steps; return how it ended (a tally ``end``) and whether the connection may be kept."""
        out_before = self._wire.bytes_out
        try:
            for step in script.steps:
                self._step(step)
            self._flush()
        except PeerGoneError:
            return CLIENT_GONE, False
        except _Over:
            return (CUT if script.cut or not self._complete else FINISHED), False
        finally:
            self._entry.bytes_out += self._wire.bytes_out - out_before
        keep = self._complete if script.keep_alive is None else script.keep_alive
        return (CUT if script.cut else FINISHED), keep

    def _step(self, step: object) -> None:
        match step:
            case Data():
                self._data(step)
            case Raw():
                self._write(step.data, step)
            case At():
                self._flush()
                self._wire.pause(max(0.0, self._started + step.seconds - time.monotonic()))
            case Head():
                self._head(step)
            case End():
                if self._framing == "chunked" and not step.written:
                    self._write(b"0\r\n\r\n", None)
                self._complete = self._framing in ("chunked", "length")
            case _:
                self._flush()
                self._rest(step)

    def _rest(self, step: object) -> None:
        match step:
            case Sleep():
                self._wire.pause(step.seconds)
            case Wait():
                self._gates.arrive(step.name)
                while not self._gates.is_open(step.name):
                    # Hundreds that look every moment would leave no time for those that are yet to arrive.
                    self._wire.pause(_GATE_POLL_S * (1 + self._gates.arrived(step.name) // 20))
            case Close():
                self._wire.finish()
                raise _Over
            case Reset():
                self._wire.reset()
                raise _Over
            case Stall():
                self._wire.pause(None)

    def _head(self, head: Head) -> None:
        self._framing = head.framing
        self._held += head.render(self._entry.request_id)
        if head.status >= 200:
            self._entry.status = head.status
        if head.flush:
            self._flush()

    def _data(self, step: Data) -> None:
        data = step.data
        if self._framing == "chunked":
            if not data:
                return
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._write(data, step)

    def _write(self, data: bytes, step: Data | Raw | None) -> None:
        if not self._entry.status and data.startswith(b"HTTP/1.") and data[9:12].isdigit():
            status = int(data[9:12])
            self._entry.status = status if status >= 200 else 0
        data, self._held = self._held + data, b""
        if step is None:
            self._wire.send(data)
            return
        self._wire.send(data, step.per_send, step.gap_s)
        self._entry.chunks += step.events
        if step.announces is not None:
            self._entry.announced = step.announces

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._wire.send(held)
