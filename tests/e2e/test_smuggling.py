"""Request smuggling and header injection: raw bytes against gunicorn, judged by what the upstream saw.

All vectors are played once, each on a connection of its own; the tests look at what came of them. The
simulator reads requests with a parser of its own, and says what it got.
"""

import socket
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.smuggling import PATH, VECTORS, Vector, body
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import UPSTREAM_KEY, WeirProcess

SENT_UPSTREAM = {
    *("host", "accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta"),
    *("accept-encoding", "authorization", "content-length", "connection"),
}
TO_CLIENT = {
    *("server", "date", "connection", "content-type", "content-length", "transfer-encoding", "allow"),
    *("x-request-id", "request-id", "cache-control", "retry-after", "retry-after-ms", "x-should-retry"),
}


@dataclass
class Result:
    """What came of a vector."""

    answers: list[RawResponse] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    is_closed: bool = False


def play(url: str, wire: bytes, *, ends: bool) -> Result:
    result = Result()
    with RawConnection(url) as connection:
        try:
            connection.send(wire)
            if ends:
                connection._socket.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # refused before all of it was sent
        try:
            while True:
                head = connection.read_head()
                if head.status != 100:
                    result.answers.append(connection.read_rest())
        except ConnectionError:
            result.is_closed = True
    return result


@pytest.fixture(scope="module")
def results(weir: WeirProcess, upstream: UpstreamProcess) -> list[Result]:
    lab = Lab(weir, upstream)
    since = upstream.last_seq()
    played: list[Result] = []
    for number, vector in enumerate(VECTORS):
        played.append(play(weir.url, vector.sent_as(number), ends=vector.ends))
    answers = {answer.request_id: answer.status for item in played for answer in item.answers}
    lab.fence()
    recorded = answers.keys() & {record["requestId"] for record in lab.new_records()}
    # What the server refuses before it knows what is asked for leaves none.
    assert all(answers[request_id] >= 400 for request_id in answers.keys() - recorded)
    lab.expected_records += len(recorded)
    lab.check_books()
    by_vector: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for seen in upstream.requests(since):
        _, _, rest = seen["body"].partition(b'"content":"v')
        by_vector[int(rest[:4] or b"-1")].append(seen)
    assert -1 not in by_vector, by_vector[-1]
    for number, result in enumerate(played):
        result.seen = by_vector.pop(number, [])
    assert not by_vector
    return played


@pytest.mark.parametrize("number", range(len(VECTORS)), ids=[vector.name for vector in VECTORS])
def test_one_reading_of_every_request(results: list[Result], number: int) -> None:
    vector, result = VECTORS[number], results[number]
    statuses = [answer.status for answer in result.answers]

    assert result.is_closed
    assert agree(vector, statuses), statuses
    assert [seen["body"].strip() for seen in result.seen] == [
        body(marker).replace(b"@@@@", b"%04d" % number) for marker in vector.reach
    ]
    for answer in result.answers:
        assert set(answer.headers) <= TO_CLIENT, answer.headers
    for seen in result.seen:
        names = [name.lower() for name, _ in seen["headers"]]
        headers = {name.lower(): value for name, value in seen["headers"]}
        assert len(names) == len(set(names))
        assert set(names) <= SENT_UPSTREAM
        assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert headers["host"].startswith("127.0.0.1:")
        assert headers["user-agent"] != "injected" if "user-agent" in headers else True
        assert seen["method"] == "POST"
        assert seen["target"].partition("?")[0] == PATH


def agree(vector: Vector, statuses: list[int]) -> bool:
    """Whether these are the statuses that were expected, any refusal being as good as a 400."""
    return len(statuses) == len(vector.statuses) and all(
        (400 <= status < 600 if wanted == 400 else status == wanted)
        for status, wanted in zip(statuses, vector.statuses, strict=True)
    )


def test_there_are_hundreds_of_vectors() -> None:
    assert len(VECTORS) >= 200
    assert len({vector.wire for vector in VECTORS}) >= 0.95 * len(VECTORS)
