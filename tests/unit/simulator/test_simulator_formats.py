"""What the two formats look like on the wire, and what the tally says about them."""

import json
from typing import Any

import pytest

from simulator import Simulator, Tokens

COUNTS = "prompt=1000,cached=600,write=100,write_1h=30,out=50,reasoning=20"
SPENT = Tokens(300, 600, 70, 30, 50, 20)


def test_plain_chat_answer_includes_cache_in_the_prompt(simulator: Simulator, client: Any) -> None:
    answer = client.chat(f"gpt-sim:{COUNTS}")

    usage = answer.json["usage"]
    assert answer.status == 200
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1000, 50, 1050)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 600
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 100
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 20
    (entry,) = simulator.tally.wait_ended(1)
    assert (entry.spent, entry.announced, entry.end) == (SPENT, SPENT, "finished")


def test_plain_message_excludes_cache_from_the_input(simulator: Simulator, client: Any) -> None:
    usage = client.message(f"claude-sim:{COUNTS}").json["usage"]

    assert usage["input_tokens"] == 300
    assert usage["cache_read_input_tokens"] == 600
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30}
    assert usage["output_tokens_details"] == {"thinking_tokens": 20}
    assert simulator.tally.wait_ended(1)[0].announced == SPENT


def test_chat_stream_has_null_usage_then_one_usage_chunk_then_done(client: Any) -> None:
    answer = client.stream("gpt-sim:chunks=3,prompt=9,out=2")

    assert answer.ended
    assert answer.body.endswith(b"data: [DONE]\n\n")
    *rest, last = answer.chunks
    assert rest[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all(chunk["usage"] is None for chunk in rest)
    assert rest[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 11


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": False}}])
def test_chat_stream_without_include_usage_says_nothing_of_usage(
    simulator: Simulator, client: Any, more: dict[str, Any]
) -> None:
    answer = client.chat("gpt-5.6", stream=True, **more)

    assert b"usage" not in answer.body
    (entry,) = simulator.tally.wait_ended(1)
    assert entry.announced is None
    assert entry.spent is not None
    assert entry.include_usage is (False if more else None)


def test_message_stream_has_every_event_in_order(client: Any) -> None:
    answer = client.message(f"claude-sim:{COUNTS},chunks=2,tools=1", stream=True)

    names = [line[7:] for line in answer.body.decode().split("\n") if line.startswith("event: ")]
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert names == kinds
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop")
    assert kinds.count("ping") == 1
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    deltas = [chunk["delta"]["type"] for chunk in answer.chunks if chunk["type"] == "content_block_delta"]
    assert [kind for i, kind in enumerate(deltas) if kind not in deltas[:i]] == [
        "thinking_delta",
        "signature_delta",
        "text_delta",
        "input_json_delta",
    ]
    assert answer.chunks[0]["message"]["usage"]["input_tokens"] == 300
    assert answer.chunks[-2]["usage"]["output_tokens"] == 50
    assert b"[DONE]" not in answer.body


def test_chat_tool_call_names_once_then_fragments(client: Any) -> None:
    answer = client.stream("gpt-sim:tools=1,args=20000")

    calls = [
        call
        for chunk in answer.chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["function"].get("name") for call in calls].count("lookup") == 1
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert len(arguments) == 20000
    assert json.loads(arguments)
    assert len(calls) > 4


def test_forced_tool_is_called_and_max_tokens_cuts(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    forced = client.chat("gpt-5.6", tools=[tool], tool_choice="required").json["choices"][0]
    cut = client.chat("gpt-5.6", max_tokens=3).json

    assert forced["finish_reason"] == "tool_calls"
    assert forced["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 3


def test_same_request_gives_the_same_answer_and_another_does_not(client: Any) -> None:
    first, again = client.stream("gpt-5.6"), client.stream("gpt-5.6")
    other = client.stream("gpt-5.6", temperature=0.5)

    assert first.body == again.body
    assert first.body != other.body
    assert first.fields["x-request-id"] != again.fields["x-request-id"]


def test_n_choices_share_one_usage(client: Any) -> None:
    answer = client.stream("gpt-sim:chunks=2,out=9", n=3)

    assert {choice["index"] for chunk in answer.chunks for choice in chunk["choices"]} == {0, 1, 2}
    assert sum(chunk["usage"] is not None for chunk in answer.chunks) == 1


def test_the_answer_may_name_another_model(client: Any) -> None:
    assert client.chat("gpt-sim:model=gpt-5.6-2026-09-01").json["model"] == "gpt-5.6-2026-09-01"


def test_echo_returns_the_last_text(client: Any) -> None:
    messages = [{"role": "user", "content": "cross-talk 42"}]

    assert client.chat("gpt-sim:echo", messages=messages).json["choices"][0]["message"]["content"] == (
        "cross-talk 42"
    )


def test_the_text_may_be_given(client: Any) -> None:
    streamed = client.stream("gpt-sim:text=one%2C%20two,chunks=2")
    assert [chunk["choices"][0]["delta"].get("content") for chunk in streamed.chunks[1:3]] == ["one,", " two"]


LOOP = "call=look:%7B%22at%22%3A1%7D,echo"


def test_a_tool_is_called_until_its_result_is_there_which_is_then_the_text(client: Any) -> None:
    tools = [
        {"type": "function", "function": {"name": "other"}},
        {"type": "function", "function": {"name": "look"}},
    ]
    asked = {"role": "user", "content": "look!"}
    first = client.chat(f"gpt-sim:{LOOP}", messages=[asked], tools=tools).json["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    (call,) = first["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"at":1}'}

    result = {"role": "tool", "tool_call_id": call["id"], "content": "a heron"}
    reminder = {"role": "user", "content": "Be brief."}
    last = client.chat(f"gpt-sim:{LOOP}", messages=[asked, first["message"], result, reminder], tools=tools)
    assert last.json["choices"][0]["message"]["content"] == "a heron"
    assert (
        client.chat(f"gpt-sim:{LOOP}", messages=[asked]).json["choices"][0]["message"]["content"] == "look!"
    )


def test_a_tool_is_called_in_a_message_too(client: Any) -> None:
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    asked = {"role": "user", "content": "look!"}
    first = client.message(f"claude-sim:{LOOP}", messages=[asked], tools=tools).json
    (use,) = first["content"]
    assert (use["name"], use["input"], first["stop_reason"]) == ("look", {"at": 1}, "tool_use")

    parts = [
        {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "a heron"}]}
    ]
    messages = [asked, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": parts}]
    last = client.message(f"claude-sim:{LOOP}", messages=messages, tools=tools)
    assert last.json["content"] == [{"type": "text", "text": "a heron"}]


def test_options_may_stand_in_the_user_field_and_in_rules(simulator: Simulator, client: Any) -> None:
    simulator.behave("gpt-5.6", "fault=503", times=1)

    assert client.chat("gpt-5.6").status == 503
    assert client.chat("gpt-5.6", user="sim:prompt=77").json["usage"]["prompt_tokens"] == 77
    by_metadata = client.message("claude-sonnet-5", metadata={"user_id": "sim:prompt=78"})
    assert by_metadata.json["usage"]["input_tokens"] == 78


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("usage=always", 1),
        ("usage=never", 0),
        ("usage=finish", 1),
        ("usage=finish_only", 1),
        ("usage=twice", 2),
        ("usage=choice", 0),
    ],
)
def test_usage_placements(client: Any, options: str, expected: int) -> None:
    answer = client.chat(f"gpt-sim:chunks=2,prompt=9,out=2,{options}", stream=True)

    usages = [chunk["usage"] for chunk in answer.chunks if chunk.get("usage")]
    assert len(usages) == expected
    inner = [choice for chunk in answer.chunks for choice in chunk["choices"] if choice.get("usage")]
    assert len(inner) == (options == "usage=choice")


def test_cumulative_usage_counts_up(client: Any) -> None:
    answer = client.chat("gpt-sim:chunks=3,usage=every", stream=True)

    outputs = [chunk["usage"]["completion_tokens"] for chunk in answer.chunks]
    assert outputs == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("placement", "start", "delta"),
    [
        ("std", 300, None),
        ("repeat", 300, 300),
        ("zeros", 300, 0),
        ("estimate", 900, 300),
    ],
)
def test_message_delta_usage_variants(client: Any, placement: str, start: int, delta: int | None) -> None:
    answer = client.message(f"claude-sim:prompt=900,cached=600,out=7,usage={placement}", stream=True)

    assert answer.chunks[0]["message"]["usage"]["input_tokens"] == start
    assert answer.chunks[-2]["usage"].get("input_tokens") == delta
    assert answer.chunks[-2]["usage"]["output_tokens"] == 7


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("prompt=5010,cached=5000,out=4,shape=exclusive", {"prompt_tokens": 10, "total_tokens": 14}),
        ("prompt=13,cached=3,out=4,shape=exclusive_total", {"prompt_tokens": 10, "total_tokens": 17}),
        (
            "prompt=500,out=20,shape=zero_native",
            {"prompt_tokens": 500, "input_tokens": 0, "output_tokens": 0},
        ),
        ("prompt=10,cached=3,out=2,shape=anthropic", {"input_tokens": 7, "output_tokens": 2}),
        (
            "prompt=21,out=60,reasoning=60,shape=reasoning_outside",
            {"completion_tokens": 0, "total_tokens": 81},
        ),
        (
            "prompt=98805,cached=66360,write=32435,out=5120,shape=both",
            {"cache_read_input_tokens": 66360, "cache_creation_input_tokens": 32435, "total_tokens": 103925},
        ),
        ("prompt=12,shape=strings", {"prompt_tokens": "12"}),
    ],
)
def test_usage_shapes(client: Any, options: str, expected: dict[str, Any]) -> None:
    usage = client.chat(f"gpt-sim:{options}").json["usage"]

    assert expected.items() <= usage.items()


