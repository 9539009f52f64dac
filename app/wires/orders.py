"""What a request orders: how much input it may amount to, and what costs something beside tokens.

A tokenizer makes no more tokens of a text than it has bytes, so text is bounded by the body's size. An image
is bounded by what vendors count for one. Everything that is not in the body (documents by URL or id, results
of tools that the vendor runs) is bounded by the model's context window alone: such input is called open.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text
from app.wires.endpoints import Members, Metering
from app.wires.units import (
    CHARACTER,
    FREE_TOOLS,
    MAX_CHARACTERS,
    MAX_QUANTITY,
    SEARCH_UNIT,
    TOOL_UNITS,
    WEB_SEARCH,
    Quantity,
    base_unit,
    clean_quantity,
    image_unit,
    tool_counts,
)
from app.wires.wire_format import WireFormat

# Tokens an image is counted as at most, whatever its size (GPT-4o mini, which counts more, is cheap).
MOST_PER_IMAGE: Final = 16_384
# Tokens vendors add to a request on their own: for roles, for having tools at all.
MOST_BESIDE: Final = 1024
# Tokens vendors add for a tool whose description is theirs and which the client runs.
MOST_PER_CLIENT_TOOL: Final = 1024
# What rerankers count as one search.
DOCUMENTS_PER_SEARCH: Final = 100
# At most this many kinds of unpriced use are told of one request.
MAX_UNITS: Final = 8
# And at most this many kinds of what it orders are looked at: all that are known, and some.
MOST_ORDERED: Final = 16

_NOTHING = frozenset((b"", b"null", b"false", b"[]", b'""'))
_OTHER_MODELS: Final = ("models", "route", "fallbacks")
_OPENING = frozenset(
    (
        *("web_search_options", "search_parameters", "enable_search", "web_search", "plugins"),
        *(
            "data_sources",
            "mcp_servers",
            "container",
            "context_management",
            "previous_response_id",
            "conversation",
        ),
        *_OTHER_MODELS,
    )
)
"""Members by which input comes in that is not in the body, or more than one pass over it is made."""
_UNITS_BY_MEMBER: Final = {
    "web_search_options": "web_search",
    "search_parameters": "web_search",
    "enable_search": "web_search",
    "web_search": "web_search",
    "plugins": "plugin",
    "data_sources": "file_search",
    "container": "code_session",
}
_KNOWN_UNITS: Final = frozenset((*_UNITS_BY_MEMBER.values(), *TOOL_UNITS.values()))
_SURCHARGED: Final = ("service_tier", "speed", "inference_geo")
_WINDOW_ORDERED: Final = "completion_window"
_USUAL: Final = frozenset(
    (
        *("", "auto", "default", "standard", "standard_only", "on_demand", "normal"),
        *("global", "not_available", "null", "none"),
    )
)
"""What tiers, speeds and regions are called that cost the price of the table."""

_ORDERS = frozenset((*_UNITS_BY_MEMBER, *_SURCHARGED, "tools", "modalities", "background_options"))
_NO_UNITS: Final[frozenset[str]] = frozenset()
_NO_CALLS: Final[Mapping[str, int]] = {}
_STANDARD_ALONE: Final = ((),)
PRIORITY: Final = "service_tier:priority"

USUAL_CALLS: Final = 10
"""How often a tool of the vendor's is called at most, where a request does not say: few answers do more."""

_OWN_TOOLS = (None, "function", "custom")
_CLIENT_TOOLS = (
    *("bash_", "text_editor_", "computer_", "memory_"),
    *("local_shell", "apply_patch", "tool_search", "namespace"),
)
"""What tools of a vendor begin with that the client runs, or that bring in only what is in the body."""
_MOST_TOOL_KINDS: Final = 64
_MODALITY_UNITS: Final = {"audio": "output_audio", "image": "output_image"}

_LASTING = ("cache_control", "prompt_cache_options")
_USUAL_LIFETIMES = (None, "5m", "30m")

_TEXT_PARTS = frozenset(
    (
        *("text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"),
        *("tool_use", "tool_result", "server_tool_use", "mcp_tool_use", "search_result"),
        *("message", "summary_text", "reasoning_text", "compaction", "computer_call", "mcp_call"),
        *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output"),
        *("shell_call", "shell_call_output", "tool_search_call", "tool_search_output"),
        *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "computer_call_output"),
    )
)
"""Types of parts of messages, and of items of a conversation, all of whose text is in the body."""
_IMAGE_PARTS = frozenset(("image", "image_url", "input_image", "computer_screenshot"))
_MEDIA_MEMBERS = frozenset(
    (
        *("image_url", "image", "source", "file", "file_id", "file_url", "file_data", "input_audio", "audio"),
        *("video", "video_url", "inline_data", "inlineData", "fileData", "file_uri", "images", "files"),
    )
)
_MAX_DEPTH = 4


