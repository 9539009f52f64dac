"""The ids of what the upstream keeps, as requests name them.

Only the key that made something can use it, and only its maker may. What can be made through the proxy has to
be known, therefore; files and vector stores, which cannot, are for the upstream to judge.

Readers differ about names in another case and about members that are there twice, so whatever one of them
may take for an id is one here, and what cannot be read is refused: nobody else's is reached by writing it in
a way of one's own. Histories have ids, too, that most requests do not need, and vendors may follow them all
the same: these may be unknown, but are nobody else's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from app.wires.errors import invalid_body
from app.wires.json_pairs import TooManyMembers, read_pairs
from app.wires.member_names import Lookalikes

MAX_NAMED: Final = 2000
"""How many ids one request may name that it goes on with."""
MAX_TOLD: Final = 10_000
"""How many ids its history may have beside them."""

_ELSEWHERE: Final = ("file", "vs_", "container_")
"""How ids begin of what is not made through the proxy, or was before it took note of such ids."""
_LISTS: Final = ("input", "items", "tools")
_STRIDE: Final = 100

_ID: Final = "id"
_IDS: Final = (_ID, "container_id")
_PLACES: Final = ("container", "container_id", "environment")
"""What says in which container something runs, or ran."""
_meaning = Lookalikes((_ID, "type", *_PLACES)).meant
_type = Lookalikes(("item_reference",)).meant


class NamedObject(msgspec.Struct, frozen=True, gc=False):
    """An id that a request names, and the member that does; `is_needed`: the request goes on with it."""

    object_id: str
    member: str
    is_needed: bool = True

    @property
    def is_made_here(self) -> bool:
        """Whether what it names can only have been made through the proxy, so that it has to be known."""
        return not self.object_id.startswith(_ELSEWHERE)


_string = msgspec.json.Decoder(str).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_UNREADABLE = (ValueError, RecursionError, TooManyMembers)


def named_objects(
    members: Mapping[str, msgspec.Raw], naming: Iterable[str], rest: Callable[[], None] = lambda: None
) -> list[NamedObject]:
    """Return what those of the members that are `naming` name, each id once.

    Of more than `MAX_NAMED` or `MAX_TOLD`, that many and one. Raises a 400 `Refusal` where it cannot be read
    what is named. `rest` is called between pieces of work that may take long.
    """
    needed: dict[str, NamedObject] = {}
    told: dict[str, NamedObject] = {}
    for member in naming:
        if member not in members:
            continue
        for named in _named_in(member, members[member], rest):
            (needed if named.is_needed else told).setdefault(named.object_id, named)
            if len(needed) > MAX_NAMED or len(told) > MAX_TOLD:
                return [*needed.values(), *told.values()]
    return [*needed.values(), *(item for name, item in told.items() if name not in needed)]


def _named_in(member: str, value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[NamedObject]:
    try:
        if member not in _LISTS:
            yield from (NamedObject(object_id, member) for object_id in _ids_of(value))
            return
        for item in _each(value, rest):
            if _start(item) == b"{":
                yield from _in_tool(item) if member == "tools" else _in_item(member, item)
    except _UNREADABLE:
        raise invalid_body(f"{member!r}: it cannot be read what it refers to", member) from None


def _in_item(member: str, item: msgspec.Raw) -> Iterator[NamedObject]:
    """Yield the ids of an item: it is a reference if it says so, or does not say what else it is."""
    ids: list[str] = []
    is_reference = False
    kinds: dict[str, bool] = {}
    for key, value in read_pairs(item).items():
        name = key.name
        if name in ("role", "type"):
            kinds[name] = kinds.get(name, True) and _start(value) != b"n"
        meaning = _meaning(name)
        if meaning == "type":
            is_reference = is_reference or _type(_text(value)) is not None
        elif meaning == _ID:
            ids.append(_text(value))
        elif meaning is not None:
            yield from (NamedObject(each, member, is_needed=False) for each in _ids_of(value))
    is_needed = is_reference or not any(kinds.values())
    for object_id in filter(None, ids):
        yield NamedObject(object_id, member, is_needed=is_needed)


def _in_tool(tool: msgspec.Raw) -> Iterator[NamedObject]:
    """Yield the ids of the container that a tool is to run in."""
    for key, value in read_pairs(tool).items():
        if _meaning(key.name) in _PLACES:
            yield from (NamedObject(object_id, "tools") for object_id in _ids_of(value))


def _ids_of(value: msgspec.Raw) -> Iterator[str]:
    """Yield the id that the value is, or those that an object has."""
    values = [value]
    if _start(value) == b"{":
        values = [raw for key, raw in read_pairs(value).items() if _meaning(key.name) in _IDS]
    yield from filter(None, map(_text, values))


def _text(value: msgspec.Raw) -> str:
    """Return a string; nothing for another value."""
    return _string(value) if _start(value) == b'"' else ""


def _start(value: msgspec.Raw) -> bytes:
    return bytes(memoryview(value)[:1])


def _each(value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[msgspec.Raw]:
    start = _start(value)
    if start not in (b"[", b"{"):
        return
    for count, item in enumerate([value] if start == b"{" else _list(value), start=1):
        yield item
        if count % _STRIDE == 0:
            rest()
