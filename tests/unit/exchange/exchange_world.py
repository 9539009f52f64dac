"""A gateway over scripted ports: time stands still unless told, and every record is kept."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.core.journal_format import OpenRequest
from app.core.key_choice import NoKey, Shortage
from app.core.ports import (
    ClientGone,
    CreditExhausted,
    Lease,
    Passed,
    ProviderKey,
    RateDecision,
    Reservation,
    StoreUnavailable,
    UpstreamFailure,
    UpstreamRequest,
)
from app.core.pricing import ModelTable
from app.core.principal import Balance, Principal
from app.core.records import ExchangeRecord
from app.core.request_body import Endpoint
from app.core.upstream_outcome import Finding, KeyOutcome
from app.core.wire_format import WireFormat
from app.exchange.admission import Admission
from app.exchange.attempts import AttemptLoop
from app.exchange.exchange import Answer, ClientCall
from app.exchange.handler import Gateway

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MODELS = ModelTable.from_toml(
    """
    [[models]]
    id = "gpt"
    name = "GPT"
    aliases = ["gpt-alias"]
    upstream_id = "up/gpt"
    input = 1
    output = 10

    [[models]]
    id = "other"
    name = "Other"
    input = 1
    output = 10
    """
)

CHUNK = (
    b'data: {"id":"c1","model":"up-model","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
)
USAGE = (
    b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
ANSWER = (
    b'{"id":"c1","model":"up-model","choices":[{"message":{}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":2}}'
)
COST = 9 * 1_000 + 2 * 10_000


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def utcnow(self) -> datetime:
        return NOW + timedelta(seconds=self.now - 1000)

    def new_request_id(self) -> str:
        return "unused"


class FakeSink:
    def __init__(self) -> None:
        self.records: list[ExchangeRecord] = []
        self.opened: list[OpenRequest] = []
        self.foreseen: list[ExchangeRecord] = []
        self.is_full = False

    def put(self, record: ExchangeRecord) -> bool:
        self.records.append(record)
        return True

    def accepts(self) -> bool:
        return not self.is_full

    def open(self, request: OpenRequest) -> bool:
        self.opened.append(request)
        return True

    def foresee(self, record: ExchangeRecord) -> bool:
        self.foreseen.append(replace(record))  # as it is now: its ending is still to come
        return True


@dataclass
class FakeDirectory:
    principals: dict[str, Principal]
    balances: dict[str, Balance | None] = field(default_factory=dict)
    charges: list[tuple[str, int]] = field(default_factory=list)
    is_down: bool = False
    balance_is_down: bool = False
    is_broken: bool = False

    def find(self, secret: str) -> Principal | None:
        if self.is_broken:
            raise ValueError("broken directory")
        if self.is_down:
            raise StoreUnavailable
        return self.principals.get(secret)

    def balance(self, user_id: str) -> Balance | None:
        if self.balance_is_down:
            raise StoreUnavailable
        return self.balances.get(user_id)

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        self.charges.append((user_id, nano_usd))


class FakeCredit:
    """Reserves as long as the directory's balance is positive."""

    def __init__(self, directory: FakeDirectory) -> None:
        self._directory = directory
        self.hold_nano = 0
        self.reserved: list[tuple[str, str, int]] = []
        self.released: list[Reservation] = []

    def reserve(self, user_id: str, request_id: str, estimate_nano: int) -> Reservation:
        balance = self._directory.balance(user_id)
        if balance is not None and balance.nano_usd <= 0:
            raise CreditExhausted(balance.nano_usd)
        self.reserved.append((user_id, request_id, estimate_nano))
        return Reservation(user_id, request_id, estimate_nano, self.hold_nano)

    def release(self, reservation: Reservation) -> None:
        self.released.append(reservation)


class FakeRateLimiter:
    def __init__(self) -> None:
        self.hits: list[tuple[str, int]] = []
        self.is_over = False
        self.fails: Exception | None = None

    def hit(self, key_id: str, limit: int, cost: int = 1) -> RateDecision:
        self.hits.append((key_id, limit))
        if self.fails:
            raise self.fails
        return RateDecision(not self.is_over, limit, 0 if self.is_over else limit - 1, 1234, 17)


