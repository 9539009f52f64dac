"""Faults and framings, seen byte by byte."""

import gzip
import json
import socket
import zlib
from typing import Any

import brotli
import pytest
import zstandard

from simulator import Simulator
from simulator.control import fault_docs

USAGE = "chunks=3,prompt=9,out=2"


def read_all(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def last_entry(simulator: Simulator, count: int = 1) -> Any:
    return simulator.tally.wait_ended(count)[-1]


@pytest.mark.parametrize("eol", ["lf", "crlf", "cr", "mixed"])
def test_line_endings_do_not_change_the_data(client: Any, eol: str) -> None:
    body = client.stream(f"gpt-sim:{USAGE},eol={eol}").body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    values = [line[6:] for line in body.split(b"\n") if line]
    assert values[-1] == b"[DONE]"
    assert json.loads(values[-2])["usage"]["prompt_tokens"] == 9
    assert body.count(b"\n\n") == len(values)


def test_event_dressings(client: Any) -> None:
    assert client.message("claude-sim:bom", stream=True).body.startswith(
        b"\xef\xbb\xbfevent: message_start\n"
    )
    multiline = client.stream("gpt-sim:multiline").body
    assert multiline.startswith(b'data: {\ndata: "id"')
    assert b"\ndata: }\n\n" in multiline
    assert client.stream("gpt-sim:nospace").body.startswith(b"data:{")
    assert client.stream("gpt-sim:nocolon").body.startswith(b"data\n\ndata: {")
    assert client.stream("gpt-sim:comments").body.startswith(b": keep-alive\n\ndata: {")
    assert client.stream("gpt-sim:fields").body.startswith(b"id: 0\nretry: 3000\nx-unknown: 1\ndata: {")


def test_unicode_and_bait_are_content_only(client: Any) -> None:
    answer = client.stream("gpt-sim:unicode,bait,chunks=8")

    text = "".join(choice["delta"].get("content", "") for c in answer.chunks for choice in c["choices"])
    assert "\u2028" in text
    assert "\u0085" in text
    assert "😀" in text
    assert "999999" in text
    assert "\u2028".encode() in answer.body


def test_one_byte_per_send_is_the_same_stream(client: Any) -> None:
    model = f"gpt-sim:{USAGE},per_send=1"

    assert client.stream(model).ended
    assert len(client.stream(model).chunks) == 6


def test_rechunk_cuts_events_into_http_chunks(simulator: Simulator, client: Any) -> None:
    answer = client.stream(f"gpt-sim:{USAGE},rechunk=10")

    assert answer.wire.startswith(b"a\r\n" + answer.body[:10] + b"\r\na\r\n")
    assert answer.ended
    assert answer.chunks[-1]["usage"]["prompt_tokens"] == 9
    assert last_entry(simulator).announced.output == 2


def test_a_long_data_line_has_the_size_asked_for(client: Any) -> None:
    assert max(map(len, client.stream("gpt-sim:chunks=1,size=1000000").body.split(b"\n"))) > 1_000_000


def test_endless_line_has_no_newline_for_its_size(client: Any) -> None:
    first, _, rest = client.stream("gpt-sim:fault=endless_line,size=300000").body.partition(b"\n")

    assert len(first) > 300_000
    assert rest.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("coding", "decode"),
    [
        ("gzip", gzip.decompress),
        ("deflate", zlib.decompress),
        ("br", brotli.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
def test_content_codings(client: Any, coding: str, decode: Any) -> None:
    streamed = client.stream(f"gpt-sim:{USAGE},encoding={coding}")
    plain = client.chat(f"gpt-sim:{USAGE},encoding={coding}")

    assert streamed.fields["content-encoding"] == plain.fields["content-encoding"] == coding
    assert decode(streamed.body).endswith(b"data: [DONE]\n\n")
    assert json.loads(decode(plain.body))["usage"]["prompt_tokens"] == 9


def test_gzip_lie_is_plain(client: Any) -> None:
    answer = client.chat("gpt-sim:fault=gzip_lie")

    assert answer.fields["content-encoding"] == "gzip"
    assert answer.json


@pytest.mark.parametrize("stream", [True, False])
def test_framings_carry_the_same_body(client: Any, stream: bool) -> None:
    answers = {
        framing: client.chat(f"gpt-sim:{options}", stream=stream, user="x")
        for framing, options in (
            ("chunked", f"{USAGE},framing=chunked"),
            ("length", f"{USAGE},framing=length"),
            ("close", f"{USAGE},framing=close"),
            ("1.0", f"{USAGE},http=1.0"),
        )
    }

    assert answers["chunked"].fields["transfer-encoding"] == "chunked"
    assert answers["length"].fields["content-length"] == str(len(answers["length"].body))
    assert answers["close"].fields["connection"] == "close"
    assert answers["1.0"].version == "HTTP/1.0"
    for name in ("close", "1.0"):
        assert not {"content-length", "transfer-encoding"} & answers[name].fields.keys()
    assert {answer.status for answer in answers.values()} == {200}


def test_cut_between_events_has_no_last_chunk(simulator: Simulator, client: Any) -> None:
    answer = client.stream(f"gpt-sim:{USAGE},fault=cut,after=2")

    assert not answer.ended
    assert len(answer.chunks) == 2
    assert answer.body.endswith(b"\n\n")
    entry = last_entry(simulator)
    assert (entry.end, entry.announced, entry.chunks) == ("cut", None, 2)
    assert entry.spent.prompt == 9


def test_cut_inside_a_chunk_promises_more_than_it_sends(simulator: Simulator, client: Any) -> None:
    answer = client.stream(f"gpt-sim:{USAGE},fault=cut_mid_chunk,after=1")

    size, _, sent = answer.wire.split(b"\r\n", 2)[2].partition(b"\r\n")
    assert int(size, 16) > len(sent) > 0
    assert last_entry(simulator).end == "cut"


def test_cut_inside_an_event_is_a_whole_chunk(client: Any) -> None:
    answer = client.stream(f"gpt-sim:{USAGE},fault=cut_mid_event,after=1")

    assert not answer.ended
    assert answer.wire.endswith(b"\r\n")
    assert not answer.body.endswith(b"\n")


def test_clean_end_before_the_terminator(simulator: Simulator, client: Any) -> None:
    answer = client.message("claude-sim:prompt=300,fault=eof,after=1", stream=True)

    assert answer.ended
    assert [chunk["type"] for chunk in answer.chunks] == ["message_start"]
    entry = last_entry(simulator)
    assert (entry.end, entry.announced.fresh, entry.announced.output) == ("cut", 300, 1)


def test_reset_arrives_as_one(simulator: Simulator, client: Any) -> None:
    with client.open() as sock:
        body = {"model": "gpt-sim:fault=reset,after=2", "stream": True, "messages": [1]}
        sock.sendall(client.request("/v1/chat/completions", body))
        with pytest.raises(ConnectionResetError):
            read_all(sock)
    assert last_entry(simulator).end == "cut"


def test_stall_ends_when_the_client_leaves(simulator: Simulator, client: Any) -> None:
    with client.open() as sock:
        body = {"model": "gpt-sim:fault=stall,after=2", "stream": True, "messages": [1]}
        sock.sendall(client.request("/v1/chat/completions", body))
        data = b""
        while data.count(b"data: ") < 2:
            data += sock.recv(65536)
    assert last_entry(simulator).end == "client_gone"


@pytest.mark.parametrize("name", ["no_answer", "half_headers", "bad_status_line"])
def test_no_proper_answer(simulator: Simulator, client: Any, name: str) -> None:
    data = client.raw("/v1/chat/completions", {"model": f"gpt-sim:fault={name}", "messages": [1]})

    assert b"\r\n\r\n" not in data or data.startswith(b"GARBAGE")
    assert last_entry(simulator).end == "cut"


def test_plain_body_shorter_than_its_length(client: Any) -> None:
    for name in ("cut", "cut_mid_chunk", "long_length"):
        answer = client.chat(f"gpt-sim:fault={name}")
        assert int(answer.fields["content-length"]) > len(answer.body) > 0
    short = client.chat("gpt-sim:fault=short_length")
    assert int(short.fields["content-length"]) == len(short.body) - 10


def test_errors_inside_a_stream(client: Any) -> None:
    openai = client.stream(f"gpt-sim:{USAGE},fault=error_event,after=2")
    anthropic = client.message("claude-sim:fault=error_event,after=1", stream=True)

    assert list(openai.chunks[-1]) == ["error"]
    assert anthropic.body.split(b"\n\n")[1].startswith(b'event: error\ndata: {"type":"error"')
    assert anthropic.ended


def test_odd_endings(client: Any) -> None:
    no_blank = client.stream(f"gpt-sim:{USAGE},fault=no_blank").body
    assert no_blank.endswith(b"}")
    assert b'"total_tokens":11' in no_blank.split(b"\n")[-1]
    assert b'"finish_reason":"' not in no_blank
    assert not client.stream("gpt-sim:fault=no_done").body.endswith(b"[DONE]\n\n")
    assert client.stream("gpt-sim:fault=garbage_after_done").body.endswith(b"</html>\n")
    assert b'data: {"broken": \n\n' in client.stream("gpt-sim:fault=bad_json").body


def test_odd_headers(client: Any) -> None:
    x_foo = client.stream("gpt-sim:fault=x_foo")
    assert x_foo.fields["x-foo"]
    assert ("Connection", "x-foo") in x_foo.headers
    double = client.chat("gpt-sim:fault=double_te").headers
    assert double.count(("Transfer-Encoding", "chunked")) == 2
    early = client.raw("/v1/chat/completions", {"model": "gpt-sim:fault=early_hints", "messages": [1]})
    assert early.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"\r\n\r\nHTTP/1.1 200 OK\r\n" in early
    assert client.stream("gpt-sim:fault=trailers").wire.endswith(b"0\r\nX-Trailer: 1\r\n\r\n")


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        ("fault=429,retry_after=3600", 429, b"Retry-After: 3600"),
        ("fault=503,should_retry=false", 503, b"x-should-retry: false"),
        ("fault=no_balance", 402, b'"errorType":"insufficient_balance_error"'),
        ("fault=html_524", 524, b"<!DOCTYPE html>"),
        ("fault=502,envelope=empty", 502, b"Content-Length: 0"),
        ("fault=error_200", 200, b'{"error"'),
        ("fault=redirect", 307, b"Location: "),
        ("fault=leak_401", 401, b"key-1"),
        ("fault=insufficient_quota", 429, b'"type":"insufficient_quota"'),
    ],
)
def test_refusals(simulator: Simulator, client: Any, options: str, status: int, part: bytes) -> None:
    answer = client.stream(f"gpt-sim:{options}")

    assert answer.status == status
    assert part in answer.data
    entry = last_entry(simulator)
    assert (entry.status, entry.spent) == (status, None)


def test_stream_options_can_be_unknown_to_the_model(client: Any) -> None:
    assert client.stream("gpt-sim:fault=stream_options_400").status == 400
    assert client.chat("gpt-sim:fault=stream_options_400", stream=True).status == 200


_SILENT = ("reset_early", "stall_early", "stall_headers", "stall", "reset")


@pytest.mark.parametrize("name", sorted(set(fault_docs()) - {"400 … 599", *_SILENT}))
@pytest.mark.parametrize("stream", [True, False])
def test_every_fault_leaves_a_settled_entry_and_a_working_server(
    simulator: Simulator, client: Any, name: str, stream: bool
) -> None:
    for post in (client.chat, client.message):
        answer = post(f"x-sim:size=9,fault={name}", stream=stream, max_tokens=9000)
        assert answer is not None

    assert [entry.fault for entry in simulator.tally.wait_ended(2)] == [name, name]
    assert client.chat("gpt-5.6").status == 200


@pytest.mark.parametrize("name", ["reset_early", "stall_early"])
def test_silence_before_the_headers(simulator: Simulator, client: Any, name: str) -> None:
    with client.open() as sock:
        sock.sendall(
            client.request("/v1/messages", {"model": f"x-sim:fault={name}", "max_tokens": 1, "messages": [1]})
        )
        simulator.tally.wait_begun(1)
        if name == "reset_early":
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        else:
            sock.shutdown(socket.SHUT_RDWR)
    assert last_entry(simulator).status == 0
