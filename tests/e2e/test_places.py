"""Places, memory and time of a worker: no client holds what others need; operators are always answered."""

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator

import pytest

from simulator import Data, End, Head, Script
from simulator.launcher import wait_until
from tests.support.lab import CHAT, MESSAGES, UNKNOWN, Lab, check
from tests.support.metrics_page import scrape
from tests.support.raw_http import RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user
from tests.support.weir_process import WeirProcess

PAGE = "https://chat.example.com"
PLACES = 24
SPARE = 4
MB = 1024 * 1024
KEY_BYTES = 2 * MB
"""What one key may hold of the proxy below."""
WAYS = ("/health", "/ready", "/metrics")


@pytest.fixture(scope="module")
def small_weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    with WeirProcess(
        tmp_path_factory.mktemp("small"),
        upstream.url,
        WORKER_CONNECTIONS=str(PLACES),
        CORS_ORIGINS=PAGE,
        CLIENT_BODY_TIMEOUT_S="20",
        MAX_BODY_MB="1",
        MAX_BODIES_MB="3",
    ) as process:
        yield process


@pytest.fixture(scope="module")
def users(small_weir: WeirProcess) -> tuple[User, User, User]:
    """One without credit, and two with so much of it that nothing is held."""
    return (
        add_user(small_weir, credits="0"),
        add_user(small_weir, credits="50000"),
        add_user(small_weir, credits="50000"),
    )


