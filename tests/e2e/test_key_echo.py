"""An upstream that repeats the key it was sent: no client reads it, no record keeps it."""

import gzip
import json
from itertools import pairwise

import pytest

from simulator import Data, End, Head, Script, Sleep, Wait
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab, Played, check
from tests.support.raw_http import Ending
from tests.support.weir_process import UPSTREAM_KEY

BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in UPSTREAM_KEY)
SPELLINGS = {
    "plain": UPSTREAM_KEY,
    "escaped": ESCAPED,
    "in part": UPSTREAM_KEY.replace("-", "\\u002D"),
    "quoted twice": UPSTREAM_KEY.replace("-", "\\\\\\\\u002d"),
}
"""As the key may stand within a JSON string."""


def plain_answer(path: str) -> bytes:
    return (
        sse.chat_answer(sse.USAGE_9_2)
        if path == CHAT
        else sse.message_answer({"input_tokens": 9, "output_tokens": 2})
    )


def events_of(path: str) -> list[bytes]:
    if path == CHAT:
        return [sse.chunk("one"), *sse.chat()]
    return sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})


def telling(data: bytes, spelling: str) -> bytes:
    """The same with the key where its text is."""
    assert b'"hi"' in data
    return data.replace(b'"hi"', b'"Bearer %b hi"' % spelling.encode())


def holds_no_key(lab: Lab, played: Played) -> None:
    everything = [played.body.decode("latin-1"), json.dumps(dict(played.response.headers))]
    everything += [json.dumps(played.record, default=str), lab.weir.log]
    assert [text for text in everything if UPSTREAM_KEY in text] == []


@pytest.mark.wire(121)
@BOTH
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_key_in_a_plain_answer(lab: Lab, path: str, spelling: str) -> None:
    answer = telling(plain_answer(path), spelling)
    played = lab.plain(path, answer)

    assert played.response.status == 200
    assert played.response.ending is Ending.LENGTH
    assert played.body == answer.replace(spelling.encode(), b"*" * len(spelling))
    assert json.loads(played.body)
    check(played.record, "9/0/0/2", flags=["key_echoed"])
    holds_no_key(lab, played)


@pytest.mark.wire(121)
def test_key_in_an_error_and_in_what_is_recorded(lab: Lab) -> None:
    """Model, usage and message of an answer are kept: the key is in none of them."""
    body = {"error": {"message": f"no such key: {UPSTREAM_KEY}", "type": "x"}, "model": UPSTREAM_KEY}
    played = lab.plain(CHAT, sse.compact(body | {"usage": sse.USAGE_9_2 | {"key": UPSTREAM_KEY}}))
    assert played.record["outcome"] == "upstream_error"
    assert "[key]" in played.record["errorMessage"]
    holds_no_key(lab, played)

    head = (("x-request-id", UPSTREAM_KEY), ("Cache-Control", f"no-store, {UPSTREAM_KEY}"))
    played = lab.plain(CHAT, Script.body(plain_answer(CHAT), headers=head))
    assert played.response.headers["cache-control"] == f"no-store, {'*' * len(UPSTREAM_KEY)}"
    holds_no_key(lab, played)


@pytest.mark.wire(122)
@BOTH
@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_key_in_a_stream(lab: Lab, path: str, spelling: str, size: int, usage_wanted: bool | None) -> None:
    """However it is cut: in a comment at the start, in the text of an event, behind the end."""
    events = [b": %b\n\n" % spelling.encode()]
    events += [telling(event, spelling) if b'"hi"' in event else event for event in events_of(path)]
    events += [b": %b\n\n" % spelling.encode()]
    whole = b"".join(events)
    pieces = [Data(whole[start:end]) for start, end in pairwise([*range(0, len(whole), size), len(whole)])]
    played = lab.send(path, lab.stream_body(path, Script.of(SSE_HEAD, *pieces, End()), usage=usage_wanted))

    sent = b"".join(event for event in events if usage_wanted or event != sse.usage_chunk(sse.USAGE_9_2))
    assert played.body == sent.replace(spelling.encode(), b"*" * len(spelling))
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "9/0/0/2", flags=["key_echoed"])
    holds_no_key(lab, played)


@pytest.mark.wire(122)
def test_key_among_chunks_of_mere_text(lab: Lab) -> None:
    """They are passed on within the event loop, but not this one."""
    texts = ["one ", "two ", "three ", f"the key is {UPSTREAM_KEY}", " four", " five"]
    steps = [step for text in texts for step in (Data(sse.chunk(text)), Sleep(0.05))]
    script = Script.of(SSE_HEAD, *steps, *map(Data, sse.chat()), End())
    played = lab.send(CHAT, lab.stream_body(CHAT, script))

    sent = b"".join([*map(sse.chunk, texts), *sse.chat()])
    assert played.body == sent.replace(UPSTREAM_KEY.encode(), b"*" * len(UPSTREAM_KEY))
    check(played.record, "9/0/0/2", flags=["key_echoed"])


@pytest.mark.wire(123)
@BOTH
def test_key_in_a_compressed_answer(lab: Lab, path: str) -> None:
    """It cannot be masked there: nothing of it is sent."""
    answer = gzip.compress(telling(plain_answer(path), UPSTREAM_KEY))
    played = lab.plain(path, Script.body(answer, headers=(("Content-Encoding", "gzip"),)))

    assert played.response.status == 502
    assert json.loads(played.body)["error"]
    assert played.record["outcome"] == "upstream_error"
    holds_no_key(lab, played)


@pytest.mark.wire(123)
def test_key_late_in_a_compressed_stream(lab: Lab) -> None:
    """The answer is broken off before its bytes can be decoded to the end of the key."""
    events = [sse.chunk("hi"), sse.chunk(f"the key is {UPSTREAM_KEY}"), *sse.chat()]
    pieces = [gzip.compress(event) for event in events]
    head = Head(200, (("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip")), "chunked")
    gate = lab.gate()
    script = Script.of(head, Data(pieces[0]), Wait(gate), *map(Data, pieces[1:]), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
        connection.read_head()
        connection.read_bytes(len(pieces[0]))
        lab.upstream.open_gate(gate)
        played = lab.played(connection.read_rest())

    assert played.response.ending is Ending.CUT
    assert played.body == pieces[0]
    assert played.record["outcome"] == "upstream_error"
    assert "key_echoed" in played.record["usageFlags"]
