"""The checks before anything goes upstream, in their fixed order: rate, body, model, credit."""

from app.core import errors
from app.core.content_coding import BodyTooLarge, CodingError, decode_all, decoder_for
from app.core.credit_policy import MIN_ESTIMATE_NANO, estimate_cost_nano
from app.core.errors import Refusal
from app.core.ports import Clock, CreditExhausted, CreditGate, Directory, RateDecision, RateLimiter
from app.core.pricing import Model, ModelTable
from app.core.principal import Balance, Principal
from app.core.request_body import Endpoint, RequestBody, parse_body
from app.exchange.exchange import ClientCall, Exchange


class Admission:
    """Decides whether an authenticated request may go upstream; every refusal is a `Refusal`."""

    def __init__(
        self,
        *,
        rate_limiter: RateLimiter,
        directory: Directory,
        credit: CreditGate,
        models: ModelTable,
        clock: Clock,
        default_rpm: int,
        max_body_bytes: int,
    ) -> None:
        self._rate_limiter = rate_limiter
        self._directory = directory
        self._credit = credit
        self._models = models
        self._clock = clock
        self._default_rpm = default_rpm
        self._max_body_bytes = max_body_bytes

    def rate(self, principal: Principal) -> RateDecision | None:
        """Count the request against the client key's limit; None where there is no limit."""
        limit = self._default_rpm if principal.rpm is None else principal.rpm
        return self._rate_limiter.hit(principal.user_key_id, limit) if limit > 0 else None

    def admit(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Run the checks, leaving body and model on the exchange; raises `Refusal`."""
        refuse_over_limit(exchange.rate)
        body = self._read_body(exchange.call, endpoint)
        exchange.body = body
        exchange.is_stream_asked = body.stream
        exchange.request_bytes = len(body.data)
        exchange.requested_model = body.model
        exchange.model = self._models.resolve(body.model)
        if exchange.model is None:
            raise Refusal(errors.UNKNOWN_MODEL, f"The model {body.model!r} does not exist.", param="model")
        self._check_credit(exchange, exchange.model, endpoint)

    def _read_body(self, call: ClientCall, endpoint: Endpoint) -> RequestBody:
        limit = self._max_body_bytes
        data = call.read_body(limit)
        if len(data) > limit:
            raise too_large(limit)
        coding = call.headers.get("content-encoding", "identity")
        if coding == "identity":
            return parse_body(data, endpoint)
        decoder = decoder_for(coding)
        if decoder is None:
            raise Refusal(
                errors.UNSUPPORTED_ENCODING,
                f"Content-Encoding {coding[:40]!r} is not supported; use gzip or none.",
            )
        try:
            return parse_body(decode_all(data, decoder, limit), endpoint)
        except BodyTooLarge:
            raise too_large(limit) from None
        except CodingError:
            raise errors.invalid_body(f"The request body is not valid {coding[:40]}.") from None

    def _check_credit(self, exchange: Exchange, model: Model, endpoint: Endpoint) -> None:
        """The last check, since it reserves what the request will probably cost."""
        principal = exchange.principal
        if not principal.is_metered:
            return
        balance = self._directory.balance(principal.user_id)
        if balance is None:
            return
        if balance.expires_at is not None and balance.expires_at <= self._clock.utcnow():
            raise Refusal(
                errors.CREDITS_EXPIRED, "Your credits have expired.", extra={"balance": balance.usd}
            )
        if balance.nano_usd <= 0 and not balance.unbooked_nano:
            raise _no_credit(balance)
        estimate = MIN_ESTIMATE_NANO
        if endpoint is not Endpoint.COUNT_TOKENS:
            limit = exchange.body.output_limit if exchange.body else None
            estimate = estimate_cost_nano(model, request_bytes=exchange.request_bytes, output_limit=limit)
        try:
            exchange.reservation = self._credit.reserve(principal.user_id, exchange.call.request_id, estimate)
        except CreditExhausted as error:
            raise _no_credit(Balance(error.balance_nano)) from None


def _no_credit(balance: Balance) -> Refusal:
    message = "You have no credit left. Add credit and try again."
    if balance.nano_usd > 0:
        message = (
            "Your running requests have reserved the credit you have left. Try again when they have ended."
        )
    return Refusal(errors.NO_CREDIT, message, extra={"balance": balance.usd})


def refuse_over_limit(rate: RateDecision | None) -> None:
    """Raise the 429 for a request over its rate limit."""
    if rate is not None and not rate.allowed:
        raise Refusal(
            errors.RATE_LIMITED,
            f"Rate limit of {rate.limit} requests per minute exceeded. "
            f"Try again in {rate.retry_after_s} seconds.",
            retry_after_s=rate.retry_after_s,
        )


def too_large(limit: int) -> Refusal:
    """The 413 for a body over `limit` bytes."""
    return Refusal(errors.BODY_TOO_LARGE, f"The request body is larger than {limit // (1024 * 1024)} MB.")


def rate_headers(rate: RateDecision | None) -> list[tuple[str, str]]:
    """The `X-RateLimit-*` headers of an answer; `Reset` is in epoch seconds."""
    if rate is None:
        return []
    return [
        ("X-RateLimit-Limit", str(rate.limit)),
        ("X-RateLimit-Remaining", str(rate.remaining)),
        ("X-RateLimit-Reset", str(rate.reset_at)),
    ]