class Input(msgspec.Struct, frozen=True, gc=False):
    """What the input may amount to: tokens at most, None if only the model limits that (it is open).

    `is_cached_long` says that some of it may be written to the cache that lasts an hour, and is dearer.
    """

    tokens: int | None = None
    is_cached_long: bool = True


class _Tool(msgspec.Struct, gc=False):
    type: Any = None
    name: Any = None
    max_uses: Any = None
    function: msgspec.Raw = msgspec.Raw()
    cache_control: Any = None


class _Message(msgspec.Struct, gc=False):
    """Of a message: its content, and where else than in there media may be."""

    content: Any = None
    cache_control: Any = None
    audio: Any = None
    images: Any = None
    files: Any = None
    attachments: Any = None
    videos: Any = None


_tools = msgspec.json.Decoder(list[_Tool])
_messages = msgspec.json.Decoder(list[_Message])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_input(members: Mapping[str, msgspec.Raw], size: int, names: Members) -> Input:
    """Return what the input of a body of `size` bytes may amount to; `names` says where it stands.

    What cannot be read here may be read by others, and is open.
    """
    if _is_any_given(members, _OPENING) or _is_any_given(members, names.elsewhere):
        return _OPEN
    try:
        tools = _tools.decode(members["tools"]) if _is_given(members, "tools") else []
        messages = _read_messages(members, names)
        lasting = [msgspec.json.decode(members[name]) for name in _LASTING if name in members]
    except _UNREADABLE:
        return _OPEN
    own_tools = _own_tools(tools)
    if own_tools is None:
        return _OPEN
    orders = (*lasting, *(tool.cache_control for tool in tools))
    is_cached_long = any(map(_is_long, orders))
    images = inline = 0
    for message in messages:
        if message.audio or message.images or message.files or message.attachments or message.videos:
            return _OPEN
        is_cached_long |= _is_long(message.cache_control)
        for part in _parts(message.content):
            kind = part.get("type", "message" if "role" in part else None)
            if not isinstance(kind, str):
                return _OPEN
            is_cached_long |= _is_long(part.get("cache_control"))
            if kind in _IMAGE_PARTS:
                found = _inline_size(part)
                if found is None:
                    return _OPEN
                images, inline = images + 1, inline + found
            elif kind not in _TEXT_PARTS or not _MEDIA_MEMBERS.isdisjoint(part):
                return _OPEN
    most = size - inline + images * MOST_PER_IMAGE + own_tools * MOST_PER_CLIENT_TOOL + MOST_BESIDE
    return Input(most, is_cached_long)


_OPEN = Input()


def _read_messages(members: Mapping[str, msgspec.Raw], names: Members) -> list[_Message]:
    """Return the messages; what is no list of them (a text, parts, items of a conversation) is one."""
    messages: list[_Message] = []
    for name in names.prompt:
        if name in members and name == names.required:
            messages += _messages.decode(members[name])
        elif name in members:
            messages.append(_Message(msgspec.json.decode(members[name])))
    return messages


def _is_long(order: object) -> bool:
    """Return whether an order to cache is for longer than is usual at its vendor, or is not understood."""
    if order is None:
        return False
    return not isinstance(order, dict) or order.get("ttl") not in _USUAL_LIFETIMES


