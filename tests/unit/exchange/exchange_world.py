"""A gateway over scripted ports: time stands still unless told, and every record is kept."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.accounts.funds import Balance, Spending
from app.accounts.principal import Principal
from app.accounts.rate_window import RateDecision
from app.common.errors import StoreUnavailable
from app.credit.budgets import Claim
from app.credit.reservation import CreditExhausted, Reservation
from app.exchange.admission import Admission
from app.exchange.attempts import AttemptLoop
from app.exchange.exchange import Answer, ClientCall, KeepAlive
from app.exchange.handler import Gateway
from app.journal.journal_format import OpenRequest
from app.keys.key_choice import NO_WISH, KeyWish, NoKey, Shortage
from app.keys.lease import Lease, OnlyKey
from app.keys.upstream_outcome import Finding, KeyOutcome
from app.pricing.model_table import ModelTable
from app.records.records import ExchangeRecord
from app.upstream.transport import ClientGone, Passed, ProviderKey, UpstreamFailure, UpstreamRequest
from app.wires.endpoints import CHAT, Endpoint
from app.wires.wire_format import WireFormat

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
    units = { web_search = 0.01 }
    service_tiers.priority.factor = 2
    service_tiers.flex.factor = 0.5

    [groups.friends]
    price_factor = 0.75

    [groups.everybody]
    price_factor = 1
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
        self.checkpointed: list[ExchangeRecord] = []
        self.is_full = False

    def put(self, record: ExchangeRecord) -> bool:
        self.records.append(record)
        return True

    def accepts(self) -> bool:
        return not self.is_full

    def open(self, request: OpenRequest) -> bool:
        self.opened.append(request)
        return True

    def checkpoint(self, record: ExchangeRecord) -> bool:
        self.checkpointed.append(replace(record))  # as it is now: its ending is still to come
        return True


@dataclass
class FakeDirectory:
    principals: dict[str, Principal]
    balances: dict[str, Balance | None] = field(default_factory=dict)
    charges: list[tuple[str, int]] = field(default_factory=list)
    spent: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
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

    def caller(self, user_id: str, user_key_id: str) -> Principal:
        known = (found for found in self.principals.values() if found.user_key_id == user_key_id)
        return next(known, Principal(user_id, user_key_id))

    def spending(self, user_id: str) -> Spending:
        return Spending(self.spent.get(user_id, {}))

    def note_charge(self, user_id: str, nano_usd: int) -> None:
        self.charges.append((user_id, nano_usd))


class FakeCredit:
    """Reserves as long as the directory's balance is positive."""

    def __init__(self, directory: FakeDirectory) -> None:
        self._directory = directory
        self.hold_nano = 0
        self.claims: list[tuple[Claim, ...]] = []
        self.reserved: list[tuple[str, str, int]] = []
        self.released: list[Reservation] = []

    def reserve(
        self,
        user_id: str,
        request_id: str,
        most_nano: int,
        usual_nano: int | None = None,
        least_nano: int = 1,
        claims: tuple[Claim, ...] = (),
    ) -> Reservation:
        self.claims.append(claims)
        balance = self._directory.balance(user_id)
        if balance is not None and balance.nano_usd < least_nano:
            raise CreditExhausted(balance.nano_usd)
        self.reserved.append((user_id, request_id, most_nano))
        granted = most_nano if balance is None else min(most_nano, balance.nano_usd)
        return Reservation(user_id, request_id, granted, self.hold_nano)

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


def _may_be(key: ProviderKey, only: OnlyKey | None) -> bool:
    return only is None or key.stored_as == only.store_id


