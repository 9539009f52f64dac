"""The checks before anything goes upstream, in their fixed order: rate, places, credit, body, model, hold.

What can be known without the body is checked before it is read: it takes memory, and may come slowly.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from app.accounts.funds import Balance
from app.accounts.principal import Principal
from app.accounts.rate_window import RateDecision, RateLimiter
from app.common.display import iso_utc
from app.common.money import NANO
from app.credit.budgets import Claim, begins_anew, spent_nano
from app.credit.credit_policy import LEAST_OUTPUT, MAX_HELD, MIN_ESTIMATE_NANO, Need, need
from app.credit.reservation import CreditExhausted, Reservation
from app.exchange.batch_results import BATCH
from app.exchange.caller_limits import ALL_KEYS, CallerLimits, refuse_model
from app.exchange.client_shares import ClientShares, Share
from app.exchange.exchange import STILL_KNOWN_S, ClientCall, Exchange
from app.exchange.ports import Clock, CreditGate, Directory
from app.exchange.spool import Spool
from app.keys.lease import OnlyKey
from app.objects.upstream_object import UpstreamObject
from app.pricing.model import Model
from app.pricing.model_names import did_you_mean
from app.pricing.model_table import ModelTable
from app.pricing.rate_card import Terms
from app.wires import errors
from app.wires.attribution import person_of
from app.wires.batch_body import parse_batch, with_models
from app.wires.content_coding import BodyTooLarge, CodingError, decode_all, decoder_for
from app.wires.endpoints import MESSAGES, Body, is_object_id
from app.wires.errors import Refusal, unknown_object
from app.wires.estimate import BYTES_PER_TOKEN, of_tokens, prompt_bytes, tokens_of
from app.wires.form_body import FormReader, parse_form
from app.wires.object_ids import MAX_NAMED, MAX_TOLD, NamedObject, named_objects
from app.wires.request_body import (
    LARGE,
    MAX_MODEL_LENGTH,
    RequestBody,
    asks_for_stream,
    parse_body,
    parse_state,
)
from app.wires.usage import Usage

BACKGROUND_DRAIN_S: Final = 20.0
"""How long the answer that tells the id of something in the background is waited for without its client."""

_PER: Final = {
    "5h": "within 5 hours",
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "total": "in all",
}

_FREE = "free:"
"""What is before a client key's id where its free requests are counted."""


