"""Refusals and failures that become an answer to the client.

    GatewayError
    ├── Refusal             the request never went upstream; outcome `rejected`
    └── UpstreamProblem     it did, and no answer can be relayed

Each carries the status and the error types of both formats; `app.wires.error_bodies` turns it into the
body that is native to the endpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.records.records import Outcome
from app.wires.wire_format import WireFormat

# The longest `Retry-After` sent: one vendor's SDK sleeps as long as told, the other gives up at 120 s.
MAX_RETRY_AFTER_S = 60

# What is over by itself in a while: too slow a body, something else going on, too many requests.
_PASSING = (408, 409, 429)

_QUOTA = "insufficient_quota"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the error table: status, OpenAI type and code, Anthropic type, and whether to retry.

    `should_retry` None leaves the decision to the client (SDKs retry 408, 409, 429 and 5xx). Of a request
    that stays wrong however often it is sent it is False: some programs try even a wrong key again.
    """

    status: int
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    should_retry: bool | None = None

    def __post_init__(self) -> None:
        if 400 <= self.status < 500 and self.status not in _PASSING:
            object.__setattr__(self, "should_retry", False)


MISSING_CREDENTIAL = ErrorKind(401, "invalid_request_error", "missing_api_key", "authentication_error")
CONFLICTING_CREDENTIALS = ErrorKind(
    401, "invalid_request_error", "conflicting_api_keys", "authentication_error"
)
UNKNOWN_CREDENTIAL = ErrorKind(401, "authentication_error", "invalid_api_key", "authentication_error")
RATE_LIMITED = ErrorKind(429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error")
REQUEST_OVER_LIMIT = ErrorKind(
    429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error", should_retry=False
)
TOO_MANY_AT_ONCE = ErrorKind(429, "rate_limit_error", "parallel_limit_exceeded", "rate_limit_error")
TOO_MANY_TOKENS = ErrorKind(429, "rate_limit_error", "token_limit_exceeded", "rate_limit_error")
ADDRESS_NOT_ALLOWED = ErrorKind(403, "invalid_request_error", "address_not_allowed", "permission_error")
MODEL_NOT_ALLOWED = ErrorKind(403, "invalid_request_error", "model_not_allowed", "permission_error")
INVALID_BODY = ErrorKind(400, "invalid_request_error", "invalid_request_error", "invalid_request_error")
REQUEST_TIMEOUT = ErrorKind(408, "timeout_error", "request_timeout", "timeout_error")
BODY_TOO_LARGE = ErrorKind(413, "invalid_request_error", "request_too_large", "request_too_large")
UNSUPPORTED_ENCODING = ErrorKind(
    415, "invalid_request_error", "unsupported_encoding", "invalid_request_error"
)
UNKNOWN_MODEL = ErrorKind(404, "invalid_request_error", "model_not_found", "not_found_error")
UNKNOWN_OBJECT = ErrorKind(404, "invalid_request_error", "object_not_found", "not_found_error")
STILL_RUNNING = ErrorKind(409, "invalid_request_error", "still_running", "conflict_error", should_retry=False)
UNKNOWN_PATH = ErrorKind(404, "invalid_request_error", "not_found", "not_found_error")
WRONG_METHOD = ErrorKind(405, "invalid_request_error", "method_not_allowed", "invalid_request_error")
NO_CREDIT = ErrorKind(402, _QUOTA, "insufficient_credits", "billing_error")
CREDITS_EXPIRED = ErrorKind(402, _QUOTA, "credits_expired", "billing_error")
BUDGET_EXCEEDED = ErrorKind(402, _QUOTA, "budget_exceeded", "billing_error")
NO_UPSTREAM_KEY = ErrorKind(503, "server_error", "no_upstream_key", "api_error", should_retry=False)
UPSTREAM_KEYS_BUSY = ErrorKind(503, "server_error", "upstream_keys_busy", "api_error")
STORE_UNAVAILABLE = ErrorKind(503, "server_error", "store_unavailable", "api_error")
JOURNAL_FULL = ErrorKind(503, "server_error", "journal_full", "api_error")
NO_PLACE = ErrorKind(503, "server_error", "no_place", "api_error")
UPSTREAM_UNREACHABLE = ErrorKind(502, "upstream_error", "upstream_unreachable", "api_error")
# It may have been generated and charged: what the proxy does not ask again, clients should not either.
UPSTREAM_TIMEOUT = ErrorKind(504, "upstream_error", "upstream_timeout", "timeout_error", should_retry=False)
UPSTREAM_FAILED = ErrorKind(502, "upstream_error", "upstream_error", "api_error")
# The same of an answer that is there and cannot be read.
UPSTREAM_GARBLED = ErrorKind(502, "upstream_error", "upstream_error", "api_error", should_retry=False)
UPSTREAM_ACCOUNT = ErrorKind(502, "upstream_error", "upstream_account", "api_error", should_retry=False)
INTERNAL = ErrorKind(500, "server_error", "internal_error", "api_error")


@dataclass(eq=False)
class GatewayError(Exception):
    """Ends a request with an error body; the exception text is the message the client reads.

    `reason` is what the operator reads in the record, where that says more.
    """

    kind: ErrorKind
    message: str
    outcome: Outcome = Outcome.REJECTED
    param: str | None = None
    retry_after_s: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """The HTTP status the client gets."""
        return self.kind.status

    def told_as(self, final_status: int | None) -> "GatewayError":
        """Return what the client hears where its program goes by the status alone; None: the same.

        What no retry can help, and is no fault of the request's, has the status `final_status` then, and what
        is about credit the code that OpenAI has for that.
        """
        kind = self.kind
        is_of_credit = kind.openai_type == _QUOTA
        is_final = kind.should_retry is False and (is_of_credit or kind.status >= 500)
        if final_status is None or not is_final:
            return self
        code = _QUOTA if is_of_credit else kind.openai_code
        told = replace(kind, status=final_status, openai_code=code)
        # A time to wait would have it sent again.
        return replace(self, kind=told, retry_after_s=None if is_of_credit else self.retry_after_s)

    @property
    def error_type(self) -> str:
        """The short name kept in the record."""
        return self.kind.openai_code or self.kind.openai_type


class Refusal(GatewayError):
    """The proxy refused; nothing went upstream."""


class UpstreamProblem(GatewayError):
    """The upstream was tried, and there is no answer of its own to relay."""


_NOT_FOUND: Mapping[str, tuple[str, str | None]] = {
    "previous_response_id": ("Previous response with id {!r} not found.", "previous_response_not_found"),
    "conversation": ("Conversation with id {!r} not found.", "conversation_not_found"),
    "container": ("Container with id {!r} not found.", None),
    "tools": ("Container with id {!r} not found.", None),
    "input": ("Item with id {!r} not found.", None),
    "items": ("Item with id {!r} not found.", None),
}
"""How the upstream itself says that there is nothing of this id, by the member that named it."""
_KINDS = (("resp", "Response"), ("conv", "Conversation"), ("msgbatch", "Message batch"))


def unknown_object(object_id: str, member: str | None, wire_format: WireFormat) -> Refusal:
    """Make the 404 for an id that the client may not use, in the words in which the upstream says it.

    `member` is the member of the body that named it, None: the path did.
    """
    shown = object_id[:100]
    kind = next((kind for start, kind in _KINDS if object_id.startswith(start)), "Object")
    message, code = _NOT_FOUND.get(member or "", (f"{kind} with id {{!r}} not found.", None))
    extra = {} if wire_format is WireFormat.ANTHROPIC else {"code": code}
    return Refusal(UNKNOWN_OBJECT, message.format(shown), param=member, extra=extra)


def invalid_body(message: str, param: str | None = None) -> Refusal:
    """Make the 400 for a request body the proxy cannot use."""
    return Refusal(INVALID_BODY, message, param=param)
