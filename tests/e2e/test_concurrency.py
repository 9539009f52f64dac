"""A hundred streams at once over two workers: nobody gets another's bytes, tokens or key."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from simulator.launcher import PATIENCE_S, wait_until
from tests.support.lab import CHAT, MESSAGES, Lab, counts
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user, used_nano_usd
from tests.support.weir_process import WeirProcess

REQUESTS = 100
SECRETS = {f"env-{number}": f"sk-upstream-concurrent-{number}" for number in range(1, 10)}
_SPLICE = b'{"stream_options":{"include_usage":true},'
_PACE = "flush,delay_ms=3,chunks=12"


@dataclass(frozen=True)
class Kind:
    """A sort of request: what is asked for and how it is to end."""

    path: str
    options: str
    outcome: str = "ok"
    status: int = 200
    is_stream: bool = True
    usage: bool | None = True
    tries: int = 1


KINDS = [
    Kind(CHAT, _PACE),
    Kind(CHAT, _PACE, usage=None),
    Kind(MESSAGES, _PACE),
    Kind(MESSAGES, f"{_PACE},reasoning=5"),
    Kind(CHAT, "first_ms=20", is_stream=False),
    Kind(MESSAGES, "first_ms=20", is_stream=False),
    Kind(CHAT, f"{_PACE},fault=cut,after=6", "upstream_truncated"),
    Kind(MESSAGES, f"{_PACE},fault=error_event,after=6", "stream_error"),
    Kind(CHAT, "fault=503", "upstream_error", 502, tries=3),
    Kind(MESSAGES, "fault=400", "upstream_error", 400),
]


@dataclass(frozen=True)
class Request:
    """One of the hundred."""

    kind: Kind
    body: bytes
    user: User | None

    @property
    def forwarded(self) -> bytes:
        """The body as the upstream gets it."""
        is_injected = self.kind.path == CHAT and self.kind.is_stream and not self.kind.usage
        return _SPLICE + self.body[1:] if is_injected else self.body


@pytest.fixture(scope="module")
def two_workers(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    """A proxy with two workers and enough upstream keys for failures in a row to be rare."""
    with WeirProcess(
        tmp_path_factory.mktemp("two"),
        upstream.url,
        WEB_CONCURRENCY="2",
        OHMYGPT_API_KEYS=",".join(SECRETS.values()),
    ) as weir:
        yield weir


@pytest.mark.wire(73)
def test_hundred_mixed_streams(two_workers: WeirProcess, upstream: UpstreamProcess) -> None:
    lab = Lab(two_workers, upstream)
    users = [None, add_user(two_workers, credits="50"), add_user(two_workers, credits="50")]
    requests = [_request(lab, number, users[number % 3]) for number in range(REQUESTS)]

    answers = _all_at_once(lab, requests)

    records = [two_workers.wait_record(answer.request_id) for answer in answers]
    entries = lab.wait_entries(sum(request.kind.tries for request in requests))
    assert len(lab.new_records()) == REQUESTS
    by_body: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_body.setdefault(entry["body_sha256"], []).append(entry)
    assert len(by_body) == REQUESTS
    for request, answer, record in zip(requests, answers, records, strict=True):
        _check_one(lab, request, answer, record, by_body[hashlib.sha256(request.forwarded).hexdigest()])
    _check_charges(two_workers, [user for user in users if user], records)
    assert two_workers.log_messages("ERROR") == []


def _request(lab: Lab, number: int, user: User | None) -> Request:
    """Its numbers are its own: tokens that turn up with another request would be noticed."""
    kind = KINDS[number % len(KINDS)]
    options = f"{kind.options},prompt={1000 + number},cached={number},write={number // 2},out={20 + number}"
    messages = [{"role": "user", "content": f"nonce {number}"}]
    if kind.is_stream:
        body = lab.stream_body(kind.path, options, usage=kind.usage, messages=messages)
    else:
        body = lab.body(kind.path, options, messages=messages)
    return Request(kind, body, user)


FORM = "multipart/form-data; boundary=together"
RESULTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"model": "embed-test", "input": ["a", "b"]}),
    ("/v1/completions", {"model": "gpt-test", "prompt": "x"}),
    (
        "/v1/completions",
        {"model": "gpt-test", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}},
    ),
    ("/v1/moderations", {"input": "x"}),
    ("/v1/rerank", {"model": "rerank-test", "query": "q", "documents": ["d"] * 120}),
    ("/v1/images/generations", {"model": "image-test", "prompt": "x", "n": 2}),
    ("/v1/images/generations", {"model": "image-test", "prompt": "x", "stream": True}),
    ("/v1/images/edits", {"model": "image-test", "image": b"\x89PNG", "prompt": "x"}),
    ("/v1/images/variations", {"model": "image-test", "image": b"\x89PNG"}),
    ("/v1/audio/speech", {"model": "spoken-test", "voice": "alloy", "input": "é😀 hello"}),
    ("/v1/audio/speech", {"model": "voice-test", "voice": "alloy", "input": "x", "stream_format": "sse"}),
    ("/v1/audio/transcriptions", {"model": "heard-test", "file": b"RIFF" * 999}),
    ("/v1/audio/transcriptions", {"model": "heard-test", "file": b"RIFF", "response_format": "srt"}),
    ("/v1/audio/transcriptions", {"model": "listen-test", "file": b"RIFF", "stream": "true"}),
    ("/v1/audio/translations", {"model": "heard-test", "file": b"RIFF", "response_format": "vtt"}),
    ("/v1/responses", {"model": "gpt-test", "input": "x"}),
    ("/v1/responses", {"model": "gpt-test", "input": "x", "stream": True}),
    (CHAT, {"model": "gpt-test", "messages": [{"role": "user", "content": "x"}]}),
    (MESSAGES, {"model": "claude-test", "max_tokens": 99, "messages": [{"role": "user", "content": "x"}]}),
]
"""Requests to every endpoint; one with bytes in it is a form."""


def _results_request(number: int) -> tuple[str, str, bytes]:
    """A request to one of the endpoints, its content type and its body, the numbers in it its own."""
    path, members = RESULTS[number % len(RESULTS)]
    directive = f"sim:prompt={1000 + number},out={20 + number},chunks=5"
    users = {"metadata": {"user_id": directive}} if path == MESSAGES else {"user": directive}
    if not any(isinstance(value, bytes) for value in members.values()):
        return path, "application/json", compact(members | users)
    parts = []
    for name, value in (members | users).items():
        file = b'; filename="f"' if isinstance(value, bytes) else b""
        data = value if isinstance(value, bytes) else str(value).encode()
        head = b'Content-Disposition: form-data; name="%b"%b' % (name.encode(), file)
        parts.append(b"--together\r\n%b\r\n\r\n%b\r\n" % (head, data))
    return path, FORM, b"".join(parts) + b"--together--\r\n"


def test_hundred_mixed_calls_of_all_endpoints(two_workers: WeirProcess, upstream: UpstreamProcess) -> None:
    """One record each, with the tokens and the other units that the upstream's own books say."""
    lab = Lab(two_workers, upstream)
    requests = [_results_request(number) for number in range(REQUESTS)]
    together = threading.Barrier(REQUESTS)

    def send(request: tuple[str, str, bytes]) -> RawResponse:
        path, kind, body = request
        with RawConnection(lab.weir.url) as connection:
            together.wait(PATIENCE_S)
            connection.request("POST", path, lab.headers(**{"Content-Type": kind}), body)
            return connection.read_response()

    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = list(pool.map(send, requests))
    records = [two_workers.wait_record(answer.request_id) for answer in answers]
    entries = {entry["body_sha256"]: entry for entry in lab.wait_entries(REQUESTS)}
    assert (len(lab.new_records()), len(entries)) == (REQUESTS, REQUESTS)
    for (path, _, body), answer, record in zip(requests, answers, records, strict=True):
        entry = entries[hashlib.sha256(body).hexdigest()]
        assert (answer.status, record["outcome"], record["isSuccess"]) == (200, "ok", True), path
        told = entry["announced"] or dict.fromkeys(("fresh", "cache_read", "output"), 0)
        assert (record["inputTokens"], record["outputTokens"]) == (told["fresh"], told["output"]), path
        items = {item["unit"]: item["quantity"] for item in record.get("costItems", [])}
        text = ("input", "output", "cache_hit", "cache_write", "cache_write_1h")
        assert {unit: count for unit, count in items.items() if unit not in text} == entry["units"], path
        if items:
            assert sum(item["nanoUsd"] for item in record["costItems"]) == record["costNanoUsd"]
    assert two_workers.log_messages("ERROR") == []


