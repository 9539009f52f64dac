"""Trying upstream keys until one answers with a first byte, or none is left."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import ceil

from app.exchange.exchange import Exchange
from app.exchange.ports import KeyPool
from app.keys.key_choice import NO_WISH, KeyWish, NoKey, Shortage
from app.keys.key_mask import KeyMask
from app.keys.lease import Lease
from app.keys.upstream_outcome import (
    BEGUN,
    TRANSPORT_FAILURES,
    Finding,
    Judgement,
    RefusedAnswer,
    Verdict,
    is_relayed,
    judge,
    of_failure,
)
from app.records.records import AttemptRecord, Outcome
from app.upstream.transport import (
    ClientGone,
    StillSilent,
    Upstream,
    UpstreamFailure,
    UpstreamReply,
    UpstreamRequest,
)
from app.wires import errors
from app.wires.client_words import ClientWords
from app.wires.content_coding import CodingError, require_decoder
from app.wires.conversation import conversation_of
from app.wires.error_bodies import as_said
from app.wires.errors import UpstreamProblem
from app.wires.request_body import LARGE
from app.wires.scrubbing import scrub
from app.wires.upstream_errors import MAX_BODY, UpstreamError, read_error, retry_after

_INTERRUPTED = of_failure("interrupted")
_HOST_FAILED = of_failure("host_failed")
_UNREACHED = ("unreachable", "no_proxy")
"""The failures of the transport before a byte of the request was sent."""
_REFUSALS = range(400, 500)


@dataclass(slots=True)
class Served:
    """An answer to relay: the lease of the key that gave it, the reply, its first body bytes.

    They are none where a stream is silent for longer than its client is left without a sign (`KeepAlive`).
    The lease is to be given back, by `AttemptLoop.finish`, when the answer is over.
    """

    lease: Lease
    reply: UpstreamReply
    first: bytes


@dataclass(frozen=True, slots=True)
class Setback:
    """Why an attempt gave nothing to relay, what the client hears if it is the last, and what comes next.

    `finding` is what it says about the key of `lease`, which counts only later if it is `in_doubt`.
    `may_be_running`: the upstream had the request, and has not refused it. `host` is the upstream host that
    failed, where another one may serve the request: with the same key, which is not to blame.
    """

    problem: UpstreamProblem
    verdict: Verdict
    status: int | None
    lease: Lease
    finding: Finding
    body_text: str = ""
    was_stale: bool = False
    in_doubt: bool = False
    may_be_running: bool = False
    host: int | None = None


class AttemptLoop:
    """Lease a key, send, judge the answer; relay, or try the next key.

    At most `max_attempts` of them, and none once `max_total_s` (seconds) have passed since the first. One
    that did not reach its upstream host is not counted while there is another host to turn to. Nothing has
    reached the client before `Served` is returned, so a stream is retried like anything else, as far as its
    endpoint allows it (`app.wires.endpoints`). What each attempt says about its key is reported at once, and
    once more when another key has served the request: it is the key's own then. `hosts` tells which names no
    client may read (`app.wires.scrubbing`). `follows_conversations`: requests of one conversation prefer the
    same key.
    """

    def __init__(
        self,
        *,
        keys: KeyPool,
        upstream: Upstream,
        max_attempts: int,
        max_total_s: float,
        hosts: Callable[[], Iterable[str]] = tuple,
        follows_conversations: bool = False,
    ) -> None:
        self._keys = keys
        self._follows_conversations = follows_conversations
        self._upstream = upstream
        self._max_attempts = max_attempts
        self._max_total_s = max_total_s
        self._hosts = hosts

    def run(self, exchange: Exchange, request: UpstreamRequest) -> Served | Setback:
        """Return the answer to relay, or the setback that ended the last attempt.

        Raises `GatewayError` when no key can be used at all, and lets `ClientGone` pass.
        """
        tried: set[str] = set()
        avoided: set[int] = set()
        wish = self._wish(exchange)
        is_second_chance = False
        setbacks: list[Setback] = []
        last = ""
        left = self._max_attempts
        while left > 0:
            if setbacks and self._is_late(exchange):
                break
            lease = self._acquire(exchange, tried, wish)
            if isinstance(lease, NoKey):
                is_gone = lease.reason in (Shortage.NO_KEYS, Shortage.ERROR)
                if not setbacks and exchange.not_found is not None and is_gone:
                    raise exchange.not_found  # nobody else's key could see it
                if not setbacks:
                    raise no_key_problem(lease, exchange.clock.utcnow())
                # The upstream closed a pooled connection, not this request: the same key gets a fresh one.
                if not setbacks[-1].was_stale or is_second_chance:
                    break
                is_second_chance = True
                lease = self._acquire(exchange, tried - {last}, wish)
                if isinstance(lease, NoKey):
                    break
            last = lease.key.key_id
            tried.add(last)
            result = self._attempt(exchange, request, lease, frozenset(avoided))
            if isinstance(result, Served):
                self._blame(exchange, setbacks, last)
                return result
            setbacks.append(result)
            if exchange.call.watch.departed:
                raise ClientGone  # nobody waits for what the next key would give
            if result.verdict is not Verdict.NEXT_KEY:
                return result
            is_unsent_there = result.host is not None and not result.may_be_running
            if not is_unsent_there and not exchange.retry.allows(may_be_running=result.may_be_running):
                break
            if result.host is not None:
                avoided.add(result.host)
                tried.discard(last)
            left -= result.host is None or result.may_be_running
        return self._last_word(exchange, setbacks[-1], tried)

    def _wish(self, exchange: Exchange) -> KeyWish:
        """Say which key the request would rather have than another."""
        body = exchange.body
        is_asked = self._follows_conversations and exchange.endpoint.has_conversations
        if not is_asked or body is None or not self._keys.has_choice:
            return NO_WISH
        return KeyWish(conversation_of(exchange.principal.user_key_id, exchange.call.headers, body))

    def _acquire(self, exchange: Exchange, tried: set[str], wish: KeyWish) -> Lease | NoKey:
        return self._keys.acquire(
            frozenset(tried), exchange.principal.user_id, exchange.upstream_model, wish, exchange.only
        )

    def _blame(self, exchange: Exchange, setbacks: list[Setback], served_by: str) -> None:
        """Report the keys that failed a request which another key has served."""
        for setback in setbacks:
            if setback.lease.key.key_id != served_by:
                self._keys.report(setback.lease, setback.finding.keys_own(), exchange.call.request_id)

    def scrubbed(self, lease: Lease, text: str) -> str:
        """Return what an upstream said to this key, without what nobody may read."""
        return scrub(text, (lease.key.secret,), hosts=self._hosts())

    def finish(self, exchange: Exchange, lease: Lease, finding: Finding | None) -> None:
        """Give back the key of a relayed answer; `finding` is what its end says about the key."""
        if finding is not None:
            self._keys.report(lease, finding, exchange.call.request_id)
        self._keys.release(lease)

    def _is_late(self, exchange: Exchange) -> bool:
        began = exchange.forwarded_at
        return began is not None and exchange.clock.monotonic() - began >= self._max_total_s

    def _last_word(self, exchange: Exchange, setback: Setback, tried: set[str]) -> Setback:
        """Return the setback as it is told when there is no further attempt."""
        problem = setback.problem
        if problem.kind is errors.RATE_LIMITED:
            return replace(setback, problem=self._with_wait(exchange, problem))
        if problem.kind is not errors.UPSTREAM_ACCOUNT:
            return setback
        shortage = self._shortage(exchange, frozenset(tried))
        if shortage is None:
            # The request has had its tries, but the client's next one meets other keys.
            return replace(setback, problem=replace(problem, kind=errors.UPSTREAM_FAILED))
        if shortage.is_brief and shortage.reason is not Shortage.ALL_TRIED:
            problem = no_key_problem(shortage, exchange.clock.utcnow())
            return replace(setback, problem=replace(problem, reason=setback.problem.reason))
        return setback

    def _with_wait(self, exchange: Exchange, problem: UpstreamProblem) -> UpstreamProblem:
        """Add to a limit the time after which a key may serve the request, as far as that is known."""
        shortage = self._shortage(exchange, frozenset())
        if shortage is None:
            return replace(problem, retry_after_s=problem.retry_after_s or 1)
        if shortage.retry_at is None:
            return problem
        wait_s = _wait_s(shortage, exchange.clock.utcnow())
        return replace(problem, retry_after_s=min(wait_s, problem.retry_after_s or wait_s))

    def _shortage(self, exchange: Exchange, tried: frozenset[str]) -> NoKey | None:
        return self._keys.shortage(tried, exchange.principal.user_id, exchange.upstream_model, exchange.only)

    def _attempt(
        self, exchange: Exchange, request: UpstreamRequest, lease: Lease, avoiding: frozenset[int]
    ) -> Served | Setback:
        clock, watch, key = exchange.clock, exchange.call.watch, lease.key
        started = clock.monotonic()
        if exchange.forwarded_at is None:
            exchange.forwarded_at = started
        exchange.factory_key_id, exchange.upstream_key = key.key_id, key.stored_as
        exchange.upstream_status = exchange.upstream_request_id = None  # of this attempt, not of the last one
        reply: UpstreamReply | None = None
        setback: Setback | None = None
        status: int | None = None
        proxy_id: str | None = None
        host: int | None = None
        error: str | None = "interrupted"
        finding = _INTERRUPTED
        watch.give(exchange.drain_s)
        watch.waiting()
        try:
            reply = self._upstream.send(request, key, avoiding)
            proxy_id, host = reply.proxy_id, reply.host
            status = exchange.upstream_status = reply.status
            exchange.upstream_request_id = _request_id(reply, key.secret)
            if is_relayed(status) and not _is_html(reply):
                served = Served(lease, reply, _begun(exchange, reply))
                error, finding = None, BEGUN
                return served
            setback = _refused(exchange, request, reply, lease, self._hosts())
            error, finding = setback.problem.error_type, setback.finding
        except UpstreamFailure as failure:
            setback = _failed(failure, lease)
            error, finding = failure.kind, setback.finding
            if reply is None:
                proxy_id, host = failure.proxy_id, failure.host
        except ClientGone as gone:
            error, host = "client_abort", gone.host if reply is None else host
            exchange.is_sent = not gone.is_unsent and (status is None or is_relayed(status))
            raise
        except Exception:
            error = "internal_error"
            raise
        finally:
            watch.working()
            elapsed = round((clock.monotonic() - started) * 1000)
            exchange.attempts.append(AttemptRecord(key.key_id, status, elapsed, error, proxy_id, host))
            if setback is None or not setback.in_doubt:
                self._keys.report(lease, finding, exchange.call.request_id)
            if error is not None:
                if reply is not None:
                    reply.close()
                self._keys.release(lease)
        return setback


def _refused(
    exchange: Exchange, request: UpstreamRequest, reply: UpstreamReply, lease: Lease, hosts: Iterable[str]
) -> Setback:
    """Read an answer that is not one to relay."""
    now, headers = exchange.clock.utcnow(), list(reply.headers.items())
    body = _read_bounded(reply)
    error = read_error(body, reply.headers.get("content-type", ""))
    names = (exchange.upstream_model, exchange.model.id if exchange.model else "", exchange.requested_model)
    models = tuple(name for name in names if name)
    if len(request.words) > LARGE:
        exchange.call.pace.queue()  # what it says is compared with all that the client has sent
    client = ClientWords(request.words, request.query, request.headers.values())
    row = judge(RefusedAnswer(reply.status, headers, error, models, client), now)
    scrubbed = partial(scrub, secrets=(lease.key.secret,), hosts=tuple(hosts), client=client)
    return Setback(
        _problem(exchange, row, error, headers, reply.status, scrubbed),
        row.verdict,
        reply.status,
        lease,
        _HOST_FAILED if reply.is_of_host else row.finding,
        body.decode("utf-8", "replace"),
        in_doubt=row.in_doubt,
        may_be_running=reply.status not in _REFUSALS,
        host=reply.host if reply.is_of_host else None,
    )


def _problem(
    exchange: Exchange,
    row: Judgement,
    error: UpstreamError,
    headers: list[tuple[str, str]],
    status: int,
    scrubbed: Callable[[str], str],
) -> UpstreamProblem:
    """Build what the client hears of an upstream's error, if it is the last word."""
    kind = row.kind
    wait_s = retry_after(headers, exchange.clock.utcnow()) if row.tells_wait else None
    reason = scrubbed(error.message) or (_WEB_PAGE if error.is_page else "")
    outcome = Outcome.UPSTREAM_TIMEOUT if kind is errors.UPSTREAM_TIMEOUT else Outcome.UPSTREAM_ERROR
    if not row.passes or not error.message:
        message = _DEFAULT_MESSAGES.get(kind) or f"The upstream answered with an error (status {status})."
    else:
        message = reason
    return UpstreamProblem(
        kind,
        message,
        outcome,
        retry_after_s=None if wait_s is None else ceil(min(wait_s, errors.MAX_RETRY_AFTER_S)),
        extra=as_said(error, exchange.call.wire_format, scrubbed) if row.passes else {},
        reason=reason or None,
    )


