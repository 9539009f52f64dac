"""Upstreams that refuse, fail or break off: what the client hears, and what is recorded."""

import json
import socket
from collections.abc import Iterator

import pytest

from simulator import Close, Data, End, Head, Raw, Reset, Script, Stall, Wait
from simulator.launcher import wait_until
from tests.support import sse
from tests.support.lab import CHAT, COUNT, MESSAGES, UNKNOWN, Lab, Played, check
from tests.support.raw_http import Ending
from tests.support.sse import DONE, chunk, data, message_start, named, text_block, usage_chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import UPSTREAM_KEY, WeirProcess

BOTH = pytest.mark.parametrize("path", [CHAT, MESSAGES])
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")


def native_error(played: Played, path: str) -> dict[str, object]:
    """The error object of the answer, after checking that its envelope is the endpoint's own."""
    headers = played.response.headers
    assert headers["content-type"] == "application/json"
    assert played.response.ending is Ending.LENGTH
    document = json.loads(played.body)
    error: dict[str, object] = document["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    if path == CHAT:
        assert document.keys() == {"error"}
        assert error.keys() >= {"message", "type", "param", "code"}
    else:
        assert document.keys() == {"type", "error", "request_id"}
        assert document["type"] == "error"
        assert document["request_id"] == played.response.request_id
    for secret in (UPSTREAM_KEY, "ohmy", "cc-omg", "127.0.0.1", "cloudflare", "html"):
        assert secret not in played.body.decode().lower()
    return error


@pytest.mark.wire(48)
@BOTH
@pytest.mark.parametrize(("told", "passed"), [("3600", "60"), ("7", "7"), ("0", "1")])
def test_rate_limited_upstream(lab: Lab, path: str, told: str, passed: str) -> None:
    played = lab.plain(path, f"fault=429,retry_after={told}")

    assert played.response.status == 429
    assert played.response.headers["retry-after"] == passed
    assert native_error(played, path)["type"] == ("requests" if path == CHAT else "rate_limit_error")
    check(played.record, UNKNOWN, "upstream_error", status=429)


@pytest.mark.wire(49)
@BOTH
@pytest.mark.parametrize("fault", ["unauthorized", "leak_401", "banned"])
def test_refused_operator_key(lab: Lab, path: str, fault: str) -> None:
    """Not the client's affair: nothing of what the upstream said gets through."""
    played = lab.plain(path, f"fault={fault}")

    assert played.response.status == 502
    assert played.response.headers["x-should-retry"] == "false"
    assert native_error(played, path)["type"] == ("upstream_error" if path == CHAT else "api_error")
    assert b"Incorrect API key" not in played.body
    check(played.record, UNKNOWN, "upstream_error", status=502)
    assert played.record["upstreamStatusCode"] == (403 if fault == "banned" else 401)


@pytest.mark.wire(49)
@BOTH
def test_passed_message_names_neither_key_nor_host(lab: Lab, path: str) -> None:
    played = lab.plain(path, "fault=leak_400")

    assert played.response.status == 400
    native_error(played, path)
    assert b"Request with key" in played.body


@pytest.mark.wire(50)
@BOTH
@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "streamed"])
def test_no_balance_upstream(lab: Lab, path: str, is_stream: bool) -> None:
    """The upstream's own envelope becomes the endpoint's."""
    played = (lab.stream if is_stream else lab.plain)(path, "fault=no_balance")

    assert played.response.status == 502
    assert played.response.headers["x-should-retry"] == "false"
    native_error(played, path)
    assert b"balance" not in played.body
    check(played.record, UNKNOWN, "upstream_error", status=502)
    assert played.record["upstreamStatusCode"] == 402


@pytest.mark.wire(51)
@BOTH
@pytest.mark.parametrize("fault", ["html_502", "html_524", "html_200", "html_type", "redirect", "500", "503"])
def test_pages_and_failures_become_native_errors(lab: Lab, path: str, fault: str) -> None:
    played = lab.stream(path, f"fault={fault}")

    status, outcome = (504, "upstream_timeout") if fault == "html_524" else (502, "upstream_error")
    assert played.response.status == status
    assert "location" not in played.response.headers
    native_error(played, path)
    check(played.record, UNKNOWN, outcome, status=status)
    assert len(played.entries) == 1


@pytest.mark.parametrize("path", [CHAT, MESSAGES, COUNT])
@pytest.mark.parametrize("status", [400, 404, 408, 409, 413, 415, 422, 529])
def test_statuses_that_concern_the_client_pass(lab: Lab, path: str, status: int) -> None:
    played = lab.plain(path, f"fault={status}")

    assert played.response.status == status
    native_error(played, path)
    check(played.record, UNKNOWN, "upstream_error", status=status)


