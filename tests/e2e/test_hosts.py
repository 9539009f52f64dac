"""Several upstream hosts: what one of them cannot serve goes to the next, and each comes back by itself."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from simulator.launcher import wait_until
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.metrics_page import ADMIN_TOKEN, ask_json, scrape
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import WeirProcess


@pytest.fixture(scope="module")
def first() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as process:
        yield process


@pytest.fixture(scope="module")
def several(
    first: UpstreamProcess, upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WeirProcess]:
    """The host of its own is preferred; the one of all tests stands by."""
    with WeirProcess(
        tmp_path_factory.mktemp("hosts"),
        f"{first.url}/api/, {upstream.url}",
        UPSTREAM_READ_TIMEOUT_S="3",  # on a busy machine others answer within that
        ADMIN_TOKEN=ADMIN_TOKEN,
    ) as process:
        yield process


@pytest.fixture
def books(several: WeirProcess, first: UpstreamProcess, upstream: UpstreamProcess) -> Iterator[Lab]:
    first.reset()
    lab = Lab(several, upstream)
    wait_until(lambda: is_up(several, 0), what="the first host to be used again")
    yield lab
    lab.check_books()


def is_up(weir: WeirProcess, host: int) -> bool:
    return scrape(weir)["weir_upstream_host_up"][str(host),] == 1


@contextmanager
def frozen(upstream: UpstreamProcess) -> Iterator[None]:
    """It answers nothing, and no probe: seconds after a failure that would have it used again."""
    assert upstream.pid is not None
    os.kill(upstream.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(upstream.pid, signal.SIGCONT)


@contextmanager
def gone(upstream: UpstreamProcess) -> Iterator[None]:
    """It is stopped, and started again on its port, which nobody else is given meanwhile."""
    upstream.stop()
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((upstream.host, upstream.port))
        try:
            yield
        finally:
            upstream.start()


def hosts_of(record: dict[str, object]) -> list[tuple[int, int | None, str | None]]:
    attempts = record["attempts"]
    assert isinstance(attempts, list)
    return [(attempt["host"], attempt["statusCode"], attempt.get("error")) for attempt in attempts]


def test_a_front_proxys_page_sends_requests_to_the_next_host(books: Lab, first: UpstreamProcess) -> None:
    """Byte for byte what that host says, with the key that is there: the only one."""
    check(books.stream(CHAT, "prompt=100,out=20").record, "100/0/0/20")
    first.behave("*", "fault=html_502", 1)
    with books.open(MESSAGES, books.stream_body(MESSAGES, "prompt=100,out=20")) as connection:
        answer = connection.read_response()
    with frozen(first):
        served = books.played(answer)
        check(served.record, "100/0/0/20")
        assert [entry[:2] for entry in hosts_of(served.record)] == [(0, 502), (1, 200)]
        assert {attempt["factoryKeyId"] for attempt in served.record["attempts"]} == {"env-1"}
        later = books.plain(CHAT, "prompt=100,out=20")
        assert hosts_of(later.record) == [(1, 200, None)]
        assert not is_up(books.weir, 0)
        assert ask_json(books.weir, "/api/admin/health")["upstreamHosts"] == [False, True]
    # The page was no fault of the key's, and its probes carry none.
    assert books.weir.complaints()
    wait_until(lambda: is_up(books.weir, 0), what="the first host to be used again")
    assert any(entry["path"].endswith("/v1/models") and not entry["key"] for entry in first.tally())
    assert hosts_of(books.plain(CHAT, "prompt=100,out=20").record) == [(0, 200, None)]


def test_a_host_that_is_gone_costs_no_request(books: Lab, first: UpstreamProcess) -> None:
    with gone(first):
        played = [books.stream(CHAT, "prompt=100,out=20") for _ in range(3)]
    for one in played:
        check(one.record, "100/0/0/20")
    assert [entry[0] for entry in hosts_of(played[0].record)][-1] == 1
    assert hosts_of(played[-1].record) == [(1, 200, None)]

    def attempts() -> float:
        return scrape(books.weir)["weir_upstream_host_attempts_total"].get(("1", "200"), 0)

    wait_until(lambda: attempts() >= 3, what="the attempts to be counted")


def test_a_silent_host_is_left_alone_after_one_time_out(books: Lab, first: UpstreamProcess) -> None:
    first.behave("*", "fault=stall_early", 1)
    with books.open(CHAT, books.body(CHAT, "prompt=1,out=1")) as connection:
        answer = connection.read_response()
    with frozen(first):
        check(books.played(answer).record, "–", "upstream_timeout", status=504)
        assert hosts_of(books.plain(CHAT, "prompt=100,out=20").record) == [(1, 200, None)]


def test_where_no_host_is_left_there_is_one_record_and_no_name(books: Lab, first: UpstreamProcess) -> None:
    first.behave("*", "fault=html_502", 1)
    books.upstream.behave("*", "fault=html_502", 1)
    played = books.plain(CHAT, "prompt=1,out=1")
    check(played.record, "–", "upstream_error", status=502)
    assert [entry[0] for entry in hosts_of(played.record)][:2] == [0, 1]
    told = played.body.decode() + str(played.response.headers)
    assert not any(f":{process.port}" in told for process in (first, books.upstream))
    wait_until(lambda: is_up(books.weir, 1), what="the second host to be used again")


def test_one_host_leaves_records_and_metrics_as_they_were(weir: WeirProcess, lab: Lab) -> None:
    record = lab.plain(CHAT, "prompt=100,out=20").record
    assert "host" not in record["attempts"][0]
    assert scrape(weir).keys().isdisjoint({"weir_upstream_host_up", "weir_upstream_host_attempts_total"})
