"""Large JSON answers, read while they pass: what is small of the top level is kept, the rest is counted.

Lists of embeddings and images of many megabytes hold what matters (usage, model, an error) in some hundred
bytes beside them. They are scanned for their structure as they come, in time linear in their size, and a
member that grows large is let go of. What remains is a small JSON object for a reader: `[]`, `{}`, `""` stand
for what was large.
"""

import re
from typing import Final

import msgspec

MAX_KEPT: Final = 16 * 1024
"""A member of the top level is kept up to this size, in bytes."""
_MAX_MEMBERS: Final = 256
_START: Final = 1024
_USAGE: Final = b'"usage"'
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_STRUCTURE = re.compile(rb'["{}\[\],]')
_DEEP = re.compile(rb'["{}\[\]]')
_STRING_END = re.compile(rb'["\\]')
_EMPTY = {0x7B: b"{}", 0x5B: b"[]", 0x22: b'""'}
_QUOTE, _COMMA, _BACKSLASH = 0x22, 0x2C, 0x5C
_OPENING, _CLOSING = (0x7B, 0x5B), (0x7D, 0x5D)
# Within this depth commas are between members, and between the items of a member's list.
_COUNTED_DEPTH = 2


class SlimBody:
    """Takes a JSON object in pieces of any size.

    It does not check the grammar: what is no JSON object stays none, for whoever reads the result.
    """

    __slots__ = (
        *("_commas", "_depth", "_has_item", "_in_string", "_is_escaped", "_kind", "_member"),
        *("_members", "_name", "_start", "counts"),
    )

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._start = b""
        self._members: list[bytes] = []
        # The member being read, up to its comma: its bytes so far, None once they are too many.
        self._member: bytearray | None = bytearray()
        self._name = b""
        self._kind = 0
        self._commas = 0
        self._has_item = False
        self.counts: dict[str, int] = {}
        """How many items the lists among the members had, by name."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if len(self._start) < _START:
            self._start += data[: _START - len(self._start)]
        at = 0
        while at < len(data):
            if self._in_string:
                at = self._skip_string(data, at)
                continue
            pattern = _STRUCTURE if self._depth <= _COUNTED_DEPTH else _DEEP
            found = pattern.search(data, at)
            end = len(data) if found is None else found.end()
            self._take(data, at, end)
            if found is not None:
                self._mark(data[end - 1])
            at = end

    def _skip_string(self, data: bytes, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            self._take(data, at, at + 1)
            return at + 1
        found = _STRING_END.search(data, at)
        end = len(data) if found is None else found.end()
        self._take(data, at, end)
        if found is not None:
            self._is_escaped = data[end - 1] == _BACKSLASH
            self._in_string = self._is_escaped
        return end

    def _take(self, data: bytes, start: int, end: int) -> None:
        """Keep bytes of the member being read, as long as it is small."""
        if self._depth == 0:
            return
        if self._depth == _COUNTED_DEPTH and not self._has_item and data[start:end].strip(b" \t\r\n]"):
            self._has_item = True
        if self._depth > _COUNTED_DEPTH:
            self._has_item = True
        member = self._member
        if member is None:
            return
        if len(member) + end - start > MAX_KEPT:
            self._let_go(bytes(member) + data[start : min(end, start + MAX_KEPT)])
        else:
            member += data[start:end]

    def _let_go(self, member: bytes) -> None:
        name, value = _split(member)
        self._name, self._kind = name, value.lstrip()[:1][0] if value.strip() else 0
        self._member = None

    def _mark(self, mark: int) -> None:
        if mark == _QUOTE:
            self._in_string = True
        elif mark in _OPENING:
            self._depth += 1
            if self._depth == 1:
                self._member = bytearray()
        elif mark in _CLOSING:
            self._depth -= 1
            if self._depth == 0:
                self._end_member()
        elif self._depth == 1:
            self._end_member()
            self._member = bytearray()
        elif self._depth == _COUNTED_DEPTH:
            self._commas += 1

    def _end_member(self) -> None:
        """Note the member whose comma, or whose object's end, was just read."""
        if self._member is None:
            name, stub = self._name, _EMPTY.get(self._kind, b"null")
            self._note(name, stub, is_list=self._kind == _OPENING[1])
        elif member := bytes(self._member[:-1]).strip():
            name, value = _split(member)
            self._note(name, value, is_list=value.lstrip().startswith(b"["))
        self._member = None
        self._commas, self._has_item = 0, False

    def _note(self, name: bytes, value: bytes, *, is_list: bool) -> None:
        if len(self._members) >= _MAX_MEMBERS:
            return
        self._members.append(name + b":" + value)
        if is_list:
            key = name.strip().strip(b'"').decode("utf-8", "replace")
            self.counts[key] = self._commas + 1 if self._has_item else 0

    def begun(self) -> list[bytes] | None:
        """Return the members so far, the last of which has not ended: a list, or a text.

        The list is there as one of one item, the text as an empty one. None where it is neither.
        """
        if self._member is not None:
            self._let_go(bytes(self._member))
        is_list = self._depth >= _COUNTED_DEPTH and self._kind == _OPENING[1]
        is_text = self._depth == 1 and self._in_string and self._kind == _QUOTE
        if not (is_list or is_text):
            return None
        return [*self._members, self._name.strip() + (b":[{}]" if is_list else b':""')]

    def slim(self) -> bytes:
        """Return the object as far as it was kept; the start of what was fed, where that is no whole one."""
        is_object = self._start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        if self._depth or self._in_string or not is_object:
            return self._start
        return b"{" + b",".join(self._members) + b"}"


def from_ends(head: bytes, tail: bytes, within: bytes = b"") -> bytes | None:
    """Return a small object with the members at both ends of a large one, which tells its usage at the end.

    The list that `head` breaks off in stands there with one item, a text as an empty one. With `within`, the
    usage is told by the object of that name within it. None where the end does not tell: what begins at
    `usage` and goes on to the end completes the object only if it is at that level.
    """
    start = b"{"
    if within:
        name = b'"%b"' % within
        at = head.find(name)
        begin = head.find(b"{", at + len(name))
        if at < 0 or begin < 0:
            return None
        start, head = head[:at] + name + b":{", head[begin:]
    slim = SlimBody()
    slim.feed(head)
    begun = slim.begun()
    if begun is None:
        return None
    at = len(tail)
    while (at := tail.rfind(_USAGE, 0, at)) >= 0:
        body = start + b",".join([*begun, tail[at:]])
        try:
            _decode(body)
        except (msgspec.DecodeError, RecursionError):
            continue
        return body
    return None


def _split(member: bytes) -> tuple[bytes, bytes]:
    """Return name and value of a member's bytes."""
    end = _NAME.match(member)
    return (b'""', member) if end is None else (end[1], member[end.end() :])


_NAME = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:')