def _is_given(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in members and bytes(members[name]) not in _NOTHING


def _is_any_given(members: Mapping[str, msgspec.Raw], names: Iterable[str]) -> bool:
    return not members.keys().isdisjoint(names) and any(_is_given(members, name) for name in names)


def other_models_in(members: Mapping[str, msgspec.Raw]) -> str | None:
    """Return the name of a member by which a request lets other models answer than the one in `model`."""
    return next((name for name in _OTHER_MODELS if _is_given(members, name)), None)


def ordered_units(members: Mapping[str, msgspec.Raw]) -> frozenset[str]:
    """Return what a request orders that is not counted in tokens of text, by the names records use."""
    if _ORDERS.isdisjoint(members):
        return _NO_UNITS
    units = {unit for name, unit in _UNITS_BY_MEMBER.items() if _is_given(members, name)}
    if "tools" in members:
        units |= _tool_units(_read_tools(members) or ())
    if "modalities" in members:
        asked = _decoded(members["modalities"])
        names = asked if isinstance(asked, list) else [asked]
        units |= {unit for name, unit in _MODALITY_UNITS.items() if name in names}
    for name in _SURCHARGED:
        if name in members:
            units |= _surcharge(name, _decoded(members[name]))
    if "background_options" in members:
        options = _decoded(members["background_options"])
        window = options.get(_WINDOW_ORDERED) if isinstance(options, dict) else None
        units |= _surcharge(_WINDOW_ORDERED, window)
    # What prices are known for comes first: nothing else that is ordered keeps it from being held credit for.
    ranked = sorted(units, key=lambda unit: (unit not in _KNOWN_UNITS and ":" not in unit, unit))
    return frozenset(ranked[:MOST_ORDERED])


def reachable_tiers(ordered: frozenset[str], *, is_auto: bool) -> Sequence[tuple[str, ...]]:
    """Return what a request may be answered in that orders these units: the standard, and what it asks for.

    `is_auto` says that it leaves the tier to the upstream's account, which may pay for priority.
    """
    if not (ordered or is_auto):
        return _STANDARD_ALONE
    asked = {unit.partition(":")[0]: unit for unit in ordered}
    kinds = {name: asked[name] for name in _SURCHARGED if name in asked}
    if is_auto:
        kinds["service_tier"] = PRIORITY
    return [tuple(filter(None, chosen)) for chosen in product(*((None, unit) for unit in kinds.values()))]


def ordered_calls(ordered: frozenset[str], members: Mapping[str, msgspec.Raw]) -> Mapping[str, int]:
    """Return how often each tool of the vendor's that costs something may be called, by unit.

    That is what its `max_uses` says, and the request's `max_tool_calls`; `USUAL_CALLS` where neither does.
    """
    units = [unit for unit in ordered if ":" not in unit and unit not in _MODALITY_UNITS.values()]
    if not units:
        return _NO_CALLS
    said = clean_quantity(_decoded(members["max_tool_calls"])) if "max_tool_calls" in members else None
    most = USUAL_CALLS if said is None else int(said)
    uses: dict[str, int] = {}
    for tool in (_read_tools(members) or ()) if "tools" in members else ():
        if (unit := _unit_of(tool)) in units and unit is not None:
            count = clean_quantity(tool.max_uses)
            uses[unit] = uses.get(unit, 0) + (most if count is None else int(count))
    return {unit: min(uses.get(unit, most), most if said is not None else MAX_QUANTITY) for unit in units}


def ordered_quantities(
    metering: Metering, read: Callable[[str], Any], choices: int = 1
) -> tuple[tuple[str, Quantity], ...]:
    """Return how much of which unit a request orders, where it says so: images, documents, characters.

    `read` returns what a member of the body holds, None where there is none or it cannot be read.
    """
    if metering is Metering.IMAGES:
        return ((image_unit(read("quality"), read("size")), choices),)
    if metering is Metering.SEARCHES:
        documents = read("documents")
        count = len(documents) if isinstance(documents, list) else 1
        return ((SEARCH_UNIT, max(1, -(-count // DOCUMENTS_PER_SEARCH))),)
    if metering is Metering.SPEECH:
        text = read("input")
        # Unicode characters, as vendors count them.
        count = min(len(text), MAX_CHARACTERS) if isinstance(text, str) else 0
        return ((CHARACTER, count),) if count else ()
    return ()


_OF_TOKENS = b"0123456789,[] \t\r\n"


def token_count(raw: bytes, rest: Callable[[], None] = lambda: None) -> int | None:
    """Return how many tokens an input of tokens has, as a list or lists of numbers; None for any other.

    `rest` is called again and again: there may be millions.
    """
    if not raw.startswith(b"[") or raw[1:64].lstrip()[:1] not in _TOKENS_BEGIN:
        return None
    commas = 0
    for start in range(0, len(raw), _WINDOW):
        window = raw[start : start + _WINDOW]
        if window.translate(None, _OF_TOKENS):
            return None
        commas += window.count(b",")
        rest()
    return commas + 1


_TOKENS_BEGIN = frozenset((b"[", *(b"%d" % digit for digit in range(10))))
_WINDOW = 256 * 1024


def used_units(
    ordered: frozenset[str],
    wire_format: WireFormat,
    *,
    told: Mapping[str, Any],
    counted: Iterable[str] = (),
    is_told: bool,
    tells_tools: bool = False,
    tier: str | None,
) -> tuple[str, ...]:
    """Return what was used and is not counted, as the answer tells, else as ordered.

    `told` are the extras of its usage, `counted` the units that have a quantity, and `is_told` says that
    there is a usage at all; `tells_tools` that it has all that tools were used for. In which tier it was
    answered, at which speed and where, is not in there if the answer tells (`answered_tiers`).
    """
    if not (ordered or told or tier):
        return ()
    units = set(ordered)
    if wire_format is WireFormat.ANTHROPIC and is_told:
        units.discard(WEB_SEARCH)  # a Messages answer counts searches where there were any
    if tells_tools:
        units = {unit for unit in units if unit != base_unit(unit) or unit in _MODALITY_UNITS.values()}
    units |= tool_counts(told.get("server_tool_use")).keys()
    for name in _SURCHARGED:
        value = told.get(name) or (tier if name == "service_tier" else None)
        if isinstance(value, str):
            units = {unit for unit in units if not unit.startswith(f"{name}:")}
    return tuple(sorted(units - set(map(base_unit, counted)))[:MAX_UNITS])


def answered_tiers(told: Mapping[str, Any], tier: str | None) -> tuple[str, ...]:
    """Return in which tier, at which speed and where a request was answered, where that is not the standard.

    `told` are the extras of its usage, `tier` what the answer says beside that.
    """
    if not told and (tier is None or tier in _USUAL):
        return ()
    values = ((name, told.get(name) or (tier if name == "service_tier" else None)) for name in _SURCHARGED)
    return tuple(unit for name, value in values for unit in _surcharge(name, value))


def _surcharge(name: str, value: object) -> set[str]:
    """Return the unit of a tier, a speed or a region that is not the one of the table's prices."""
    if not isinstance(value, str) or value.lower() in _USUAL:
        return set()
    return {f"{name}:{clean_text(value.lower(), 40)}"}


def _unit_of(tool: _Tool) -> str | None:
    kind = tool.type
    if kind is None:
        return None if tool.name is not None or bytes(tool.function) not in _NOTHING else "tool"
    if kind in ("function", "custom") or not isinstance(kind, str):
        return None
    name = clean_text(kind, 40).rstrip("_0123456789")
    if not name or kind.startswith((*_CLIENT_TOOLS, *FREE_TOOLS)):
        return None
    return TOOL_UNITS.get(name, name)


def _tool_units(tools: Iterable[_Tool]) -> set[str]:
    """Return the units of these tools; of very many kinds, those of the first."""
    units: set[str] = set()
    seen: set[str] = set()
    for tool in tools:
        kind = tool.type
        if isinstance(kind, str):
            if kind in seen:
                continue
            seen.add(kind)
        if (unit := _unit_of(tool)) is not None:
            units.add(unit)
            if len(units) >= _MOST_TOOL_KINDS:
                break
    return units


def _own_tools(tools: list[_Tool]) -> int | None:
    """Count the tools whose description is the vendor's; None if one is run by the vendor."""
    count = 0
    for tool in tools:
        kind = tool.type
        if isinstance(kind, str) and kind.startswith(_CLIENT_TOOLS):
            count += 1
        elif (kind is not None and kind not in _OWN_TOOLS) or _unit_of(tool) is not None:
            return None
    return count


def _read_tools(members: Mapping[str, msgspec.Raw]) -> list[_Tool] | None:
    try:
        return _tools.decode(members["tools"])
    except _UNREADABLE:
        return None


def _decoded(value: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(value)
    except _UNREADABLE:
        return None


def _parts(content: object, depth: int = _MAX_DEPTH) -> Iterator[dict[str, Any]]:
    """Yield the parts, or items, of a content, and those in them; an empty one for what is too deep."""
    for part in content if isinstance(content, list) else [content] if isinstance(content, dict) else ():
        if not isinstance(part, dict):
            continue
        yield part
        for name in ("content", "output"):
            inner = part.get(name)
            if isinstance(inner, list | dict):
                if not depth:
                    yield {}
                    continue
                yield from _parts(inner, depth - 1)


def _inline_size(part: Mapping[str, Any]) -> int | None:
    """Return the size of an image that is in the body; None for one that is elsewhere, or is no image."""
    source = part.get("source")
    if isinstance(source, dict):
        data, kind = source.get("data"), source.get("media_type")
        is_image = isinstance(kind, str) and kind.startswith("image/")
        return len(data) if is_image and isinstance(data, str) else None
    link = part.get("image_url")
    if isinstance(link, dict):
        link = link.get("url")
    return len(link) if isinstance(link, str) and link.startswith("data:image/") else None
