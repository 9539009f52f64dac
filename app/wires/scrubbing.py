"""What is taken out of upstream messages: keys, and where the upstream is. All else is for the client.

Three things decide. What is ours is known: the key of the attempt, the hosts of the upstream and the proxies;
it goes in any spelling. What looks like a key, or like a host in the words of a network error, goes as well.
But what the client itself has sent stays: it is no secret then, and often what the message is about. Only a
whole key of ours goes even so.
"""

import ipaddress
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from urllib.parse import urlsplit

from app.common.lenient_json import clean_text
from app.wires.client_words import NO_WORDS, ClientWords

MAX_MESSAGE = 2000
_MAX_SCRUBBED = 4 * MAX_MESSAGE
_LONGEST_ESCAPE = 6
# Asking what the client sent means to search its request.
_MAX_QUESTIONS = 8

_UPSTREAM_DOMAINS = ("ohmygpt.com", "ohmycdn.com", "opapi.win", "hash070.com")

KEY, HOST, URL = "[key]", "[host]", "[url]"

_GRAM = 8
_IN_KEYS = "-_*•…"
_LONG_WORD = 16
_MIN_SECRET = 4
_MIN_BASE_PATH = 8
_MIN_CHANGES, _MIN_NAMED_CHANGES = 3, 2
_COUNTRY_CODE = 2
_SECOND_LEVEL = 3  # as in co.uk, com.cn

_ESCAPED = re.compile(
    r"%(?:25)*([0-9a-f]{2})|\\+(?:u00|x)([0-9a-f]{2})|&#x0*([0-9a-f]{2});|([\s\"'`\\\u200b-\u200d\ufeff])|.",
    re.IGNORECASE | re.DOTALL,
)
_PASSED_OVER = frozenset(" \t\n\r\f\v\x1c\x1d\x1e\x1f\"'`\\")
_WITHOUT_THEM = dict.fromkeys(map(ord, _PASSED_OVER))
# Without the punctuation of the sentence it stands in.
_REST = r"[^\s\"'<>\\]*[^\s\"'<>\\.,;:!?)]"
_URL = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{0,20})://"
    rf"(?P<host>[^\s\"'<>/?#\\]*)(?P<path>(?:{_REST})?)",
    re.IGNORECASE,
)
# Keys and hosts are ASCII, and end where anything else begins (`re.ASCII`): Chinese puts no blanks there.
_TAIL = rf"(?::\d{{1,5}}\b)?(?:/(?:{_REST})?)?"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOTTED = re.compile(
    rf"(?<![\w.-])(?:{_LABEL}\.){{1,8}}[a-z]{{2,24}}(?![\w-]){_TAIL}", re.IGNORECASE | re.ASCII
)
_IP4 = re.compile(rf"(?<![\w.])(?P<ip>\d{{1,3}}(?:\.\d{{1,3}}){{3}})(?!\.?\w){_TAIL}", re.ASCII)
_IP6 = re.compile(
    rf"(?<![\w:])\[?(?P<ip>[0-9a-f:]{{4,39}}(?:%\w{{1,16}})?)\]?(?!\w){_TAIL}", re.IGNORECASE | re.ASCII
)
_LOCAL = re.compile(
    rf"(?<![\w.-])(?:localhost|(?:{_LABEL}\.){{1,8}}(?:svc|internal|localdomain|cluster\.local))(?![\w-])"
    rf"{_TAIL}",
    re.IGNORECASE | re.ASCII,
)
# How programs begin to say which host they could not talk to.
_PARTNERS = (
    r"dial|lookup|resolve|connect(?:ing|ed|ion)? (?:to|with)|reach|host(?:name)?|proxy|backend|upstream"
)
_BEFORE_HOST = re.compile(
    rf"\b(?:{_PARTNERS})(?: (?:tcp|udp|host|address|server))*[\s\"'`(=:]*\Z", re.IGNORECASE
)
_BEFORE_URL = re.compile(
    rf"\b(?:{_PARTNERS}|post|put|head|get|request(?:ed|ing)?(?: to)?)[\s\"'`(=:]*\Z", re.IGNORECASE
)
_BEFORE = 48
_SERVICES = frozenset(
    {"http", "https", "ws", "wss", "socks5", "socks5h", "socks4", "tcp", "redis", "mongodb"}
)
_ENDPOINT = re.compile(
    r"/chat/completions\b|/v1/(?:messages|models|responses|completions|embeddings)\b|/api/v\d/", re.IGNORECASE
)