def key_states(lab: Lab) -> set[str]:
    return {str(document["status"]) for document in lab.weir.database["upstream_key_states"].find()}


@pytest.mark.wire(93)
@BOTH
def test_a_refusal_of_the_content_is_the_clients(lab: Lab, path: str) -> None:
    for _ in range(3):
        played = lab.plain(path, "fault=flagged")
        assert played.response.status == 403
        assert "flagged for: violence" in native_error(played, path)["message"]
        assert [attempt["error"] for attempt in played.record["attempts"]] == ["permission_denied"]
    assert lab.plain(path, "").response.status == 200
    assert key_states(lab) <= {"healthy"}


@pytest.mark.wire(94)
def test_a_busy_model_leaves_other_models_alone(lab: Lab) -> None:
    told = lab.plain(CHAT, "fault=model_busy")
    assert (told.response.status, told.response.headers["retry-after"]) == (429, "2")
    assert "temporarily rate-limited" in native_error(told, CHAT)["message"]
    wait_until(lambda: lab.plain(CHAT, "fault=model_busy,retry_after=30").record["attempts"], what="a try")
    again = lab.plain(CHAT, "")
    assert again.response.status == 429
    assert 2 < int(again.response.headers["retry-after"]) <= 30
    assert again.record["attempts"] == []
    assert lab.plain(MESSAGES, "").response.status == 200
    assert key_states(lab) <= {"healthy"}


@pytest.mark.wire(95)
@BOTH
def test_a_request_over_a_limit_costs_no_key(lab: Lab, path: str) -> None:
    played = lab.plain(path, "fault=over_limit")
    assert (played.response.status, played.response.headers["x-should-retry"]) == (429, "false")
    assert "Request too large" in native_error(played, path)["message"]
    assert lab.plain(path, "").response.status == 200


@pytest.mark.wire(97)
@BOTH
def test_messages_keep_the_clients_words(lab: Lab, path: str) -> None:
    said = "tools.0.input_schema.app of 'sk-learn-train_model' and https://images.test/a.png, see 'main.py'"
    ours = f"{said}, asked {lab.upstream.url}/v1 with '{UPSTREAM_KEY.upper()}' at api.ohmygpt.com"
    body = json.dumps({"error": {"message": ours, "type": "invalid_request_error"}}).encode()
    head = Head(400, (("Content-Type", "application/json"), ("Content-Length", str(len(body)))))
    # With a key of ours in it, any URL may be a page of our account, but for one that the client sent.
    for asked, expected in ((said, said), ("hello", said.replace("https://images.test/a.png", "[url]"))):
        messages = [{"role": "user", "content": asked}]
        played = lab.plain(path, Script.of(head, Data(body)), messages=messages)
        message = native_error(played, path)["message"]
        assert message == f"{expected}, asked [url] with '[key]' at [host]"


@BOTH
@pytest.mark.parametrize("envelope", ["ohmygpt", "html", "empty", "text"])
def test_envelope_is_the_endpoints_whatever_came(lab: Lab, path: str, envelope: str) -> None:
    played = lab.plain(path, f"fault=400,envelope={envelope}")

    assert played.response.status == 400
    native_error(played, path)
    assert (b"Invalid request" in played.body) is (envelope in ("ohmygpt", "text"))


@pytest.mark.wire(52)
@BOTH
def test_error_body_under_status_200(lab: Lab, path: str) -> None:
    """It is all there is to forward, so it is forwarded; the record knows better."""
    body = lab.stream_body(path, "fault=error_200")
    played = lab.send(path, body)

    assert played.response.status == 200
    assert played.body == lab.direct(path, body).body
    check(played.record, UNKNOWN, "upstream_error")


@pytest.mark.wire(53)
def test_error_event_in_a_message(lab: Lab) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events = [message_start({"input_tokens": 300, "output_tokens": 1}), *text_block(), named("error", error)]
    played = lab.stream(MESSAGES, events)

    assert played.body == b"".join(events)
    check(played.record, "300/0/0/1", "stream_error", source="partial")
    assert played.record["errorType"] == "overloaded_error"


@pytest.mark.wire(54)
@pytest.mark.parametrize("end", [[], [DONE]], ids=["clean end", "DONE"])
@pytest.mark.parametrize(
    "error",
    [data({"error": {"message": "no", "type": "server_error"}}), named("error", {"message": "no"})],
    ids=["error member", "event name"],
)
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_error_in_a_chat_stream(lab: Lab, error: bytes, end: list[bytes], usage_wanted: bool | None) -> None:
    events = [chunk("hi"), error, *end]
    played = lab.stream(CHAT, events, usage=usage_wanted)

    assert played.body == b"".join(events)
    check(played.record, UNKNOWN, "stream_error")


