"""Codings, framings, headers, credentials and sizes on both sides of the proxy."""

import base64
import gzip
import json
import os
import socket
import threading
import zlib

import brotli
import pytest
import zstandard

from simulator import Close, Data, End, Head, Script, Wait
from tests.support import sse
from tests.support.lab import CHAT, COUNT, MESSAGES, UNKNOWN, Lab, check
from tests.support.raw_http import Ending, RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, UPSTREAM_KEY, WeirProcess

BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
CODINGS = pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
ENCODE = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
DECODE = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
ANSWER = sse.chat_answer(sse.USAGE_9_2)
STREAM = b"".join(sse.chat())
JSON, EVENT_STREAM = ("Content-Type", "application/json"), ("Content-Type", "text/event-stream")


def _split(data: bytes, size: int = 10) -> list[Data]:
    return [Data(data[start : start + size]) for start in range(0, len(data), size)]


@pytest.mark.wire(63)
@CODINGS
def test_coded_stream(lab: Lab, coding: str) -> None:
    """It was asked for uncoded; if it comes coded, it is passed on as it is and decoded for the meter."""
    coded = ENCODE[coding](STREAM)
    script = Script.of(Head(200, (EVENT_STREAM, ("Content-Encoding", coding))), *_split(coded), End())
    played = lab.stream(CHAT, script)

    assert played.body == coded
    assert played.response.headers["content-encoding"] == coding
    check(played.record, "9/0/0/2")
    assert played.entries[0]["headers"]["accept-encoding"] == "identity"


@pytest.mark.wire(63)
@CODINGS
def test_coded_stream_to_be_stripped(lab: Lab, coding: str) -> None:
    """A chunk can only be taken out of decoded bytes: so the client gets them decoded, and no such header."""
    coded = ENCODE[coding](STREAM)
    script = Script.of(Head(200, (EVENT_STREAM, ("Content-Encoding", coding))), *_split(coded), End())
    played = lab.stream(CHAT, script, usage=None)

    assert played.body == b"".join(event for event in sse.chat() if b'"choices":[]' not in event)
    assert "content-encoding" not in played.response.headers
    check(played.record, "9/0/0/2")


@pytest.mark.wire(63)
@CODINGS
def test_coded_events_pass_one_by_one(lab: Lab, coding: str) -> None:
    """The upstream codes each event as a piece of its own, and waits until the client has it."""
    body = lab.stream_body(CHAT, f"encoding={coding},flush,chunks=5")
    pieces = lab.direct(CHAT, body).pieces
    assert len(pieces) > 5
    coded = [("Content-Encoding", coding)]
    played = lab.in_step(CHAT, [(piece, piece) for piece in pieces], coded)

    assert played.body == b"".join(pieces)
    assert DECODE[coding](played.body).endswith(sse.DONE)
    check(played.record, _spent(played.entries[0]))


def _spent(entry: dict[str, dict[str, int]]) -> str:
    """What an upstream entry says was spent, as `fresh/read/write/output`."""
    spent = entry["spent"]
    write = spent["cache_write_5m"] + spent["cache_write_1h"]
    return f"{spent['fresh']}/{spent['cache_read']}/{write}/{spent['output']}"


@pytest.mark.wire(63)
@CODINGS
def test_coded_answer(lab: Lab, coding: str) -> None:
    coded = ENCODE[coding](ANSWER)
    played = lab.plain(CHAT, Script.body(coded, headers=[("Content-Encoding", coding)]))

    assert played.body == coded
    assert played.response.headers["content-encoding"] == coding
    assert played.response.ending is Ending.LENGTH
    check(played.record, "9/0/0/2")


@pytest.mark.wire(64)
@CODINGS
@BOTH
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "plain"])
def test_coding_that_is_a_lie(lab: Lab, coding: str, path: str, is_stream: bool) -> None:
    """SDKs would resend, and pay, three times; so they get an error they can read."""
    head = EVENT_STREAM if is_stream else JSON
    body = STREAM if is_stream else ANSWER
    script = Script.of(Head(200, (head, ("Content-Encoding", coding))), Data(body), End())
    played = (lab.stream if is_stream else lab.plain)(path, script)

    assert played.response.status == 502
    assert "content-encoding" not in played.response.headers
    assert json.loads(played.body)["error"]["message"]
    check(played.record, UNKNOWN, "upstream_error", status=502)
    assert len(played.entries) == 1


