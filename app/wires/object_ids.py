"""The ids of what the upstream keeps, as requests name them.

Only the key that made something can use it, and only its maker may. What can be made through the proxy has to
be known, therefore; files and vector stores, which cannot, are for the upstream to judge.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

MAX_NAMED: Final = 2000
"""How many ids one request may name."""

_ELSEWHERE: Final = ("file", "vs_", "container_")
"""How ids begin of what is not made through the proxy, or was before it took note of such ids."""
_REFERENCES: Final = ("item_reference", None)
_STRIDE: Final = 100


class NamedObject(msgspec.Struct, frozen=True, gc=False):
    """An id that a request names, and the member that does."""

    object_id: str
    member: str

    @property
    def is_made_here(self) -> bool:
        """Whether what it names can only have been made through the proxy, so that it has to be known."""
        return not self.object_id.startswith(_ELSEWHERE)


class _Item(msgspec.Struct, gc=False):
    type: Any = None
    id: Any = None
    role: Any = None


class _Tool(msgspec.Struct, gc=False):
    container: Any = None


_text = msgspec.json.Decoder(str | _Item | None).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_item = msgspec.json.Decoder(_Item).decode
_tool = msgspec.json.Decoder(_Tool).decode
_UNREADABLE = (ValueError, RecursionError)


def named_objects(
    members: Mapping[str, msgspec.Raw], naming: Iterable[str], rest: Callable[[], None] = lambda: None
) -> list[NamedObject]:
    """Return what those of the members that are `naming` name, each id once.

    Of more than `MAX_NAMED`, that many and one. What cannot be read names nothing. `rest` is called between
    pieces of work that may take long.
    """
    found: dict[str, NamedObject] = {}
    for member in naming:
        if member in members:
            for object_id in _ids_in(member, members[member], rest):
                found.setdefault(object_id, NamedObject(object_id, member))
                if len(found) > MAX_NAMED:
                    return list(found.values())
    return list(found.values())


def _ids_in(member: str, value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[str]:
    if member == "input":
        return _references(value, rest)
    return _containers(value, rest) if member == "tools" else _single(value)


def _single(value: msgspec.Raw) -> Iterator[str]:
    """Yield the id that is the value, or that an object has."""
    try:
        named = _text(value)
    except _UNREADABLE:
        return
    object_id = named.id if isinstance(named, _Item) else named
    if isinstance(object_id, str) and object_id:
        yield object_id


def _references(value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[str]:
    """Yield the ids of earlier items in an input; an item with an id and nothing else is such a reference."""
    for raw in _each(value, rest):
        try:
            item = _item(raw)
        except _UNREADABLE:
            continue
        is_reference = item.type in _REFERENCES and item.role is None
        if is_reference and isinstance(item.id, str) and item.id:
            yield item.id


def _containers(value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[str]:
    for raw in _each(value, rest):
        try:
            tool = _tool(raw)
        except _UNREADABLE:
            continue
        if isinstance(tool.container, str) and tool.container:
            yield tool.container


def _each(value: msgspec.Raw, rest: Callable[[], None]) -> Iterator[msgspec.Raw]:
    if bytes(memoryview(value)[:1]) != b"[":
        return
    try:
        items = _list(value)
    except _UNREADABLE:
        return
    for count, item in enumerate(items, start=1):
        yield item
        if count % _STRIDE == 0:
            rest()
