"""Trying upstream keys until one answers with a first byte, or none is left."""

from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil

from app.core import errors
from app.core.content_coding import CodingError, require_decoder
from app.core.error_bodies import retry_after_seconds, scrub, upstream_message
from app.core.errors import UpstreamProblem
from app.core.key_choice import NoKey, Shortage
from app.core.ports import (
    ClientGone,
    KeyPool,
    Lease,
    ProviderKey,
    Upstream,
    UpstreamFailure,
    UpstreamReply,
    UpstreamRequest,
)
from app.core.records import AttemptRecord, Outcome
from app.core.upstream_outcome import Finding, KeyOutcome, of_answer, of_failure
from app.core.verdict import TRANSPORT_FAILURES, Verdict, client_kind, judge
from app.exchange.exchange import Exchange

MAX_ERROR_BODY = 64 * 1024
"""How much of an upstream's error body is looked at, in bytes."""

_INTERRUPTED = of_failure("interrupted")
_RELAY = Verdict.RELAY


@dataclass(slots=True)
class Served:
    """An answer to relay: the lease of the key that gave it, the reply, its first body bytes (at least one).

    The lease is to be given back, by `AttemptLoop.finish`, when the answer is over.
    """

    lease: Lease
    reply: UpstreamReply
    first: bytes


@dataclass(frozen=True, slots=True)
class Setback:
    """Why an attempt gave nothing to relay, what the client hears if it is the last, and what comes next."""

    problem: UpstreamProblem
    verdict: Verdict
    status: int | None
    body_text: str = ""
    was_stale: bool = False


class AttemptLoop:
    """Lease a key, send, judge the answer; relay, or try the next key.

    At most `max_attempts` of them, and none once `max_total_s` (seconds) have passed since the first. Nothing
    has reached the client before `Served` is returned, so a stream is retried like anything else. What each
    attempt says about its key is reported at once.
    """

    def __init__(self, *, keys: KeyPool, upstream: Upstream, max_attempts: int, max_total_s: float) -> None:
        self._keys = keys
        self._upstream = upstream
        self._max_attempts = max_attempts
        self._max_total_s = max_total_s

    def run(self, exchange: Exchange, request: UpstreamRequest) -> Served | Setback:
        """The answer, or the setback that ended the last attempt.

        Raises `UpstreamProblem` when no key can be used at all, and lets `ClientGone` pass.
        """
        tried: set[str] = set()
        is_second_chance = False
        setback: Setback | None = None
        last = ""
        for _ in range(self._max_attempts):
            if setback is not None and self._is_late(exchange):
                break
            lease = self._keys.acquire(frozenset(tried))
            if isinstance(lease, NoKey):
                if setback is None:
                    raise no_key_problem(lease, exchange.clock.utcnow())
                # The upstream closed a pooled connection, not this request: the same key gets a fresh one.
                if not setback.was_stale or is_second_chance:
                    break
                is_second_chance = True
                lease = self._keys.acquire(frozenset(tried - {last}))
                if isinstance(lease, NoKey):
                    break
            last = lease.key.key_id
            tried.add(last)
            result = self._attempt(exchange, request, lease)
            if isinstance(result, Served) or result.verdict is not Verdict.NEXT_KEY:
                return result
            setback = result
        assert setback is not None  # noqa: S101  (there is at least one attempt)
        return self._last_word(exchange, setback, frozenset(tried))

    def finish(self, exchange: Exchange, lease: Lease, failure: str | None) -> None:
        """Give back the key of a relayed answer; `failure` says how the upstream broke it off, if it did."""
        if failure is not None:
            self._keys.report(lease, of_failure(failure), exchange.call.request_id)
        self._keys.release(lease)

    def _is_late(self, exchange: Exchange) -> bool:
        began = exchange.forwarded_at
        return began is not None and exchange.clock.monotonic() - began >= self._max_total_s

    def _last_word(self, exchange: Exchange, setback: Setback, tried: frozenset[str]) -> Setback:
        """What is left to say when there is no further attempt."""
        if setback.problem.kind is not errors.UPSTREAM_ACCOUNT:
            return setback
        shortage = self._keys.shortage(tried)
        if shortage is None:
            # The request has had its tries, but the client's next one meets other keys.
            return replace(setback, problem=replace(setback.problem, kind=errors.UPSTREAM_FAILED))
        if shortage.is_brief and shortage.reason is not Shortage.ALL_TRIED:
            return replace(setback, problem=no_key_problem(shortage, exchange.clock.utcnow()))
        return setback

    def _attempt(self, exchange: Exchange, request: UpstreamRequest, lease: Lease) -> Served | Setback:
        clock, watch, key = exchange.clock, exchange.call.watch, lease.key
        started = clock.monotonic()
        if exchange.forwarded_at is None:
            exchange.forwarded_at = started
        exchange.factory_key_id = key.key_id
        exchange.upstream_status = exchange.upstream_request_id = None  # of this attempt, not of the last one
        reply: UpstreamReply | None = None
        status: int | None = None
        proxy_id: str | None = None
        error: str | None = "interrupted"
        finding = _INTERRUPTED
        watch.waiting()
        try:
            reply = self._upstream.send(request, key)
            proxy_id = reply.proxy_id
            status = exchange.upstream_status = reply.status
            exchange.upstream_request_id = _request_id(reply)
            if judge(status) is _RELAY and not _is_html(reply):
                served = Served(lease, reply, _first_bytes(reply))
                error, finding = None, of_answer(status, (), b"", clock.utcnow())
                return served
            setback, finding = self._refused(reply, status, key, clock.utcnow())
            error = setback.problem.error_type
        except UpstreamFailure as failure:
            setback, finding = _failed(failure), of_failure(failure.kind)
            error, proxy_id = failure.kind, proxy_id or failure.proxy_id
        except ClientGone:
            error = "client_abort"
            raise
        except Exception:
            error = "internal_error"
            raise
        finally:
            watch.working()
            elapsed = round((clock.monotonic() - started) * 1000)
            exchange.attempts.append(AttemptRecord(key.key_id, status, elapsed, error, proxy_id))
            self._keys.report(lease, finding, exchange.call.request_id)
            if error is not None:
                if reply is not None:
                    reply.close()
                self._keys.release(lease)
        return setback

    def _refused(
        self, reply: UpstreamReply, status: int, key: ProviderKey, now: datetime
    ) -> tuple[Setback, Finding]:
        body = _read_bounded(reply)
        finding = of_answer(status, reply.headers.items(), body, now)
        if finding.outcome in _OPERATORS_AFFAIR:
            # Whatever the status: the client can do nothing about it, and need not know.
            message = _DEFAULT_MESSAGES[errors.UPSTREAM_ACCOUNT]
            problem = UpstreamProblem(errors.UPSTREAM_ACCOUNT, message, Outcome.UPSTREAM_ERROR)
            return Setback(problem, Verdict.NEXT_KEY, status), finding
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
        verdict = Verdict.FAIL if verdict is Verdict.RELAY else verdict
        return Setback(problem, verdict, status, text), finding


