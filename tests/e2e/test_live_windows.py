"""Windows that follow the dashboard, on the wire: they are told, bounded, and hold up no stop."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from simulator.launcher import wait_until
from tests.support.lab import CHAT
from tests.support.raw_http import Ending, RawConnection
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import CLIENT_KEY, WeirProcess

MOST = 40
SOON_S = 170.0
"""Longer than letting windows go takes, shorter than the grace period below, which they would take up."""


@pytest.fixture
def weir(upstream: UpstreamProcess, tmp_path: Path) -> Iterator[WeirProcess]:
    with WeirProcess(tmp_path, upstream.url, GRACEFUL_TIMEOUT_S="180") as process:
        yield process


def cookie_of(weir: WeirProcess) -> tuple[requests.Session, str]:
    browser = requests.Session()
    page = browser.get(f"{weir.url}/admin/login", timeout=60).text
    token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page)
    assert token is not None
    fields = {"csrf_token": token[1], "token": weir.admin_token}
    browser.post(f"{weir.url}/admin/login", data=fields, timeout=60)
    return browser, "; ".join(f"{name}={value}" for name, value in browser.cookies.items())


def listen(weir: WeirProcess, cookie: str, page: str = "/requests", known: str = "") -> RawConnection:
    window = RawConnection(weir.url)
    headers = {"Cookie": cookie, "Accept": "text/event-stream", "Last-Event-ID": known}
    window.request("GET", f"/admin/live?page={quote(page, safe='')}", headers)
    return window


def parts_in(body: bytes) -> list[dict[str, str]]:
    """What events have told of the parts of a page."""
    return [json.loads(told)["parts"] for told in re.findall(rb"^data: (.*\"parts\".*)$", body, re.MULTILINE)]


def chat(weir: WeirProcess) -> str:
    body = {"model": "gpt-6.1-sol", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {CLIENT_KEY}"}
    answer = requests.post(weir.url + CHAT, json=body, headers=headers, timeout=60)
    return answer.headers["x-request-id"]


def test_all_windows_are_told_of_a_request_and_who_comes_back_only_of_what_is_new(
    weir: WeirProcess, upstream: UpstreamProcess
) -> None:
    _, cookie = cookie_of(weir)
    with ExitStack() as stack:
        windows = [stack.enter_context(listen(weir, cookie)) for _ in range(3)]
        for window in windows:
            head = window.read_head()
            assert head.status == 200
            assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert head.headers["x-accel-buffering"] == "no"
            window.read_until(b"event: parts")
        request_id = chat(weir)
        for window in windows:
            window.read_until(request_id.encode())
        body = windows[0].read_until(b"\n\n")
        *_, known = re.findall(rb"^id: (\S+)$", body, re.MULTILINE)
        shown = {name: text for parts in parts_in(body) for name, text in parts.items()}
        again = stack.enter_context(listen(weir, cookie, known=known.decode()))
        again.read_head()
        again.read_until(b"event: now")
        second = chat(weir)
        told = again.read_until(second.encode())
        first, *_ = parts_in(told)
        assert not [name for name, text in first.items() if shown[name] == text], "sent again"
        assert second in {name: text for parts in parts_in(told) for name, text in parts.items()}["log"]


def test_one_window_too_many_is_refused_and_asks_instead(weir: WeirProcess) -> None:
    _, cookie = cookie_of(weir)
    with ExitStack() as stack:
        for _ in range(MOST):
            window = stack.enter_context(listen(weir, cookie))
            assert window.read_head().status == 200
        refused = stack.enter_context(listen(weir, cookie))
        answer = refused.read_response()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "30"
        refused.request("GET", "/admin/live?page=/requests", {"Cookie": cookie})
        answer = refused.read_response()
        assert answer.status == 200
        assert "log" in json.loads(answer.body)["parts"]
        window.close()

        def has_room() -> bool:
            with listen(weir, cookie) as again:
                return again.read_head().status == 200

        wait_until(has_room, 180.0, "room for another window")


def test_logging_out_ends_the_windows_of_the_session_and_no_others(weir: WeirProcess) -> None:
    browser, cookie = cookie_of(weir)
    _, other = cookie_of(weir)
    with listen(weir, cookie) as window, listen(weir, other) as kept:
        for each in (window, kept):
            each.read_head()
            each.read_until(b"event: now")
        page = browser.get(f"{weir.url}/admin/", timeout=60).text
        token = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page)
        assert token is not None
        browser.post(f"{weir.url}/admin/logout", data={"csrf_token": token[1]}, timeout=60)
        answer = window.read_rest()
        assert answer.body.endswith(b"event: over\ndata: {}\n\n")
        assert answer.ending is Ending.FINAL_CHUNK
        kept.read_until(chat(weir).encode())
        with listen(weir, cookie) as late:
            assert late.read_head().status == 303


def test_neither_a_stop_nor_a_reload_waits_for_windows(weir: WeirProcess) -> None:
    _, cookie = cookie_of(weir)
    with ExitStack() as stack:
        windows = [stack.enter_context(listen(weir, cookie)) for _ in range(5)]
        # It takes nothing of what it is sent.
        stack.enter_context(listen(weir, cookie))
        for window in windows:
            window.read_head()
            window.read_until(b"event: parts")
        (old,) = weir.worker_pids()
        began = time.monotonic()
        os.kill(weir.pid, signal.SIGHUP)
        for window in windows:
            assert window.read_rest().ending is Ending.FINAL_CHUNK
        wait_until(lambda: old not in weir.worker_pids(), SOON_S, "the end of the old worker")
        assert time.monotonic() - began < SOON_S
        wait_until(weir.is_up, what="the new worker")
        fresh = stack.enter_context(listen(weir, cookie))
        assert fresh.read_head().status == 200
        fresh.read_until(b"event: parts")
        began = time.monotonic()
        weir.stop()
        assert time.monotonic() - began < SOON_S
