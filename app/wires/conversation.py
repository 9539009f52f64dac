"""Which conversation a request belongs to, as far as it shows: for the upstream key whose cache knows it.

Vendors cache the beginning of a request (tools, system prompt, messages, in this order), by account. The
requests of a conversation begin alike, so they are told by what names it, else by how it begins: the first
texts of the system prompt, and those of the messages up to the first of the user. Texts alone, since marks
such as `cache_control` move from message to message while the conversation goes on.
"""

import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from app.common.lenient_json import clean_text
from app.wires.request_body import RequestBody

LEAST_CACHED: Final = 2048
"""No vendor caches less than 1024 tokens: a first request in fewer bytes leaves nothing to come back to."""
MAX_ID: Final = 128
"""So many characters of a session's id are read."""

_SESSION_HEADERS: Final = ("x-claude-code-session-id", "session-id", "thread-id", "x-session-id")
"""Claude Code's, Codex's two, and what others send."""
_AFFINITY_HEADER: Final = "x-session-affinity"
_CACHE_KEY: Final = "prompt_cache_key"
_SYSTEMS: Final = ("system", "instructions")
_MESSAGES: Final = ("messages", "input")

# What is looked at of messages and of a system prompt, in bytes, and how many messages; that tells enough.
_WINDOW: Final = 64 * 1024
_SYSTEM_WINDOW: Final = 4096
_MOST_MESSAGES: Final = 8
# So many texts of a message count, and so much of each: conversations begun from one template differ early.
_MOST_TEXTS: Final = 4
_TEXT_START: Final = 512
_MOST_METADATA: Final = 4096
_LONGEST_NAME: Final = 512

# Quotation marks within texts are escaped, so that these are found in no text.
_ROLE_NAME: Final = b'"role"'
_CONTENT_NAME: Final = b'"content"'
_ROLE = re.compile(rb'"role"[ \t\n\r]*:[ \t\n\r]*"([a-z]+)"')
_TEXT = re.compile(rb'"(?:text|(content))"[ \t\n\r]*:[ \t\n\r]*"')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_LEADING: Final = frozenset((b"system", b"developer"))
# Claude Code's first block of a system prompt is another one in each request.
_CHANGING: Final = b"x-anthropic-billing-header"


class _Metadata(msgspec.Struct, gc=False):
    user_id: Any = None


_METADATA = msgspec.json.Decoder(_Metadata)


def session_id(headers: Mapping[str, str]) -> str | None:
    """Return what the client calls its session, at most `MAX_ID` characters; None if it does not say.

    `headers` have lower-case names.
    """
    for name in _SESSION_HEADERS:
        if value := headers.get(name):
            return clean_text(value, MAX_ID)
    return None


def conversation_of(client: str, headers: Mapping[str, str], body: RequestBody) -> int | None:
    """Return a number of 64 bits that the requests of one conversation of a client have in common.

    The same in every process and on every host. None for a request that belongs to no conversation, or whose
    cache no vendor keeps. `client` is the client key's id.
    """
    sign = _session(headers, body) or _other_sign(body)
    if sign is None:
        return None
    return int.from_bytes(blake2b(b"%b\0%b" % (client.encode(), sign), digest_size=8).digest())


def _session(headers: Mapping[str, str], body: RequestBody) -> bytes | None:
    """Return what the client calls this very conversation."""
    if named := session_id(headers) or headers.get(_AFFINITY_HEADER):
        return named[:MAX_ID].encode()
    return _text(body.members[_CACHE_KEY]) if _CACHE_KEY in body.members else None


def _other_sign(body: RequestBody) -> bytes | None:
    """Return whose conversation it is, or how it begins, unless nothing of it can have been cached."""
    members = body.members
    name = next((name for name in _MESSAGES if name in members), None)
    if name is None:
        return None
    data = bytes(memoryview(members[name])[:_WINDOW])
    if len(body.data) < LEAST_CACHED and not _goes_on(data):
        return None
    for person, read in _PERSONS.items():
        if person in members and (value := read(members[person])):
            return value
    texts = _first_texts(data)
    for system in _SYSTEMS:
        if system in members:
            texts += _texts_in(b'"text":' + bytes(memoryview(members[system])[:_SYSTEM_WINDOW]))
    return b"\0".join(texts) or None


def _text(raw: msgspec.Raw) -> bytes:
    """Return what is between the quotation marks of a text, as far as it counts; nothing for other values."""
    value = bytes(memoryview(raw)[: _TEXT_START + 1])
    return value[1:].removesuffix(b'"') if value.startswith(b'"') else b""


def _user_id(metadata: msgspec.Raw) -> bytes:
    if len(memoryview(metadata)) > _MOST_METADATA:
        return b""
    try:
        user_id = _METADATA.decode(metadata).user_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    return user_id.encode("utf-8", "replace")[:_LONGEST_NAME] if isinstance(user_id, str) else b""


_PERSONS: Final = {"metadata": _user_id, "user": _text}


def _goes_on(data: bytes) -> bool:
    """Return whether other messages follow the first that is the user's."""
    roles = _ROLE.findall(data) if not data.startswith(b'"') else []
    return any(role not in _LEADING for role in roles[:_MOST_MESSAGES][:-1])


def _first_texts(data: bytes) -> list[bytes]:
    """Return the texts of the messages up to the first that is the user's.

    A text that stands in place of messages is one. Nothing is decoded. What is between two roles is the
    content of the message of the first or of the second of them: that depends on which is written first.
    """
    if data.startswith(b'"'):
        return _texts_in(b'"content":%b' % data)
    texts: list[bytes] = []
    roles = _roles(data)
    before = 0
    role = next(roles, None)
    is_content_first = role is not None and _CONTENT_NAME in data[: role.start()]
    while role is not None:
        following = next(roles, None)
        after = len(data) if following is None else following.start()
        content = data[before : role.start()] if is_content_first else data[role.end() : after]
        texts += _texts_in(content)
        if role[1] not in _LEADING:
            return texts
        before, role = role.end(), following
    return texts


def _roles(data: bytes) -> Iterator[re.Match[bytes]]:
    at = 0
    for _ in range(_MOST_MESSAGES):
        at = data.find(_ROLE_NAME, at)
        if at < 0:
            return
        if (role := _ROLE.match(data, at)) is not None:
            yield role
        at += len(_ROLE_NAME)


def _texts_in(content: bytes) -> list[bytes]:
    """Return the starts of the texts in a message's content."""
    texts: list[bytes] = []
    at = 0
    while len(texts) < _MOST_TEXTS and (name := _TEXT.search(content, at)) is not None:
        text = _INSIDE.match(content, name.end(), name.end() + _TEXT_START)
        at = name.end() if text is None else text.end()
        if text is not None and not text[0].startswith(_CHANGING):
            texts.append(text[0])
        if name[1]:
            break  # a content that is a text has no other
    return texts