def _all_at_once(lab: Lab, requests: list[Request]) -> list[RawResponse]:
    """All are connected before the first one is sent."""
    together = threading.Barrier(len(requests))

    def send(request: Request) -> RawResponse:
        headers = {} if request.user is None else {"Authorization": f"Bearer {request.user.key}"}
        with RawConnection(lab.weir.url) as connection:
            together.wait(PATIENCE_S)
            connection.request("POST", request.kind.path, lab.headers() | headers, request.body)
            return connection.read_response()

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


def _check_one(
    lab: Lab, request: Request, answer: RawResponse, record: dict[str, Any], entries: list[dict[str, Any]]
) -> None:
    kind = request.kind
    assert answer.status == record["statusCode"] == kind.status
    assert record["outcome"] == kind.outcome
    assert record["userId"] == (request.user.name if request.user else "env")
    assert record["userKeyId"] == (request.user.key_id if request.user else "env")
    # The keys, in the order in which they were tried.
    tried = [attempt["factoryKeyId"] for attempt in record["attempts"]]
    assert [SECRETS[key] for key in tried] == [entry["key"] for entry in entries]
    assert record["factoryKeyId"] == tried[-1]
    assert len(tried) == len(set(tried)) == kind.tries
    # The tokens: what the upstream itself says it told.
    assert counts(record) == _told(entries[-1])
    # The bytes: what the upstream gives to the very same request.
    if kind.status == 200:
        wanted = lab.direct(kind.path, request.forwarded)
        body = wanted.body
        if request.forwarded != request.body:
            body = b"".join(e + b"\n\n" for e in body.split(b"\n\n")[:-1] if b'"choices":[]' not in e)
        assert answer.body == body
        assert answer.ending is wanted.ending


