"""What clients get wrong: a clear error in the endpoint's own shape, one record, and the worker goes on."""

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from simulator import Script
from tests.support import sse
from tests.support.lab import CHAT, COUNT, MESSAGES, UNKNOWN, Lab, check
from tests.support.raw_http import RawConnection, RawResponse, chunked
from tests.support.weir_process import CLIENT_KEY

ALL = pytest.mark.parametrize("path", [CHAT, MESSAGES, COUNT])
BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
LIMIT = 32 * 1024 * 1024
ANSWER = sse.chat_answer(sse.USAGE_9_2)


def error_of(response: RawResponse, path: str) -> dict[str, object]:
    """The error object, after checking that the envelope is the endpoint's."""
    assert response.headers["content-type"] == "application/json"
    document = json.loads(response.body)
    if path == CHAT:
        assert document.keys() == {"error"}
    else:
        assert document.keys() == {"type", "error", "request_id"}
        assert document["request_id"] == response.request_id
    error: dict[str, object] = document["error"]
    assert error["message"]
    return error


@dataclass(frozen=True)
class Bad:
    """A body, the status it gets, and words that the message must have."""

    body: bytes
    status: int = 400
    words: tuple[str, ...] = ()
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


_HI = '"messages":[{"role":"user","content":"hi"}]'