@pytest.fixture
def small_lab(small_weir: WeirProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    opened = Lab(small_weir, upstream)
    yield opened
    opened.check_books()


def answers(lab: Lab, path: str) -> int:
    with RawConnection(lab.weir.url) as connection:
        connection.request("GET", path, {})
        return connection.read_response().status


def chunked(piece: bytes, times: int) -> bytes:
    return (b"%x\r\n%b\r\n" % (len(piece), piece)) * times


@pytest.mark.wire(107)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_without_credit_no_body_is_waited_for(
    small_lab: Lab, users: tuple[User, User, User], path: str
) -> None:
    poor, _, _ = users
    with RawConnection(small_lab.weir.url) as connection:
        small_lab.expected_records += 1
        headers = {"Authorization": f"Bearer {poor.key}", "Content-Length": "1000000"}
        connection.request("POST", path, headers, b"{")
        played = small_lab.played(connection.read_response())
    assert played.response.status == 402
    check(played.record, UNKNOWN, "rejected", status=402)


@pytest.mark.wire(108)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("piece", [b"1\r\na\r\n", b"1;" + b"x" * 500 + b"\r\na\r\n"])
def test_a_body_in_tiny_chunks_is_refused(small_lab: Lab, path: str, piece: bytes) -> None:
    with RawConnection(small_lab.weir.url) as connection:
        small_lab.expected_records += 1
        headers = small_lab.headers(**{"Transfer-Encoding": "chunked"})
        connection.request("POST", path, headers, piece * (128 * 1024 // len(piece)))
        played = small_lab.played(connection.read_response())
    assert played.response.status == 400
    assert played.response.headers["connection"] == "close"
    check(played.record, UNKNOWN, "rejected", status=400)


def statuses(lab: Lab) -> list[int]:
    return [record["statusCode"] for record in lab.weir.records()]


@pytest.mark.wire(110)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_compressed_body_of_very_many_members_is_refused(small_lab: Lab, path: str) -> None:
    body = gzip.compress(b"", mtime=0) * 20_000
    played = small_lab.send(path, body, small_lab.headers(**{"Content-Encoding": "gzip"}))
    assert played.response.status == 400
    check(played.record, UNKNOWN, "rejected", status=400)


@pytest.mark.wire(112)
def test_the_bodies_of_one_key_leave_room_for_those_of_others(
    small_lab: Lab, users: tuple[User, User, User]
) -> None:
    _, rich, _ = users
    body = small_lab.body(CHAT, "out=2", padding="x" * 900_000)
    headers = small_lab.headers(**{"Content-Length": str(len(body))})
    before = statuses(small_lab).count(429)
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(3):
            held.append(stack.enter_context(RawConnection(small_lab.weir.url)))
            small_lab.expected_records += 1
            held[-1].request("POST", CHAT, headers, body[:-1])
        # Two of them fit into the share, whichever come first.
        wait_until(lambda: statuses(small_lab).count(429) > before, what="one of them to be refused")
        others = small_lab.send(CHAT, small_lab.body(CHAT, "out=2"), {"Authorization": f"Bearer {rich.key}"})
        assert others.response.status == 200
        assert [answers(small_lab, way) for way in WAYS] == [200, 200, 200]
    wait_until(lambda: small_lab.send(CHAT, body).response.status == 200, what="room after they have left")


@pytest.mark.wire(113)
def test_when_all_places_are_taken_operators_are_answered_and_others_told(
    small_lab: Lab, users: tuple[User, User, User]
) -> None:
    gate = small_lab.gate()
    _, rich, _ = users
    with contextlib.ExitStack() as stack:
        running = []
        for number in range(PLACES - SPARE):
            key = {} if number % 2 else {"Authorization": f"Bearer {rich.key}"}
            path = (CHAT, MESSAGES)[number // 2 % 2]
            body = small_lab.body(path, f"out=2,hold={gate}")
            running.append(stack.enter_context(small_lab.open(path, body, key or small_lab.headers())))
        # A connection whose head was not read yet would make room for the next ones.
        wait_until(lambda: len(small_lab.entries()) == len(running), what="all of them to be upstream")
        wait_until(lambda: is_refused(small_lab), what="no place to be left")
        assert [answers(small_lab, way) for way in WAYS] == [200, 200, 200]
        assert scrape(small_lab.weir)["weir_unauthenticated_requests_total"][("no_place",)] >= 1
        small_lab.upstream.open_gate(gate)
        for connection in running:
            assert small_lab.played(connection.read_response()).response.status == 200
    assert small_lab.plain(CHAT, "out=2").response.status == 200


def is_refused(lab: Lab) -> bool:
    """Whether a request is refused before anybody asks whose it is."""
    with RawConnection(lab.weir.url) as connection:
        connection.request("POST", MESSAGES, {"Origin": PAGE}, b"")
        response = connection.read_response()
    assert response.headers["access-control-allow-origin"] == PAGE
    if response.status == 401:
        return False
    assert (response.status, response.headers["retry-after"]) == (503, "2")
    assert json.loads(response.body)["type"] == "error"
    return True


@pytest.mark.wire(114)
def test_one_key_cannot_have_all_places(small_lab: Lab, users: tuple[User, User, User]) -> None:
    gate = small_lab.gate()
    _, rich, _ = users
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(small_lab.open(CHAT, small_lab.body(CHAT, f"out=2,hold={gate}")))
            for _ in range(PLACES // 2)
        ]
        wait_until(lambda: busy(small_lab) == PLACES // 2, what="all of them to run")
        refused = small_lab.send(CHAT, small_lab.body(CHAT, "out=2"))
        assert (refused.response.status, refused.response.headers["retry-after"]) == (429, "2")
        check(refused.record, UNKNOWN, "rejected", status=429)
        others = small_lab.send(
            MESSAGES, small_lab.body(MESSAGES, "out=2"), {"Authorization": f"Bearer {rich.key}"}
        )
        assert others.response.status == 200
        small_lab.upstream.open_gate(gate)
        for connection in running:
            assert small_lab.played(connection.read_response()).response.status == 200


def test_nor_can_a_user_who_makes_another_key(small_lab: Lab, users: tuple[User, User, User]) -> None:
    gate = small_lab.gate()
    _, rich, _ = users
    first = {"Authorization": f"Bearer {rich.key}"}
    with RawConnection(small_lab.weir.url) as connection:
        connection.request("POST", "/api/user/keys", first | {"Content-Type": "application/json"}, b"{}")
        made = json.loads(connection.read_response().body)
    second = {"Authorization": f"Bearer {made['apiKey']}"}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(
                small_lab.open(CHAT, small_lab.body(CHAT, f"out=2,hold={gate}"), (first, second)[number % 2])
            )
            for number in range(PLACES // 2)
        ]
        wait_until(lambda: busy(small_lab) == PLACES // 2, what="all of them to run")
        refused = small_lab.send(CHAT, small_lab.body(CHAT, "out=2"), second)
        assert refused.response.status == 429
        check(refused.record, UNKNOWN, "rejected", status=429)
        assert small_lab.plain(CHAT, "out=2").response.status == 200
        small_lab.upstream.open_gate(gate)
        for connection in running:
            assert small_lab.played(connection.read_response()).response.status == 200


def busy(lab: Lab) -> float:
    return sum(scrape(lab.weir)["weir_requests_in_flight"].values())


@pytest.mark.wire(111)
def test_an_upstream_that_never_pauses_leaves_the_others_their_turns(lab: Lab) -> None:
    """Hundreds of thousands of events, as fast as they go: meanwhile others are answered, again and again."""
    events = chunk("x") * 100 + b":\n\n" * 20_000
    head = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
    script = Script.of(
        head, *[Data(events)] * 20, Data(chunk("", finish="stop") + b"data: [DONE]\n\n"), End()
    )
    between: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            between.append(answers(lab, "/health"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        played = lab.stream(CHAT, script)
    finally:
        is_over.set()
        asking.join()
    assert played.response.is_whole
    assert len(played.body) > 20 * len(events) - 1
    assert set(between) == {200}
    # Of the 1.2 MB of comments some milliseconds' worth is read at a time.
    assert len(between) > 10


@pytest.mark.wire(109)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_the_slowest_bodies_make_room_for_others(
    small_weir: WeirProcess, upstream: UpstreamProcess, users: tuple[User, User, User], path: str
) -> None:
    """However many there are, and whoever comes after them: each new one puts out another.

    Those put out before their heads were read are told 503, without a record: how many, nobody can say.
    """
    lab = Lab(small_weir, upstream)
    with contextlib.ExitStack() as stack:
        for number in range(2 * PLACES):
            held = stack.enter_context(RawConnection(small_weir.url))
            key = users[1 + number % 2].key
            headers = {"Authorization": f"Bearer {key}", "Content-Length": "100000"}
            held.request("POST", path, headers, b"{")
        assert lab.plain(path, "out=2").response.status == 200
        assert [answers(lab, way) for way in WAYS] == [200, 200, 200]
    wait_until(lambda: 408 in statuses(lab), what="the records of those put out")