def no_key_problem(shortage: NoKey, now: datetime) -> UpstreamProblem:
    """What a client hears when no key can serve: when to come back, or that it need not."""
    if shortage.reason is Shortage.NO_KEYS:
        message = "The proxy has no upstream key that can be used now."
        return UpstreamProblem(errors.NO_UPSTREAM_KEY, message, Outcome.UPSTREAM_ERROR)
    if not shortage.is_brief:
        message = _DEFAULT_MESSAGES[errors.UPSTREAM_ACCOUNT]
        return UpstreamProblem(errors.UPSTREAM_ACCOUNT, message, Outcome.UPSTREAM_ERROR)
    wait_s = (shortage.retry_at - now).total_seconds() if shortage.retry_at is not None else 1.0
    return UpstreamProblem(
        errors.UPSTREAM_KEYS_BUSY,
        "Every upstream key is at its limit. Try again later.",
        Outcome.UPSTREAM_ERROR,
        retry_after_s=min(max(1, ceil(wait_s)), errors.MAX_RETRY_AFTER_S),
    )


_OPERATORS_AFFAIR = (KeyOutcome.EXHAUSTED, KeyOutcome.BANNED, KeyOutcome.SUSPECT)

_DEFAULT_MESSAGES = {
    errors.UPSTREAM_ACCOUNT: "The upstream refused the proxy's own account; the operator must see to it.",
    errors.UPSTREAM_FAILED: "The upstream failed to answer the request.",
    errors.RATE_LIMITED: "The upstream is limiting requests. Try again later.",
}


def _failed(failure: UpstreamFailure) -> Setback:
    kind, outcome, message, may_retry = TRANSPORT_FAILURES[failure.kind]
    verdict = Verdict.NEXT_KEY if may_retry else Verdict.FAIL
    return Setback(UpstreamProblem(kind, message, outcome), verdict, None, was_stale=failure.is_stale)


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
    return _decoded(reply, b"".join(pieces)[:MAX_ERROR_BODY])


def _decoded(reply: UpstreamReply, body: bytes) -> bytes:
    """An error body that came compressed though it was not asked for, as far as it can be read."""
    coding = reply.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    plain = b""
    try:
        for piece in require_decoder(coding).decode(body):
            plain += piece
            if len(plain) >= MAX_ERROR_BODY:
                break
    except CodingError:
        pass
    return plain[:MAX_ERROR_BODY]


def _is_html(reply: UpstreamReply) -> bool:
    return "text/html" in reply.headers.get("content-type", "").lower()


def _request_id(reply: UpstreamReply) -> str | None:
    for name in ("x-request-id", "request-id"):
        value = reply.headers.get(name)
        if value:
            return value[:128]
    return None