_TOKEN = r"[a-z0-9_.*…•-]"  # noqa: S105  (no password but a pattern)
_KEY_LIKE = re.compile(
    rf"(?<![\w-])(?:sk|pk|ak|rk|omg|key|gsk|xai|hf|org|proj|sess)[-_]{_TOKEN}{{5,200}}\w"
    rf"|(?<![\w-])(?:eyj|aiza|akia){_TOKEN}{{12,2000}}\w",
    re.IGNORECASE | re.ASCII,
)
_BEARER = re.compile(r"\bbearer\s{1,5}(?P<key>[^\s\"'<>,;]{6,2000})", re.IGNORECASE | re.ASCII)
_NAMED = re.compile(
    rf"\b(?:key|token|secret)(?:\s(?:is|was|provided))?[\s:='\"]{{1,4}}(?P<key>{_TOKEN}{{7,200}}\w)",
    re.IGNORECASE | re.ASCII,
)
_MASKED = re.compile(
    r"(?<![\w*…•-])(?:[\w-]{2,80}[*•]{3,200}|[*•]{8,200}|[*•]{4,200}(?=\w))[\w-]{0,80}", re.ASCII
)
_SHORTENED = re.compile(
    r"(?<![\w-])(?:sk|pk|ak|rk|omg|key|gsk|xai)[-_][\w-]{0,80}(?:…|\.{2,6}|x{4,40})[\w-]{0,80}",
    re.IGNORECASE | re.ASCII,
)
_ENDING = re.compile(
    r"\bend(?:s|ing)\s(?:in|with)[\s:'\"]{1,3}(?P<key>[\w-]{3,7})(?![\w-])", re.IGNORECASE | re.ASCII
)
_UPSTREAM_NAME = re.compile(r"oh[\s_-]?my[\s_-]?(?:gpt|cdn)", re.IGNORECASE)

_Span = tuple[int, int, str]


def upstream_names(base_url: str) -> tuple[str, ...]:
    """Return what tells which upstream a base URL is of: its domain and its path."""
    url = urlsplit(base_url)
    path = url.path.rstrip("/")
    host = (
        f"{url.hostname}:{url.port}" if url.port and "." not in (url.hostname or "") else url.hostname or ""
    )
    return (*host_names([host]), *([path] if len(path) > _MIN_BASE_PATH else []))


