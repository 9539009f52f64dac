"""What a client sent, to tell its own words from those of the upstream that repeats them."""

import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from functools import cached_property
from urllib.parse import unquote_plus

import msgspec

from app.common.lenient_json import loads_lenient

# Too short, or in every sentence: they tell nothing about where it comes from.
_COMMON = frozenset(
    "has have had been was were are the your you this that and not for with too due its used".split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W_]{3,}")
# Words are not told apart in Chinese: any two characters in a row may be one.
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]{2,}")
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})")
# Longer texts are neither decoded nor looked at for other spellings: that would keep everybody waiting.
_MOST_SPELLED = 1024 * 1024


class ClientWords:
    """The text of a request: its body, query and header values, in one case and without JSON's escapes."""

    def __init__(self, body: bytes = b"", query: str = "", headers: Iterable[str] = ()) -> None:
        self._body = body
        self._others = (query, *headers)

    def repeats(self, phrase: str, *, but_for: frozenset[str] = frozenset()) -> bool:
        """Return whether one of the phrase's telling words came from the client; `but_for` tell nothing."""
        folded = phrase.casefold()
        words = {word for word in _WORD.findall(folded) if word not in _COMMON}
        words.update(run[at : at + 2] for run in _HAN.findall(folded) for at in range(len(run) - 1))
        words -= but_for
        return bool(words) and any(word in self._text for word in words)

    def repeats_all(self, phrase: str) -> bool:
        """Return whether the client sent the phrase as it is."""
        words = re.findall(r"\w+", phrase.casefold())
        return bool(words) and re.search(r"\W+".join(map(re.escape, words)), self._text) is not None

    @cached_property
    def _text(self) -> str:
        raw = self._body.decode("utf-8", "replace")
        plain = ""
        if "\\" in raw:
            is_short = len(self._body) <= _MOST_SPELLED
            plain = (_unescaped(self._body) or raw) if is_short else _without_escapes(raw)
            for escape in ("\\n", "\\t", "\\r"):
                plain = plain.replace(escape, " ")
        text = "\n".join((raw, plain, *map(unquote_plus, self._others)))
        return "\n".join((text, *_spelled(text))).casefold()


def _spelled(text: str) -> Iterator[str]:
    """Yield the text as an upstream may have read it that takes more apart than the request itself."""
    if len(text) > _MOST_SPELLED:
        return
    if "\\u" in text:  # JSON within JSON, such as the arguments of tools
        yield _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if "%" in text:
        yield unquote_plus(text)
    if not text.isascii():
        yield unicodedata.normalize("NFKC", text)


def _unescaped(body: bytes) -> str:
    """Code the JSON anew, which leaves only those escapes that no word has in it; return "" if it is none."""
    try:
        return msgspec.json.encode(msgspec.json.decode(body)).decode()
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass
    try:
        return json.dumps(loads_lenient(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _without_escapes(text: str) -> str:
    """Read JSON's escapes wherever they are, and some that JSON lacks, in next to no time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about escapes that Python lacks
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape", "replace")


NO_WORDS = ClientWords()
