"""Chunks arrive as they are sent; times, limits, credit and outages around them."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.store.embedded_mongo import EmbeddedMongo
from simulator import Data, End, Head, Script, Wait
from simulator.launcher import wait_until
from tests.support import sse
from tests.support.lab import CHAT, MESSAGES, UNKNOWN, Lab, check
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user, used_nano_usd
from tests.support.weir_process import WeirProcess

BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")
MESSAGE = sse.messages({"input_tokens": 9, "output_tokens": 1}, {"output_tokens": 2})


def _events(path: str) -> list[bytes]:
    return sse.chat() if path == CHAT else MESSAGE


@BOTH
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_every_event_arrives_before_the_next_is_sent(lab: Lab, path: str, usage_wanted: bool | None) -> None:
    """No timing: the upstream sends an event only after the client has got the one before it."""
    events = [chunk("one"), chunk("two"), chunk("three")] if path == CHAT else MESSAGE[:4]
    rest = sse.chat() if path == CHAT else MESSAGE[4:]
    gates = [lab.gate() for _ in events]
    steps = [step for event, gate in zip(events, gates, strict=True) for step in (Data(event), Wait(gate))]
    script = Script.of(SSE_HEAD, *steps, *map(Data, rest), End())
    with lab.open(path, lab.stream_body(path, script, usage=usage_wanted)) as connection:
        connection.read_head()
        for event, gate in zip(events, gates, strict=True):
            assert connection.read_piece() == event
            lab.upstream.open_gate(gate)
        played = lab.played(connection.read_rest())

    assert played.response.headers["x-accel-buffering"] == "no"
    assert played.response.headers["cache-control"] == "no-cache"
    check(played.record, "9/0/0/2")


def test_headers_do_not_wait_for_content(lab: Lab) -> None:
    """A comment is enough for the client to see that it is being served."""
    gate = lab.gate()
    script = Script.of(SSE_HEAD, Data(b": wait\n\n"), Wait(gate), *map(Data, sse.chat()), End())
    with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
        assert connection.read_head().status == 200
        assert connection.read_piece() == b": wait\n\n"
        lab.upstream.open_gate(gate)
        check(lab.played(connection.read_rest()).record, "9/0/0/2")


@BOTH
def test_times_of_a_stream(lab: Lab, path: str) -> None:
    """They are compared with what the client itself saw, never with fixed numbers."""
    before_content, before_end = lab.gate(), lab.gate()
    events = _events(path)
    script = Script.of(
        SSE_HEAD, Data(b": wait\n\n"), Wait(before_content), *map(Data, events[:3]), Wait(before_end),
        *map(Data, events[3:]), End(),
    )  # fmt: skip
    asked = time.monotonic()
    with lab.open(path, lab.stream_body(path, script)) as connection:
        connection.read_head()
        connection.read_until(b"wait")
        commented = time.monotonic()
        wait_until(lambda: time.monotonic() > commented + 0.03)
        released = time.monotonic()
        lab.upstream.open_gate(before_content)
        connection.read_until(b"hi")
        seen = time.monotonic()
        wait_until(lambda: time.monotonic() > seen + 0.03)
        lab.upstream.open_gate(before_end)
        record = lab.played(connection.read_rest()).record
        over = time.monotonic()

    def milliseconds(seconds: float) -> float:
        return seconds * 1000

    assert milliseconds(released - commented) - 1 <= record["ttftMs"] <= milliseconds(seen - asked) + 1
    assert record["ttftMs"] + 29 <= record["latencyMs"] <= milliseconds(over - asked) + 1
    assert 0 <= record["overheadMs"] <= milliseconds(over - asked)
    assert record["attempts"][0]["latencyMs"] <= record["latencyMs"]


def test_times_of_a_plain_answer(lab: Lab) -> None:
    record = lab.plain(CHAT, sse.chat_answer(sse.USAGE_9_2)).record

    assert record["ttftMs"] is None
    assert record["latencyMs"] >= 0


# -- limits -----------------------------------------------------------------------------------------------


@BOTH
def test_rate_limit(lab: Lab, path: str) -> None:
    """Every answer says what is left; a refused one says truly when to come back."""
    user = add_user(lab.weir, credits="5", rpm=3)
    headers = {"Authorization": f"Bearer {user.key}"}
    _wait_for_a_fresh_minute()
    answers = []
    for _ in range(5):
        asked = time.time()
        with lab.open(path, lab.body(path, Script.body(b"{}")), headers) as connection:
            response = connection.read_response()
        answers.append((asked, time.time(), lab.played(response)))

    statuses = [played.response.status for *_, played in answers]
    assert statuses == [200, 200, 200, 429, 429]
    left = [int(played.response.headers["x-ratelimit-remaining"]) for *_, played in answers]
    assert left == [2, 1, 0, 0, 0]
    for asked, answered, played in answers:
        names = played.response.headers
        assert names["x-ratelimit-limit"] == "3"
        reset = int(names["x-ratelimit-reset"])
        assert reset % 60 == 0
        assert asked < reset <= answered + 60
        if played.response.status == 429:
            error = json.loads(played.body)["error"]
            assert error["type"] == "rate_limit_error"
            assert asked - 2 <= reset - int(names["retry-after"]) <= answered + 2
            check(played.record, UNKNOWN, "rejected", status=429)
    assert len(lab.entries()) == 3


def _wait_for_a_fresh_minute() -> None:
    """Windows are calendar minutes: near the end of one, wait for the next, so as not to straddle them."""
    wait_until(lambda: time.time() % 60 < 45, what="the next minute")


@BOTH
def test_no_credit(lab: Lab, path: str) -> None:
    user = add_user(lab.weir, credits="0")
    played = lab.send(path, lab.body(path, Script.body(b"{}")), {"x-api-key": user.key})

    assert played.response.status == 402
    assert played.response.headers["x-should-retry"] == "false"
    document = json.loads(played.body)
    assert document["error"]["balance"] == 0
    if path == CHAT:
        assert document["error"]["type"] == "insufficient_quota"
        assert document["error"]["code"] == "insufficient_credits"
    else:
        assert document["type"] == "error"
        assert document["error"]["type"] == "billing_error"
    check(played.record, UNKNOWN, "rejected", status=402)
    assert (played.record["userId"], played.record["userKeyId"]) == (user.name, user.key_id)
    assert lab.entries() == []


def test_credit_is_deducted(lab: Lab) -> None:
    """To the nano-dollar, until it does not cover another request, which is refused then."""
    user = add_user(lab.weir, credits="0.1")
    headers = {"Authorization": f"Bearer {user.key}"}
    spent = 0
    while True:
        played = lab.send(CHAT, lab.stream_body(CHAT, Script.sse(sse.chat()), model="gpt-dear"), headers)
        if played.response.status != 200:
            break
        spent += played.record["costNanoUsd"]
        assert played.record["costNanoUsd"] == 11_000_000  # 9 in and 2 out at 1000 USD per million
        wait_until(partial(_has_spent, lab, user, spent), what="the deduction")

    assert played.response.status == 402
    assert spent >= 22_000_000
    document = lab.weir.database["usersNew"].find_one({"_id": user.name})
    assert document is not None
    count = spent // 11_000_000
    assert document["totalInputTokens"] == 9 * count
    assert document["totalOutputTokens"] == 2 * count
    assert round(document["credits"] * 10**9) == 100_000_000 - spent


def _has_spent(lab: Lab, user: User, nano_usd: int) -> bool:
    return used_nano_usd(lab.weir, user) == nano_usd


# -- stops and outages ------------------------------------------------------------------------------------


def test_stop_lets_a_stream_finish(upstream: UpstreamProcess, tmp_path: Path) -> None:
    """SIGTERM: no new connections, the running stream ends well, its record is in the files afterwards."""
    with WeirProcess(tmp_path, upstream.url) as weir:
        lab = Lab(weir, upstream)
        gate = lab.gate()
        script = Script.of(SSE_HEAD, Data(chunk("hi")), Wait(gate), *map(Data, sse.chat()), End())
        with lab.open(CHAT, lab.stream_body(CHAT, script)) as connection:
            connection.read_head()
            connection.read_until(b"hi")
            weir.terminate()
            wait_until(lambda: not _accepts(weir), what="the port to close")
            lab.upstream.open_gate(gate)
            response = connection.read_rest()
        assert response.ending is Ending.FINAL_CHUNK
        assert response.body == chunk("hi") + b"".join(sse.chat())
        weir.stop()
    with WeirProcess(tmp_path, upstream.url, RATE_LIMIT_RPM="1") as weir:
        check(weir.wait_record(response.request_id), "9/0/0/2")
        assert weir.record_count() == 1
        _check_default_limit(Lab(weir, upstream))


def _check_default_limit(lab: Lab) -> None:
    """RATE_LIMIT_RPM holds for keys that have no limit of their own."""
    _wait_for_a_fresh_minute()
    statuses = [lab.plain(CHAT, Script.body(b"{}")).response.status for _ in range(2)]
    assert statuses == [200, 429]


def _accepts(weir: WeirProcess) -> bool:
    try:
        with RawConnection(weir.url):
            return True
    except ConnectionError:
        return False


def test_store_outage_does_not_touch_answers(
    own_mongo: EmbeddedMongo, upstream: UpstreamProcess, tmp_path: Path
) -> None:
    """Known keys are served while the store is away; their records are booked when it is back."""
    with WeirProcess(tmp_path / "weir", upstream.url, MONGODB_URI=own_mongo.uri) as weir:
        lab = Lab(weir, upstream)
        user = add_user(weir, credits="5")
        headers = {"Authorization": f"Bearer {user.key}"}
        lab.send(CHAT, lab.stream_body(CHAT, Script.sse(sse.chat())), headers)
        own_mongo.stop()
        answers = []
        for path in (CHAT, MESSAGES) * 3:
            body = lab.stream_body(path, Script.sse(_events(path)))
            with lab.open(path, body, headers) as connection:
                answers.append(connection.read_response())
                assert answers[-1].body == b"".join(_events(path))
        unknown = lab.refused("POST", CHAT, {"x-api-key": "sk-never-seen"}, b"{}")
        assert unknown.status == 503
        own_mongo.start()
        for answer in answers:
            check(weir.wait_record(answer.request_id), "9/0/0/2")
        assert weir.record_count() == 7


def test_many_outcomes_in_one_glance(lab: Lab) -> None:
    """What a record says of who and where, for one request through the fixed key."""
    record: dict[str, Any] = lab.stream(CHAT, sse.chat(), model="gpt-alias").record

    assert record["requestId"] == record["_id"]
    assert record["_id"][14] == "7"  # a UUIDv7
    wanted = {
        "userId": "env",
        "userKeyId": "env",
        "factoryKeyId": "env-1",
        "model": "gpt-renamed",
        "upstreamModel": "gpt-upstream",
        "apiFormat": "openai",
        "stream": True,
        "creditType": "ohmygpt",
        "upstreamStatusCode": 200,
        "errorType": None,
        "creditsCost": 0.000029,
        "costNanoUsd": 29_000,
    }
    assert {name: record[name] for name in wanted} == wanted
    assert [attempt["factoryKeyId"] for attempt in record["attempts"]] == ["env-1"]
    assert b"hello" not in json.dumps(record, default=str).encode()