BODIES = {
    "empty": Bad(b"", words=("JSON",)),
    "no JSON": Bad(b"model=gpt-test", words=("JSON",)),
    "cut JSON": Bad(b'{"model":"gpt-test","messages":[', words=("JSON",)),
    "JSON and more": Bad(b'{"model":"gpt-test","messages":[]} x', words=("JSON",)),
    "NaN": Bad(b'{"model":"gpt-test","messages":[],"temperature":NaN}', words=("JSON",)),
    "broken UTF-8": Bad(b'{"model":"gpt-\xff","messages":[]}'),
    "UTF-16": Bad('{"model":"gpt-test"}'.encode("utf-16"), words=("JSON",)),
    "an array": Bad(b"[]", words=("JSON object",)),
    "a text": Bad(b'"hi"', words=("JSON object",)),
    "null": Bad(b"null", words=("JSON object",)),
    "no model": Bad(f"{{{_HI}}}".encode(), words=("model",), param="model"),
    "model a number": Bad(f'{{"model":5,{_HI}}}'.encode(), words=("model", "string"), param="model"),
    "model null": Bad(f'{{"model":null,{_HI}}}'.encode(), words=("model", "string"), param="model"),
    "model empty": Bad(f'{{"model":"",{_HI}}}'.encode(), words=("model",), param="model"),
    "model very long": Bad(f'{{"model":"{"x" * 5000}",{_HI}}}'.encode(), words=("model",), param="model"),
    "model unknown": Bad(f'{{"model":"no-such",{_HI}}}'.encode(), 404, ("no-such",), "model"),
    "model a broken surrogate": Bad(f'{{"model":"\\ud800",{_HI}}}'.encode(), 404, param="model"),
    "no messages": Bad(b'{"model":"gpt-test"}', words=("messages",), param="messages"),
    "messages null": Bad(b'{"model":"gpt-test","messages":null}', words=("messages",), param="messages"),
    "messages an object": Bad(b'{"model":"gpt-test","messages":{}}', words=("messages",), param="messages"),
    "messages a text": Bad(b'{"model":"gpt-test","messages":"hi"}', words=("messages",), param="messages"),
    "model twice": Bad(f'{{"model":"gpt-test",{_HI},"model":"gpt-dear"}}'.encode(), words=("model", "twice")),
    "model twice, escaped": Bad(f'{{"model":"gpt-test",{_HI},"mod\\u0065l":"x"}}'.encode(), words=("twice",)),
    "stream twice": Bad(
        f'{{"model":"gpt-test",{_HI},"stream":true,"stream":false}}'.encode(), words=("twice",)
    ),
    "the same twice": Bad(f'{{"model":"gpt-test",{_HI},"n":1,"n":1}}'.encode(), words=("twice",)),
    "deep nesting": Bad(b'{"model":"gpt-test","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep nesting, open": Bad(b'{"model":"gpt-test","messages":' + b"[" * 100_000),
    "gzip that is none": Bad(b"{}", words=("gzip",), headers={"Content-Encoding": "gzip"}),
    "gzip cut": Bad(gzip.compress(b"{}" * 1000)[:12], headers={"Content-Encoding": "gzip"}),
    "deflate that is none": Bad(b"{}", headers={"Content-Encoding": "deflate"}),
    "unknown coding": Bad(b"{}", 415, ("rot13",), headers={"Content-Encoding": "rot13"}),
    "two codings": Bad(b"{}", 415, ("gzip, br",), headers={"Content-Encoding": "gzip, br"}),
}

# Made where they are sent: to compress them takes half a second, which each process of xdist would spend.
BOMBS: dict[str, Callable[[], Bad]] = {
    "gzip bomb": lambda: Bad(gzip.compress(b" " * 300_000_000, 1), 413, headers={"Content-Encoding": "gzip"}),
    "gzip in gzip members": lambda: Bad(
        gzip.compress(b" " * 17_000_000, 1) * 3, 413, headers={"Content-Encoding": "gzip"}
    ),
    "deflate bomb": lambda: Bad(
        zlib.compress(b" " * 100_000_000, 1), 413, headers={"Content-Encoding": "deflate"}
    ),
}


@ALL
@pytest.mark.parametrize("name", BODIES)
def test_bad_body(lab: Lab, path: str, name: str) -> None:
    _check_refusal(lab, path, BODIES[name])


@BOTH
@pytest.mark.wire(69)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(lab: Lab, path: str, name: str) -> None:
    """Small on the wire, large inside."""
    _check_refusal(lab, path, BOMBS[name]())


def _check_refusal(lab: Lab, path: str, bad: Bad) -> None:
    played = lab.send(path, bad.body, lab.headers(**bad.headers))

    assert played.response.status == bad.status, played.body
    error = error_of(played.response, path)
    message = str(error["message"])
    assert all(word in message for word in bad.words), message
    assert len(message) < 1000
    if path == CHAT and bad.param:
        assert error["param"] == bad.param
    check(played.record, UNKNOWN, "rejected", status=bad.status)
    assert played.record["bytesOut"] == len(played.body)
    assert played.entries == []


@pytest.mark.wire(68)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_just_under_the_limit(lab: Lab, framing: str) -> None:
    """32 MB to the byte are taken."""
    small = lab.body(CHAT, Script.body(ANSWER), padding="")
    body = small.replace(b'"padding":""', b'"padding":"' + b"x" * (LIMIT - len(small)) + b'"')
    assert len(body) == LIMIT
    with RawConnection(lab.weir.url) as connection:
        lab.expected_records += 1
        headers = lab.headers() if framing == "length" else lab.headers(**{"Transfer-Encoding": "chunked"})
        connection.request("POST", CHAT, headers, body if framing == "length" else chunked(body))
        played = lab.played(connection.read_response())
    check(played.record, "9/0/0/2")
    assert played.entries[0]["body_length"] == LIMIT


@pytest.mark.wire(68)
@BOTH
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_just_over_the_limit(lab: Lab, path: str, framing: str) -> None:
    body = b" " * (LIMIT + 1)
    with RawConnection(lab.weir.url) as connection:
        lab.expected_records += 1
        headers = lab.headers() if framing == "length" else lab.headers(**{"Transfer-Encoding": "chunked"})
        connection.request("POST", path, headers, body if framing == "length" else chunked(body))
        played = lab.played(connection.read_response())
    assert played.response.status == 413
    assert "32 MB" in str(error_of(played.response, path)["message"])
    check(played.record, UNKNOWN, "rejected", status=413)


def test_body_that_breaks_off(lab: Lab) -> None:
    """The client leaves in the middle of its own request: it was known by then, so there is a record."""
    with RawConnection(lab.weir.url) as connection:
        lab.expected_records += 1
        connection.request("POST", CHAT, lab.headers(**{"Content-Length": "1000"}), b'{"model":')
    assert lab.only_record()["outcome"] in ("rejected", "client_abort")
    assert lab.entries() == []


def test_badly_framed_body(lab: Lab) -> None:
    with RawConnection(lab.weir.url) as connection:
        lab.expected_records += 1
        connection.request(
            "POST", CHAT, lab.headers(**{"Transfer-Encoding": "chunked"}), b"zz\r\nno chunk\r\n"
        )
        played = lab.played(connection.read_response())
    assert played.response.status == 400
    error_of(played.response, CHAT)
    check(played.record, UNKNOWN, "rejected", status=400)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
@ALL
def test_wrong_method(lab: Lab, path: str, method: str) -> None:
    with RawConnection(lab.weir.url) as connection:
        connection.request(method, path, lab.headers(Connection="close"))
        lab.expected_records += 1
        response = connection.read_head()
        if method != "HEAD":
            connection.read_rest()
            error_of(response, path)
        assert response.status == 405
        assert response.headers["allow"] == "POST"
        check(lab.played(response).record, UNKNOWN, "rejected", status=405)


@pytest.mark.parametrize("target", ["/v1/realtime", "/v1/assistants", "/v1/videos", "/v1/", "/v1/x/%2e%2e/y"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_unknown_path(lab: Lab, target: str, method: str) -> None:
    with RawConnection(lab.weir.url) as connection:
        connection.request(method, target, lab.headers(), b"")
        lab.expected_records += 1
        played = lab.played(connection.read_response())
    assert played.response.status == 404
    error_of(played.response, CHAT)
    check(played.record, UNKNOWN, "rejected", status=404)


ENDPOINTS = {CHAT: "chat", MESSAGES: "messages", COUNT: "count_tokens"}
SLIPS = ["{}", "/v1/v1{}", "/v1{}/", "//v1{}", "/v1/{}", "/V1{}", "/v1{};x=1", "/v1%2F{}", "/v1{}%20"]
SLIPS += ["/openai/v1{}", "/anthropic/v1{}"]
PASTED = ["/v1{0}{0}", "/v1{0}/v1{0}"]
"""The address of the endpoint itself as base URL. (A model may be called like any path.)"""


@pytest.mark.wire(98)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, COUNT])
def test_base_urls_that_are_a_little_wrong(lab: Lab, path: str) -> None:
    for slip in (*SLIPS, *PASTED):
        played = lab.send(slip.format(path.removeprefix("/v1")), lab.body(path, "chunks=1"))
        assert (played.response.status, played.record["endpoint"]) == (200, ENDPOINTS[path]), slip
        assert lab.entries()[-1]["path"].endswith(path)


@pytest.mark.wire(98)
@pytest.mark.parametrize("slip", [slip for slip in SLIPS if ";" not in slip])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_models_under_paths_that_are_a_little_wrong(lab: Lab, slip: str, method: str) -> None:
    for target in ("/models", "/models/gpt-test"):
        response = asked(lab, method, slip.format(target))
        assert response.status == 200
        check(lab.played(response).record, UNKNOWN)


@pytest.mark.wire(98)
@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "DELETE", "GET", "POST"])
@pytest.mark.parametrize(
    ("target", "path", "allowed"),
    [
        ("/v1//chat/completions", CHAT, "POST"),
        ("//messages", MESSAGES, "POST"),
        ("/models", CHAT, "GET"),
        ("/v1//models/gpt-test", CHAT, "GET"),
        ("/v1//realtime", CHAT, ""),
        ("/messages/nothing", MESSAGES, ""),
    ],
)
def test_refusals_under_paths_that_are_a_little_wrong(
    lab: Lab, target: str, path: str, allowed: str, method: str
) -> None:
    if method == allowed or (method, allowed) == ("HEAD", "GET"):
        return
    response = asked(lab, method, target)
    assert response.status == (405 if allowed else 404)
    assert response.headers.get("allow", "") == allowed
    if method != "HEAD":
        error_of(response, path)
    check(lab.played(response).record, UNKNOWN, "rejected", status=response.status)


