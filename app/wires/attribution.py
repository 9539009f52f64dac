"""For whom and by what a request was made, as its client tells: end user, session, client program, tags.

All of it is only what clients say, and bounded: `MAX_NAME` characters each, `MAX_TAGS` tags.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from app.records.records import NOT_ATTRIBUTED, Attribution
from app.wires.conversation import MAX_ID, session_id

MAX_NAME: Final = MAX_ID
"""So many characters of each are kept."""
MAX_TAGS: Final = 8

TAGS_HEADER: Final = "x-weir-tags"
_USER_HEADERS: Final = ("x-openwebui-user-id", "x-openwebui-user-email", "x-openwebui-user-name")
_USER_MEMBERS: Final = ("user", "safety_identifier")
# A longer value names nobody; and what is looked at of a user agent.
_MOST_BYTES: Final = 4096
_MOST_AGENT: Final = 256
_DIGEST_BYTES: Final = 16

# What Claude Code sends as its user: `user_…_account_…_session_…`, or, later, an object within a text.
_CLAUDE_CODE = re.compile(r"(user_[0-9a-f]+(?:_account_[0-9a-f-]+)?)(?:_account_)?_session_([0-9a-f-]+)")
_COMMENT = re.compile(r"\s*\(.*")
_VERSION = re.compile(r"v?\d")


class Person(NamedTuple):
    """Whom a body names, and the session that its client has put there, too."""

    end_user: str | None = None
    session_id: str | None = None


_NOBODY = Person()


class _Metadata(msgspec.Struct, gc=False):
    user_id: str | None = None


class _ClaudeCodeUser(msgspec.Struct, gc=False):
    device_id: str = ""
    account_uuid: str = ""
    session_id: str = ""


_TEXT = msgspec.json.Decoder(str)
_METADATA = msgspec.json.Decoder(_Metadata)
_CLAUDE_CODE_USER = msgspec.json.Decoder(_ClaudeCodeUser)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Attributor:
    """What records say of it. With a `key`, names of people and sessions are replaced by digests of them."""

    is_on: bool = True
    key: bytes = field(default=b"", repr=False)

    def attribute(self, headers: Mapping[str, str], person: Person) -> Attribution:
        """Return what is told by the headers (with lower-case names) and by the body."""
        if not self.is_on:
            return NOT_ATTRIBUTED
        end_user = person.end_user or _user_of(headers)
        session = _clean(session_id(headers) or "") or person.session_id
        agent, tags = headers.get("user-agent"), headers.get(TAGS_HEADER)
        return Attribution(
            self._kept(end_user) if end_user else None,
            self._kept(session) if session else None,
            _client_name(agent[:_MOST_AGENT]) if agent else None,
            _tags(tags) if tags else (),
        )

    def _kept(self, name: str) -> str:
        if not self.key:
            return name
        return blake2b(name.encode(), key=self.key, digest_size=_DIGEST_BYTES).hexdigest()


def person_of(members: Mapping[str, msgspec.Raw]) -> Person:
    """Return whom a body names; `members` are those of its top level."""
    for name in _USER_MEMBERS:
        if name in members and (user := _text(members[name])):
            return Person(user)
    if "metadata" not in members:
        return _NOBODY
    raw = memoryview(members["metadata"])
    if len(raw) > _MOST_BYTES:
        return _NOBODY
    try:
        user_id = _METADATA.decode(raw).user_id
    except _UNREADABLE:
        return _NOBODY
    return _person(user_id) if user_id else _NOBODY


def _person(user_id: str) -> Person:
    """Take apart what Claude Code sends: else each session would be another end user."""
    if (found := _CLAUDE_CODE.fullmatch(user_id)) is not None:
        return Person(_clean(found[1]), _clean(found[2]))
    if user_id.startswith("{"):
        try:
            known = _CLAUDE_CODE_USER.decode(user_id)
        except _UNREADABLE:
            return Person(_clean(user_id))
        if end_user := known.account_uuid or known.device_id:
            return Person(_clean(end_user), _clean(known.session_id) or None)
    return Person(_clean(user_id) or None)


def _user_of(headers: Mapping[str, str]) -> str | None:
    for name in _USER_HEADERS:
        if value := headers.get(name):
            return _clean(_sent(value)) or None
    return None


def _text(raw: msgspec.Raw) -> str:
    data = memoryview(raw)
    if len(data) > _MOST_BYTES:
        return ""
    try:
        return _clean(_TEXT.decode(data))
    except _UNREADABLE:
        return ""


@lru_cache(maxsize=512)
def _client_name(agent: str) -> str | None:
    """Return the first product of a user agent with its version: `OpenAI/Python 1.2.3`, `curl/8.5.0`."""
    words = _COMMENT.sub("", agent).split()
    if not words:
        return None
    has_version = len(words) > 1 and _VERSION.match(words[1]) is not None
    return _clean(" ".join(words[: 1 + has_version])) or None


def _tags(value: str) -> tuple[str, ...]:
    """Return the first few tags of a list that is separated by commas, each once."""
    found: dict[str, None] = {}
    for item in _sent(value).split(","):
        if tag := _clean(item):
            found[tag] = None
            if len(found) == MAX_TAGS:
                break
    return tuple(found)


def _sent(value: str) -> str:
    """Return a header's text as it was meant: WSGI reads bytes as Latin-1, and what is sent is UTF-8."""
    try:
        return value if value.isascii() else value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _clean(text: str) -> str:
    """Return at most `MAX_NAME` characters that can be shown."""
    text = text[: 2 * MAX_NAME]
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return text.strip()[:MAX_NAME].rstrip()