def _told(entry: dict[str, Any]) -> str:
    told = entry["announced"]
    if told is None:
        return "–"
    write = told["cache_write_5m"] + told["cache_write_1h"]
    return f"{told['fresh']}/{told['cache_read']}/{write}/{told['output']}"


def _check_charges(weir: WeirProcess, users: list[User], records: list[dict[str, Any]]) -> None:
    """Each user paid for their own requests, to the nano-dollar."""
    for user in users:
        own = [record for record in records if record["userId"] == user.name]
        cost = sum(record["costNanoUsd"] for record in own)
        assert len(own) == REQUESTS // 3
        assert cost > 0
        is_booked = partial(_has_spent, weir, user, cost)
        wait_until(is_booked, what=f"the charges of {user.name}")


def _has_spent(weir: WeirProcess, user: User, nano_usd: int) -> bool:
    return used_nano_usd(weir, user) == nano_usd


@pytest.mark.wire(73)
def test_one_connection_serves_many_requests_in_turn(
    two_workers: WeirProcess, upstream: UpstreamProcess
) -> None:
    """Keep-alive on both sides: an answer never leaks into the next one, whatever its end was."""
    lab = Lab(two_workers, upstream)
    plays = ["chunks=3", "fault=400", "chunks=2,encoding=gzip", "fault=503", "chunks=1"]
    bodies = [lab.stream_body(CHAT, play, seed=number) for number, play in enumerate(plays * 4)]
    answers = []
    with RawConnection(two_workers.url) as connection:
        for body in bodies:
            connection.request("POST", CHAT, lab.headers(), body)
            answers.append(connection.read_response())
    for body, answer in zip(bodies, answers, strict=True):
        record = two_workers.wait_record(answer.request_id)
        assert record["statusCode"] == answer.status
        if answer.status == 200:
            assert answer.body == lab.direct(CHAT, body).body