def no_key_problem(shortage: NoKey, now: datetime) -> UpstreamProblem:
    """Build what a client hears when no key can serve: when to come back, or that it need not."""
    if shortage.reason is Shortage.NO_KEYS:
        message = "The proxy has no upstream key that can be used now."
        return UpstreamProblem(errors.NO_UPSTREAM_KEY, message, Outcome.UPSTREAM_ERROR)
    if not shortage.is_brief:
        message = _DEFAULT_MESSAGES[errors.UPSTREAM_ACCOUNT]
        return UpstreamProblem(errors.UPSTREAM_ACCOUNT, message, Outcome.UPSTREAM_ERROR)
    kind, message = errors.UPSTREAM_KEYS_BUSY, "Every upstream key is at its limit. Try again later."
    if shortage.reason is Shortage.MODEL:
        kind, message = (
            errors.RATE_LIMITED,
            "The upstream is limiting requests for this model. Try again later.",
        )
    return UpstreamProblem(kind, message, Outcome.UPSTREAM_ERROR, retry_after_s=_wait_s(shortage, now))


def _wait_s(shortage: NoKey, now: datetime) -> int:
    wait_s = (shortage.retry_at - now).total_seconds() if shortage.retry_at is not None else 1.0
    return min(max(1, ceil(wait_s)), errors.MAX_RETRY_AFTER_S)


