"""What upstreams say when they refuse: it becomes a known kind of error, bounded, without a key of ours."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote

from app.keys.upstream_outcome import PASSED_THROUGH, KeyOutcome, RefusedAnswer, Verdict, client_kind, judge
from app.wires import errors
from app.wires.client_words import ClientWords
from app.wires.error_bodies import as_said, error_headers, render_error
from app.wires.errors import ErrorKind, UpstreamProblem
from app.wires.scrubbing import MAX_MESSAGE, scrub, upstream_names
from app.wires.upstream_errors import read_error, retry_after
from app.wires.wire_format import WireFormat
from tests.fuzz.target import Material, Target

KEY = "sk-Up5tream0Key9"
HOST = "api.upstream-of-ours.example"
HOSTS = upstream_names(f"https://{HOST}/gateway/v1")
NOW = datetime(2026, 11, 30, tzinfo=UTC)
STATUSES = (400, 401, 402, 403, 404, 409, 413, 422, 429, 451, 418, 500, 503, 504, 529, 301, 204, 407)
TYPES = ("application/json", "text/event-stream", "text/plain", "text/html; charset=utf-8", "")
WAITS = ("", "5", "-1", "1e9", "Mon, 30 Nov 2026 00:01:00 GMT", "9" * 30, "x")
CLIENTS = (
    ClientWords(),
    ClientWords(b'{"messages":[{"content":"insufficient balance, account banned"}]}', "a=b", ["rate limit"]),
)
KNOWN = frozenset(kind for kind in vars(errors).values() if isinstance(kind, ErrorKind))
_HOST = re.compile(r"(?<![\w-])upstream-of-ours\.example(?![\w-])", re.IGNORECASE)
_BLANKS = str.maketrans("", "", " \t\n\r\f\v\x1c\x1d\x1e\x1f\"'`\\")


def check(data: bytes) -> None:
    material = Material(data)
    status, content_type, wait = material.one_of(STATUSES), material.one_of(TYPES), material.one_of(WAITS)
    client, body = material.one_of(CLIENTS), material.rest()
    error = read_error(body, content_type)
    assert len(error.message) <= 2 * len(body) + 2
    headers = [("Retry-After", wait)] if wait else []
    waited = retry_after(headers, NOW)
    assert waited is None or waited >= 0
    row = judge(RefusedAnswer(status, headers, error, ("m", ""), client), NOW)
    assert isinstance(row.verdict, Verdict)
    assert isinstance(row.finding.outcome, KeyOutcome)
    assert row.finding.cooldown_s is None or 1 <= row.finding.cooldown_s <= 3600
    assert row.verdict is not Verdict.RELAY
    assert row.kind in KNOWN or row.kind in PASSED_THROUGH.values() or row.kind == client_kind(status)
    assert row.kind.status >= 400
    scrubbed = partial(scrub, secrets=(KEY,), hosts=HOSTS, client=client)
    message = scrubbed(error.message)
    assert len(message) <= MAX_MESSAGE
    for wire_format in WireFormat:
        said = as_said(error, wire_format, scrubbed)
        problem = UpstreamProblem(row.kind, message, extra=said, retry_after_s=7)
        assert dict(error_headers(problem))["Retry-After"] == "7"
        rendered = json.loads(render_error(problem, wire_format, "id"))
        assert isinstance(rendered["error"]["message"], str)
        assert isinstance(rendered["error"]["type"], str)
        for text in texts(rendered):
            assert_tells_nothing(text)


def texts(value: Any) -> Iterator[str]:
    """All texts of a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def assert_tells_nothing(text: str) -> None:
    for spelling in (text, unquote(text)):
        plain = spelling.translate(_BLANKS).lower()
        assert KEY.lower() not in plain
        assert _HOST.search(spelling) is None


def seeds() -> Iterator[bytes]:
    for number, body in enumerate(_SEEDS):
        for status in range(len(STATUSES)):
            yield bytes((status, 0, number % len(WAITS), number % 2)) + body.encode()


_SEEDS = (
    '{"error":{"message":"Incorrect API key provided: sk-Up5tream0Key9.","type":"invalid_request_error",'
    '"param":null,"code":"invalid_api_key"}}',
    '{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your limit"}}',
    '{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\\"error\\":\\"model m is '
    'overloaded\\"}","provider_name":"p","reasons":["a"]}}}',
    '{"detail":[{"loc":["body","model"],"msg":"field required","type":"missing"}]}',
    '[{"error":{"code":403,"message":"denied","status":"PERMISSION_DENIED","details":[{"reason":"x"}]}}]',
    'data: {"error":{"message":"quota exceeded: insufficient balance","type":"insufficient_quota"}}\n\n',
    '{"statusCode":400,"errorType":"X","message":"dial tcp: lookup api.upstream-of-ours.example: no host"}',
    '{"error":{"message":"limit 100, requested 200 tokens per minute","type":"tokens","details":{"a":1}}}',
    '{"error":{"innererror":{"code":"content_filter","content_filter_result":{"hate":{"filtered":true}}}}}',
    "<html><body>Bad gateway</body></html>",
    "Bearer s%6b-Up5tream0Key9 for https://api.upstream-of-ours.example/gateway/v1/chat/completions",
    '{"error":"account has been suspended"}',
)

TARGET = Target(
    "error_body",
    check,
    seeds,
    words=(
        *(KEY.encode(), HOST.encode(), b'{"error":{', b'"message":"', b'"code":"', b'"type":"', b'"param":'),
        *(b'"details":{', b'"innererror":{', b'"metadata":{', b'"reasons":[', b'"flagged_input":"', b"\\u00"),
        *(
            b"%73%6b",
            b"insufficient_quota",
            b"banned",
            b"rate limit",
            b"per minute",
            b"https://",
            b"10.0.0.1",
        ),
        *(
            b"data: {",
            b'"errors":[{',
            b'"loc":["a"],"msg":"',
            b"\\ud83d",
            b"***",
            b"...",
            b'sk-Up5"+"tream0Key9',
        ),
    ),
    max_bytes=1024,
)
