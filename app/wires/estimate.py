"""What an answer has probably used when its true usage will never be known.

That is so when the client has left and the upstream was closed before it told the usage, as what was
generated until then is charged by most providers; and when a whole answer tells none, or not all of it.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from math import ceil
from typing import Final

import msgspec

from app.wires.units import CHARACTER, IMAGE, SECOND, Quantity, base_unit
from app.wires.usage import INPUT_MISSING, OUTPUT_MISSING, Usage

# The usual rule of thumb for English text under current tokenizers; too high for most other scripts.
BYTES_PER_TOKEN = 4
# An image costs about this many tokens, however large its file.
TOKENS_PER_MEDIUM: Final = 1600
# An event of up to this size holds about one token; some upstreams pad them to such sizes.
_USUAL_EVENT_BYTES = 512

# Media in a smaller request make no difference.
_FEW_BYTES = 32 * 1024
_WINDOW = 64 * 1024
# No more marks are looked at: what follows is taken for text.
_MOST_MARKS = 10_000
_MEDIA = (b";base64,", b'"data"')
"""What a medium comes after, if its string has the form of base64."""
_BASE64 = re.compile(rb'(?: ?: ?")?([A-Za-z0-9+/]{1024})')

ESTIMATED = "estimated"


def tokens_of(size: int) -> int:
    """Estimate how many tokens a text of `size` bytes has."""
    return -(-size // BYTES_PER_TOKEN)


def stream_tokens(events: int, size: int) -> int:
    """Estimate how many tokens `events` events with content, of `size` bytes together, hold.

    Upstreams send about one event a token; only bytes beyond what events usually have speak of more.
    """
    return max(events, (size - events * _USUAL_EVENT_BYTES) // BYTES_PER_TOKEN)


def prompt_bytes(body: bytes, rest: Callable[[], None] = lambda: None) -> int:
    """Return the size of a request, each of its media counted as the bytes of text that would cost as much.

    `rest` is called again and again, so that a large body holds up nobody.
    """
    size = len(body)
    if size < _FEW_BYTES:
        return size
    for mark in _MEDIA:
        at, end, left = 0, _WINDOW, _MOST_MARKS
        while at < len(body) and left:
            # One that begins before the window's end may reach beyond it.
            found = body.find(mark, at, end + len(mark) - 1)
            if found < 0:
                at = max(at, end)
                end = at + _WINDOW
                rest()
                continue
            left -= 1
            at = found + len(mark)
            if (medium := _BASE64.match(body, at)) is not None:
                at = body.find(b'"', medium.end())
                at = len(body) if at < 0 else at
                size -= max(0, at - medium.start(1) - TOKENS_PER_MEDIUM * BYTES_PER_TOKEN)
    return size


def estimate_usage(seen: Usage | None, *, request_bytes: int, output_tokens: int) -> Usage:
    """Fill up the usage seen: input by the request's size, output by what was probably generated.

    Usage that needs no filling up is returned as it is, without the `estimated` flag.
    """
    known = seen or Usage()
    flags = set()
    if known.total_input_tokens == 0 and request_bytes:
        flags.add(INPUT_MISSING)
    if known.output_tokens < output_tokens:
        flags.add(OUTPUT_MISSING)
    if not flags:
        return known
    return msgspec.structs.replace(
        known,
        input_tokens=tokens_of(request_bytes) if INPUT_MISSING in flags else known.input_tokens,
        output_tokens=max(known.output_tokens, output_tokens),
        flags=known.flags | flags | {ESTIMATED},
    )


# What is charged for speaking or listening is about so many tokens: 1,250 a minute of speech, of about 900
# characters, and ten for each second listened to. A square image of high quality is a few thousand.
_TOKENS_PER_CHARACTER = 1.4
_TOKENS_PER_SECOND = 10
_TOKENS_PER_IMAGE = 4160
_EXACT = frozenset((CHARACTER,))
"""Units that a request says itself, whatever the answer is."""


def of_quantities(quantities: tuple[tuple[str, Quantity], ...]) -> Usage:
    """Return the usage of a request that got what it ordered: it is an estimate, but for characters."""
    is_exact = all(unit in _EXACT for unit, _ in quantities)
    return Usage(quantities=quantities, flags=frozenset() if is_exact else frozenset({ESTIMATED}))


def of_tokens(quantities: tuple[tuple[str, Quantity], ...]) -> Usage | None:
    """Estimate the tokens of what was ordered, where it is charged by those; None where it is not."""
    for unit, quantity in quantities:
        if unit == CHARACTER:
            return _of_output("output_audio", ceil(quantity * Decimal(str(_TOKENS_PER_CHARACTER))))
        if base_unit(unit) == IMAGE:
            return _of_output("output_image", ceil(quantity * _TOKENS_PER_IMAGE))
        if unit == SECOND:
            tokens = ceil(quantity * _TOKENS_PER_SECOND)
            return Usage(input_tokens=tokens, quantities=(("input_audio", tokens),), flags=_GUESSED)
    return None


_GUESSED = frozenset({ESTIMATED})


def _of_output(unit: str, tokens: int) -> Usage:
    return Usage(output_tokens=tokens, quantities=((unit, tokens),), flags=_GUESSED | {OUTPUT_MISSING})