class FakeKeys:
    """Keys in the order given, in any number of hands; `obstacle` takes the place of them all."""

    def __init__(self, *key_ids: str) -> None:
        self.keys = [ProviderKey(key_id, f"secret-of-{key_id}") for key_id in key_ids]
        self.obstacle: NoKey | None = None
        self.reports: list[tuple[str, KeyOutcome, str]] = []
        self.blamed: list[tuple[str, KeyOutcome]] = []
        self.asked: set[tuple[str, str]] = set()
        self.wishes: list[KeyWish] = []
        self.open: list[Lease] = []

    @property
    def has_choice(self) -> bool:
        return len(self.keys) > 1

    def acquire(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        wish: KeyWish = NO_WISH,
        only: OnlyKey | None = None,
    ) -> Lease | NoKey:
        self.wishes.append(wish)
        self.asked.add((client, model))
        if (shortage := self.shortage(excluding, only=only)) is not None:
            return shortage
        key = next(key for key in self.keys if key.key_id not in excluding and _may_be(key, only))
        lease = Lease(key, NOW, client=client, model=model)
        self.open.append(lease)
        return lease

    def shortage(
        self,
        excluding: frozenset[str],
        client: str = "",
        model: str = "",
        only: OnlyKey | None = None,
    ) -> NoKey | None:
        if self.obstacle is not None:
            return self.obstacle
        keys = [key for key in self.keys if _may_be(key, only)]
        if any(key.key_id not in excluding for key in keys):
            return None
        if only is not None and not keys:
            return NoKey(Shortage.NO_KEYS, {}, None)
        return NoKey(Shortage.ALL_TRIED if self.keys else Shortage.NO_KEYS, {}, None)

    def report(self, lease: Lease, finding: Finding, request_id: str) -> None:
        assert request_id == "request-1"
        if finding.is_keys_own:
            self.blamed.append((lease.key.key_id, finding.outcome))
            return
        assert lease in self.open
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
        self.ends: list[float] = []
        self.is_waiting = False
        self.stops = 0
        self.waits = 0
        self.resets = 0
        self.silences: list[float] = []
        self.heard_at: Callable[[], float] = float

    def tell_silence(self, after_s: float, heard_at: Callable[[], float]) -> None:
        self.silences.append(after_s)
        self.heard_at = heard_at

    def tell_no_silence(self) -> None:
        pass

    def waiting(self) -> None:
        self.is_waiting = True
        self.waits += 1

    def working(self) -> None:
        self.is_waiting = False

    def give(self, grace_s: float) -> None:
        self.grace.append(grace_s)

    def end_within(self, seconds: float) -> None:
        self.ends.append(seconds)

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
        self.host: int | None = None
        self.is_of_host = False
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
        self.avoided: list[frozenset[int]] = []

    def send(
        self, request: UpstreamRequest, key: ProviderKey, avoiding: frozenset[int] = frozenset()
    ) -> FakeReply:
        self.sent.append((request, key.key_id))
        self.avoided.append(avoiding)
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
        self.refused_options = 0

    def opened(self) -> None:
        self.in_flight += 1

    def settled(self, record: ExchangeRecord) -> None:
        self.in_flight -= 1
        self.settled_records.append(record)

    def refused(self, reason: str) -> None:
        self.refusals[reason] += 1

    def usage_option_refused(self) -> None:
        self.refused_options += 1


class World:
    """Everything around one gateway."""

    def __init__(
        self,
        *,
        keys: Iterable[str] = ("k1", "k2", "k3", "k4"),
        max_attempts: int = 3,
        follows_conversations: bool = True,
        keep_alive: KeepAlive | None = None,
    ) -> None:
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
                keys=self.keys,
                upstream=self.upstream,
                max_attempts=max_attempts,
                max_total_s=300.0,
                follows_conversations=follows_conversations,
            ),
            directory=self.directory,
            credit=self.credit,
            sink=self.sink,
            clock=self.clock,
            on_client_abort="drain",
            abort_drain_s=20.0,
            default_anthropic_version="2023-06-01",
            observer=self.observer,
            keep_alive=keep_alive,
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
            read_body=lambda limit, took: body[: limit + 1],
            watch=self.watch,
            ends_by_close=self.ends_by_close,
            stream=self.stream,
        )

    def forward(
        self,
        *script: FakeReply | BaseException,
        endpoint: Endpoint = CHAT,
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
    return gzip.compress(data, mtime=0)  # the same bytes, whatever the time
