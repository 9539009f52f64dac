"""What an upstream status means for the request: relay it, try the next key, or tell the client.

A table with its reasons, so that a status is looked up and never guessed at in the attempt loop.
"""

from enum import Enum

from app.core.errors import (
    PASSED_THROUGH,
    UPSTREAM_ACCOUNT,
    UPSTREAM_FAILED,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    ErrorKind,
)
from app.core.records import Outcome


class Verdict(Enum):
    """The next step after an upstream answer's status is known."""

    RELAY = "relay"  # the answer is the client's
    NEXT_KEY = "next_key"  # another key may well serve it
    FAIL = "fail"  # no key can: the client must hear it


def judge(status: int) -> Verdict:
    """The verdict on an upstream status."""
    if 200 <= status < 300:
        return Verdict.RELAY
    if status in (401, 402, 403):  # the operator's key, not the client's request
        return Verdict.NEXT_KEY
    if status == 429 or status >= 500:  # limits and outages are per key or pass quickly
        return Verdict.NEXT_KEY
    return Verdict.FAIL  # the request itself (4xx), or a redirect, which is never followed


def client_kind(status: int) -> ErrorKind:
    """What the client is told when this upstream status is the last word."""
    if status in (401, 402, 403):
        return UPSTREAM_ACCOUNT
    return PASSED_THROUGH.get(status, UPSTREAM_FAILED)


TRANSPORT_FAILURES: dict[str, tuple[ErrorKind, Outcome, str, bool]] = {
    # kind: what the client is told, the record's outcome, the message, whether the next key may be tried
    "unreachable": (
        UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream could not be reached.",
        True,
    ),
    # The operator's proxies failed, not the key; another key may have others.
    "no_proxy": (
        UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream could not be reached.",
        True,
    ),
    "reset": (
        UPSTREAM_UNREACHABLE,
        Outcome.UPSTREAM_UNREACHABLE,
        "The upstream closed the connection before it answered.",
        True,
    ),
    # A stall has already used up the client's patience, and the generation may be running and charged.
    "timeout": (UPSTREAM_TIMEOUT, Outcome.UPSTREAM_TIMEOUT, "The upstream did not answer in time.", False),
    "truncated": (
        UPSTREAM_FAILED,
        Outcome.UPSTREAM_TRUNCATED,
        "The upstream's answer was cut before its first byte.",
        True,
    ),
    # The answer was generated and charged: asking again would be charged again, and likely break again.
    "garbled": (UPSTREAM_FAILED, Outcome.UPSTREAM_ERROR, "The upstream's answer could not be read.", False),
}
