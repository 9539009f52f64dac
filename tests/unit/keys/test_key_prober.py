"""What the pool asks the upstream about its keys, and what comes of the answers."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from app.keys.key_pool import SharedKeyPool
from app.keys.key_prober import KeyProber
from app.keys.lease import Lease
from app.keys.upstream_outcome import Finding, KeyOutcome
from app.upstream.transport import ProviderKey, UpstreamFailure, UpstreamRequest

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
REFUSED = Finding(KeyOutcome.SUSPECT, "unauthorized")
BANNED_BODY = b'{"error": {"message": "x", "code": "account_deactivated"}}'


class Reply:
    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status, self.headers, self.proxy_id = status, headers, None
        self.pieces = [body] if body else []
        self.is_closed = False

    def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.is_closed = True


class Upstream:
    def __init__(self, answer: Reply | UpstreamFailure) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []

    def send(self, request: UpstreamRequest, key: ProviderKey) -> Reply:
        self.asked.append((request.method, request.path, key.key_id))
        if isinstance(self.answer, UpstreamFailure):
            raise self.answer
        return self.answer


class Bench:
    def __init__(self, status: int = 200, body: bytes = b'{"data": []}', **headers: str) -> None:
        self.now = START
        self.pool = SharedKeyPool(("sk-upstream-1", "sk-upstream-2"), now=lambda: self.now)
        self.reply = Reply(status, body, headers or {"content-type": "application/json"})
        self.upstream = Upstream(self.reply)
        self.prober = KeyProber(self.pool, self.upstream, now=lambda: self.now)  # type: ignore[arg-type]

    def refuse(self, client: str = "ann") -> None:
        lease = self.pool.acquire(frozenset({"env-2"}), client, "m")
        assert isinstance(lease, Lease)
        self.pool.report(lease, REFUSED, "r1")
        self.pool.release(lease)

    def probe(self, after_s: float = 0.0) -> int:
        before = len(self.upstream.asked)
        self.now += timedelta(seconds=after_s)
        self.prober.probe_due()
        return len(self.upstream.asked) - before

    def status(self) -> str:
        return self.pool.statuses()[0]


def test_keys_that_nobody_doubts_are_left_alone() -> None:
    bench = Bench()
    assert bench.probe() == bench.probe(3600) == 0


def test_a_suspicion_is_looked_into_at_once_and_cleared() -> None:
    bench = Bench()
    bench.refuse()
    assert bench.probe(1) == 1
    assert bench.upstream.asked == [("GET", "/v1/models", "env-1")]
    assert bench.reply.is_closed
    assert bench.probe(60) == 0
    bench.refuse("bob")
    assert bench.status() == "healthy"  # nothing was left for a second client to confirm
    assert [event.why for event in bench.pool.take_events()] == [
        "suspected: unauthorized",
        "cleared",
        "suspected: unauthorized",
    ]


def test_one_client_cannot_make_the_pool_ask_again_and_again() -> None:
    bench = Bench()
    asked = 0
    for _ in range(300):
        bench.refuse()
        asked += bench.probe(0.1)
    assert asked <= 2


@pytest.mark.parametrize(("status", "body"), [(401, b"{}"), (403, BANNED_BODY), (401, BANNED_BODY)])
def test_a_key_that_is_refused_for_its_own_sake_is_banned_and_comes_back_by_itself(
    status: int, body: bytes
) -> None:
    bench = Bench(status, body)
    bench.refuse()
    bench.probe(1)
    assert bench.status() == "error"
    assert bench.probe(30) == 0
    assert bench.probe(45) == 1
    assert bench.status() == "error"
    bench.upstream.answer = Reply(200, b"{}", {})
    assert bench.probe(3600) == 1
    assert bench.status() == "healthy"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error": {"type": "invalid_request_error", "code": "invalid_api_key"}}', "error"),
        (b'{"code": 401, "message": "Unauthorized"}', "error"),
        (b'{"error": {"message": "busy"}}', "healthy"),
    ],
)
def test_an_error_under_status_200_clears_nothing(body: bytes, status: str) -> None:
    bench = Bench(200, body)
    bench.refuse()
    assert bench.probe(1) == 1
    assert bench.status() == status
    assert bench.pool.take_events()[-1].why != "cleared"


@pytest.mark.parametrize(
    ("status", "headers"),
    [(403, {}), (404, {}), (405, {}), (429, {}), (500, {}), (200, {"content_type": "text/html"}), (302, {})],
)
def test_any_other_answer_says_nothing(status: int, headers: dict[str, str]) -> None:
    bench = Bench(
        status, b"<html>" if headers else b"{}", **{n.replace("_", "-"): v for n, v in headers.items()}
    )
    bench.refuse()
    assert bench.probe(1) == 1
    assert bench.status() == "healthy"
    bench.refuse("bob")
    assert bench.status() == "error"
    bench.probe(100)
    assert bench.status() == "error"


def test_an_upstream_that_is_away_says_nothing_either() -> None:
    bench = Bench()
    bench.upstream.answer = UpstreamFailure("timeout", "scripted")
    bench.refuse()
    assert bench.probe(1) == 1
    assert bench.status() == "healthy"
    # By then it is no suspicion any more.
    assert bench.probe(700) == 0


def test_the_loop_goes_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.refuse()

    class Stop:
        left = 3

        def is_set(self) -> bool:
            return self.left < 0

        def wait(self, timeout: float) -> bool:
            self.left -= 1
            return self.left < 0

    bench.upstream.answer = KeyError("bug")  # type: ignore[assignment]
    bench.upstream.send = lambda *_: 1 / 0  # type: ignore[method-assign]
    bench.prober.run(Stop())
    assert "cannot be probed" in caplog.text