class FakeKeys:
    """Keys in the order given, in any number of hands; `obstacle` takes the place of them all."""

    def __init__(self, *key_ids: str) -> None:
        self.keys = [ProviderKey(key_id, f"secret-of-{key_id}") for key_id in key_ids]
        self.obstacle: NoKey | None = None
        self.reports: list[tuple[str, KeyOutcome, str]] = []
        self.open: list[Lease] = []

    def acquire(self, excluding: frozenset[str]) -> Lease | NoKey:
        if (shortage := self.shortage(excluding)) is not None:
            return shortage
        lease = Lease(next(key for key in self.keys if key.key_id not in excluding), NOW)
        self.open.append(lease)
        return lease

    def shortage(self, excluding: frozenset[str]) -> NoKey | None:
        if self.obstacle is not None:
            return self.obstacle
        if any(key.key_id not in excluding for key in self.keys):
            return None
        return NoKey(Shortage.ALL_TRIED if self.keys else Shortage.NO_KEYS, {}, None)

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        assert lease in self.open
        assert request_id == "request-1"
        self.reports.append((lease.key.key_id, finding.outcome, finding.reason))

    def release(self, lease: Lease) -> None:
        self.open.remove(lease)

    @property
    def leased(self) -> int:
        return len(self.open)


class FakeWatch:
    """What the real watch does, with the throwing replaced by scripts that raise `ClientGone` themselves."""

    def __init__(self) -> None:
        self.departed = False
        self.grace: list[float] = []
        self.is_waiting = False
        self.stops = 0
        self.waits = 0
        self.resets = 0

    def waiting(self) -> None:
        self.is_waiting = True
        self.waits += 1

    def working(self) -> None:
        self.is_waiting = False

    def give(self, grace_s: float) -> None:
        self.grace.append(grace_s)

    def depart(self) -> None:
        self.departed = True

    def stop(self) -> None:
        self.stops += 1

    def reset_on_close(self) -> None:
        self.resets += 1


class FakeStream:
    """A client's connection that takes chunks past the server: in full, in part, or not at all."""

    def __init__(self, *passed: Passed) -> None:
        self.script = list(passed)
        self.taken: list[bytes] = []
        self.flushes: list[BaseException | None] = []
        self.flushed = 0

    def offer(self, chunk: bytes) -> Passed:
        passed = self.script.pop(0) if self.script else Passed.ON
        if passed is not Passed.NOT:
            self.taken.append(chunk)
        return passed

    def flush(self) -> None:
        self.flushed += 1
        error = self.flushes.pop(0) if self.flushes else None
        if error is not None:
            raise error


Step = bytes | BaseException | Callable[[], bytes]


class FakeReply:
    """An upstream answer whose reads follow a script: bytes, exceptions, or functions that give bytes."""

    def __init__(self, status: int, headers: Mapping[str, str], *steps: Step) -> None:
        self.status = status
        self.headers = headers
        self.proxy_id: str | None = None
        self._steps = list(steps)
        self.reads = 0
        self.closes = 0

    def read(self) -> bytes:
        self.reads += 1
        assert not self.closes, "read after close"
        if not self._steps:
            return b""
        step = self._steps.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    def read_passing(self, pass_on: Callable[[bytes], Passed]) -> bytes | None:
        while True:
            data = self.read()
            passed = pass_on(data) if data else Passed.NOT
            if passed is not Passed.ON:
                return data if passed is Passed.NOT else None

    def close(self) -> None:
        self.closes += 1


class FakeUpstream:
    """Gives the scripted answers in turn, and keeps what was sent."""

    def __init__(self) -> None:
        self.script: list[FakeReply | BaseException] = []
        self.sent: list[tuple[UpstreamRequest, str]] = []

    def send(self, request: UpstreamRequest, key: ProviderKey) -> FakeReply:
        self.sent.append((request, key.key_id))
        answer = self.script.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request, _ in self.sent]