@pytest.mark.wire(64)
def test_coding_nobody_knows(lab: Lab) -> None:
    played = lab.plain(CHAT, Script.body(ANSWER, headers=[("Content-Encoding", "rot13")]))

    assert played.response.status == 502
    check(played.record, UNKNOWN, "upstream_error", status=502)


@pytest.mark.wire(64)
def test_coding_that_breaks_later(lab: Lab) -> None:
    """What has gone to the client cannot be taken back, but it must not look whole."""
    coder = zlib.compressobj(wbits=31)
    first = coder.compress(sse.chunk("hi")) + coder.flush(zlib.Z_SYNC_FLUSH)
    head, gate = Head(200, (EVENT_STREAM, ("Content-Encoding", "gzip"))), lab.gate()
    script = Script.of(head, Data(first), Wait(gate), Data(b"\xff" * 500), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
        connection.read_head()
        connection.read_bytes(len(first))
        lab.upstream.open_gate(gate)
        played = lab.played(connection.read_rest())

    assert played.body == first
    assert played.response.ending is Ending.CUT
    check(played.record, UNKNOWN, "upstream_error")


FRAMINGS = {
    "length": Head(200, (JSON,), "length", len(ANSWER)),
    "chunked": Head(200, (JSON,), "chunked"),
    "close": Head(200, (JSON,), "close"),
    "HTTP/1.0": Head(200, (JSON,), "close", version="HTTP/1.0"),
}


@pytest.mark.wire(65)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_framings_of_answers(lab: Lab, framing: str) -> None:
    """`RawConnection` fails on two framing headers at once."""
    played = lab.plain(CHAT, Script.of(FRAMINGS[framing], *_split(ANSWER), End()))

    assert played.body == ANSWER
    assert played.response.ending is (Ending.LENGTH if framing == "length" else Ending.FINAL_CHUNK)
    check(played.record, "9/0/0/2")


@pytest.mark.wire(65)
@pytest.mark.parametrize("framing", ["length", "chunked", "close", "HTTP/1.0"])
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_framings_of_streams(lab: Lab, framing: str, usage_wanted: bool | None) -> None:
    head = Head(
        200,
        (EVENT_STREAM,),
        "close" if framing == "HTTP/1.0" else framing,
        len(STREAM) if framing == "length" else None,
        version="HTTP/1.0" if framing == "HTTP/1.0" else "HTTP/1.1",
    )
    played = lab.stream(CHAT, Script.of(head, *_split(STREAM), End()), usage=usage_wanted)

    wanted = sse.chat() if usage_wanted else [e for e in sse.chat() if b'"choices":[]' not in e]
    assert played.body == b"".join(wanted)
    is_known = framing == "length" and usage_wanted
    assert played.response.ending is (Ending.LENGTH if is_known else Ending.FINAL_CHUNK)
    check(played.record, "9/0/0/2")


@pytest.mark.wire(65)
@pytest.mark.parametrize("fault", ["double_te", "both_framings", "trailers", "silent_close"])
def test_odd_but_legal_framings(lab: Lab, fault: str) -> None:
    body = lab.stream_body(CHAT, f"fault={fault},chunks=3")
    played = lab.send(CHAT, body)

    if fault == "silent_close":  # the others are too odd for the tests' own client
        assert played.body == lab.direct(CHAT, body).body
    assert played.body.endswith(sse.DONE)
    assert played.response.is_whole
    check(played.record, _spent(played.entries[0]))


@pytest.mark.wire(66)
@BOTH
def test_length_longer_than_the_body(lab: Lab, path: str) -> None:
    answer = ANSWER if path == CHAT else sse.message_answer({"input_tokens": 9, "output_tokens": 2})
    script = Script.of(Head(200, (JSON,), "length", len(answer) + 10), Data(answer), Close())
    played = lab.plain(path, script)

    assert played.body == answer
    assert played.response.ending is Ending.CUT
    check(played.record, "9/0/0/2", "upstream_truncated")


@pytest.mark.wire(66)
def test_length_longer_than_the_stream_that_said_it_was_done(lab: Lab) -> None:
    """The client has all it waits for, and is not left waiting for more."""
    script = Script.of(Head(200, (EVENT_STREAM,), "length", len(STREAM) + 10), Data(STREAM), Close())
    played = lab.stream(CHAT, script)

    assert played.body == STREAM
    assert played.response.ending is Ending.CUT
    check(played.record, "9/0/0/2")


@pytest.mark.wire(66)
def test_length_longer_than_the_stream(lab: Lab) -> None:
    data = STREAM[: len(STREAM) // 2]
    script = Script.of(Head(200, (EVENT_STREAM,), "length", len(STREAM)), Data(data), Close())
    played = lab.stream(CHAT, script)

    assert played.body == data
    assert played.response.ending is Ending.CUT
    check(played.record, UNKNOWN, "upstream_truncated")


@BOTH
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "plain"])
def test_interim_answer(lab: Lab, path: str, is_stream: bool) -> None:
    """A 103 is not the answer: neither to this request, nor is the real one the answer to the next."""
    make = lab.stream_body if is_stream else lab.body
    for chunks in (3, 5, 2):
        play = f"fault=early_hints,chunks={chunks},out={chunks}"
        response = lab.send(path, make(path, play)).response
        record = lab.new_records()[-1]
        entry = lab.entries()[-1]

        assert (response.status, response.is_whole) == (200, True)
        assert entry["fault"] == "early_hints"
        check(record, _spent(entry))
        assert record["outputTokens"] == chunks
        assert [attempt["statusCode"] for attempt in record["attempts"]] == [200]