_WEB_PAGE = "The upstream answered with a web page."

_DEFAULT_MESSAGES = {
    errors.UPSTREAM_ACCOUNT: "The upstream refused the proxy's own account; the operator must see to it.",
    errors.UPSTREAM_FAILED: "The upstream failed to answer the request.",
    errors.UPSTREAM_TIMEOUT: "The upstream did not answer in time.",
    errors.RATE_LIMITED: "The upstream is limiting requests. Try again later.",
}


def _failed(failure: UpstreamFailure, lease: Lease) -> Setback:
    kind, outcome, message, may_retry = TRANSPORT_FAILURES[failure.kind]
    verdict = Verdict.NEXT_KEY if may_retry else Verdict.FAIL
    why = f"{message.removesuffix('.')} ({failure.detail})."
    problem = UpstreamProblem(kind, message, outcome, reason=why)
    return Setback(
        problem,
        verdict,
        None,
        lease,
        _HOST_FAILED if failure.is_of_host else of_failure(failure.kind),
        was_stale=failure.is_stale,
        may_be_running=failure.kind not in _UNREACHED,
        host=failure.host if failure.is_of_host else None,
    )


def _begun(exchange: Exchange, reply: UpstreamReply) -> bytes:
    """Read the start of an answer; none of a stream that is silent for too long for its client."""
    if exchange.keep_alive is None or not exchange.is_stream_asked or not _is_plain_stream(reply):
        return _first_bytes(exchange, reply)
    watch, asked_at = exchange.call.watch, exchange.clock.monotonic()
    watch.tell_silence(exchange.keep_alive.every_s, lambda: asked_at)
    try:
        return _first_bytes(exchange, reply)
    except StillSilent:
        return b""
    finally:
        watch.tell_no_silence()