TRUNCATED = {
    "inside a chunk": (Raw(b"40\r\ndata: {"), Close()),
    "between chunks": (Close(),),
    "reset": (Reset(),),
    "a chunk size that is none": (Raw(b"zz\r\nwhat\r\n"), Close()),
}


@pytest.mark.wire(55)
@BOTH
@pytest.mark.parametrize("how", TRUNCATED)
@pytest.mark.parametrize("usage_wanted", [True, None], ids=["usage wanted", "usage injected"])
def test_upstream_breaks_off(lab: Lab, path: str, how: str, usage_wanted: bool | None) -> None:
    """The client's connection breaks off as well: no final chunk pretends that this was all."""
    opening = chunk("hi") if path == CHAT else message_start({"input_tokens": 300, "output_tokens": 1})
    gate = lab.gate()
    script = Script.of(SSE_HEAD, Data(opening), Wait(gate), *TRUNCATED[how], cut=True)
    with lab.open(path, lab.stream_body(path, script, usage=usage_wanted)) as connection:
        connection.read_head()
        connection.read_until(opening)
        lab.upstream.open_gate(gate)
        played = lab.played(connection.read_rest())

    assert not played.response.is_whole
    assert played.body.startswith(opening)
    wanted, source = (UNKNOWN, "none") if path == CHAT else ("300/0/0/1", "partial")
    check(played.record, wanted, "upstream_truncated", source=source)


UNSTOPPED = named(
    "message_delta",
    {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 50}},
)


@pytest.mark.wire(56)
@pytest.mark.parametrize(
    ("path", "events", "wanted", "source"),
    [
        (CHAT, [chunk("hi")], UNKNOWN, "none"),
        (CHAT, [chunk("hi"), usage_chunk(sse.USAGE_9_2)], "9/0/0/2", "partial"),
        (CHAT, [chunk("hi"), chunk("there")[:30]], UNKNOWN, "none"),
        (
            MESSAGES,
            [message_start({"input_tokens": 300, "output_tokens": 1}), *text_block()],
            "300/0/0/1",
            "partial",
        ),
        (
            MESSAGES,
            [message_start({"input_tokens": 300, "output_tokens": 1}), *text_block(), UNSTOPPED],
            "300/0/0/50",
            "partial",
        ),
    ],
    ids=["chat", "chat after usage", "chat inside an event", "message", "message without a reason"],
)
def test_clean_end_before_the_terminator(
    lab: Lab, path: str, events: list[bytes], wanted: str, source: str
) -> None:
    """SDKs take such an end for success; so the client's connection is broken off."""
    played = lab.stream(path, events)

    assert played.body == b"".join(events)
    assert not played.response.is_whole
    check(played.record, wanted, "upstream_truncated", source=source)


@pytest.mark.wire(56)
def test_finish_reason_is_an_end(lab: Lab) -> None:
    """Some servers leave out `[DONE]`."""
    played = lab.stream(CHAT, [chunk("hi"), chunk(finish="stop"), usage_chunk(sse.USAGE_9_2)])

    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "9/0/0/2")


@pytest.mark.wire(87)
@pytest.mark.parametrize(
    "end", [[], [DONE], [b"event: message_stop\n\n"]], ids=["nothing", "DONE", "no data"]
)
def test_stop_reason_is_an_end(lab: Lab, end: list[bytes]) -> None:
    """Some gateways leave out `message_stop`: clients that see a broken connection pay for it again."""
    events = [*sse.messages({"input_tokens": 300}, {"output_tokens": 50})[:-1], *end]
    played = lab.stream(MESSAGES, events)

    assert played.body == b"".join(events)
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "300/0/0/50")


TOLD = {
    "vLLM": {"object": "error", "message": "no", "type": "server_error", "code": 504},
    "DashScope": {"code": "InternalError", "message": "no", "request_id": "r"},
    "FastAPI": {"detail": "no"},
    "Google": [{"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}],
    "Cloudflare": {"errors": [{"message": "no", "code": 3036}]},
    "new-api": {"success": False, "message": "no"},
    "a code and words": {"code": 500, "msg": "no", "data": None},
    "a status": {"statusCode": 502, "message": "no"},
    "MiniMax": {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "no"}},
    "in the choice": {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {"code": 502}}]
    },
    "a reason alone": {"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]},
}