UNTYPED = {
    "none": (),
    "text": (("Content-Type", "text/plain; charset=utf-8"),),
    "bytes": (("Content-Type", "application/octet-stream"),),
}


@pytest.mark.parametrize("name", UNTYPED)
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_stream_without_its_type(lab: Lab, name: str, usage_wanted: bool | None) -> None:
    script = Script.of(Head(200, UNTYPED[name], "chunked"), *_split(STREAM), End())
    played = lab.stream(CHAT, script, usage=usage_wanted)

    wanted = sse.chat() if usage_wanted else [e for e in sse.chat() if b'"choices":[]' not in e]
    assert played.body == b"".join(wanted)
    assert played.response.headers["content-type"] == dict(UNTYPED[name]).get(
        "Content-Type", "text/event-stream"
    )
    check(played.record, "9/0/0/2")


def _send_old(lab: Lab, body: bytes, *extra: str) -> RawConnection:
    """A request in HTTP/1.0, as nginx sends it unless it is told otherwise."""
    connection = RawConnection(lab.weir.url)
    headers = lab.headers(**{"Content-Type": "application/json", "Content-Length": str(len(body))})
    lines = [f"POST {CHAT} HTTP/1.0", *(f"{name}: {value}" for name, value in headers.items()), *extra]
    connection.send("\r\n".join([*lines, "", ""]).encode() + body)
    lab.expected_records += 1
    return connection


@pytest.mark.wire(66)
@pytest.mark.parametrize("extra", [(), ("Connection: keep-alive",)], ids=["close", "keep-alive"])
@pytest.mark.parametrize("fault", ["cut", "cut_mid_event", "eof", "reset"])
def test_cut_stream_to_a_client_of_http_1_0(lab: Lab, fault: str, extra: tuple[str, ...]) -> None:
    """For it the closing of the connection is the end: so the connection is reset."""
    with _send_old(lab, lab.stream_body(CHAT, f"fault={fault},chunks=6"), *extra) as connection:
        response = connection.read_response()

    assert "transfer-encoding" not in response.headers
    assert response.body
    assert response.ending is Ending.RESET
    assert lab.played(response).record["outcome"] == "upstream_truncated"


@pytest.mark.wire(65)
def test_whole_stream_to_a_client_of_http_1_0(lab: Lab) -> None:
    with _send_old(lab, lab.stream_body(CHAT, Script.sse(sse.chat()))) as connection:
        response = connection.read_response()

    assert response.body == STREAM
    assert response.ending is Ending.CLOSED
    check(lab.played(response).record, "9/0/0/2")


