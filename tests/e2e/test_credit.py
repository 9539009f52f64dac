"""Users whose credit is low: what many requests at once can spend, and what is sent upstream for them."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from simulator import Data, End, Head, Script, Wait
from simulator.launcher import PATIENCE_S, wait_until
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.metrics_page import scrape
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user
from tests.support.weir_process import WeirProcess

REQUESTS = 300
PROMPT = 100
"""Tokens of input: more than there are characters by four in any of these requests."""
LONG = f"longest,chunks=1,prompt={PROMPT}"


@pytest.fixture(scope="module")
def two_workers(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    with WeirProcess(tmp_path_factory.mktemp("two"), upstream.url, WEB_CONCURRENCY="2") as weir:
        yield weir


@pytest.mark.wire(100)
@pytest.mark.parametrize(
    ("path", "limits"),
    [
        pytest.param(CHAT, {}, id="chat, no limit"),
        pytest.param(CHAT, {"max_tokens": 30_000, "max_completion_tokens": 1}, id="chat, two limits"),
        pytest.param(CHAT, {"n": 4, "max_completion_tokens": 8000}, id="chat, four answers"),
        pytest.param(MESSAGES, {"max_tokens": 30_000, "max_completion_tokens": 1}, id="messages"),
    ],
)
def test_300_at_once_cannot_spend_more_than_there_is(
    two_workers: WeirProcess, upstream: UpstreamProcess, path: str, limits: dict[str, Any]
) -> None:
    """Models answer as long as they may, to dense input: overspent is what one request lacks, at most.

    That is of the one that got all that was left, which covered its likely input, and not the dearest.
    Half of the requests are streamed.
    """
    user = add_user(two_workers, credits="0.05")
    unverified_before = _unverified(two_workers)
    lab = Lab(two_workers, upstream)
    bodies = [lab.body(path, LONG, **limits), lab.body(path, LONG, **limits, stream=True)]

    answers = _all_at_once(two_workers, path, bodies, user)

    statuses = [answer.status for answer in answers]
    assert statuses.count(200) >= 1
    assert set(statuses) <= {200, 402, 429}
    records = [two_workers.wait_record(answer.request_id) for answer in answers]
    spent = sum(record["costNanoUsd"] for record in records)
    wait_until(lambda: _user(two_workers, user)["creditsUsed"] == spent / 1e9, what="the booking")
    document = _user(two_workers, user)
    served = [record for record in records if record["statusCode"] == 200]
    lacking = [record["costNanoUsd"] - record["holdNanoUsd"] for record in served if "holdNanoUsd" in record]
    assert sum(lack > 0 for lack in lacking) <= 1
    assert max(lacking) <= PROMPT * 3000
    # Where MongoDB did not answer in time, the other worker may spend what it saw of the credit.
    unverified = _unverified(two_workers) - unverified_before
    assert len(served) - len(lacking) <= unverified
    assert spent <= (1 + bool(unverified)) * (50_000_000 + PROMPT * 3000)
    assert document.get("overdraftNanoUsd", 0) == max(0, spent - 50_000_000)
    assert round(document["credits"] * 1e9) == max(0, 50_000_000 - spent)
    wait_until(lambda: "holds" not in _user(two_workers, user), what="the holds to be gone")
    assert any("output_capped" in record["usageFlags"] for record in served)


def _all_at_once(weir: WeirProcess, path: str, bodies: list[bytes], user: User) -> list[RawResponse]:
    together = threading.Barrier(REQUESTS)

    def send(number: int) -> RawResponse:
        with RawConnection(weir.url) as connection:
            together.wait(PATIENCE_S)
            connection.request("POST", path, _headers(user), bodies[number % len(bodies)])
            return connection.read_response()

    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(send, range(REQUESTS)))


def _unverified(weir: WeirProcess) -> float:
    """Return how many requests were admitted without an answer of MongoDB."""
    return scrape(weir)["weir_credit_reservations_total"].get(("unverified",), 0)


def _headers(user: User) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {user.key}"}


def _user(weir: WeirProcess, user: User) -> dict[str, Any]:
    document = weir.database["usersNew"].find_one({"_id": user.name})
    assert document is not None
    return document


@pytest.mark.wire(101)
@pytest.mark.parametrize(
    ("path", "limits", "sent"),
    [
        pytest.param(CHAT, {"model": "gpt-test"}, {"max_completion_tokens": ...}, id="added to a GPT"),
        pytest.param(CHAT, {"model": "gpt-renamed"}, {"max_tokens": ...}, id="added to another model"),
        pytest.param(CHAT, {"max_tokens": 10**6}, {"max_tokens": ...}, id="lowered"),
        pytest.param(
            CHAT,
            {"max_tokens": 5, "max_completion_tokens": 10**6},
            {"max_tokens": 5, "max_completion_tokens": ...},
            id="only the higher",
        ),
        pytest.param(CHAT, {"max_tokens": "all"}, {"max_tokens": ...}, id="no number"),
        pytest.param(MESSAGES, {"max_tokens": 10**6}, {"max_tokens": ...}, id="messages"),
        pytest.param(CHAT, {"max_tokens": 20}, {"max_tokens": 20}, id="low enough"),
    ],
)
def test_a_limit_is_lowered_to_what_the_credit_pays_for_and_every_other_byte_stays(
    lab: Lab, path: str, limits: dict[str, Any], sent: dict[str, Any]
) -> None:
    user = add_user(lab.weir, credits="0.1")
    answer = sse.chat_answer(sse.USAGE_9_2) if path == CHAT else sse.message_answer(sse.USAGE_9_2)
    body = lab.body(path, Script.body(answer), **({"max_tokens": None} | limits))
    played = lab.send(path, body, lab.headers(Authorization=f"Bearer {user.key}"))

    (seen,) = lab.upstream.requests(played.entries[0]["seq"] - 1)
    given, got = json.loads(body), json.loads(seen["body"])
    caps = {name: got[name] for name, value in sent.items() if value is ...}
    expected = body.replace(b'"gpt-renamed"', b'"vendor/renamed"')
    for name, cap in caps.items():
        assert 16 <= cap < 10_000
        member = compact({name: cap})[1:-1]
        if name in given:
            expected = expected.replace(compact({name: given[name]})[1:-1], member)
        else:
            expected = b"{" + member + b"," + expected[1:]
    assert seen["body"] == expected
    flags = played.record.get("usageFlags", [])
    assert ("output_capped" in flags) is bool(caps)


@pytest.mark.wire(101)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_request_that_the_credit_does_not_cover_is_refused(lab: Lab, path: str) -> None:
    user = add_user(lab.weir, credits="0.00001")
    body = lab.body(path, Script.body(b"{}"))
    played = lab.send(path, body, lab.headers(Authorization=f"Bearer {user.key}"))
    assert played.response.status == 402
    assert "does not cover" in json.loads(played.body)["error"]["message"]
    check(played.record, "–", "rejected", status=402)
    assert lab.entries() == []
    wait_until(lambda: "holds" not in _user(lab.weir, user), what="the hold to go")


SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")


@pytest.mark.wire(104)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_what_is_ordered_beside_tokens_is_flagged(lab: Lab, path: str, is_streamed: bool) -> None:
    usage = {"server_tool_use": {"web_search_requests": 3}, "speed": "fast"}
    order: dict[str, Any] = {
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "speed": "fast",
    }
    if path == CHAT:
        usage, order = {}, {"web_search_options": {}, "service_tier": "priority"}
        events = sse.chat(sse.USAGE_9_2)
        answer = sse.chat_answer(sse.USAGE_9_2)
        expected = ["service_tier:priority", "web_search"]
    else:
        counts = {"input_tokens": 9, "output_tokens": 2} | usage
        events = sse.messages({"input_tokens": 9, "output_tokens": 1}, counts)
        answer = sse.message_answer(counts)
        expected = ["speed:fast", "web_search"]
    played = lab.stream(path, events, **order) if is_streamed else lab.plain(path, answer, **order)
    check(played.record, "9/0/0/2")
    assert played.record["unpriced"] == expected


@pytest.mark.wire(105)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_a_dearer_model_than_asked_for_is_charged_as_answered(lab: Lab, is_streamed: bool) -> None:
    if is_streamed:
        played = lab.stream(CHAT, [event.replace(b"gpt-upstream", b"gpt-dear") for event in sse.chat()])
    else:
        played = lab.plain(CHAT, compact(json.loads(sse.chat_answer(sse.USAGE_9_2)) | {"model": "gpt-dear"}))
    assert (played.record["model"], played.record["upstreamModel"]) == ("gpt-test", "gpt-dear")
    assert played.record["costNanoUsd"] == 11_000_000
    assert played.record["usageFlags"] == ["model_differs"]


@pytest.mark.wire(103)
@pytest.mark.parametrize("leave", [RawConnection.close, RawConnection.reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_leaving_before_the_first_byte_is_paid_for(
    hasty_lab: Lab, path: str, leave: Any, is_streamed: bool
) -> None:
    """The upstream does not answer in time: what it has read is charged by estimate."""
    gate = hasty_lab.gate()
    script = Script.of(Wait(gate), SSE_HEAD, *map(Data, sse.chat()), End())
    user = add_user(hasty_lab.weir, credits="5")
    text = "word " * 2000
    body = hasty_lab.body(path, script, stream=is_streamed, messages=[{"role": "user", "content": text}])
    with hasty_lab.open(path, body, hasty_lab.headers(Authorization=f"Bearer {user.key}")) as connection:
        hasty_lab.upstream.wait_gate(gate)
        leave(connection)
        (entry,) = hasty_lab.wait_entries()
    assert entry["end"] == "client_gone"
    record = hasty_lab.only_record()
    assert (record["outcome"], record["statusCode"], record["usageSource"]) == (
        "client_abort",
        499,
        "estimate",
    )
    assert record["inputTokens"] == -(-len(body) // 4)
    assert record["outputTokens"] == 0
    cost = record["costNanoUsd"]
    assert cost > 0
    wait_until(lambda: _user(hasty_lab.weir, user)["creditsUsed"] == cost / 1e9, what="the booking")