@pytest.mark.wire(88)
@pytest.mark.parametrize("shape", TOLD)
def test_errors_in_every_shape(lab: Lab, shape: str) -> None:
    """In streams, before and after text, and as a whole body: the bytes pass, the record knows better."""
    error = data(TOLD[shape])
    for events in ([error, DONE], [chunk("hi"), error, usage_chunk(sse.USAGE_9_2), DONE]):
        played = lab.stream(CHAT, events)
        assert played.body == b"".join(events)
        assert (played.record["outcome"], played.record["isSuccess"]) == ("stream_error", False)
        assert played.record["usageSource"] == ("partial" if len(events) > 2 else "none")
    for path in (CHAT, MESSAGES):
        whole = lab.plain(path, sse.compact(TOLD[shape]))
        assert whole.body == sse.compact(TOLD[shape])
        check(whole.record, UNKNOWN, "upstream_error")


@BOTH
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "plain"])
def test_an_error_under_status_200_speaks_about_its_key(lab: Lab, path: str, is_stream: bool) -> None:
    """The answer passes as it came; the next request meets a key that has no money."""
    told_error = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "No money left"}
    error = {"error": told_error}
    events = [data(error), DONE]
    told = lab.stream(path, events) if is_stream else lab.plain(path, sse.compact(error))
    assert told.body == (b"".join(events) if is_stream else sse.compact(error))
    assert told.record["errorMessage"] == "No money left"
    try:
        wait_until(lambda: key_states(lab) == {"exhausted"}, what="the key's state")
        after = lab.plain(path, "")
    finally:  # others share the key
        lab.weir.forgive_keys()
    assert (after.response.status, after.record["attempts"]) == (502, [])
    assert lab.plain(path, "").response.status == 200


@pytest.mark.wire(88)
@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":null,"id":"x"}', b'{"data":null}'])
@BOTH
def test_body_without_an_answer(lab: Lab, path: str, body: bytes) -> None:
    check(lab.plain(path, body).record, UNKNOWN, "upstream_error")


@pytest.mark.wire(88)
def test_streams_without_an_answer(lab: Lab) -> None:
    check(lab.stream(CHAT, [DONE]).record, UNKNOWN, "stream_error")
    check(lab.stream(MESSAGES, [sse.MESSAGE_STOP]).record, UNKNOWN, "stream_error")


@pytest.mark.wire(89)
def test_stops_for_content_are_ends(lab: Lab) -> None:
    filtered = [chunk("hi"), chunk(finish="content_filter"), usage_chunk(sse.USAGE_9_2), DONE]
    check(lab.stream(CHAT, filtered).record, "9/0/0/2")
    refused = {"type": "message", "content": [], "stop_reason": "refusal", "usage": {"input_tokens": 9}}
    check(lab.plain(MESSAGES, sse.compact(refused)).record, "9/0/0/0")


@pytest.mark.wire(90)
def test_fewer_choices_than_asked_for(lab: Lab) -> None:
    usage = usage_chunk(sse.USAGE_9_2)
    never = [chunk("hi"), chunk(finish="stop"), usage]
    played = lab.stream(CHAT, [*never, DONE], n=2)
    assert played.response.ending is Ending.FINAL_CHUNK
    check(played.record, "9/0/0/2", "stream_error", source="partial")
    cut = lab.stream(CHAT, never, n=2)
    assert cut.response.ending is Ending.CUT
    check(cut.record, "9/0/0/2", "upstream_truncated", source="partial")
    check(
        lab.plain(CHAT, sse.chat_answer(sse.USAGE_9_2), n=2).record,
        "9/0/0/2",
        "upstream_error",
        source="partial",
    )


LABELS = ["text/event-stream", "application/json", "text/plain", "application/octet-stream"]


@pytest.mark.wire(91)
@pytest.mark.parametrize("label", LABELS)
def test_stream_under_every_label(lab: Lab, label: str) -> None:
    """Bytes tell what an answer is; its label does not. What was added is taken out, a cut is a cut."""
    whole = b"".join(sse.chat())
    head = Head(200, (("Content-Type", label),), "chunked")
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    played = lab.stream(CHAT, Script.of(head, *map(Data, pieces), End()), usage=None)
    assert played.body == whole.replace(usage_chunk(sse.USAGE_9_2), b"")
    check(played.record, "9/0/0/2")
    unasked = lab.plain(CHAT, Script.of(head, Data(whole), End()))
    assert unasked.body == whole
    check(unasked.record, "9/0/0/2")
    cut = lab.stream(CHAT, Script.of(head, Data(chunk("hi")), End()))
    assert cut.response.ending is Ending.CUT
    check(cut.record, UNKNOWN, "upstream_truncated")


