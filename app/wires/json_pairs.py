"""The members of a JSON object one by one, also where several have the same name."""

import msgspec


class Key:
    """A member's name in one place: no other is equal to it, so that none takes another's place."""

    __slots__ = ("name",)

    def __init__(self, _type: type, name: str) -> None:
        self.name = name


PAIRS = msgspec.json.Decoder(dict[Key, msgspec.Raw], dec_hook=Key)