@pytest.mark.parametrize("shape", ["null", "list", "text", "fraction", "negative", "bool", "nan", "huge"])
def test_meaningless_usage_announces_nothing(simulator: Simulator, client: Any, shape: str) -> None:
    assert client.chat(f"gpt-sim:shape={shape}").status == 200
    assert client.message(f"claude-sim:shape={shape}", stream=True).status == 200

    assert [entry.announced for entry in simulator.tally.wait_ended(2)] == [None, None]


def test_models_in_both_shapes(client: Any) -> None:
    openai_list = client.post("/any/prefix/v1/models", method="GET").json
    version = {"anthropic-version": "2026-10-21"}
    anthropic_list = client.post("/v1/models?limit=2", method="GET", headers=version).json
    one = client.post("/v1/models/vendor%2Fmodel%20with%20space", method="GET").json
    missing = client.post("/v1/models/none", method="GET", headers=version)

    assert openai_list["object"] == "list"
    assert anthropic_list["has_more"] is True
    assert len(anthropic_list["data"]) == 2
    assert one["id"] == "vendor/model with space"
    assert missing.status == 404
    assert missing.json["type"] == "error"


def test_count_tokens_needs_no_max_tokens_and_spends_nothing(simulator: Simulator, client: Any) -> None:
    body = {"model": "claude-sim:prompt=42", "messages": [{"role": "user", "content": "x"}]}

    assert client.post("/v1/messages/count_tokens", body).json == {"input_tokens": 42}
    assert simulator.tally.wait_ended(1)[0].spent is None


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/chat/completions", {"messages": [1]}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": []}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": [1], "stream_options": {}}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": [1], "stream": "true"}, 400),
        ("/v1/chat/completions", {"model": "gpt-sim:nonsense=1", "messages": [1]}, 400),
        ("/v1/chat/completions", {"model": "gpt-sim:fault=nonsense", "messages": [1]}, 400),
        ("/v1/chat/completions", {"model": "script:none", "messages": [1]}, 404),
        ("/v1/messages", {"model": "m", "messages": [1]}, 400),
        ("/v1/messages", {"model": "m", "messages": [1], "max_tokens": 1, "stream_options": {}}, 400),
        ("/v1/other", {"model": "m", "messages": [1]}, 404),
    ],
)
def test_bad_requests_are_refused_in_the_format_of_the_endpoint(
    client: Any, path: str, body: Any, status: int
) -> None:
    answer = client.post(path, body)

    assert answer.status == status
    assert ("type" in answer.json) == (path == "/v1/messages")
    assert answer.json["error"]["message"]