def asked(lab: Lab, method: str, target: str) -> RawResponse:
    with RawConnection(lab.weir.url) as connection:
        connection.request(method, target, lab.headers())
        lab.expected_records += 1
        response = connection.read_head()
        return response if method == "HEAD" else connection.read_rest()


@pytest.mark.wire(71)
@pytest.mark.parametrize("target", [CHAT, MESSAGES, "/v1/models", "/v1/models/gpt-test"])
def test_without_credential(lab: Lab, target: str) -> None:
    method = "GET" if "models" in target else "POST"
    response = lab.refused(method, target, {}, b"{}" if method == "POST" else b"")

    assert response.status == 401
    error_of(response, MESSAGES if target == MESSAGES else CHAT)


HEADS = {
    "lone CR in a header": b"X-Odd: a\rb\r\n",
    "lone LF in a header": b"X-Odd: a\nInjected: b\r\n",
    "NUL in a header": b"X-Odd: a\0b\r\n",
    "no colon": b"X-Odd\r\n",
    "space before the colon": b"X-Odd : a\r\n",
    "folded": b"X-Odd: a\r\n b\r\n",
    "two lengths": b"Content-Length: 5\r\n",
    "length and chunked": b"Transfer-Encoding: chunked\r\n",
    "length no number": b"Content-Length: 5x\r\n",
    "too large": b"X-Odd: " + b"x" * 100_000 + b"\r\n",
    "too many": b"".join(b"X-%d: a\r\n" % number for number in range(500)),
}


