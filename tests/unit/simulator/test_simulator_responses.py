"""What the simulator answers to requests for responses: one piece, a stream, tools, ends, errors."""

import json
from typing import Any

import pytest

RESPONSES = "/v1/responses"
TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]


def ask(client: Any, model: str, **more: Any) -> Any:
    return client.post(RESPONSES, {"model": model, "input": "hello", **more})


def events(client: Any, model: str, **more: Any) -> list[dict[str, Any]]:
    """The events of a stream, each of which says its type twice."""
    blocks = ask(client, model, stream=True, **more).body.decode().split("\n\n")
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_response_tells_text_and_usage(client: Any) -> None:
    said = ask(client, "gpt-sim:text=two%20words,prompt=90,cached=20,write=10,out=7").json

    assert (said["object"], said["status"], said["error"]) == ("response", "completed", None)
    assert said["output"][0]["content"][0]["text"] == "two words"
    assert said["usage"] == {
        "input_tokens": 90,
        "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 10},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 97,
    }


def test_a_stream_ends_with_the_whole_response(client: Any) -> None:
    asked = "gpt-sim:chunks=3,prompt=90,out=7,reasoning=2"
    seen = events(client, asked, include=["reasoning.encrypted_content"])

    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert [event["type"].removeprefix("response.") for event in seen] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        *["reasoning_summary_text.delta"] * 2,
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    final = seen[-1]["response"]
    assert final["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert seen[0]["response"]["usage"] is None
    assert final["output"][0]["encrypted_content"]
    deltas = [event["delta"] for event in seen if event["type"] == "response.output_text.delta"]
    assert final["output"][1]["content"][0]["text"] == "".join(deltas)
    assert final["output"] == [event["item"] for event in seen if event["type"].endswith("output_item.done")]


def test_a_function_is_called_until_its_output_is_there(client: Any) -> None:
    model = "gpt-sim:call=look:%7B%22at%22%3A1%7D,echo"
    seen = events(client, model, tools=TOOLS)
    (call,) = seen[-1]["response"]["output"]
    pieces = [event["delta"] for event in seen if event["type"] == "response.function_call_arguments.delta"]
    assert (call["name"], call["arguments"], "".join(pieces)) == ("look", '{"at":1}', '{"at":1}')

    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a heron"}
    for items in ([{"role": "user", "content": "hello"}, call, output], [output]):
        last = ask(client, model, tools=TOOLS, input=items).json
        assert last["output"][0]["content"][0]["text"] == "a heron"


def test_a_limit_makes_it_incomplete(client: Any) -> None:
    final = events(client, "gpt-sim:prompt=9,chunks=30", max_output_tokens=16)[-1]

    assert final["type"] == "response.incomplete"
    assert final["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["response"]["usage"]["output_tokens"] == 16


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"input": None}, "input"),
    ],
)
def test_what_the_api_does_not_take_is_refused(client: Any, more: dict[str, Any], param: str) -> None:
    answer = ask(client, "gpt-5.6", **more)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_stream_may_end_in_an_error_event_of_its_own_format(client: Any) -> None:
    last = events(client, "gpt-sim:fault=error_event,after=3")[-1]
    assert (last["type"], last["code"]) == ("error", "server_error")


def test_input_is_counted_and_compacted(client: Any) -> None:
    body = {"model": "gpt-sim:prompt=42,out=5", "input": "hello"}
    counted = client.post(f"{RESPONSES}/input_tokens", body).json
    assert counted == {"object": "response.input_tokens", "input_tokens": 42}

    compacted = client.post(f"{RESPONSES}/compact", body).json
    assert (compacted["object"], compacted["usage"]["total_tokens"]) == ("response.compaction", 47)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_can_be_asked_for_later_with_its_key(client: Any, stream: bool) -> None:
    made = ask(client, "gpt-sim:text=two%20words", stream=stream, user=f"later {stream}")
    whole = made.chunks[-1]["response"] if stream else made.json
    target = f"{RESPONSES}/{whole['id']}"
    assert client.post(target, method="GET").json == whole
    assert client.post(target, method="GET", headers={"Authorization": "Bearer another"}).status == 404
    assert client.post(target, method="DELETE").json["deleted"]
    assert client.post(target, method="GET").status == 404


def test_a_response_that_is_not_to_be_stored_is_not(client: Any) -> None:
    made = ask(client, "gpt-sim:text=two", store=False).json
    assert client.post(f"{RESPONSES}/{made['id']}", method="GET").status == 404


def test_an_answer_says_its_tier_and_searches(client: Any) -> None:
    assert ask(client, "gpt-sim:tier=flex").json["service_tier"] == "flex"
    assert client.chat("gpt-sim:tier=flex").json["service_tier"] == "flex"
    usage = client.message("claude-sim:tier=priority,searches=3").json["usage"]
    assert (usage["service_tier"], usage["server_tool_use"]["web_search_requests"]) == ("priority", 3)
    entries = client.simulator.tally.entries()
    assert [entry.tier for entry in entries] == ["flex", "flex", "priority"]
    assert entries[-1].units == {"web_search": 3}