class Admission:
    """Decides whether an authenticated request may go upstream; every refusal is a `Refusal`."""

    def __init__(  # noqa: PLR0913  (each is a part of its own)
        self,
        *,
        rate_limiter: RateLimiter,
        directory: Directory,
        credit: CreditGate,
        models: ModelTable,
        clock: Clock,
        default_rpm: int,
        max_body_bytes: int,
        shares: ClientShares | None = None,
        limits: CallerLimits | None = None,
        spool_dir: Path | None = None,
    ) -> None:
        self._shares = ClientShares() if shares is None else shares
        self._limits = limits
        self._spool_dir = spool_dir
        self._rate_limiter = rate_limiter
        self._directory = directory
        self._credit = credit
        self._models = models
        self._clock = clock
        self._default_rpm = default_rpm
        self._max_body_bytes = max_body_bytes

    @property
    def models(self) -> ModelTable:
        """The model table for a request that begins now."""
        return self._models.in_force

    def rate(self, principal: Principal, *, is_billed: bool) -> RateDecision | None:
        """Count the request against the limits of the client key and of its user; None: there are none.

        A user's limit holds for all of their keys together. What is returned is the one with less left.

        What costs nothing upstream is counted apart, by the same limit: programs count tokens in bursts, and
        the answer they count for must not be refused for it.
        """
        limit = self._default_rpm if principal.rpm is None else principal.rpm
        free = "" if is_billed else _FREE
        of_user = principal.user_rpm
        if not of_user:
            return self._rate_limiter.hit(f"{free}{principal.user_key_id}", limit) if limit > 0 else None
        decision = self._rate_limiter.hit(f"{free}{ALL_KEYS}{principal.user_id}", of_user)
        if limit <= 0 or limit == of_user or not decision.allowed:
            return decision
        of_key = self._rate_limiter.hit(f"{free}{principal.user_key_id}", limit)
        return decision if of_key.allowed and decision.remaining <= of_key.remaining else of_key

    def admit(self, exchange: Exchange) -> None:
        """Run the checks, leaving share, body and model on the exchange; raises `Refusal`."""
        refuse_over_limit(exchange.rate)
        principal = exchange.principal
        share = exchange.share = self._shares.enter(principal.user_id, principal.user_key_id)
        if self._limits is not None:
            exchange.held = self._limits.enter(principal)
        if exchange.endpoint.body is Body.BATCH:
            self._admit_batch(exchange, share)
        elif exchange.endpoint.asks_model:
            self._admit_to_model(exchange, share)
        else:
            self._admit_to_object(exchange, share)

    def _admit_to_object(self, exchange: Exchange, share: Share) -> None:
        """Admit a request for something the upstream keeps: it costs nothing, so that credit is not needed.

        What belongs to somebody else is not there. The model is that of the object, if it has one.
        """
        call, endpoint = exchange.call, exchange.endpoint
        if not all(map(is_object_id, call.parameters.values())):
            raise unknown_object(call.parameters["id"], None, call.wire_format)
        if endpoint.body is Body.STATE:
            exchange.state = self._read_body(call, share)
        exchange.is_kept = endpoint.makes
        exchange.is_stream_asked = endpoint.may_stream and asks_for_stream(call.query)
        if (object_id := call.parameters.get("id")) is not None:
            exchange.not_found = unknown_object(object_id, None, call.wire_format)
            target = exchange.objects.find([object_id], exchange.principal.user_id).get(object_id)
            if target is None or target.user_id != exchange.principal.user_id:
                raise exchange.not_found
            self.aim(exchange, target)
        if exchange.state and endpoint.names_objects:
            members = parse_state(exchange.state, endpoint, call.pace.rest)
            self._bind(exchange, named_objects(members, endpoint.names_objects, call.pace.rest))

    def aim(self, exchange: Exchange, target: UpstreamObject) -> None:
        """Make the request one for this object, which is its user's."""
        exchange.target, exchange.only = target, OnlyKey(target.key, is_free=True)
        exchange.model = self._model(exchange, target.model) if target.model else None

    def _admit_to_model(self, exchange: Exchange, share: Share) -> None:
        is_metered, looked_at = self._refuse_without_credit(exchange), self._clock.monotonic()
        pace = exchange.call.pace
        read = self._read_form if _is_form(exchange) else self._read_json
        body = read(exchange, share)
        exchange.body = body
        exchange.is_stream_asked = body.stream
        exchange.request_bytes = prompt_bytes(body.data, pace.rest) + body.media_bytes
        if body.input_tokens is not None:
            exchange.request_bytes = body.input_tokens * BYTES_PER_TOKEN  # they are counted, not estimated
        exchange.units = body.units
        exchange.quantities = body.quantities
        exchange.person = person_of(body.members)
        exchange.requested_model = body.model
        exchange.model = self._model(exchange, body.model)
        if exchange.model is None:
            raise unknown_model(body.model, self._models)
        self._refuse_beyond_limits(exchange, exchange.model, body)
        naming = exchange.endpoint.names_objects
        if exchange.endpoint.makes:
            self._order(exchange, body)
        if not body.members.keys().isdisjoint(naming):
            self._bind(exchange, named_objects(body.members, naming, pace.rest))
        is_old = self._clock.monotonic() - looked_at >= STILL_KNOWN_S  # the body may have taken long
        if is_metered and (is_old or exchange.claims(exchange.model)):
            is_metered = self._refuse_without_credit(exchange)
        if is_metered:
            self._reserve(exchange, exchange.model)

    def _refuse_beyond_limits(self, exchange: Exchange, model: Model, body: RequestBody) -> None:
        """Refuse a model that the caller may not ask, and more tokens than they may use within a minute."""
        if exchange.held is None or self._limits is None:
            return
        refuse_model(exchange.principal, model.id, body.members)
        if exchange.is_billed:
            tokens = tokens_of(exchange.request_bytes)
            self._limits.take_tokens(exchange.principal, exchange.held, tokens)

    def _model(self, exchange: Exchange, name: str) -> Model | None:
        model = exchange.models.resolve(name)
        if model is None and not exchange.principal.is_metered:
            model = self._models.unpriced(name)
        return model

    def _admit_batch(self, exchange: Exchange, share: Share) -> None:
        """Admit a batch: every request of it is checked, and credit for all of them reserved."""
        self._refuse_without_credit(exchange)
        pace = exchange.call.pace
        data = self._read_body(exchange.call, share)
        pace.queue()
        renamed: dict[int, tuple[RequestBody, str]] = {}
        claims: dict[str, Claim] = {}
        named: dict[str, NamedObject] = {}
        most = 0
        for number, request in enumerate(parse_batch(data, MESSAGES, pace.rest)):
            body = request.body
            model = self._model(exchange, body.model)
            if model is None:
                where, why = f"requests.{number}.params.model", unknown_model(body.model, self._models)
                raise errors.invalid_body(f"{where}: {why.message}", where)
            if exchange.held is not None:
                refuse_model(exchange.principal, model.id, body.members)
                claims |= {claim.name: claim for claim in exchange.claims(model)}
            exchange.model = exchange.model or model
            if model.upstream_id != body.model:
                renamed[request.start] = (body, model.upstream_id)
            naming = named_objects(body.members, exchange.endpoint.names_objects, pace.rest)
            named |= {item.object_id: item for item in naming}
            size = prompt_bytes(body.data, pace.rest)
            most += _need(exchange, body, model, size, BATCH).most
        exchange.state = with_models(data, renamed) if renamed else data
        exchange.is_background = exchange.is_kept = True
        exchange.drain_s = max(exchange.drain_s, BACKGROUND_DRAIN_S)
        self._bind(exchange, list(named.values()))
        if self._refuse_without_credit(exchange):
            # Nothing lowers what the requests of a batch may cost: it has all of it, or is refused.
            exchange.reservation = self._hold(exchange, tuple(claims.values()), most, most, most)

    def _order(self, exchange: Exchange, body: RequestBody) -> None:
        """Note whether the answer goes on in the background, and whether the upstream keeps it."""
        exchange.is_background = body.says("background", b"true")
        exchange.is_kept = exchange.is_background or not body.says("store", b"false")
        if exchange.is_background:
            # Its id has to be known, or nobody ever learns what it costs.
            exchange.drain_s = max(exchange.drain_s, BACKGROUND_DRAIN_S)

    def _bind(self, exchange: Exchange, named: Sequence[NamedObject]) -> None:
        """Bind a request to the key that made what it goes on with, all of which has to be the user's own."""
        user_id, wire_format = exchange.principal.user_id, exchange.call.wire_format
        needed = [item for item in named if item.is_needed]
        told = [item for item in named if not item.is_needed]
        if len(needed) > MAX_NAMED or len(told) > MAX_TOLD:
            raise errors.invalid_body(f"the request refers to more than {MAX_NAMED} items", named[-1].member)
        found = self._found(exchange, needed, waits=True)
        for item in needed:
            made = found.get(item.object_id)
            if made is None and not item.is_made_here:
                continue
            not_found = unknown_object(item.object_id, item.member, wire_format)
            is_theirs = made is not None and made.user_id == user_id
            if made is None or not is_theirs or (exchange.only and exchange.only.store_id != made.key):
                raise not_found
            exchange.only = exchange.only or OnlyKey(made.key, is_free=not exchange.endpoint.asks_model)
            exchange.not_found = not_found
            if item.member == "conversation":
                exchange.objects.learn(replace(made, created_at=self._clock.utcnow()))  # it is in use
        others = self._found(exchange, told, waits=False)
        for item in told:
            if item.object_id in others and others[item.object_id].user_id != user_id:
                raise unknown_object(item.object_id, item.member, wire_format)

    def _found(
        self, exchange: Exchange, named: Sequence[NamedObject], *, waits: bool
    ) -> Mapping[str, UpstreamObject]:
        ids = [item.object_id for item in named if is_object_id(item.object_id)]
        return exchange.objects.find(ids, exchange.principal.user_id, waits=waits) if ids else {}

    def _read_json(self, exchange: Exchange, share: Share) -> RequestBody:
        pace = exchange.call.pace
        data = self._read_body(exchange.call, share)
        if len(data) > LARGE:
            pace.queue()
        return parse_body(data, exchange.endpoint, pace.rest)

    def _read_form(self, exchange: Exchange, share: Share) -> RequestBody:
        """Read a form while it is stored: all of it counts as held, wherever it is."""
        call, limit = exchange.call, self._max_body_bytes
        coding = call.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise Refusal(errors.UNSUPPORTED_ENCODING, "Forms cannot be compressed: use no Content-Encoding.")
        reader = FormReader(call.headers.get("content-type", ""))
        spool = exchange.spool = Spool(self._spool_dir)
        for piece in call.body_pieces(limit):
            if len(spool) + len(piece) > limit:
                raise too_large(limit)
            share.take(len(piece))
            reader.feed(piece)
            spool.write(piece)
            call.pace.rest()
        return parse_form(reader.finish(), spool, exchange.endpoint)

    def _read_body(self, call: ClientCall, share: Share) -> bytes:
        limit = self._max_body_bytes
        data = call.read_body(limit, share.take)
        if len(data) > limit:
            raise too_large(limit)
        coding = call.headers.get("content-encoding", "identity")
        if coding == "identity":
            return data
        decoder = decoder_for(coding)
        if decoder is None:
            raise Refusal(
                errors.UNSUPPORTED_ENCODING,
                f"Content-Encoding {coding[:40]!r} is not supported; use gzip or none.",
            )

        def took(size: int) -> None:
            share.take(size)
            call.pace.rest()

        try:
            decoded = decode_all(data, decoder, limit, took)
        except BodyTooLarge:
            raise too_large(limit) from None
        except CodingError:
            raise errors.invalid_body(f"The request body is not valid {coding[:40]}.") from None
        share.give_back(len(data))
        return decoded

    def _refuse_without_credit(self, exchange: Exchange) -> bool:
        """Refuse a user who has nothing left to spend; return whether they spend from a balance at all."""
        principal = exchange.principal
        if not principal.is_metered:
            return False
        balance = self._directory.balance(principal.user_id)
        if balance is None:
            return False
        if balance.expires_at is not None and balance.expires_at <= self._clock.utcnow():
            raise Refusal(
                errors.CREDITS_EXPIRED, "Your credits have expired.", extra={"balance": balance.usd}
            )
        if balance.nano_usd <= 0 and not balance.unbooked_nano:
            raise _no_credit(balance)
        if claims := exchange.claims(exchange.model):
            spent = self._directory.spending(principal.user_id).budget_spent
            for claim in claims:
                if spent_nano(claim, spent) >= claim.nano_usd:
                    raise self._over_budget(exchange, claim, 0)
        return True

    def _reserve(self, exchange: Exchange, model: Model) -> None:
        """Reserve what the request may cost: the last check, since all others only look."""
        exchange.call.pace.rest()
        body = exchange.body
        assert body is not None  # noqa: S101  (it has been read)
        may_cost = _need(exchange, body, model, exchange.request_bytes) if exchange.is_billed else None
        asked = (MIN_ESTIMATE_NANO, MIN_ESTIMATE_NANO, MIN_ESTIMATE_NANO)
        can_cap = bool(body.names.output_limits)
        if may_cost is not None:
            # What cannot be told to generate less gets all that it may cost, or as much as is left.
            most = may_cost.most
            asked = (most, may_cost.usual if can_cap else most, may_cost.least)
        reservation = exchange.reservation = self._hold(exchange, exchange.claims(model), *asked)
        if may_cost is not None and can_cap and 0 < reservation.nano < asked[0]:
            exchange.output_cap = may_cost.output_cap(reservation.nano)

    def _hold(
        self, exchange: Exchange, claims: tuple[Claim, ...], most: int, usual: int, least: int
    ) -> Reservation:
        try:
            return self._credit.reserve(
                exchange.principal.user_id, exchange.call.request_id, most, usual, least, claims
            )
        except CreditExhausted as error:
            exchange.reservation = error.reservation
            if error.claim is not None:
                raise self._over_budget(exchange, error.claim, error.balance_nano) from None
            raise _crowded() if error.is_crowded else _no_credit(Balance(error.balance_nano)) from None

    def _over_budget(self, exchange: Exchange, claim: Claim, left_nano: int) -> Refusal:
        spent = self._directory.spending(exchange.principal.user_id).budget_spent
        now = self._clock.utcnow()
        return over_budget(claim, left_nano, begins_anew(claim, spent, now, exchange.zone), now)


