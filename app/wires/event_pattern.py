"""Passing over the events of a stream that differ from one already read in their text alone.

Nearly all events of a stream are alike to the byte but for the text they bring. Once one of them has been
parsed and found to say nothing else, others that consist of the same bytes around any JSON strings in the
place of the text say nothing else either: they need not be parsed, but compared. Nothing is guessed: the
pattern fixes every byte outside the text, and the text must be the inside of a JSON string (RFC 8259 §7).
Events that are numbered differ in their number, too.
"""

import re
from collections.abc import Callable
from typing import Final

TEXT_MEMBERS: Final = (
    b"content",
    b"delta",
    b"reasoning_content",
    b"reasoning",
    b"refusal",
    b"arguments",
    b"obfuscation",
    b"text",
    b"partial_json",
    b"thinking",
    b"signature",
)
"""Members whose strings the readers of late events never look at, wherever they stand."""

# An event with more texts than this is parsed.
MAX_TEXTS: Final = 4
# A longer event is parsed: comparing it would not be cheaper.
MAX_PATTERN_BYTES: Final = 4096

# No surrogates (`\ud83d\ude00`): half a pair makes a decoder refuse the event, and is its business.
_STRING = rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u(?![dD])[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
_TEXT = re.compile(
    rb'"(?:' + b"|".join(TEXT_MEMBERS) + rb')": ?"(?P<text>' + _STRING + rb')"'
    rb'|"sequence_number": ?(?P<number>\d+)(?=[,}])'
)
_is_plain = re.compile(rb'[^"\\\x00-\x1f]*').fullmatch
_is_string = re.compile(_STRING).fullmatch
_is_number = re.compile(rb"0|[1-9]\d{0,15}").fullmatch
_BLANK_LINE = b"\n\n"
_PLAIN = bytes(byte for byte in range(0x20, 0x100) if byte not in b'"\\')
"""What a JSON string may be made of without any escapes."""
# With so long a separator, in so many bytes, CPython prepares its search at length, and anew for each piece:
# splitting at blank lines and cutting off what is around the texts takes less then.
_LONG_SEAM, _MUCH = 100, 2500
_Check = Callable[[bytes], object]


class EventPattern:
    """What surrounds the texts of an event, from its first byte to its blank line.

    `checks` say, of each text, what may stand in its place.
    """

    __slots__ = ("_before", "_behind", "_first", "_inner", "_is_last", "_last", "_seam", "_takes_any_text")

    def __init__(self, literals: list[bytes], checks: list[_Check], last: bytes) -> None:
        first, *inner = literals
        self._first, self._before, self._behind = first, len(first), len(last)
        self._inner = tuple(zip(inner, checks, strict=False))
        self._is_last = checks[-1]
        self._last = last
        self._seam = last + first
        self._takes_any_text = not inner and checks == [_is_string]

    @classmethod
    def of(cls, block: bytes) -> "EventPattern | None":
        """Return the pattern of one raw event, None if it has no text, or is not written in the usual way.

        The event must be sound JSON without anything of interest beside its texts: that is for the caller
        to know.
        """
        is_usual = block.startswith((b"data: {", b"event: ")) and block.endswith(b"}" + _BLANK_LINE)
        is_one = block.find(_BLANK_LINE) == len(block) - len(_BLANK_LINE)
        if not (is_usual and is_one) or b"\r" in block or len(block) > MAX_PATTERN_BYTES:
            return None
        # Text in front of a member's name is an end of a string, so no string can imitate a member.
        literals: list[bytes] = []
        checks: list[_Check] = []
        at = 0
        for match in _TEXT.finditer(block):
            kind = match.lastgroup or ""
            literals.append(block[at : match.start(kind)])
            checks.append(_is_string if kind == "text" else _is_number)
            at = match.end(kind)
        if _is_string not in checks or len(literals) > MAX_TEXTS:
            return None
        return cls(literals, checks, block[at:])

    def run(self, data: bytes, at: int = 0) -> tuple[int, int]:
        """Count the events of this pattern that follow each other from `at` on, and return where they end."""
        first, last = self._first, self._last
        if not data.startswith(first, at):
            return 0, at
        start, size = at + self._before, len(data)
        if self._takes_any_text and data.endswith(last) and _is_plain(data, start, size - self._behind):
            return 1, size  # as live streams come; a text with another event in it would not be plain
        end = data.rfind(last, start)
        if end < 0:
            return 0, at
        texts = self._split(data[start:end])
        if self._takes_any_text and not b"".join(texts).translate(None, _PLAIN):
            return len(texts), end + len(last)
        count = 0
        for text in texts:
            if not self._is_text(text):
                break
            count += 1
            at += len(first) + len(text) + len(last)
        return count, at

    def _split(self, data: bytes) -> list[bytes]:
        """Split what is between the first and the last literal of a run of events at their seams."""
        seam = self._seam
        if len(seam) < _LONG_SEAM or len(data) < _MUCH:
            return data.split(seam)
        texts = data.split(_BLANK_LINE)
        if len(texts) == 1:
            return texts
        before, behind = len(self._first), len(_BLANK_LINE) - len(self._last)
        texts[0], texts[-1] = texts[0][:behind], texts[-1][before:]
        texts[1:-1] = [event[before:behind] for event in texts[1:-1]]
        # If they are the same bytes once they are joined again, the seams were nothing but seams.
        return texts if seam.join(texts) == data else data.split(seam)

    def _is_text(self, text: bytes) -> bool:
        """Return whether this is what may stand between the first and the last literal of one event."""
        for literal, fits in self._inner:
            part, found, text = text.partition(literal)
            if not found or not fits(part):
                return False
        return self._is_last(text) is not None
