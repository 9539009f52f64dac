"""Trying upstream keys until one answers with a first byte, or none is left."""

from dataclasses import dataclass

from app.core import errors
from app.core.error_bodies import retry_after_seconds, scrub, upstream_message
from app.core.errors import UpstreamProblem
from app.core.ports import (
    ClientGone,
    KeyPool,
    ProviderKey,
    Upstream,
    UpstreamFailure,
    UpstreamReply,
    UpstreamRequest,
)
from app.core.records import AttemptRecord, Outcome
from app.core.verdict import TRANSPORT_FAILURES, Verdict, client_kind, judge
from app.exchange.exchange import Exchange

MAX_ERROR_BODY = 64 * 1024
"""How much of an upstream's error body is looked at, in bytes."""


@dataclass(slots=True)
class Served:
    """An answer to relay: the key that gave it, the reply, and its first body bytes (at least one)."""

    key: ProviderKey
    reply: UpstreamReply
    first: bytes


@dataclass(frozen=True, slots=True)
class Setback:
    """Why an attempt gave nothing to relay, what the client hears if it is the last, and what comes next."""

    problem: UpstreamProblem
    verdict: Verdict
    status: int | None
    body_text: str = ""


class AttemptLoop:
    """Lease a key, send, judge the status; relay, or try the next key. At most `max_attempts` keys.

    Nothing has reached the client before `Served` is returned, so a stream is retried like anything else.
    """

    def __init__(self, *, keys: KeyPool, upstream: Upstream, max_attempts: int) -> None:
        self._keys = keys
        self._upstream = upstream
        self._max_attempts = max_attempts

    def run(self, exchange: Exchange, request: UpstreamRequest) -> Served | Setback:
        """The answer, or the setback that ended the last attempt.

        Raises `UpstreamProblem` (503) when there is no key at all, and lets `ClientGone` pass.
        """
        tried: set[str] = set()
        setback: Setback | None = None
        for _ in range(self._max_attempts):
            key = self._keys.acquire(frozenset(tried))
            if key is None:
                break
            tried.add(key.key_id)
            result = self._attempt(exchange, request, key)
            if isinstance(result, Served):
                return result
            setback = result
            if setback.verdict is not Verdict.NEXT_KEY:
                break
        if setback is None:
            raise UpstreamProblem(
                errors.NO_UPSTREAM_KEY,
                "The proxy has no upstream key that can be used now.",
                Outcome.UPSTREAM_ERROR,
            )
        return setback

    def _attempt(self, exchange: Exchange, request: UpstreamRequest, key: ProviderKey) -> Served | Setback:
        clock = exchange.clock
        watch = exchange.call.watch
        started = clock.monotonic()
        if exchange.forwarded_at is None:
            exchange.forwarded_at = started
        exchange.factory_key_id = key.key_id
        exchange.upstream_status = exchange.upstream_request_id = None  # of this attempt, not of the last one
        reply: UpstreamReply | None = None
        status: int | None = None
        error: str | None = "interrupted"
        watch.waiting()
        try:
            reply = self._upstream.send(request, key)
            status = exchange.upstream_status = reply.status
            exchange.upstream_request_id = _request_id(reply)
            if judge(status) is Verdict.RELAY and not _is_html(reply):
                served = Served(key, reply, _first_bytes(reply))
                error = None
                return served
            setback = self._refused(reply, status, key)
            error = setback.problem.error_type
        except UpstreamFailure as failure:
            setback = _failed(failure)
            error = failure.kind
        except ClientGone:
            error = "client_abort"
            raise
        except Exception:
            error = "internal_error"
            raise
        finally:
            watch.working()
            elapsed = round((clock.monotonic() - started) * 1000)
            exchange.attempts.append(AttemptRecord(key.key_id, status, elapsed, error))
            if error is not None:
                if reply is not None:
                    reply.close()
                self._keys.release(key, status, error)
        return setback

    def _refused(self, reply: UpstreamReply, status: int, key: ProviderKey) -> Setback:
        body = _read_bounded(reply)
        text = upstream_message(body, reply.headers.get("content-type", "")) or ""
        kind = client_kind(status)
        passes_message = status in errors.PASSED_THROUGH and text
        message = scrub(text, (key.secret,)) if passes_message else _DEFAULT_MESSAGES.get(kind, "")
        retry_after = retry_after_seconds(reply.headers.items()) if status in (429, 503, 529) else None
        problem = UpstreamProblem(
            kind,
            message or f"The upstream answered with an error (status {status}).",
            Outcome.UPSTREAM_ERROR,
            retry_after_s=retry_after,
        )
        verdict = judge(status)
        # A web page in place of an API answer comes from something in front of the upstream.
        return Setback(problem, Verdict.FAIL if verdict is Verdict.RELAY else verdict, status, text)

    def release(self, key: ProviderKey, status: int | None, error: str | None) -> None:
        """Give back the key of a relayed answer once that is over."""
        self._keys.release(key, status, error)


_DEFAULT_MESSAGES = {
    errors.UPSTREAM_ACCOUNT: "The upstream refused the proxy's own account; the operator must see to it.",
    errors.UPSTREAM_FAILED: "The upstream failed to answer the request.",
    errors.RATE_LIMITED: "The upstream is limiting requests. Try again later.",
}


def _failed(failure: UpstreamFailure) -> Setback:
    kind, outcome, message, may_retry = TRANSPORT_FAILURES[failure.kind]
    verdict = Verdict.NEXT_KEY if may_retry else Verdict.FAIL
    return Setback(UpstreamProblem(kind, message, outcome), verdict, None)


def _first_bytes(reply: UpstreamReply) -> bytes:
    """The start of an answer. No endpoint has an empty one, and nothing that binds us went to the client."""
    if not (first := reply.read()):
        raise UpstreamFailure("truncated", "empty answer")
    return first


def _read_bounded(reply: UpstreamReply) -> bytes:
    """The start of an error body; a body that breaks off is as good as what came of it."""
    pieces: list[bytes] = []
    size = 0
    try:
        while size < MAX_ERROR_BODY and (data := reply.read()):
            pieces.append(data)
            size += len(data)
    except UpstreamFailure:
        pass
    return b"".join(pieces)[:MAX_ERROR_BODY]


def _is_html(reply: UpstreamReply) -> bool:
    return "text/html" in reply.headers.get("content-type", "").lower()


def _request_id(reply: UpstreamReply) -> str | None:
    for name in ("x-request-id", "request-id"):
        value = reply.headers.get(name)
        if value:
            return value[:128]
    return None