def _is_form(exchange: Exchange) -> bool:
    """Return whether a body is a form; images that are made of others may be named in JSON, too."""
    kind = exchange.call.headers.get("content-type", "")
    return exchange.endpoint.body is Body.FORM and not kind.lower().startswith("application/json")


def _need(exchange: Exchange, body: RequestBody, model: Model, prompt_size: int, *tiers: str) -> Need:
    """Work out what a request may cost, which is answered in these tiers in any case."""
    usual = exchange.terms
    terms = [
        usual._replace(tiers=(*tiers, *more)) if tiers or more else usual for more in body.reachable_tiers()
    ]
    if body.quantities or not body.names.output_limits:
        return _need_of_results(body, model, prompt_size, terms)
    found = body.read_input()
    return need(
        model,
        prompt_bytes=prompt_size,
        most_input=found.tokens,
        output_limit=body.output_limit,
        predicted=body.predicted_tokens,
        choices=body.choices,
        least_output=max(LEAST_OUTPUT, body.thinking_budget + 1),
        is_cached_long=found.is_cached_long,
        terms=terms,
        calls=body.ordered_calls(),
    )


def _need_of_results(body: RequestBody, model: Model, prompt_size: int, terms: list[Terms]) -> Need:
    """Work out what a request may cost whose answer is no text: what it orders, where that has a price.

    No tokenizer makes more tokens of an input than it has bytes.
    """
    beside, output, most_input = 0, 0, prompt_size
    if body.quantities and all(model.has_price(unit) for unit, _ in body.quantities):
        beside = max(model.cost_nano_usd(Usage(quantities=body.quantities), each) for each in terms)
    elif body.quantities and (guess := of_tokens(body.quantities)) is not None:
        # An estimate is of what is usual; twice as much is what there can be.
        output = 2 * guess.output_tokens or model.max_output
        most_input += 2 * guess.input_tokens
    return need(
        model,
        prompt_bytes=prompt_size,
        most_input=most_input if body.input_tokens is None else body.input_tokens,
        output_limit=output,
        least_output=output,
        terms=terms,
    ).plus(beside)