@pytest.mark.wire(91)
@pytest.mark.parametrize("label", LABELS)
def test_json_under_every_label(lab: Lab, label: str) -> None:
    for body, outcome in (
        (sse.chat_answer(sse.USAGE_9_2), "ok"),
        (b'{"error":{"message":"no"}}', "upstream_error"),
    ):
        for behind in (b"", b"\n\n"):
            script = Script.body(body + behind, content_type=label)
            played = lab.stream(CHAT, script)
            assert played.body == body + behind
            assert played.response.is_whole
            assert played.record["outcome"] == outcome


@pytest.fixture(scope="module")
def deaf_port() -> Iterator[int]:
    """A port that is taken and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.wire(60)
def test_upstream_that_refuses_connections(
    deaf_port: int, upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each key is tried once: nothing was sent yet."""
    with WeirProcess(
        tmp_path_factory.mktemp("deaf"), f"http://127.0.0.1:{deaf_port}", OHMYGPT_API_KEYS="one,two"
    ) as weir:
        deaf_lab = Lab(weir, upstream)
        for path in (CHAT, MESSAGES):
            played = deaf_lab.plain(path, "")
            assert played.response.status == 502
            native_error(played, path)
            check(played.record, UNKNOWN, "upstream_unreachable", status=502)
            assert [attempt["error"] for attempt in played.record["attempts"]] == ["unreachable"] * 2
        deaf_lab.check_books()


@pytest.mark.wire(60)
@BOTH
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("reset_early", "upstream_unreachable"),
        ("no_answer", "upstream_unreachable"),
        ("half_headers", "upstream_truncated"),
        ("empty_200", "upstream_truncated"),
        ("no_content", "upstream_truncated"),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "plain"])
def test_upstream_that_gives_nothing(
    hasty_lab: Lab, path: str, fault: str, outcome: str, is_stream: bool
) -> None:
    """Hung up on, or answered without a body: the other keys are tried, then the client is told."""
    played = (hasty_lab.stream if is_stream else hasty_lab.plain)(path, f"fault={fault}")

    assert played.response.status == 502
    native_error(played, path)
    check(played.record, UNKNOWN, outcome, status=502)
    keys = [attempt["factoryKeyId"] for attempt in played.record["attempts"]]
    assert sorted(keys) == ["env-1", "env-2", "env-3"]
    assert played.record["factoryKeyId"] == keys[-1]
    assert len(played.entries) == 3


@pytest.mark.wire(60)
@BOTH
@pytest.mark.parametrize("fault", ["stall_early", "stall_headers"])
def test_upstream_that_stalls_before_headers(hasty_lab: Lab, path: str, fault: str) -> None:
    """No other key is tried: the generation may be running, and charged."""
    played = hasty_lab.stream(path, f"fault={fault}")

    assert played.response.status == 504
    assert native_error(played, path)["type"] == ("upstream_error" if path == CHAT else "timeout_error")
    check(played.record, UNKNOWN, "upstream_timeout", status=504)
    (entry,) = hasty_lab.wait_entries()
    assert entry["end"] == "client_gone"


@pytest.mark.wire(60)
def test_upstream_that_stalls_inside_the_stream(hasty_lab: Lab) -> None:
    start = message_start({"input_tokens": 300, "output_tokens": 1})
    script = Script.of(SSE_HEAD, Data(start), Stall())
    played = hasty_lab.stream(MESSAGES, script)

    assert played.body == start
    assert not played.response.is_whole
    check(played.record, "300/0/0/1", "upstream_timeout", source="partial")


@pytest.mark.wire(60)
@pytest.mark.parametrize("fault", ["bad_status_line", "huge_header"])
def test_answer_that_is_not_http(hasty_lab: Lab, fault: str) -> None:
    """It was generated, and charged, but cannot be read: asking again would be charged again."""
    played = hasty_lab.stream(CHAT, f"fault={fault}")

    assert played.response.status == 502
    native_error(played, CHAT)
    check(played.record, UNKNOWN, "upstream_error", status=502)
    assert len(played.entries) == 1


def test_next_key_serves_the_request(hasty_lab: Lab) -> None:
    """A key that is refused costs an attempt; the record names the key that served."""
    bad = "sk-upstream-first-0123"
    hasty_lab.upstream.key(bad, "bad")
    try:
        for _ in range(3):
            played = hasty_lab.stream(CHAT, Script.sse(sse.chat()))
            check(played.record, "9/0/0/2")
            assert played.record["attempts"][-1]["statusCode"] == 200
            assert played.record["factoryKeyId"] == played.record["attempts"][-1]["factoryKeyId"] != "env-1"
    finally:
        hasty_lab.upstream.key(bad, "ok")
