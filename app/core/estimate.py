"""What an answer has probably used when its true usage will never be known.

That is so when the client has left and the upstream was closed before it told the usage: what was generated
until then is charged by most providers.
"""

import msgspec

from app.core.usage import Usage

BYTES_PER_TOKEN = 4
"""The usual rule of thumb for English text under current tokenizers; too high for most other scripts."""

ESTIMATED = "estimated"


def estimate_usage(seen: Usage | None, *, request_bytes: int, content_events: int) -> Usage:
    """What was seen, filled up: input by the request's size, output by the number of content events.

    Upstreams send about one event a token; the bytes of an event say nothing, since some pad them. Usage that
    needs no filling up is returned as it is, without the `estimated` flag.
    """
    known = seen or Usage()
    input_tokens = known.input_tokens
    if known.total_input_tokens == 0:
        input_tokens = -(-request_bytes // BYTES_PER_TOKEN)
    if (input_tokens, content_events) == (known.input_tokens, min(content_events, known.output_tokens)):
        return known
    return msgspec.structs.replace(
        known,
        input_tokens=input_tokens,
        output_tokens=max(known.output_tokens, content_events),
        flags=known.flags | {ESTIMATED},
    )