def _no_credit(balance: Balance) -> Refusal:
    message = "You have no credit left. Add credit and try again."
    if balance.nano_usd > 0:
        message = (
            "The credit you have left does not cover this request, or running requests of yours "
            "have reserved it. Try again when they have ended, or add credit."
        )
    return Refusal(errors.NO_CREDIT, message, extra={"balance": balance.usd})


def over_budget(claim: Claim, left_nano: int, again: datetime | None, now: datetime) -> Refusal:
    """Make the 402 for a request that a budget does not cover, which begins anew at `again`; None: never."""
    budget = claim.budget
    whose = "Your budget" if claim.key_id is None else "The budget of this key"
    of_models = "" if budget.models is None else f" for {budget.models}"
    what = f"{whose} of {budget.usd} USD {_PER[budget.per]}{of_models}"
    if left_nano > 0:
        why = "does not cover this request, or running requests have reserved what is left of it"
    else:
        why = "is used up"
    beginning = None if again is None else iso_utc(again)
    when = "It does not begin anew." if beginning is None else f"It begins anew at {beginning}."
    shown = {"of": "user" if claim.key_id is None else "key", **budget.to_document()}
    shown["leftUsd"] = f"{Decimal(left_nano) / NANO:f}"
    return Refusal(
        errors.BUDGET_EXCEEDED,
        f"{what} {why}. {when}",
        retry_after_s=None if again is None else max(1, math.ceil((again - now).total_seconds())),
        extra={"budget": {**shown, "beginsAnew": beginning}},
    )


