"""Why a request ended as it did, and what can be done about it: sentences for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.records.records import Outcome


@dataclass(frozen=True, slots=True)
class Reason:
    """What happened, and what to do (empty: nothing)."""

    what: str
    advice: str = ""


_BY_OUTCOME: Mapping[str, Reason] = {
    Outcome.OK: Reason("The client got a whole, good answer."),
    Outcome.REJECTED: Reason("The proxy refused the request; nothing went upstream."),
    Outcome.CLIENT_ABORT: Reason(
        "The client left before the end of the answer.",
        "Often somebody pressed stop, or the client's own time limit is shorter than the answer takes.",
    ),
    Outcome.UPSTREAM_ERROR: Reason(
        "The upstream answered with an error, and the client was told.",
        "The attempts below show what each key was told.",
    ),
    Outcome.UPSTREAM_UNREACHABLE: Reason(
        "No connection to the upstream came about, or it broke before the answer began.",
        "Check OHMYGPT_BASE_URL, the network and, where there are some, the proxies. weir doctor tries it.",
    ),
    Outcome.UPSTREAM_TIMEOUT: Reason(
        "The upstream fell silent for longer than UPSTREAM_READ_TIMEOUT_S.",
        "If this model thinks for that long, set it higher.",
    ),
    Outcome.UPSTREAM_TRUNCATED: Reason(
        "The upstream's answer ended before its end; the client saw its connection break.",
        "It is the upstream's fault, or that of something in between.",
    ),
    Outcome.STREAM_ERROR: Reason(
        "The upstream sent an error within the stream; the client got it there.",
        "The upstream's status page, or trying again, tells whether it goes on.",
    ),
    Outcome.INTERRUPTED: Reason(
        "The proxy's process ended while the request ran.",
        "A restart cuts what runs longer than GRACEFUL_TIMEOUT_S. After none, the log tells of a crash.",
    ),
    Outcome.INTERNAL_ERROR: Reason(
        "A fault of the proxy itself.", "Its log has a traceback with this request's id: please report it."
    ),
}

_BY_ERROR: Mapping[str, Reason] = {
    "rate_limit_exceeded": Reason(
        "The client key had used up its requests of the minute.",
        "RATE_LIMIT_RPM, or the user's own limit, says how many there are.",
    ),
    "parallel_limit_exceeded": Reason(
        "As many requests of the key or its user were running as may.",
        "Their limit is on the key's page and the user's.",
    ),
    "token_limit_exceeded": Reason(
        "The key or its user had used up the tokens of the minute.",
        "Their limit is on the key's page and the user's.",
    ),
    "model_not_allowed": Reason(
        "The key or its user may not use this model.", "Its page lists the patterns of those it may."
    ),
    "address_not_allowed": Reason(
        "The key is not accepted from where the request came.",
        "Its page lists the networks. Behind a proxy of yours, TRUSTED_PROXIES has to name it.",
    ),
    "budget_exceeded": Reason(
        "A budget of the key or its user did not cover the request.",
        "The message says which, and when it begins anew; its page shows what is left.",
    ),
    "insufficient_credits": Reason(
        "The user had no credit left.", "weir users credit NAME AMOUNT adds some."
    ),
    "credits_expired": Reason("The user's credit had expired.", "New credit has a new date."),
    "model_not_found": Reason(
        "The model is not in the model table.",
        "Add it, or an alias, to MODELS_FILE and reload; weir prices missing lists all that were asked for.",
    ),
    "invalid_request_error": Reason(
        "The body of the request cannot be used.", "The client has to send another."
    ),
    "request_too_large": Reason("The body was larger than MAX_BODY_MB.", "Raise it if that is wanted."),
    "unsupported_encoding": Reason("The body was compressed in a way the proxy does not know."),
    "not_found": Reason("There is no such path.", "The client's base URL is wrong, most likely."),
    "method_not_allowed": Reason("The path does not take this method."),
    "no_upstream_key": Reason(
        "There was no upstream key that may be used.", "Add one, or see why the others are out of use."
    ),
    "upstream_keys_busy": Reason(
        "Every upstream key was cooling down.",
        "More keys, or fewer requests, help: the key table says until when.",
    ),
    "store_unavailable": Reason(
        "The database was away and nothing was known of this key.", "See that the database answers."
    ),
    "journal_full": Reason("The journal was full, and JOURNAL_FULL=refuse.", "Free its disk."),
    "upstream_account": Reason(
        "The upstream refused the operator's keys: no money left, or no right to this model.",
        "The attempts below and the key table say which.",
    ),
}


def reason_of(record: Mapping[str, Any]) -> Reason:
    """Return the reason for a record's outcome. The error that is known best comes first."""
    outcome = str(record.get("outcome") or "")
    error = str(record.get("errorType") or "")
    if outcome == Outcome.REJECTED or error in ("no_upstream_key", "upstream_keys_busy", "upstream_account"):
        known = _BY_ERROR.get(error)
        if known is not None:
            return known
    if outcome in _BY_OUTCOME:
        return _BY_OUTCOME[outcome]
    return Reason(
        "This record was written by earlier software, which did not say."
        if not outcome
        else "This version does not know this outcome."
    )
