"""Refusals and failures that become an answer to the client.

    GatewayError
    ├── Refusal             the request never went upstream; outcome `rejected`
    └── UpstreamProblem     it did, and no answer can be relayed

Each carries the status and the error types of both formats; `app.core.error_bodies` turns it into the
body that is native to the endpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.records import Outcome

MAX_RETRY_AFTER_S = 60
"""The longest `Retry-After` sent: one vendor's SDK sleeps as long as told, the other gives up at 120 s."""

SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the error table: status, OpenAI type and code, Anthropic type, and whether to retry.

    `should_retry` None leaves the decision to the client's SDK (it retries 408, 409, 429 and 5xx).
    """

    status: int
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    should_retry: bool | None = None


MISSING_CREDENTIAL = ErrorKind(401, "invalid_request_error", "missing_api_key", "authentication_error")
CONFLICTING_CREDENTIALS = ErrorKind(
    401, "invalid_request_error", "conflicting_api_keys", "authentication_error"
)
UNKNOWN_CREDENTIAL = ErrorKind(401, "authentication_error", "invalid_api_key", "authentication_error")
RATE_LIMITED = ErrorKind(429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error")
INVALID_BODY = ErrorKind(400, "invalid_request_error", "invalid_request_error", "invalid_request_error")
REQUEST_TIMEOUT = ErrorKind(408, "timeout_error", "request_timeout", "timeout_error")
BODY_TOO_LARGE = ErrorKind(413, "invalid_request_error", "request_too_large", "request_too_large")
UNSUPPORTED_ENCODING = ErrorKind(
    415, "invalid_request_error", "unsupported_encoding", "invalid_request_error"
)
UNKNOWN_MODEL = ErrorKind(404, "invalid_request_error", "model_not_found", "not_found_error")
UNKNOWN_PATH = ErrorKind(404, "invalid_request_error", "not_found", "not_found_error")
WRONG_METHOD = ErrorKind(405, "invalid_request_error", "method_not_allowed", "invalid_request_error")
NO_CREDIT = ErrorKind(402, "insufficient_quota", "insufficient_credits", "billing_error", should_retry=False)
CREDITS_EXPIRED = ErrorKind(402, "insufficient_quota", "credits_expired", "billing_error", should_retry=False)
NO_UPSTREAM_KEY = ErrorKind(503, "server_error", "no_upstream_key", "api_error", should_retry=False)
UPSTREAM_KEYS_BUSY = ErrorKind(503, "server_error", "upstream_keys_busy", "api_error")
STORE_UNAVAILABLE = ErrorKind(503, "server_error", "store_unavailable", "api_error")
JOURNAL_FULL = ErrorKind(503, "server_error", "journal_full", "api_error")
UPSTREAM_UNREACHABLE = ErrorKind(502, "upstream_error", "upstream_unreachable", "api_error")
UPSTREAM_TIMEOUT = ErrorKind(504, "upstream_error", "upstream_timeout", "timeout_error")
UPSTREAM_FAILED = ErrorKind(502, "upstream_error", "upstream_error", "api_error")
UPSTREAM_ACCOUNT = ErrorKind(502, "upstream_error", "upstream_account", "api_error", should_retry=False)
INTERNAL = ErrorKind(500, "server_error", "internal_error", "api_error")

PASSED_THROUGH: Mapping[int, ErrorKind] = {
    400: ErrorKind(400, "invalid_request_error", "invalid_request_error", "invalid_request_error"),
    404: ErrorKind(404, "not_found_error", "not_found", "not_found_error"),
    408: REQUEST_TIMEOUT,
    409: ErrorKind(409, "conflict_error", "conflict", "conflict_error"),
    413: ErrorKind(413, "invalid_request_error", "request_too_large", "request_too_large"),
    415: ErrorKind(415, "invalid_request_error", "unsupported_media_type", "invalid_request_error"),
    422: ErrorKind(422, "invalid_request_error", "unprocessable_entity", "invalid_request_error"),
    429: RATE_LIMITED,
    529: ErrorKind(529, "server_error", "overloaded", "overloaded_error"),
}
"""Upstream statuses that concern the client's own request and therefore reach it (with their message)."""


@dataclass(eq=False)
class GatewayError(Exception):
    """Ends a request with an error body; the exception text is the message the client reads."""

    kind: ErrorKind
    message: str
    outcome: Outcome = Outcome.REJECTED
    param: str | None = None
    retry_after_s: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def status(self) -> int:
        """The HTTP status the client gets."""
        return self.kind.status

    @property
    def error_type(self) -> str:
        """The short name kept in the record."""
        return self.kind.openai_code or self.kind.openai_type


class Refusal(GatewayError):
    """The proxy refused; nothing went upstream."""


class UpstreamProblem(GatewayError):
    """The upstream was tried, and there is no answer of its own to relay."""


def invalid_body(message: str, param: str | None = None) -> Refusal:
    """A 400 for a request body the proxy cannot use."""
    return Refusal(INVALID_BODY, message, param=param)