def host_names(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return what hosts of ours are found by in a text: their domains. A single word would be in any text."""
    return tuple(dict.fromkeys(_domain(host.lower()) for host in hosts if "." in host or ":" in host))


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _domain(host: str) -> str:
    if _is_number(host):
        return host
    labels = host.split(".")
    is_wide = len(labels) > 2 and len(labels[-1]) == _COUNTRY_CODE and len(labels[-2]) <= _SECOND_LEVEL
    return ".".join(labels[-3 if is_wide else -2 :])


def scrub(
    message: str, secrets: Iterable[str] = (), *, hosts: Iterable[str] = (), client: ClientWords = NO_WORDS
) -> str:
    """Return the message without keys and without what tells where the upstream is, bounded.

    `secrets` are keys of ours, `hosts` names of ours as `upstream_names` and `host_names` give them.
    """
    secrets = [secret for secret in secrets if secret]
    # Bounded before it is searched, but no key may be cut in two by that.
    window = message[: _MAX_SCRUBBED + _LONGEST_ESCAPE * max(map(len, secrets), default=0)]
    view = _view(window)
    whole = list(_whole_keys(view, secrets))
    keys = [*_parts_of_keys(view, secrets), *_shown_ends(window, secrets), *_key_like(window)]
    others = [*keys, *_hosts(window, view, (*_UPSTREAM_DOMAINS, *hosts))]
    if whole or keys:  # it is about the operator's account then, and so are its pages
        others += [(*url.span(), URL) for url in _URL.finditer(window)]
    others += [(*name.span(), "upstream") for name in _UPSTREAM_NAME.finditer(window)]
    ours = partial(_is_ours, window, client, whole)
    return clean_text(_without(window, [*whole, *_chosen(others, ours)]), MAX_MESSAGE)


def _chosen(spans: Iterable[_Span], ours: Callable[[_Span], bool]) -> Iterator[_Span]:
    """Yield the spans to be replaced: those the client did not send, as far as may be asked."""
    for asked, span in enumerate(sorted(set(spans))):
        if asked >= _MAX_QUESTIONS or ours(span):
            yield span


def _is_ours(window: str, client: ClientWords, whole: list[_Span], span: _Span) -> bool:
    start, end, _ = span
    holds_a_key = any(start < other_end and other_start < end for other_start, other_end, _ in whole)
    return holds_a_key or not client.repeats_all(window[start:end])


def _without(text: str, spans: Iterable[_Span]) -> str:
    """Return the text up to its bound, with each span, or several that overlap, replaced."""
    pieces: list[str] = []
    at = 0
    for start, end, label in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= max(at, _MAX_SCRUBBED):
            break
        if start >= at:
            pieces += (text[at:start], label)
        at = max(at, end)
    return "".join((*pieces, text[at:_MAX_SCRUBBED]))


# -- What is known to be ours, in any spelling


@dataclass(frozen=True, slots=True)
class _View:
    """A text in one case and without escapes, quotes and blanks; and where each of its characters was."""

    text: str
    original: str
    starts: list[int]
    ends: list[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where in the original this part of the view is."""
        return self.starts[start], self.ends[end - 1]

    def joins(self, at: int, also: str) -> bool:
        """Return whether a word goes on from the character before this place to the one at it."""
        if not 0 < at < len(self.text) or self.starts[at] != self.ends[at - 1]:
            return False
        return all(_is_of_word(c, also) for c in self.text[at - 1 : at + 1])


def _view(original: str) -> _View:
    if original.isascii() and not any(sign in original for sign in "%\\&"):
        starts = [at for at, character in enumerate(original) if character not in _PASSED_OVER]
        text = original.translate(_WITHOUT_THEM).lower()
        return _View(text, original, starts, [at + 1 for at in starts])
    return _unescaped(original)


def _unescaped(original: str) -> _View:
    characters: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for match in _ESCAPED.finditer(original):
        code = match[1] or match[2] or match[3]
        if match[4] is not None or (code is not None and chr(int(code, 16)) in _PASSED_OVER):
            continue
        for byte in bytes([int(code, 16)]) if code else match[0].encode("utf-8", "surrogatepass"):
            characters.append(chr(byte))
            starts.append(match.start())
            ends.append(match.end())
    return _View("".join(characters).lower(), original, starts, ends)


@lru_cache(maxsize=1024)
def _plain(secret: str) -> str:
    return _view(secret).text


def _found(view: _View, part: str) -> Iterator[tuple[int, int]]:
    at = view.text.find(part)
    while at >= 0:
        yield at, at + len(part)
        at = view.text.find(part, at + len(part))


def _whole_keys(view: _View, secrets: Iterable[str]) -> Iterator[_Span]:
    for secret in secrets:
        plain = _plain(secret)
        if len(plain) >= _MIN_SECRET:
            for found in _found(view, plain):
                yield (*view.span(*found), KEY)
        elif plain:
            yield from ((*match.span(), KEY) for match in re.finditer(re.escape(secret), view.original))


def _parts_of_keys(view: _View, secrets: Iterable[str]) -> Iterator[_Span]:
    """Yield every run of eight characters or more that is in a key too, with the rest of its word.

    Mere letters have to be more: a key may hold an English word.
    """
    grams = {plain[at : at + _GRAM] for plain in map(_plain, secrets) for at in range(len(plain) - _GRAM + 1)}
    start = end = -1
    for at in range(len(view.text) - _GRAM + 1 if grams else 0):
        if view.text[at : at + _GRAM] not in grams:
            continue
        if at > end:
            yield from _telling(view, start, end)
            start = at
        end = at + _GRAM
    yield from _telling(view, start, end)


def _telling(view: _View, start: int, end: int) -> Iterator[_Span]:
    run = view.text[max(start, 0) : max(end, 0)]
    if len(run) >= _LONG_WORD or (run and not run.isalpha()):
        first, last = view.span(start, end)
        yield _start_of_word(view.original, first, _IN_KEYS), _end_of_word(view.original, last, _IN_KEYS), KEY


def _is_of_word(character: str, also: str) -> bool:
    """Return whether a key or a host's name may hold the character: both are ASCII, whatever is around."""
    return (character.isascii() and character.isalnum()) or character in also


def _start_of_word(text: str, start: int, also: str) -> int:
    while start > 0 and _is_of_word(text[start - 1], also):
        start -= 1
    return start


def _end_of_word(text: str, end: int, also: str) -> int:
    while end < len(text) and _is_of_word(text[end], also):
        end += 1
    return end


def _shown_ends(text: str, secrets: list[str]) -> Iterator[_Span]:
    """Yield the ends of keys that are shown as such: "The key ending in 0001"."""
    for match in _ENDING.finditer(text):
        if any(secret.lower().endswith(match["key"].lower()) for secret in secrets):
            yield (*match.span("key"), KEY)


# -- Hosts


def _hosts(text: str, view: _View, names: Iterable[str]) -> Iterator[_Span]:
    ours = sorted(_names_of_ours(view, names))
    starts = [start for start, _ in ours]
    for match in _URL.finditer(text):
        if _holds(match, ours, starts) or _is_inner_url(text, match):
            yield (*match.span(), URL)
    for match in _DOTTED.finditer(text):
        if _holds(match, ours, starts) or _follows(text, match.start(), _BEFORE_HOST):
            yield (*match.span(), HOST)
    for match in _LOCAL.finditer(text):
        yield (*match.span(), HOST)
    for pattern in (_IP4, _IP6):
        yield from ((*match.span(), HOST) for match in pattern.finditer(text) if _is_number(match["ip"]))
    yield from ((_start_of_word(text, start, "-._%"), end, HOST) for start, end in ours)


def _names_of_ours(view: _View, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    for name in names:
        for start, end in _found(view, _plain(name)):
            if not (view.joins(start, "-") or view.joins(end, "")):
                yield view.span(start, end)


def _holds(match: re.Match[str], ours: list[tuple[int, int]], starts: list[int]) -> bool:
    at = bisect_left(starts, match.end()) - 1
    return at >= 0 and ours[at][1] > match.start()


def _is_inner_url(text: str, match: re.Match[str]) -> bool:
    """Return whether a URL is of a service, not of something that one looks at."""
    host = match["host"].rpartition("@")[2]
    name = host if _is_number(host) else host.rpartition(":")[0] or host
    return (
        "@" in match["host"]
        or (match["scheme"].lower() in _SERVICES and "." not in name)
        or _is_number(name)
        or bool(_LOCAL.fullmatch(host))
        or _ENDPOINT.search(match["path"]) is not None
        or _follows(text, match.start(), _BEFORE_URL)
    )


def _follows(text: str, start: int, words: re.Pattern[str]) -> bool:
    return words.search(text[max(0, start - _BEFORE) : start]) is not None


# -- Keys of others: nobody knows them, but they look like keys


def _key_like(text: str) -> Iterator[_Span]:
    for pattern in (_MASKED, _SHORTENED):
        yield from ((*match.span(), KEY) for match in pattern.finditer(text))
    for match in _KEY_LIKE.finditer(text):
        if _changes(match[0]) >= _MIN_CHANGES:
            yield (*match.span(), KEY)
    for match in _BEARER.finditer(text):
        if re.search(r"[\d._]\w", match["key"]) or len(match["key"]) >= _LONG_WORD:
            yield (*match.span(), KEY)
    for match in _NAMED.finditer(text):
        if _changes(match["key"]) >= _MIN_NAMED_CHANGES:
            yield (*match.span("key"), KEY)


def _changes(token: str) -> int:
    """Count how often letters, capitals and digits alternate within a token's words: words hardly do."""
    return sum(
        _class(one) != _class(other) and not (one.isupper() and other.islower())
        for one, other in pairwise(token)
        if one.isalnum() and other.isalnum()
    )


def _class(character: str) -> int:
    return 0 if character.isdigit() else 1 if character.isupper() else 2
