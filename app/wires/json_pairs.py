"""The members of a JSON object one by one, also where several have the same name."""

from typing import Final

import msgspec

MAX_MEMBERS: Final = 256
"""Real objects have a dozen members or two; a million would hold up all streams."""


class TooManyMembers(Exception):
    """An object has more than `MAX_MEMBERS`."""


class Key:
    """A member's name in one place: no other is equal to it, so that none takes another's place."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Reader:
    """Makes the keys, and stops the decoder at one too many; nothing else runs while it decodes."""

    def __init__(self) -> None:
        self._left = 0
        self._decode = msgspec.json.Decoder(dict[Key, msgspec.Raw], dec_hook=self._key).decode

    def read(self, data: bytes | msgspec.Raw) -> dict[Key, msgspec.Raw]:
        self._left = MAX_MEMBERS
        return self._decode(data)

    def _key(self, _type: type, name: str) -> Key:
        self._left -= 1
        if self._left < 0:
            raise TooManyMembers
        return Key(name)


read_pairs: Final = _Reader().read
"""Return the members of an object; raises what msgspec's decoders do, and `TooManyMembers`."""
