"""Reading answers that hold results rather than text: embeddings, ranks, moderations, images, transcripts.

A body comes without what was large in it (`app.wires.slim_body`). Of events only those that end something
tell usage; all others bring a part of the result.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text, loads_lenient
from app.wires.endpoints import Answers
from app.wires.formats.failures import NO_ANSWER, named_error_in, told_error, told_error_in
from app.wires.readings import BAD_JSON, Readings
from app.wires.units import SEARCH_UNIT, SECOND, clean_quantity, image_unit
from app.wires.usage import normalise
from app.wires.wire_format import WireFormat

DONE: Final = b"[DONE]"
_RESULTS = ("data", "results", "embeddings", "text", "segments", "audio_data", "audio", "images")
"""Members one of which an answer has."""
_UNTOLD = {Answers.IMAGES: "output_image", Answers.SPEECH: "output_audio"}
"""What tokens of output are where an answer does not tell of which kind they are."""
_OUTPUT_DETAILS = ("output_tokens_details", "output_token_details", "completion_tokens_details")
_MAX_DEPTH = 4

_ENDS = frozenset(
    (
        *("image_generation.completed", "image_edit.completed"),
        *("speech.audio.done", "transcript.text.done"),
    )
)
_OF_IMAGES = ("image_generation.", "image_edit.")
_PARTS = ("image_generation.", "image_edit.", "speech.audio.", "transcript.")


def read_media(body: bytes, counts: Mapping[str, int], readings: Readings, answers: Answers) -> bool:
    """Read a body into `readings`; return whether it is a whole answer: a JSON object without an error.

    `counts` says how many items the lists in it have.
    """
    try:
        raw = loads_lenient(body)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        readings.flags.add(BAD_JSON)
        readings.fail(told_error(raw))
        return False
    readings.identify(raw.get("id"), raw.get("model"), raw.get("service_tier"))
    readings.fail(raw.get("error"))
    if readings.error is None and not any(name in raw for name in _RESULTS):
        readings.fail(told_error(raw) or {"type": NO_ANSWER})
    _use(raw, readings, answers)
    if answers is Answers.IMAGES and not _tells_tokens(raw.get("usage")) and counts.get("data"):
        readings.usage.count(image_unit(raw.get("quality"), raw.get("size")), counts["data"])
    readings.is_terminated = readings.error is None
    return readings.is_terminated


def _use(raw: dict[str, Any], readings: Readings, answers: Answers) -> None:
    """Take all that an object tells of what was used."""
    usage = raw.get("usage")
    if isinstance(usage, dict):
        seconds = usage.get("seconds") if usage.get("type") == "duration" else None
        if "total_tokens" in usage and "prompt_tokens" not in usage and "input_tokens" not in usage:
            usage = {**usage, "input_tokens": usage["total_tokens"]}
        readings.use(usage, is_inclusive=True)
        _count(readings, SECOND, seconds)
        _count(readings, SEARCH_UNIT, usage.get("search_units"))
        _count_untold(usage, readings, answers)
    if isinstance(svg := raw.get("svg_usage"), dict):
        model = svg.get("model")
        if (used := normalise(svg, WireFormat.OPENAI)) is not None:
            readings.usage.count_beside(clean_text(model) if isinstance(model, str) else None, used)
    if answers is Answers.TRANSCRIPT and not isinstance(usage, dict):
        _count(readings, SECOND, raw.get("duration"))
    meta = raw.get("meta")
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    if isinstance(billed, dict):
        _count(readings, SEARCH_UNIT, billed.get("search_units"))


def _count(readings: Readings, unit: str, told: object) -> None:
    if (quantity := clean_quantity(_number(told))) is not None:
        readings.usage.count(unit, quantity)


def _number(told: object) -> object:
    """Return a number that was written as a text, as some upstreams do with durations."""
    if isinstance(told, str) and _DECIMAL.fullmatch(told):
        return Decimal(told)
    return told


_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,20})?")


def _tells_tokens(usage: object) -> bool:
    return isinstance(usage, dict) and bool(usage.get("output_tokens") or usage.get("total_tokens"))


def _count_untold(usage: dict[str, Any], readings: Readings, answers: Answers) -> None:
    """Note of what kind tokens of output are, where that is not told and goes without saying."""
    unit = _UNTOLD.get(answers)
    if unit is None or any(isinstance(usage.get(name), dict) for name in _OUTPUT_DETAILS):
        return
    output = clean_quantity(usage.get("output_tokens"))
    if isinstance(output, int):
        readings.usage.count(unit, output)


class _Event(msgspec.Struct, gc=False):
    """What is read of an event; the result itself, which may be megabytes long, is skipped."""

    type: Any = None
    usage: Any = None
    svg_usage: Any = None
    error: Any = None
    quality: Any = None
    size: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class MediaReader:
    """Reads the events of one stream into `readings`: of images, speech, or a transcript."""

    __slots__ = ("_answers", "_images", "_usage", "is_complete", "readings")

    def __init__(self, readings: Readings, answers: Answers) -> None:
        self.readings = readings
        self.is_complete = False
        self._answers = answers
        self._images = 0
        # Of several images each tells its own: what all have told together.
        self._usage: dict[str, Any] = {}

    def read(self, name: bytes, data: bytes) -> bool:
        """Read one event. Always False: this format has no usage-only artefact."""
        if data.strip() in (b"", DONE):
            self.readings.is_terminated = self.readings.is_terminated or data.strip() == DONE
            return False
        try:
            event = _decode(data)
        except (ValueError, RecursionError):
            self._read_broken(name, data)
            return False
        readings = self.readings
        kind = event.type if isinstance(event.type, str) else name.decode("utf-8", "replace")
        readings.fail(event.error)
        if kind in _ENDS:
            self._end(kind, event)
        elif kind == "error" or name == b"error":
            readings.fail(event.error or named_error_in(data))
        elif kind.startswith(_PARTS):
            readings.has_content = True
        else:
            readings.fail(told_error_in(data))
        return False

    def is_text_only(self, _name: bytes, _data: bytes) -> bool:
        """Return False: nothing is alike but for its text."""
        return False

    def _end(self, kind: str, event: _Event) -> None:
        readings = self.readings
        self.is_complete = readings.has_content = True
        is_image = kind.startswith(_OF_IMAGES)
        # Further images may follow one.
        readings.is_terminated = not is_image
        if isinstance(event.usage, dict):
            self._usage = _added(self._usage, event.usage, _MAX_DEPTH)
        if self._usage or event.svg_usage:
            _use({"usage": self._usage or None, "svg_usage": event.svg_usage}, readings, self._answers)
        if is_image and not _tells_tokens(self._usage):
            self._images += 1
            readings.usage.count(image_unit(event.quality, event.size), self._images)

    def _read_broken(self, name: bytes, data: bytes) -> None:
        try:
            raw = loads_lenient(data)
        except ValueError:
            self.readings.take_broken(name, data)
            return
        if isinstance(raw, dict):
            names = _Event.__struct_fields__
            kind = raw.get("type")
            if isinstance(kind, str) and kind in _ENDS:
                self._end(kind, _Event(**{member: raw[member] for member in names if member in raw}))
                return
        self.readings.fail(named_error_in(data) if name == b"error" else told_error(raw))


def _added(one: dict[str, Any], other: dict[str, Any], depth: int) -> dict[str, Any]:
    """Add up the numbers of two usage objects, member by member."""
    total = dict(one)
    for name, value in other.items():
        known = total.get(name)
        if isinstance(value, dict) and depth:
            total[name] = _added(known if isinstance(known, dict) else {}, value, depth - 1)
        elif type(value) is int and type(known) is int:
            total[name] = known + value
        elif type(value) is float and type(known) in (int, float):
            total[name] = float(Decimal(str(known)) + Decimal(str(value)))
        else:
            total[name] = value
    return total


_CUE = re.compile(rb"--> *(?:(\d{1,4}):)?(\d\d):(\d\d)[.,](\d{3})")


def last_cue_s(text: bytes) -> Decimal | None:
    """Return when the last subtitle ends of a piece of SRT or WebVTT, in seconds; None without any."""
    last = None
    for last in _CUE.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    hours, minutes, seconds, thousandths = (int(part or 0) for part in last.groups())
    return Decimal(hours * 3600 + minutes * 60 + seconds) + Decimal(thousandths) / 1000
