"""Streams that the upstream cuts at every byte, and clients that leave at every event."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from gevent.pool import Pool

from drill.books import read_records
from drill.mix import CHAT, MESSAGES, Request, make_request
from drill.prices import recorded_tokens
from drill.report import Findings
from drill.stage import Drill, Stage
from drill.wire import Ending
from simulator import Close, Data, End, Head, Script, Step, Tokens

_AT_ONCE = 8
_EVENTS = 8
# Within this many bytes before an event's end only its blank line is missing: either reading will do.
_FORGIVEN = 2

_CHAT = (
    (b'data: {"choices":[{"index":0,"delta":{"content":"Good"}}]}\n\n', None),
    (b'data: {"choices":[{"index":0,"delta":{"content":" day \xe2\x82\xac"}}]}\n\n', None),
    (b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n', None),
    (
        b'data: {"choices":[],"usage":{"prompt_tokens":120,"completion_tokens":7,'
        b'"prompt_tokens_details":{"cached_tokens":20}}}\n\n',
        Tokens(fresh=100, cache_read=20, output=7),
    ),
    (b"data: [DONE]\n\n", None),
)
_MESSAGES = (
    (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","role":"assistant",'
        b'"usage":{"input_tokens":50,"cache_read_input_tokens":9,"output_tokens":1}}}\n\n',
        Tokens(fresh=50, cache_read=9, output=1),
    ),
    (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"Hi \xe2\x82\xac"}}\n\n',
        None,
    ),
    (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
        b'"usage":{"output_tokens":12}}\n\n',
        Tokens(fresh=50, cache_read=9, output=12),
    ),
    (b'event: message_stop\ndata: {"type":"message_stop"}\n\n', None),
)
# This many events make a stream whole, in either format, if the upstream ends it in order.
_FINISH = 3


@dataclass(frozen=True, slots=True)
class _Cut:
    """A stream cut after `at` bytes: in order (a clean end of the body) or not. Its fair outcomes."""

    path: str
    at: int
    in_order: bool

    @property
    def events(self) -> tuple[tuple[bytes, Tokens | None], ...]:
        return _CHAT if self.path == CHAT else _MESSAGES

    @property
    def outcomes(self) -> set[str]:
        """What the record may say, by the documented rules."""
        needed = self.events[:_FINISH] if self.in_order else self.events
        whole = sum(len(data) for data, _ in needed)
        if self.at >= whole:
            return {"ok"}
        if self.at >= whole - _FORGIVEN:
            return {"ok", "upstream_truncated"}
        broken = {"upstream_truncated"}
        return broken if self.at else broken | {"upstream_unreachable", "upstream_error"}

    @property
    def is_finished(self) -> bool:
        """Whether the answer had come to its end: what it used is estimated then, if nothing tells it."""
        return self.at >= sum(len(data) for data, _ in self.events[:_FINISH]) - _FORGIVEN

    @property
    def usages(self) -> list[Tokens]:
        """The last count that is whole in what was sent; two of them where only a blank line is missing."""
        told, at = [Tokens()], 0
        for data, tokens in self.events:
            at += len(data)
            if tokens is not None and self.at >= at - _FORGIVEN:
                told.append(tokens)
                is_sure = self.at >= at
                told = told[-1:] if is_sure else told[-2:]
        return told

    def script(self) -> Script:
        """Return the answer: each event announces itself only when it is sent whole."""
        headers = (("Content-Type", "text/event-stream"), ("x-request-id", "{request_id}"))
        more = (("request-id", "{request_id}"),)
        steps: list[Step] = [Head(200, headers + more, "chunked", flush=True)]
        left = self.at
        for data, tokens in self.events:
            if left > 0:
                is_whole = left >= len(data)
                steps.append(Data(data[:left], announces=tokens if is_whole else None))
            left -= len(data)
        steps.append(End() if self.in_order else Close())
        return Script.of(*steps, cut=not self.in_order)


def cuts(drill: Drill) -> Findings:
    """Cut answers: each cut and departure leaves one record, with the right outcome and the tokens told."""
    findings = Findings("cuts")
    with drill.stage("cuts", users=1, ABORT_DRAIN_S="10", LOG_LEVEL="error") as stage:
        pool = Pool(_AT_ONCE)
        expected: dict[str, _Cut] = {}

        def play(cut: _Cut) -> None:
            name = stage.upstream.script(f"{cut.path[-4:]}-{cut.at}-{cut.in_order}", cut.script())
            request = _request(stage, drill.random, cut.path, name)
            expected[request.sha256] = cut
            stage.load.send(request)

        for cut in _all_cuts(drill.level.byte_step, drill.random):
            pool.spawn(play, cut)
        pool.join(raise_error=True)
        stage.console.say(f"cuts: {len(expected)} streams were cut")
        left = _leave_at_every_event(stage, drill, pool)
        stage.close_books(findings)
        records = read_records(stage.database)
        by_sha = {call.sha256: call for call in stage.load.calls}
        entries = {entry["body_sha256"]: entry for entry in stage.upstream.collect()}
        for sha256, cut in expected.items():
            record = records.get(by_sha[sha256].request_id or "")
            if record is not None:
                _check_cut(findings, cut, record)
        for sha256 in left:
            record = records.get(by_sha[sha256].request_id or "")
            if record is not None and by_sha[sha256].ending is Ending.LEFT:
                _check_left(findings, record, entries[sha256])
    findings.figures["streams cut"] = len(expected)
    findings.figures["clients gone"] = len(left)
    return findings


def _all_cuts(step: int, random: Random) -> Iterator[_Cut]:
    for path, events in ((CHAT, _CHAT), (MESSAGES, _MESSAGES)):
        length = sum(len(data) for data, _ in events)
        places = [*range(random.randrange(step), length + 1, step), length]
        for number, at in enumerate(dict.fromkeys(places)):
            if step == 1:
                yield _Cut(path, at, True)
                yield _Cut(path, at, False)
            else:
                yield _Cut(path, at, bool(number % 2))


def _request(stage: Stage, random: Random, path: str, play: str) -> Request:
    return make_request(random.choice(stage.callers), path, play, is_stream=True)


def _leave_at_every_event(stage: Stage, drill: Drill, pool: Pool) -> list[str]:
    left: list[str] = []

    def leave(path: str, after: int) -> None:
        play = f"prompt=90,out=40,chunks={_EVENTS},delay_ms=25"
        request = _request(stage, drill.random, path, play)
        left.append(request.sha256)
        stage.load.send(request, leave_after=after)

    rounds = 1 if drill.level.byte_step > 1 else 5
    for after in range(_EVENTS + 4):
        for path in (CHAT, MESSAGES) * rounds:
            pool.spawn(leave, path, after)
    pool.join(raise_error=True)
    return left


def _check_cut(findings: Findings, cut: _Cut, record: dict[str, Any]) -> None:
    outcome = record["outcome"]
    findings.expect(outcome in cut.outcomes, f"{cut}: {outcome}, not {cut.outcomes}")
    tokens = recorded_tokens(record)
    allowed = [usage.as_dict() for usage in cut.usages]
    is_estimated = record["usageSource"] == "estimate" and cut.is_finished and Tokens().as_dict() in allowed
    findings.expect(is_estimated or tokens in allowed, f"{cut}: recorded {tokens}, told {allowed}")


def _check_left(findings: Findings, record: dict[str, Any], entry: dict[str, Any]) -> None:
    """Check that the rest was read for the true usage."""
    findings.expect(record["outcome"] in ("client_abort", "ok"), f"a client left: {record['outcome']}")
    tokens = recorded_tokens(record)
    findings.expect(tokens == entry["announced"], f"a client left: {tokens}, told {entry['announced']}")
