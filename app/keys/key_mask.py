"""Keeping the upstream key out of the answers that it pays for.

An upstream, or what stands before it, may repeat a request's headers in a good answer. The key's bytes are
masked there, each by one byte, while all others pass as they are: lengths stay true, and JSON stays JSON. A
key is found as it is and with any of its characters escaped as JSON has it (`\\u002d`, `\\/`), also in JSON
that is quoted within JSON, and however the answer is cut into pieces.
"""

import re
from functools import lru_cache
from typing import Final

KEY_ECHOED: Final = "key_echoed"
"""The flag of an answer in which the upstream repeated its key."""

_SHORTEST_WORD, _SHORTEST = 8, 4
_MOST_BACKSLASHES = 8
_BACKSLASH = ord("\\")
_CODE = 5  # "u002d"
_QUOTED: Final = frozenset(b'"/')
_KEYS_KNOWN = 4096


class _Spellings:
    """A key as bytes, and how else it may be written."""

    __slots__ = ("ends", "escape", "hint", "key", "longest", "pattern", "start")

    def __init__(self, secret: str) -> None:
        self.key = key = secret.encode("utf-8", "surrogatepass")
        # Without an escape of one of its characters there is nothing but the plain key to be found.
        quoted = _QUOTED.intersection(key)
        self.hint = b"\\" if quoted else b"\\u00"
        codes = b"|".join(b"u00(?i:%02x)" % byte for byte in sorted(set(key)))
        self.escape = re.compile(rb"\\(?:%b)" % b"|".join([codes, *(bytes([byte]) for byte in quoted)]))
        self.pattern = re.compile(b"".join(map(_spelt, key)))
        # Bytes that end in none of these do not end within a key.
        self.ends = frozenset(b"\\u0123456789abcdefABCDEF").union(key)
        self.start = re.compile(rb"[\\%b]" % re.escape(key[:1]))
        self.longest = (_MOST_BACKSLASHES + _CODE) * len(key)

    def begins_at(self, data: bytes, at: int) -> bool:
        """Return whether all that there is from `at` on is the beginning of a key."""
        size = len(data)
        for byte in self.key:
            if at < size and data[at] == byte:
                at += 1
                continue
            first = at
            while at < size and data[at] == _BACKSLASH:
                at += 1
            if at - first > _MOST_BACKSLASHES:
                return False
            if at == size:
                return True
            if at == first:
                return False
            if byte in _QUOTED and data[at] == byte:
                at += 1
                continue
            code, found = b"u00%02x" % byte, data[at : at + _CODE]
            if found[:1] != b"u" or not code.startswith(found.lower()):
                return False
            if len(found) < _CODE:
                return True
            at += _CODE
        return False


def _spelt(byte: int) -> bytes:
    plain = re.escape(bytes([byte]))
    if byte in _QUOTED:
        plain = rb"\\{0,%d}" % _MOST_BACKSLASHES + plain
    return rb"(?:%b|\\{1,%d}u00(?i:%02x))" % (plain, _MOST_BACKSLASHES, byte)


@lru_cache(maxsize=_KEYS_KNOWN)
def _spellings(secret: str) -> _Spellings | None:
    """Make a key's spellings; None for what might stand in any text: a word, or next to nothing."""
    is_key = len(secret) >= (_SHORTEST_WORD if secret.isalpha() else _SHORTEST)
    return _Spellings(secret) if is_key else None


class KeyMask:
    """Masks one key in one answer.

    Bytes that may be the beginning of the key are held back until it shows whether they are: a few, and only
    where a piece ends so.
    """

    __slots__ = ("_ends", "_held", "_hint", "_key", "_secret", "_spellings", "has_found")

    def __init__(self, secret: str) -> None:
        spellings = self._spellings = _spellings(secret)
        # At hand, since every piece of an answer is looked at.
        self._key = spellings.key if spellings else b""
        self._hint = spellings.hint if spellings else b""
        self._ends: frozenset[int] = spellings.ends if spellings else frozenset()
        self._secret = secret
        self._held = b""
        self.has_found = False
        """Whether the key was in what has been fed."""

    @property
    def is_holding(self) -> bool:
        """Whether the next bytes decide about some bytes that were fed already."""
        return bool(self._held)

    def is_clean(self, data: bytes) -> bool:
        """Return whether these bytes, at least one, would come back from `feed` as they are."""
        # `find`, since `in` first tries whether bytes are a number, which takes three times as long.
        return self._spellings is None or (
            data.find(self._key) < 0
            and data.find(self._hint) < 0
            and data[-1] not in self._ends
            and not self._held
        )

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to go on with: `data` itself, as long as there is nothing to mask or to hold."""
        spellings = self._spellings
        if spellings is None or not data or self.is_clean(data):
            return data
        if self._held:
            data, self._held = self._held + data, b""
        if data.find(self._key) >= 0 or spellings.escape.search(data):
            masked = _masked(data, spellings)
            self.has_found = self.has_found or masked != data
            data = masked
        if data[-1] in self._ends:
            window = max(0, len(data) - spellings.longest)
            for match in spellings.start.finditer(data, window):
                if spellings.begins_at(data, match.start()):
                    data, self._held = data[: match.start()], data[match.start() :]
                    break
        return data

    def flush(self) -> bytes:
        """Return what was held back: the answer has ended without the rest of a key."""
        held, self._held = self._held, b""
        return held

    def text(self, text: str) -> str:
        """Mask the plain key in a text of its own, such as a header's value."""
        return text.replace(self._secret, "*" * len(self._secret)) if self._spellings else text


def _masked(data: bytes, spellings: _Spellings) -> bytes:
    return spellings.pattern.sub(lambda key: b"*" * len(key[0]), data)
