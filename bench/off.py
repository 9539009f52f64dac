"""The proxy with journal, writer, records and metering left out, to see what those cost. Not for use.

Everything else is as in production. Run by gunicorn as `bench.off:app`.
"""

from typing import TYPE_CHECKING, Any

from app.core.journal_format import OpenRequest
from app.core.meter import Meter
from app.core.readings import StreamError
from app.core.records import ExchangeRecord, Outcome
from app.core.usage import Usage
from app.exchange import handler
from app.exchange.exchange import Exchange, Metered, Unobserved
from app.factory import EXTENSION, create_app
from bench.shapes import MODELS


class _BlindMeter:
    """Passes bytes on without looking at them."""

    usage: Usage | None = None
    usage_raw: dict[str, Any] | None = None
    upstream_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    has_content = True
    is_complete = True
    is_terminated = False
    at_event_boundary = False
    content_events = 0
    error: StreamError | None = None
    flags: frozenset[str] = frozenset()

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def feed(self, data: bytes) -> bytes:
        return data

    def passable(self, data: bytes) -> int:
        return 1

    def note_passed(self, events: int) -> None:
        pass

    def flush(self) -> bytes:
        return b""


if TYPE_CHECKING:
    _meter: Meter = _BlindMeter()


class _NoSink:
    """Takes everything and keeps nothing."""

    def accepts(self) -> bool:
        return True

    def open(self, request: OpenRequest) -> bool:
        return True

    def foresee(self, record: ExchangeRecord) -> bool:
        return True

    def put(self, record: ExchangeRecord) -> bool:
        return True


class _UnrecordedExchange(Exchange):
    """A request of which nothing is written down."""

    __slots__ = ()

    def foresee(self, status: int, metered: Metered, *, is_whole: bool) -> None:
        """Nothing is foreseen."""

    def settle(self, outcome: Outcome, status: int, **_what: Any) -> None:
        """Let go of what was reserved."""
        if not self.is_settled:
            self.is_settled = True
            self.call.watch.stop()
            if self.reservation is not None:
                self.credit.release(self.reservation)


for _name, _stand_in in {
    "StreamMeter": _BlindMeter,
    "AnswerMeter": _BlindMeter,
    "Exchange": _UnrecordedExchange,
}.items():
    setattr(handler, _name, _stand_in)
app = create_app()
_gateway = app.extensions[EXTENSION].gateway
_gateway.sink = _NoSink()
_gateway.observer = Unobserved()
# Without metering no usage is asked for either: nothing would take its chunk out again.
_gateway._without_usage_option.update(MODELS)