class FakeObserver:
    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.settled_records: list[ExchangeRecord] = []
        self.in_flight = 0

    def opened(self) -> None:
        self.in_flight += 1

    def settled(self, record: ExchangeRecord) -> None:
        self.in_flight -= 1
        self.settled_records.append(record)

    def refused(self, reason: str) -> None:
        self.refusals[reason] += 1


class World:
    """Everything around one gateway."""

    def __init__(self, *, keys: Iterable[str] = ("k1", "k2", "k3", "k4"), max_attempts: int = 3) -> None:
        self.clock = FakeClock()
        self.sink = FakeSink()
        self.directory = FakeDirectory({"sk-ann": Principal("ann", "wk_ann")})
        self.credit = FakeCredit(self.directory)
        self.limiter = FakeRateLimiter()
        self.keys = FakeKeys(*keys)
        self.upstream = FakeUpstream()
        self.watch = FakeWatch()
        self.observer = FakeObserver()
        self.ends_by_close = False
        self.stream: FakeStream | None = None
        self.gateway = Gateway(
            admission=Admission(
                rate_limiter=self.limiter,
                directory=self.directory,
                credit=self.credit,
                models=MODELS,
                clock=self.clock,
                default_rpm=100,
                max_body_bytes=1024 * 1024,
            ),
            attempts=AttemptLoop(
                keys=self.keys, upstream=self.upstream, max_attempts=max_attempts, max_total_s=300.0
            ),
            directory=self.directory,
            credit=self.credit,
            sink=self.sink,
            clock=self.clock,
            on_client_abort="drain",
            abort_drain_s=20.0,
            default_anthropic_version="2023-06-01",
            observer=self.observer,
        )

    @property
    def record(self) -> ExchangeRecord:
        assert len(self.sink.records) == 1
        return self.sink.records[0]

    def call(
        self,
        body: bytes = b"",
        wire_format: WireFormat = WireFormat.OPENAI,
        headers: Mapping[str, str] | None = None,
    ) -> ClientCall:
        sent = {"authorization": "Bearer sk-ann"} if headers is None else headers
        return ClientCall(
            request_id="request-1",
            accepted_at=NOW,
            accepted=self.clock.now,
            path="/v1/x",
            query="beta=true",
            wire_format=wire_format,
            headers=sent,
            read_body=lambda limit: body[: limit + 1],
            watch=self.watch,
            ends_by_close=self.ends_by_close,
            stream=self.stream,
        )

    def forward(
        self,
        *script: FakeReply | BaseException,
        endpoint: Endpoint = Endpoint.CHAT,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
        **body: Any,
    ) -> Answer:
        """Send one request; `body` completes a valid one, `raw` replaces it."""
        self.upstream.script += script
        data = json.dumps({"model": "gpt", "messages": [], **body}).encode() if raw is None else raw
        return self.gateway.forward(self.call(data, endpoint.wire_format, headers), endpoint)


def stream_reply(*steps: Step, **headers: str) -> FakeReply:
    return FakeReply(
        200, {**STREAM, **{name.replace("_", "-"): text for name, text in headers.items()}}, *steps
    )


def json_reply(*steps: Step, status: int = 200, **headers: str) -> FakeReply:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return FakeReply(status, {**JSON, **named}, *steps)


def error_reply(status: int, message: str = "said so", **headers: str) -> FakeReply:
    body = json.dumps({"error": {"message": message, "type": "x"}}).encode()
    return json_reply(body, status=status, **headers)


def failure(kind: str) -> UpstreamFailure:
    return UpstreamFailure(kind, "scripted")


def consume(answer: Answer) -> bytes:
    """What a server does: write every chunk, then close."""
    try:
        return b"".join(answer.body)
    finally:
        close(answer)


def close(answer: Answer) -> None:
    getattr(answer.body, "close", lambda: None)()


def error_of(answer: Answer) -> dict[str, Any]:
    """The error in a body that the proxy made."""
    error: dict[str, Any] = json.loads(consume(answer))["error"]
    return error


def header(answer: Answer, name: str) -> str | None:
    found = [value for key, value in answer.headers if key.lower() == name.lower()]
    assert len(found) <= 1, f"{name} twice"
    return found[0] if found else None


def gone() -> ClientGone:
    return ClientGone()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data)
