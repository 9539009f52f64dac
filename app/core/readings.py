"""What a meter has read off one answer so far."""

from dataclasses import dataclass, field
from typing import Any

from app.core.lenient_json import MAX_TEXT, clean_text
from app.core.usage import UsageMerger

BAD_JSON = "bad_json"
"""An event, or the body, was not JSON where it had to be."""
LINE_TOO_LONG = "line_too_long"
"""An event was longer than the meter buffers and was not read."""
BODY_TOO_LONG = "body_too_long"
"""A body was longer than the meter keeps and was not read."""


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error told inside an answer whose status said 200: its type, and at most 500 characters of text."""

    type: str
    message: str


@dataclass(slots=True)
class Readings:
    """The state that readers of either format fill in: first model and id, latest tier, first error."""

    usage: UsageMerger = field(default_factory=UsageMerger)
    upstream_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    has_content: bool = False
    is_terminated: bool = False
    error: StreamError | None = None
    counted_tokens: dict[str, Any] | None = None
    flags: set[str] = field(default_factory=set)

    def identify(self, response_id: object, model: object, service_tier: object = None) -> None:
        """Note who answered, from members that may hold anything."""
        if self.response_id is None and isinstance(response_id, str):
            self.response_id = clean_text(response_id) or None
        if self.upstream_model is None and isinstance(model, str):
            self.upstream_model = clean_text(model) or None
        if service_tier is not None and isinstance(service_tier, str):
            self.service_tier = clean_text(service_tier)

    def fail(self, error: object, default_type: str = "error") -> None:
        """Note the error in an `error` member: an object, or mere text. The first one is kept."""
        if self.error is not None or not error:
            return
        if isinstance(error, dict):
            kind = _first_text(error.get("type"), error.get("code"), default_type)
            message = _first_text(error.get("message"), "")
        else:
            kind, message = default_type, error if isinstance(error, str) else ""
        self.error = StreamError(clean_text(kind, 100), clean_text(message))

    def take_broken(self, name: bytes, data: bytes) -> None:
        """Note an event that is not JSON; one that is named `error` is an error all the same."""
        self.flags.add(BAD_JSON)
        if name == b"error":
            self.fail(data[: 4 * MAX_TEXT].decode("utf-8", "replace"))


def _first_text(*values: object) -> str:
    return next((str(v) for v in values if isinstance(v, str | int) and not isinstance(v, bool)), "")