@pytest.mark.wire(66)
def test_cut_stream_to_a_client_of_http_1_1(lab: Lab) -> None:
    """The missing last chunk tells it, and nothing that is still on its way gets lost."""
    played = lab.stream(CHAT, "fault=cut,chunks=6")

    assert played.response.ending is Ending.CUT


@pytest.mark.wire(67)
def test_headers_for_the_next_hop_stay_there(lab: Lab) -> None:
    headers = [
        ("Connection", "x-foo, cache-control"),
        ("X-Foo", "1"),
        ("Cache-Control", "no-store"),
        ("Keep-Alive", "timeout=9"),
    ]
    played = lab.plain(CHAT, Script.body(ANSWER, headers=headers))

    names = played.response.headers
    assert not {"x-foo", "keep-alive", "cache-control"} & names.keys()
    assert "x-foo" not in names.get("connection", "")


@BOTH
def test_only_listed_headers_pass(lab: Lab, path: str) -> None:
    """Nothing of the operator's account, of cookies or of servers in between."""
    for played in (lab.stream(path, "chunks=2"), lab.plain(path, "chunks=2")):
        own = {"server", "date", "connection", "x-request-id", "request-id"}
        framing = {"content-type", "content-length", "transfer-encoding"}
        assert played.response.headers.keys() <= own | framing | {"cache-control", "x-accel-buffering"}
        assert played.response.headers["server"] != "cloudflare"
        assert played.response.request_id != played.entries[-1]["request_id"]
        assert played.record["upstreamRequestId"] == played.entries[-1]["request_id"]
        assert played.record["factoryKeyId"] == "env-1"
        assert played.entries[-1]["key"] == UPSTREAM_KEY


@pytest.mark.wire(68)
@BOTH
def test_large_image(lab: Lab, path: str) -> None:
    """Forwarded byte for byte; nothing of it is kept."""
    image = base64.b64encode(os.urandom(7_500_000)).decode()
    url = f"data:image/png;base64,{image}"
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    body = lab.body(path, "chunks=2", messages=messages)
    assert len(body) > 10_000_000
    played = lab.send(path, body)

    assert lab.direct(path, body).body == played.body
    first, second = lab.entries()
    assert (first["body_sha256"], first["body_length"]) == (second["body_sha256"], len(body))
    check(played.record, _spent(first))
    assert len(json.dumps(played.record, default=str)) < 4000
    assert image[:40] not in lab.weir.log


@pytest.mark.wire(68)
@BOTH
def test_body_over_the_limit(lab: Lab, path: str) -> None:
    body = lab.body(path, "", padding="x" * 33_600_000)
    played = lab.send(path, body)

    assert played.response.status == 413
    error = json.loads(played.body)["error"]
    assert error["type"] == ("invalid_request_error" if path == CHAT else "request_too_large")
    check(played.record, UNKNOWN, "rejected", status=413)
    assert played.entries == []


@pytest.mark.wire(69)
@CODINGS
@BOTH
def test_coded_request(lab: Lab, coding: str, path: str) -> None:
    """It is decoded under a limit, since what it asks for has to be read, and sent on decoded."""
    body = lab.stream_body(path, "chunks=2")
    played = lab.send(path, ENCODE[coding](body), lab.headers(**{"Content-Encoding": coding}))

    assert played.body == lab.direct(path, body).body
    first, second = lab.entries()
    assert first["body_sha256"] == second["body_sha256"]
    assert "content-encoding" not in first["header_names"]
    check(played.record, _spent(first))


@pytest.mark.wire(70)
@BOTH
def test_large_tool_arguments(lab: Lab, path: str) -> None:
    body = lab.stream_body(path, "tools=2,args=200000,reasoning=30,out=90")
    played = lab.send(path, body)

    assert len(played.body) > 400_000
    assert played.body == lab.direct(path, body).body
    check(played.record, _spent(played.entries[0]))
    assert played.record["reasoningTokens"] == 30
    assert played.record["ttftMs"] is not None