def _is_plain_stream(reply: UpstreamReply) -> bool:
    """Return whether an answer calls itself a stream of events of unknown length, as it is written."""
    headers = reply.headers
    is_stream = headers.get("content-type", "").strip().lower().startswith("text/event-stream")
    is_coded = headers.get("content-encoding", "identity").strip().lower() != "identity"
    return is_stream and not is_coded and "content-length" not in headers


def _first_bytes(exchange: Exchange, reply: UpstreamReply) -> bytes:
    """Read the start of an answer.

    It may be empty only where nothing is asked of a model, and the client has got nothing binding yet.
    """
    if not (first := reply.read()) and exchange.endpoint.asks_model:
        raise UpstreamFailure("truncated", "empty answer")
    return first


def _read_bounded(reply: UpstreamReply) -> bytes:
    """Read the start of an error body; a body that breaks off is as good as what came of it."""
    pieces: list[bytes] = []
    size = 0
    try:
        while size < MAX_BODY and (data := reply.read()):
            pieces.append(data)
            size += len(data)
    except UpstreamFailure:
        pass
    return _decoded(reply, b"".join(pieces)[:MAX_BODY])


def _decoded(reply: UpstreamReply, body: bytes) -> bytes:
    """Decode, as far as it can be read, an error body that came compressed though it was not asked for."""
    coding = reply.headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    plain = b""
    try:
        for piece in require_decoder(coding).decode(body):
            plain += piece
            if len(plain) >= MAX_BODY:
                break
    except CodingError:
        pass
    return plain[:MAX_BODY]


def _is_html(reply: UpstreamReply) -> bool:
    return "text/html" in reply.headers.get("content-type", "").lower()


def _request_id(reply: UpstreamReply, secret: str) -> str | None:
    for name in ("x-request-id", "request-id"):
        value = reply.headers.get(name)
        if value:
            return KeyMask(secret).text(value)[:128]
    return None