@pytest.mark.parametrize("name", HEADS)
def test_bad_head(lab: Lab, name: str) -> None:
    """Refused by the server itself, before there is a request; the next one is served."""
    with RawConnection(lab.weir.url) as connection:
        connection.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: weir.test\r\nAuthorization: Bearer "
            + CLIENT_KEY.encode()
            + b"\r\nContent-Length: 2\r\n"
            + HEADS[name]
            + b"\r\n{}"
        )
        response = connection.read_head()
        connection.read_rest()
    assert 400 <= response.status < 500
    assert lab.plain(CHAT, ANSWER).response.status == 200
    assert len(lab.entries()) == 1


def test_credential_with_odd_bytes(lab: Lab) -> None:
    for value in ("Bearer \xff\xfe", "Bearer " + "x" * 4000, "Bearer a b c"):
        assert lab.refused("POST", CHAT, {"Authorization": value}, b"{}").status == 401


def test_pipelined_requests(lab: Lab) -> None:
    """The answers come in order, on one connection."""
    bodies = [
        lab.body(CHAT, Script.body(sse.chat_answer({"prompt_tokens": n, "completion_tokens": 2})))
        for n in (1, 2, 3)
    ]
    with RawConnection(lab.weir.url) as connection:
        for body in bodies:
            connection.request("POST", CHAT, lab.headers(), body)
        lab.expected_records += 3
        for number in (1, 2, 3):
            check(lab.played(connection.read_response()).record, f"{number}/0/0/2")


DOUBTFUL = [
    b'"Stream":true',
    b'"MAX_TOKENS":1',
    b'"N":2',
    b'"Model":"gpt-dear"',
    b'"maxTokens":1',
    b'"\xc5\xbftream":true',
    b'"\\u0073tream":true',
    b'"stream":1',
    b'"stream":"true"',
    b'"stream":true,"stream":false',
    b'"stream":true,"stream_options":"x"',
    b'"stream":true,"stream_options":[]',
    b'"stream":true,"stream_options":{"include_usage":true,"Include_Usage":false}',
    b'"stream":true,"stream_options":{"include_usage":true,"include_usage":false}',
    b'"n":"2"',
]


@pytest.mark.wire(99)
@BOTH
@pytest.mark.parametrize("members", DOUBTFUL, ids=lambda members: members.decode("utf-8"))
def test_what_others_may_read_differently_is_refused(lab: Lab, path: str, members: bytes) -> None:
    """Nothing goes upstream that is served by other names, or in another way, than it is metered."""
    played = lab.send(path, lab.body(path, Script.body(b"{}"))[:-1] + b"," + members + b"}")
    assert played.response.status == 400
    error = error_of(played.response, path)
    assert error["type"] == "invalid_request_error"
    assert any(word in str(error["message"]) for word in ("spelled", "twice", "must be"))
    check(played.record, UNKNOWN, "rejected", status=400)
    assert played.entries == []