@pytest.mark.wire(70)
def test_thinking_and_signatures(lab: Lab) -> None:
    body = lab.stream_body(
        MESSAGES, "reasoning=12,out=40", thinking={"type": "enabled", "budget_tokens": 1024}
    )
    played = lab.send(MESSAGES, body)

    assert b"signature_delta" in played.body
    assert played.body == lab.direct(MESSAGES, body).body
    check(played.record, _spent(played.entries[0]))


CREDENTIALS = {
    "Bearer": ({"Authorization": f"Bearer {CLIENT_KEY}"}, 200),
    "bearer": ({"Authorization": f"bearer {CLIENT_KEY}"}, 200),
    "x-api-key": ({"x-api-key": CLIENT_KEY}, 200),
    "both, equal": ({"Authorization": f"Bearer {CLIENT_KEY}", "x-api-key": CLIENT_KEY}, 200),
    "both, different": ({"Authorization": f"Bearer {CLIENT_KEY}", "x-api-key": "sk-other"}, 401),
    "none": ({}, 401),
    "unknown": ({"Authorization": "Bearer sk-nobody"}, 401),
    "empty": ({"Authorization": "Bearer ", "x-api-key": ""}, 401),
    "another scheme": ({"Authorization": f"Basic {CLIENT_KEY}"}, 401),
}


@pytest.mark.wire(71)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, COUNT])
@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials(lab: Lab, path: str, name: str) -> None:
    """The upstream gets the operator's key and none of the client's."""
    headers, status = CREDENTIALS[name]
    body = lab.body(path, "chunks=1")
    if status == 401:
        response = lab.refused("POST", path, headers, body)
        document = json.loads(response.body)
        assert response.status == 401
        assert response.headers["content-type"] == "application/json"
        assert ("type" in document) is (path != CHAT)
        assert document["error"]["type"] in ("authentication_error", "invalid_request_error")
        assert lab.entries() == []
        return
    played = lab.send(path, body, headers)
    assert played.response.status == 200
    (entry,) = played.entries
    assert entry["headers"]["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert "x-api-key" not in entry["headers"]


@pytest.mark.wire(72)
@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", None])
@pytest.mark.parametrize("query", ["", "?beta=true", "?beta=true&x=%20y"])
def test_version_and_query(lab: Lab, path: str, version: str | None, query: str) -> None:
    headers = lab.headers(**{"anthropic-beta": "a-2026,b-2026"})
    headers |= {"anthropic-version": version} if version else {}
    played = lab.send(path + query, lab.body(path, "chunks=1"), headers)

    (entry,) = played.entries
    assert entry["anthropic_version"] == (version or "2023-06-01")
    assert entry["headers"]["anthropic-beta"] == "a-2026,b-2026"
    assert entry["query"] == query.removeprefix("?")


@pytest.mark.wire(72)
def test_chat_gets_no_version(lab: Lab) -> None:
    assert lab.plain(CHAT, "chunks=1").entries[0]["anthropic_version"] is None


@pytest.mark.wire(92)
def test_upstream_that_refuses_a_body_without_reading_it(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The answer is there to be read: nobody waits until the body could have been sent."""
    told = sse.compact({"error": {"message": "Too large for us.", "type": "invalid_request_error"}})
    head = b"HTTP/1.1 413 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(told)
    done = threading.Event()

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(head + told)
            done.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with WeirProcess(tmp_path_factory.mktemp("deaf"), url) as weir:
            early = Lab(weir, upstream)
            played = early.send(CHAT, early.body(CHAT, "", note="x" * 12_000_000))
            assert (played.response.status, b"Too large for us." in played.body) == (413, True)
            check(played.record, UNKNOWN, "upstream_error", status=413)
            done.set()
        thread.join(5)


@pytest.mark.wire(96)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, COUNT])
@pytest.mark.parametrize("said", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", ""])
def test_json_by_another_name(lab: Lab, path: str, said: str) -> None:
    played = lab.send(path, lab.body(path, "chunks=1"), lab.headers(**{"Content-Type": said}))

    assert played.response.status == 200
    assert played.entries[0]["headers"]["content-type"] == "application/json"
