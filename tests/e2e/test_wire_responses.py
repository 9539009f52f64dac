"""The Responses API through the real server: bytes, counts, costs, and what is told where it fails."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import zstandard

from simulator import Data, End, Head, Script, Wait
from simulator.launcher import wait_until
from tests.support.lab import ESTIMATE, RESPONSES, UNKNOWN, Lab, check
from tests.support.raw_http import Ending, RawConnection
from tests.support.sse import DONE, compact, named
from tests.support.users import add_user
from tests.support.weir_process import CLIENT_KEY, WeirProcess

COMPACT, COUNT = f"{RESPONSES}/compact", f"{RESPONSES}/input_tokens"
SSE_HEAD = Head(200, (("Content-Type", "text/event-stream"),), "chunked")

USAGE: dict[str, Any] = {
    "input_tokens": 2600,
    "input_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 400},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 2609,
}
LASTING = {"cached_tokens": 2000, "cache_write_tokens": 400} | {
    "cache_write_tokens_details": {"ttl_30m_tokens": 300, "ttl_12h_tokens": 100}
}
TEXT = {"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}
BAIT = '"type":"response.completed","usage":{"input_tokens":7,"output_tokens":7}}'


def used(fresh: int, out: int) -> dict[str, Any]:
    return {"input_tokens": fresh, "output_tokens": out, "total_tokens": fresh + out}


def response(status: str = "completed", **members: Any) -> dict[str, Any]:
    base = {"id": "resp_1", "object": "response", "model": "gpt-response", "status": status}
    return {**base, "error": None, "output": [TEXT], "usage": USAGE, **members}


def event(kind: str, **members: Any) -> bytes:
    return named(kind, {"type": kind, **members})


def ended(status: str = "completed", **members: Any) -> bytes:
    return event(f"response.{status}", response=response(status, **members))


BEGUN = event("response.created", response=response("in_progress", output=[], usage=None))
DELTAS = [
    event("response.output_text.delta", delta=text, sequence_number=n) for n, text in enumerate("Hello")
]
FULL = [BEGUN, *DELTAS, event("response.output_text.done", text="Hello"), ended()]


def call(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"{kind}_call", "status": "completed", **members}


SEARCHES = [call("web_search", action={"type": kind}) for kind in ("search", "search", "open_page")]
IMAGE = call("image_generation", quality="high", size="1024x1024", result="AAAA")
IMAGE_TOOL = {"type": "image_generation", "model": "gpt-image-test"}
IMAGE_TOKENS = {
    "input_tokens": 100,
    "input_tokens_details": {"text_tokens": 36, "image_tokens": 64},
    "output_tokens": 1200,
    "output_tokens_details": {"image_tokens": 1200, "text_tokens": 0},
}
WRITTEN = {**used(1000, 0), "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1000}}
PREWARMED = response(usage=WRITTEN, output=[])


@dataclass(frozen=True)
class Case:
    """A body (plain) or pieces (streamed), and what is to be recorded: counts, cost, further members."""

    number: str
    name: str
    answer: bytes | list[bytes]
    counts: str
    cost: int
    flags: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)


def _both(number: str, name: str, answer: dict[str, Any], counts: str, cost: int, **more: Any) -> list[Case]:
    pieces = [BEGUN, *DELTAS, event(f"response.{answer['status']}", response=answer)]
    return [
        Case(number, name, compact(answer), counts, cost, **more),
        Case(number, f"{name}, streamed", pieces, counts, cost, **more),
    ]


_COUNTS, _COST = "200/2000/400/9", 1_890_000
_DERIVED = ("tool_count_derived",)
CASES = [
    Case("R1", "a body", compact(response()), _COUNTS, _COST),
    *_both(
        "R1", "cache writes by lifetime", response(usage={**USAGE, "input_tokens_details": LASTING}),
        _COUNTS, 2_040_000, record={"cacheWrite1hTokens": 100},
    ),
    Case("R2", "a stream", FULL, _COUNTS, _COST),
    Case("R3", "no names of events", [piece.partition(b"\n")[2] for piece in FULL], _COUNTS, _COST),
    Case("R4", "[DONE] behind it", [*FULL, DONE], _COUNTS, _COST),
    *_both(
        "R6", "incomplete",
        response("incomplete", usage=used(25, 40), incomplete_details={"reason": "max_output_tokens"}),
        "25/0/0/40", 450_000,
        record={"usageRaw": {**used(25, 40), "incomplete_details": {"reason": "max_output_tokens"}}},
    ),
    Case(
        "R14", "other events, and a text like an end",
        [BEGUN, event("keepalive"), event("response.brand_new", usage=used(7, 7)), b": comment\n\n",
         event("response.output_text.delta", delta=BAIT, obfuscation="xYz"), ended()],
        _COUNTS, _COST,
    ),
    *_both(
        "R16", "searches told", response(output=[*SEARCHES[:2], SEARCHES[0], TEXT],
                                         tool_usage={"web_search": {"num_requests": 2}}),
        _COUNTS, _COST + 20_000_000,
    ),
    *_both(
        "R17", "searches counted", response(output=[*SEARCHES, TEXT]), _COUNTS, _COST + 20_000_000,
        flags=_DERIVED,
    ),
    Case(
        "R17", "searches counted in a stream whose end has no output",
        [BEGUN, *(event("response.output_item.done", item=item) for item in SEARCHES), *DELTAS,
         ended(output=[])],
        _COUNTS, _COST + 20_000_000, flags=_DERIVED,
    ),
    *_both(
        "R18", "an image by its tokens",
        response(output=[IMAGE], tools=[IMAGE_TOOL], tool_usage={"image_gen": IMAGE_TOKENS}),
        _COUNTS, _COST + 36_692_000,
    ),
    *_both(
        "R19", "an image by quality and size", response(output=[IMAGE], tools=[IMAGE_TOOL]),
        _COUNTS, _COST + 133_000_000,
    ),
    *_both(
        "R19", "an image without a price", response(output=[IMAGE]), _COUNTS, _COST,
        record={"unpriced": ["image:high:1024x1024"]},
    ),
    Case("R36", "the cache was only written", compact(PREWARMED), "0/0/1000/0", 2_500_000),
    Case(
        "R36", "the cache was only written, streamed",
        [BEGUN, event("response.completed", response=PREWARMED)], "0/0/1000/0", 2_500_000,
    ),
    *_both(
        "R34", "a tier that is not asked for", response(service_tier="default"), _COUNTS, _COST,
        record={"serviceTier": "default"},
    ),
    *_both(
        "R34", "a tier without a price", response(service_tier="priority"), _COUNTS, _COST,
        record={"serviceTier": "priority", "unpriced": ["service_tier:priority"]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.wire(case.number), id=f"{case.number} {case.name}")
        for case in CASES
    ],
)
def test_answer_passes_and_is_charged(lab: Lab, case: Case) -> None:
    is_plain = isinstance(case.answer, bytes)
    played = lab.plain(RESPONSES, case.answer) if is_plain else lab.stream(RESPONSES, case.answer)

    assert played.body == (case.answer if is_plain else b"".join(case.answer))
    check(played.record, case.counts, flags=case.flags)
    assert played.record["costNanoUsd"] == case.cost
    assert (played.record["endpoint"], played.record["apiFormat"]) == ("responses", "openai")
    assert {name: played.record.get(name) for name in case.record} == case.record


def long(fresh: int, cached: int) -> dict[str, Any]:
    details = {"input_tokens_details": {"cached_tokens": cached}}
    return {"usage": used(fresh + cached, 100) | details}


# Nano-dollars a token: 2,000 fresh, 200 read, 10,000 out; 4,000, 400 and 15,000 above 272,000 of input.
@pytest.mark.parametrize(
    ("asked", "answered", "cost", "unpriced"),
    [
        pytest.param(asked, answered, cost, unpriced, marks=pytest.mark.wire(number), id=f"{number} {name}")
        for number, name, asked, answered, cost, unpriced in [
            ("R34", "fast", {"service_tier": "fast"}, {"service_tier": "priority"}, 4_000_000, None),
            ("R34", "flex", {"service_tier": "flex"}, {"service_tier": "flex"}, 1_000_000, None),
            ("R34", "default", {"service_tier": "flex"}, {"service_tier": "default"}, 2_000_000, None),
            ("R34", "not told", {"service_tier": "flex"}, {}, 2_000_000, ["service_tier:flex"]),
            ("R34", "no price", {}, {"service_tier": "scale"}, 2_000_000, ["service_tier:scale"]),
            ("R35", "2h", {"background_options": {"completion_window": "2h"}}, {}, 2_000_000,
             ["completion_window:2h"]),
            ("R37", "272,000", {}, long(71_000, 201_000), 142_000_000 + 40_200_000 + 1_000_000, None),
            ("R37", "272,001", {}, long(71_001, 201_000), 284_004_000 + 80_400_000 + 1_500_000, None),
            ("R37", "flex, too", {}, long(71_001, 201_000) | {"service_tier": "flex"}, 182_952_000, None),
        ]
    ],
)  # fmt: skip
def test_size_and_tier_of_the_answer_decide_its_price(
    lab: Lab, asked: dict[str, Any], answered: dict[str, Any], cost: int, unpriced: list[str] | None
) -> None:
    answer = response(**{"model": "gpt-tiered", "usage": used(500, 100)} | answered)
    record = lab.plain(RESPONSES, compact(answer), model="gpt-tiered", **asked).record
    assert (record["costNanoUsd"], record.get("unpriced")) == (cost, unpriced)
    assert record.get("serviceTier") == answered.get("service_tier")
    assert sum(item["nanoUsd"] for item in record["costItems"]) == cost


@pytest.mark.wire("R5")
def test_one_byte_a_read(lab: Lab) -> None:
    head, *pieces, end = Script.sse(FULL).steps
    slow = [Data(piece.data, per_send=1) for piece in pieces]  # type: ignore[union-attr]
    played = lab.stream(RESPONSES, Script.of(head, *slow, end))

    assert played.body == b"".join(FULL)
    check(played.record, _COUNTS, flags=())


@pytest.mark.wire("R2")
def test_each_event_is_passed_on_at_once(lab: Lab) -> None:
    played = lab.in_step(RESPONSES, [(piece, piece) for piece in FULL])

    check(played.record, _COUNTS)
    assert played.record["ttftMs"] is not None


@pytest.mark.wire("R7")
@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "streamed"])
def test_zeros_after_a_text_are_unknown(lab: Lab, is_plain: bool) -> None:
    answer = response("incomplete", usage=used(0, 0))
    played = (
        lab.plain(RESPONSES, compact(answer))
        if is_plain
        else lab.stream(RESPONSES, [BEGUN, *DELTAS, event("response.incomplete", response=answer)])
    )
    check(played.record, ESTIMATE)
    assert "zero_usage" in played.record["usageFlags"]


@pytest.mark.wire("R8")
def test_a_negative_count_is_unknown(lab: Lab) -> None:
    usage = {**used(50, -9), "output_tokens_details": {"reasoning_tokens": 448}}
    record = lab.plain(RESPONSES, compact(response(usage=usage))).record

    check(record, ESTIMATE)
    assert "bad_usage" in record["usageFlags"]
    assert record["inputTokens"] == 50


ERROR = {"code": "server_error", "message": "The model failed"}
SPENT = {"code": "insufficient_quota", "message": "You exceeded your current quota"}


@pytest.mark.wire("R9")
def test_a_failed_body_is_an_error(lab: Lab) -> None:
    answer = compact(response("failed", error=ERROR, output=[], usage=None))
    played = lab.plain(RESPONSES, answer)

    assert played.body == answer
    check(played.record, UNKNOWN, "upstream_error")
    assert played.record["errorMessage"] == "The model failed"


@pytest.mark.wire("R10")
@pytest.mark.parametrize("is_plain", [True, False], ids=["plain", "streamed"])
def test_what_a_failed_response_used_is_charged(lab: Lab, is_plain: bool) -> None:
    answer = response("failed", error=ERROR, usage=used(100, 5))
    played = (
        lab.plain(RESPONSES, compact(answer))
        if is_plain
        else lab.stream(RESPONSES, [BEGUN, *DELTAS, event("response.failed", response=answer)])
    )
    outcome = "upstream_error" if is_plain else "stream_error"
    check(played.record, "100/0/0/5", outcome, source="partial")
    assert played.record["costNanoUsd"] == 250_000


@pytest.mark.wire("R11")
@pytest.mark.parametrize("order", [1, -1])
def test_errors_of_a_spent_account_take_the_key_out(lab: Lab, order: int) -> None:
    ends = [event("error", error={"type": "server_error", "message": "no"}),
            ended("failed", error=SPENT, usage=None)][::order]  # fmt: skip
    played = lab.stream(RESPONSES, [BEGUN, *DELTAS[:2], *ends])

    assert played.body == b"".join([BEGUN, *DELTAS[:2], *ends])
    check(played.record, UNKNOWN, "stream_error")
    states = lab.weir.database["upstream_key_states"]
    wait_until(lambda: states.find_one({"status": "exhausted"}), what="the key's state")


@pytest.mark.wire("R12")
def test_a_flat_error_event(lab: Lab) -> None:
    played = lab.stream(RESPONSES, [BEGUN, *DELTAS, event("error", **ERROR, param=None)])

    check(played.record, UNKNOWN, "stream_error")
    assert played.record["errorType"] == "server_error"


@pytest.mark.wire("R13")
def test_an_end_without_a_terminal_event_is_a_cut(lab: Lab) -> None:
    played = lab.stream(RESPONSES, [BEGUN, *DELTAS])

    assert played.response.ending is Ending.CUT
    assert (played.record["outcome"], played.record["errorType"]) == ("upstream_truncated", "truncated")


@pytest.mark.wire("R15")
def test_a_final_event_of_five_megabytes(lab: Lab) -> None:
    big = ended(output=[call("image_generation", quality="low", size="auto", result="A" * 5_000_000), TEXT])
    pieces = [big[at : at + 1024] for at in range(0, len(big), 1024)]
    played = lab.stream(RESPONSES, [BEGUN, *DELTAS, *pieces])

    assert played.body == b"".join([BEGUN, *DELTAS, big])
    check(played.record, _COUNTS, flags=())


@pytest.mark.wire("R31")
def test_counting_tokens_costs_nothing(lab: Lab) -> None:
    answer = compact({"object": "response.input_tokens", "input_tokens": 42})
    played = lab.plain(COUNT, answer)

    assert (played.body, played.record["costNanoUsd"]) == (answer, 0)
    assert (played.record["outcome"], played.record["tokensUsed"]) == ("ok", 0)


@pytest.mark.wire("R32")
def test_compacting_is_charged(lab: Lab) -> None:
    answer = compact({"object": "response.compaction", "output": [], "usage": used(150, 200)})
    played = lab.plain(COMPACT, answer)

    assert played.body == answer
    check(played.record, "150/0/0/200")
    assert played.record["costNanoUsd"] == 2_300_000


@pytest.mark.wire("R32")
def test_compacting_is_not_asked_twice(hasty_lab: Lab) -> None:
    """A second upstream key is tried where the first one was refused, and not where it may have begun."""
    failed = hasty_lab.plain(COMPACT, "fault=500")
    assert (failed.response.status, len(failed.entries)) == (502, 1)
    hasty_lab.weir.restore_keys()
    limited = hasty_lab.plain(COMPACT, "fault=429,retry_after=5")
    assert len(limited.entries) > 2


@pytest.mark.wire("R38")
@pytest.mark.parametrize("path", [RESPONSES, "//responses/", f"{RESPONSES}?model=x"])
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET"])
@pytest.mark.parametrize("key", [CLIENT_KEY, "wrong", None])
def test_a_websocket_is_asked_to_post_instead(lab: Lab, path: str, upgrade: str, key: str | None) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": upgrade, "Sec-WebSocket-Version": "13"}
    answer = lab.refused("GET", path, headers | ({"Authorization": f"Bearer {key}"} if key else {}))

    assert (answer.status, answer.body, answer.headers["content-length"]) == (426, b"", "0")
    assert answer.headers["x-request-id"] == answer.headers["request-id"]
    assert lab.entries() == []


@pytest.mark.wire("R39")
@pytest.mark.parametrize(
    "upgrade", [{}, {"Connection": "Upgrade", "Upgrade": "h2c"}], ids=["none", "another"]
)
def test_getting_a_path_that_is_posted_to(lab: Lab, upgrade: dict[str, str]) -> None:
    with RawConnection(lab.weir.url) as connection:
        connection.request("GET", RESPONSES, lab.headers() | upgrade)
        answer = connection.read_response()
    lab.expected_records += 1
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert lab.entries() == []


CODINGS = {
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
    "gzip": lambda body: zlib.compress(body, wbits=zlib.MAX_WBITS | 16),
}


@pytest.mark.wire("R40")
@pytest.mark.parametrize("coding", CODINGS)
def test_compressed_bodies_are_read_and_sent_plain(lab: Lab, coding: str) -> None:
    body = lab.stream_body(RESPONSES, Script.sse(FULL))
    played = lab.send(RESPONSES, CODINGS[coding](body), lab.headers(**{"Content-Encoding": coding}))

    check(played.record, _COUNTS)
    (entry,) = played.entries
    assert entry["body_length"] == len(body)
    assert "content-encoding" not in entry["header_names"]


@pytest.mark.wire("R40")
@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("zstd", zstandard.ZstdCompressor().compress(b" " * 200 * 1024 * 1024), 413),
        ("zstd", b"not zstd at all", 400),
        ("lzma", b"whatever", 415),
    ],
    ids=["bomb", "broken", "unknown"],
)
def test_bodies_that_cannot_be_read(lab: Lab, coding: str, body: bytes, status: int) -> None:
    played = lab.send(RESPONSES, body, lab.headers(**{"Content-Encoding": coding}))

    assert (played.response.status, played.record["outcome"], played.entries) == (status, "rejected", [])


@pytest.mark.wire("R41")
@pytest.mark.wire("R44")
@pytest.mark.parametrize("credits", ["0", "0.000001"], ids=["none left", "less than it may cost"])
def test_out_of_credit(lab: Lab, credits: str) -> None:
    """Codex sends a prompt once after this answer, and six or thirty times after others."""
    user = add_user(lab.weir, credits=credits)
    played = lab.send(RESPONSES, lab.body(RESPONSES, "chunks=1"), {"Authorization": f"Bearer {user.key}"})
    error = json.loads(played.body)["error"]
    assert (played.response.status, error["type"], error["code"]) == (429, *["insufficient_quota"] * 2)
    assert "retry-after" not in played.response.headers
    assert played.response.headers["x-should-retry"] == "false"
    assert (played.record["outcome"], played.record["statusCode"]) == ("rejected", 429)
    assert played.record["errorType"] == "insufficient_credits"
    assert played.entries == []


@pytest.mark.wire("R44")
def test_little_credit_lowers_the_limit_on_output(lab: Lab) -> None:
    user = add_user(lab.weir, credits="0.02")
    body = lab.body(RESPONSES, "longest,chunks=1,prompt=100", max_output_tokens=100_000)
    played = lab.send(RESPONSES, body, {"Authorization": f"Bearer {user.key}"})

    assert "output_capped" in played.record["usageFlags"]
    assert played.record["costNanoUsd"] <= 20_000_000
    assert 16 <= played.record["outputTokens"] < 2_000


@pytest.mark.wire("R42")
def test_client_that_leaves_is_drained(lab: Lab) -> None:
    gate = lab.gate()
    script = Script.of(SSE_HEAD, *map(Data, FULL[:4]), Wait(gate), *map(Data, FULL[4:]), End())
    with lab.open(RESPONSES, lab.stream_body(RESPONSES, script)) as connection:
        connection.read_head()
        connection.read_until(FULL[3])
        connection.close()
        lab.fence()
        lab.upstream.open_gate(gate)
        lab.wait_entries()
    check(lab.only_record(), _COUNTS, "client_abort")


@pytest.mark.wire("R45")
def test_five_prompts_sent_again_leave_five_records(hasty_lab: Lab) -> None:
    body = hasty_lab.stream_body(RESPONSES, Script.sse([BEGUN, *DELTAS], end=False))
    headers = hasty_lab.headers(**{"session-id": "s-1", "originator": "codex_exec", "x-other": "no"})
    played = [hasty_lab.send(RESPONSES, body, headers) for _ in range(5)]

    assert {one.record["outcome"] for one in played} == {"upstream_truncated"}
    assert len({one.record["requestId"] for one in played}) == 5
    names = played[-1].entries[-1]["header_names"]
    assert {"session-id", "originator"} <= set(names)
    assert "x-other" not in names


def test_a_model_has_to_be_named(lab: Lab) -> None:
    played = lab.send(RESPONSES, compact({"prompt": {"id": "pmpt_1"}, "input": "hi"}))

    assert (played.response.status, played.entries) == (400, [])
    assert "prices" in json.loads(played.body)["error"]["message"]


def test_nothing_is_added_to_a_stream_that_is_silent_about_usage(lab: Lab) -> None:
    body = lab.stream_body(RESPONSES, Script.sse(FULL), stream_options={"include_obfuscation": False})
    (entry,) = lab.send(RESPONSES, body).entries
    assert entry["body_length"] == len(body)


@pytest.fixture
def client(weir: WeirProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{weir.url}/v1", api_key=CLIENT_KEY, max_retries=0) as made:
        yield made


def test_the_sdk_creates_and_streams(lab: Lab, client: openai.OpenAI) -> None:
    ask: Any = {"model": "gpt-response", "input": "hi", "user": "sim:chunks=3,prompt=90,cached=20,out=6"}
    plain = client.responses.create(**ask)
    events = list(client.responses.create(**ask, stream=True))
    with client.responses.stream(**ask) as stream:
        final = stream.get_final_response()
    counted = client.responses.input_tokens.count(model="gpt-response", input="hi")
    lab.expected_records += 4

    assert plain.output_text
    deltas = [one.delta for one in events if one.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text != ""
    assert (plain.usage.input_tokens, final.usage.output_tokens) == (90, 6)  # type: ignore[union-attr]
    assert counted.input_tokens > 0


def test_the_sdk_raises_what_it_should(lab: Lab, client: openai.OpenAI) -> None:
    def ask(play: str, model: str = "gpt-response") -> Any:
        return client.responses.create(model=model, input="hi", user=f"sim:{play}")

    with pytest.raises(openai.NotFoundError):
        ask("chunks=1", model="nobody-has-it")
    with pytest.raises(openai.BadRequestError):
        ask("fault=400")
    with pytest.raises(openai.RateLimitError):
        ask("fault=401")  # the proxy's own account, which no retry helps
    lab.weir.restore_keys()
    assert ask("finish=failed").status == "failed"
    lab.expected_records += 4
