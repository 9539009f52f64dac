"""What a meter has read off one answer so far."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.common.lenient_json import MAX_TEXT, clean_text
from app.wires.formats.failures import is_requests_fault
from app.wires.upstream_errors import codes_of, message_of
from app.wires.usage import UsageMerger

BAD_JSON = "bad_json"
"""An event, or the body, was not JSON where it had to be."""
LINE_TOO_LONG = "line_too_long"
"""An event was longer than the meter buffers and was not read."""
BODY_TOO_LONG = "body_too_long"
"""A body was longer than the meter keeps and was not read."""


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error told inside an answer whose status said 200: its type, and at most 500 characters of text.

    `is_requests_fault` says that it is about what was asked, not about who was asked; `codes` are all of
    its codes.
    """

    type: str
    message: str
    is_requests_fault: bool = False
    codes: frozenset[str] = frozenset()


class ToldObject(msgspec.Struct, frozen=True, gc=False):
    """What an answer says of something the upstream keeps: its id, how far it is, and the ids in it."""

    object_id: str
    status: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in _ENDED


_ENDED = frozenset(("completed", "complete", "incomplete", "failed", "cancelled", "ended"))


@dataclass(slots=True)
class Readings:
    """The state that readers of all formats fill in: first model and id, latest tier, first error.

    `is_repetition` says that the event read last repeats what others brought, `is_unfinished` that the answer
    calls itself one that is still being made.
    """

    usage: UsageMerger = field(default_factory=UsageMerger)
    upstream_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    has_content: bool = False
    is_terminated: bool = False
    is_repetition: bool = False
    is_unfinished: bool = False
    status: str | None = None
    parts: tuple[str, ...] = ()
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

    def contain(self, container: object) -> None:
        """Note the container that an answer's tools ran in."""
        object_id = container.get("id") if isinstance(container, dict) else None
        if isinstance(object_id, str) and (object_id := clean_text(object_id, 256)):
            self.parts = tuple(dict.fromkeys((*self.parts, object_id)))

    @property
    def told(self) -> ToldObject | None:
        """What is told of something the upstream keeps, if it has an id."""
        if self.response_id is None:
            return None
        return ToldObject(self.response_id, self.status, self.parts)

    def fail(self, error: object, default_type: str = "error") -> None:
        """Note the error in an `error` member: an object, or text alone. The first one is kept."""
        if self.error is not None or not error:
            return
        kind = default_type
        if isinstance(error, dict):
            kind = _first_text(error.get("type"), error.get("code"), default_type)
        message = message_of(error)
        is_theirs = is_requests_fault(error)
        self.error = StreamError(clean_text(kind, 100), clean_text(message), is_theirs, codes_of(error))

    def use(self, usage: object, *, is_start: bool = False, is_inclusive: bool = False) -> None:
        """Take a usage object, and the tier that may be in it."""
        if isinstance(usage, dict):
            self.usage.add(usage, is_start=is_start, is_inclusive=is_inclusive)
            self.identify(None, None, usage.get("service_tier"))

    def take_broken(self, name: bytes, data: bytes) -> None:
        """Note an event that is not JSON; one that is named `error` is an error all the same."""
        self.flags.add(BAD_JSON)
        if name == b"error":
            self.fail(data[: 4 * MAX_TEXT].decode("utf-8", "replace"))


def _first_text(*values: object) -> str:
    return next((str(v) for v in values if v and isinstance(v, str | int) and not isinstance(v, bool)), "")