def _crowded() -> Refusal:
    message = f"You have {MAX_HELD} requests running: more have to wait while your balance is low."
    return Refusal(errors.RATE_LIMITED, message, retry_after_s=1)


def refuse_over_limit(rate: RateDecision | None) -> None:
    """Raise the 429 for a request over its rate limit."""
    if rate is not None and not rate.allowed:
        raise Refusal(
            errors.RATE_LIMITED,
            f"Rate limit of {rate.limit} requests per minute exceeded. "
            f"Try again in {rate.retry_after_s} seconds.",
            retry_after_s=rate.retry_after_s,
        )


def unknown_model(name: str, models: ModelTable) -> Refusal:
    """Make the 404 for a model that is not in the table; it names those that look like it."""
    message = f"The model {name[:MAX_MODEL_LENGTH]!r} does not exist.{did_you_mean(models.near(name))}"
    return Refusal(errors.UNKNOWN_MODEL, message, param="model")


def too_large(limit: int) -> Refusal:
    """Make the 413 for a body over `limit` bytes."""
    return Refusal(errors.BODY_TOO_LARGE, f"The request body is larger than {limit // (1024 * 1024)} MB.")


def rate_headers(rate: RateDecision | None) -> list[tuple[str, str]]:
    """Build the `X-RateLimit-*` headers of an answer; `Reset` is in epoch seconds."""
    if rate is None:
        return []
    return [
        ("X-RateLimit-Limit", str(rate.limit)),
        ("X-RateLimit-Remaining", str(rate.remaining)),
        ("X-RateLimit-Reset", str(rate.reset_at)),
    ]
