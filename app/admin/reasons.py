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


ENDINGS: Mapping[str, str] = {
    Outcome.OK: "ok",
    Outcome.REJECTED: "refused",
    Outcome.CLIENT_ABORT: "client left",
    Outcome.UPSTREAM_ERROR: "upstream error",
    Outcome.UPSTREAM_UNREACHABLE: "upstream unreachable",
    Outcome.UPSTREAM_TIMEOUT: "upstream timed out",
    Outcome.UPSTREAM_TRUNCATED: "answer cut off",
    Outcome.STREAM_ERROR: "error in the stream",
    Outcome.INTERRUPTED: "interrupted",
    Outcome.INTERNAL_ERROR: "internal error",
}
"""What pages call outcomes."""

_BY_OUTCOME: Mapping[str, Reason] = {
    Outcome.OK: Reason("The client received a complete answer."),
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
        "No connection to the upstream could be made, or it broke before the answer began.",
        "Check OHMYGPT_BASE_URL, the network and any outbound proxies; weir doctor tests them.",
    ),
    Outcome.UPSTREAM_TIMEOUT: Reason(
        "The upstream fell silent for longer than UPSTREAM_READ_TIMEOUT_S.",
        "If this model thinks for that long, set it higher.",
    ),
    Outcome.UPSTREAM_TRUNCATED: Reason(
        "The upstream's answer ended before its end; the client saw its connection break.",
        "The fault lies with the upstream or something on the way to it.",
    ),
    Outcome.STREAM_ERROR: Reason(
        "The upstream sent an error within the stream; the client got it there.",
        "Try again, or see the upstream's status page, to find out whether it persists.",
    ),
    Outcome.INTERRUPTED: Reason(
        "The proxy's process ended while the request ran.",
        "A restart cuts off what runs longer than GRACEFUL_TIMEOUT_S. Otherwise look for a crash in the log.",
    ),
    Outcome.INTERNAL_ERROR: Reason(
        "A fault of the proxy itself.", "Its log has a traceback with this request's id: please report it."
    ),
}

_BY_ERROR: Mapping[str, Reason] = {
    "rate_limit_exceeded": Reason(
        "The client key had used up its requests of the minute.",
        "RATE_LIMIT_RPM, or the limit of the user or key, says how many are allowed.",
    ),
    "parallel_limit_exceeded": Reason(
        "The key or its user already had as many requests running as allowed.",
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
    "request_too_large": Reason(
        "The body was larger than MAX_BODY_MB.", "Raise it if such bodies are expected."
    ),
    "unsupported_encoding": Reason("The body was compressed in a way the proxy does not know."),
    "not_found": Reason("There is no such path.", "Most likely the client's base URL is wrong."),
    "method_not_allowed": Reason("The path does not take this method."),
    "no_upstream_key": Reason(
        "No upstream key was available for use.", "Add one, or see on Upstream why the others are out of use."
    ),
    "upstream_keys_busy": Reason(
        "Every upstream key was cooling down.",
        "More keys or fewer requests help; Upstream shows until when.",
    ),
    "store_unavailable": Reason(
        "The database was away and nothing was known of this key.", "Check that the database answers."
    ),
    "journal_full": Reason("The journal was full, and JOURNAL_FULL=refuse.", "Free space on its disk."),
    "upstream_account": Reason(
        "The upstream refused the operator's keys: no money left, or no right to this model.",
        "The attempts below and the key table say which.",
    ),
}


def ending(outcome: object) -> str:
    """Return an outcome in words; one that is not known as it is."""
    return ENDINGS.get(str(outcome), str(outcome)) if outcome else "unknown"


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
