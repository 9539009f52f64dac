"""The proxy with journal, writer, records and metering left out, to see what those cost. Not for use.

Everything else is as in production. Run by gunicorn as `bench.off:app`.
"""

from typing import TYPE_CHECKING, Any

from app.exchange import handler
from app.exchange.exchange import Exchange, Metered, Unobserved
from app.factory import EXTENSION, create_app
from app.journal.journal_format import OpenRequest
from app.records.records import ExchangeRecord, Outcome
from app.wires.meter import Meter
from app.wires.readings import StreamError, ToldObject
from app.wires.usage import Usage
from app.wires.usage_option import RefusedOption


class _BlindMeter:
    """Passes bytes on without looking at them."""

    usage: Usage | None = None
    usage_raw: dict[str, Any] | None = None
    upstream_model: str | None = None
    service_tier: str | None = None
    told: ToldObject | None = None
    has_parts: bool = False
    has_content = True
    is_complete = True
    is_terminated = False
    is_unfinished = False
    is_between_events = False
    is_usage_final = False
    output_estimate = 0
    error: StreamError | None = None
    flags: frozenset[str] = frozenset()

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def feed(self, data: bytes) -> bytes:
        return data

    def passable(self, data: bytes) -> int:
        return 1

    def note_passed(self, events: int, size: int) -> None:
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

    def checkpoint(self, record: ExchangeRecord) -> bool:
        return True

    def put(self, record: ExchangeRecord) -> bool:
        return True


class _UnrecordedExchange(Exchange):
    """A request of which nothing is written down."""

    __slots__ = ()

    def checkpoint(self, status: int, metered: Metered, *, is_whole: bool) -> None:
        """Checkpoint nothing."""

    def settle(self, outcome: Outcome, status: int, **_what: Any) -> None:
        """Let go of what was reserved and held."""
        if not self.is_settled:
            self.is_settled = True
            self.call.watch.stop()
            if self.spool is not None:
                self.spool.close()
            if self.share is not None:
                self.share.leave()
            if self.held is not None:
                self.held.leave()
            if self.reservation is not None:
                self.credit.release(self.reservation)


class _NeverAsked(RefusedOption):
    """No upstream takes the option."""

    def may_ask(self, *_kind_and_now: Any) -> bool:
        return False


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
_gateway._refused_option = _NeverAsked()
