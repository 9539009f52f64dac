"""The real SDKs accept what the simulator sends, and raise what they should."""

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from simulator import Simulator

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def openai_client(simulator: Simulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{simulator.url}/api/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(simulator: Simulator) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"{simulator.url}/api", api_key="k", max_retries=0) as client:
        yield client


def test_openai_plain_stream_and_tools(openai_client: openai.OpenAI) -> None:
    create: Any = openai_client.chat.completions.create
    plain = create(model="gpt-sim:prompt=9,out=2", messages=MESSAGES)
    assert plain.usage.total_tokens == 11

    chunks = list(
        create(
            model="gpt-sim:prompt=9,out=2,tools=1,chunks=2",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].usage.prompt_tokens == 9
    arguments = [
        call.function.arguments
        for chunk in chunks
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    assert "".join(arguments) == '{"query":"weir","limit":5,"exact":true}'


def test_openai_stream_helper_accumulates(openai_client: openai.OpenAI) -> None:
    with openai_client.chat.completions.stream(model="gpt-5.6", messages=MESSAGES) as stream:
        completion = stream.get_final_completion()

    assert completion.choices[0].message.content


def test_anthropic_plain_stream_tools_and_thinking(anthropic_client: anthropic.Anthropic) -> None:
    model = "claude-sim:prompt=1000,cached=600,write=100,out=50,reasoning=5,tools=2,chunks=3"
    plain = anthropic_client.messages.create(model=model, max_tokens=100, messages=MESSAGES)
    with anthropic_client.messages.stream(model=model, max_tokens=100, messages=MESSAGES) as stream:
        final = stream.get_final_message()

    assert [block.type for block in plain.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    for message in (plain, final):
        assert message.usage.input_tokens == 300
        assert message.usage.cache_read_input_tokens == 600
        assert message.usage.output_tokens == 50


def test_anthropic_models_and_count_tokens(anthropic_client: anthropic.Anthropic) -> None:
    counted = anthropic_client.messages.count_tokens(model="claude-sim:prompt=42", messages=MESSAGES)

    assert counted.input_tokens == 42
    assert "claude-sonnet-5" in [model.id for model in anthropic_client.models.list(limit=2)]


def test_openai_models(openai_client: openai.OpenAI) -> None:
    assert "gpt-5.6" in [model.id for model in openai_client.models.list()]
    assert openai_client.models.retrieve("gpt-5.6").id == "gpt-5.6"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
def test_errors_have_their_sdk_classes(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic, status: int, name: str
) -> None:
    model = f"x-sim:fault={status}"
    with pytest.raises(getattr(openai, name)):
        openai_client.chat.completions.create(model=model, messages=MESSAGES)
    with pytest.raises(getattr(anthropic, name)):
        anthropic_client.messages.create(model=model, max_tokens=1, messages=MESSAGES)


def test_errors_inside_streams(openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
    create: Any = openai_client.chat.completions.create
    with pytest.raises(openai.APIError):
        list(create(model="x-sim:fault=error_event", messages=MESSAGES, stream=True))
    with pytest.raises(openai.APIConnectionError):
        list(create(model="x-sim:fault=cut_mid_chunk", messages=MESSAGES, stream=True))
    stream = anthropic_client.messages.create(
        model="x-sim:fault=error_event,after=2", max_tokens=1, messages=MESSAGES, stream=True
    )
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        list(stream)


def test_sdk_retries_are_seen_with_their_counts(simulator: Simulator) -> None:
    simulator.behave("gpt-5.6", "fault=503", times=1)
    with openai.OpenAI(base_url=f"{simulator.url}/v1", api_key="k", max_retries=1) as client:
        client.chat.completions.create(model="gpt-5.6", messages=MESSAGES)

    entries = simulator.tally.wait_ended(2)
    assert [entry.status for entry in entries] == [503, 200]
    assert [entry.headers["x-stainless-retry-count"] for entry in entries] == ["0", "1"]


def test_openai_responses_plain_streamed_and_with_tools(openai_client: openai.OpenAI) -> None:
    create: Any = openai_client.responses.create
    model = "gpt-sim:prompt=100,cached=60,write=20,write_1h=5,out=9,reasoning=3,chunks=4,searches=2,images=1"
    plain = create(model=model, input="hi")
    assert (plain.status, plain.usage.input_tokens_details.cached_tokens) == ("completed", 60)
    assert plain.tool_usage.web_search.num_requests == 2
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    with openai_client.responses.stream(
        model=model,
        input=[{"role": "user", "content": "hi"}],
        tools=[tool],
        tool_choice="required",  # type: ignore[list-item]
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert [item.type for item in final.output][-2:] == ["function_call", "message"]
    assert create(model="gpt-sim:finish=content_filter", input="x").status == "incomplete"
    assert create(model="gpt-sim:finish=failed", input="x").error.code == "server_error"
    assert openai_client.responses.input_tokens.count(model="gpt-sim:prompt=7", input="x").input_tokens == 7
    compacted = openai_client.responses.compact(model="gpt-sim:prompt=150,out=200", input="x")  # type: ignore[arg-type]
    assert compacted.usage.output_tokens == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"messages": MESSAGES, "input": "x"}, {"input": "x", "max_output_tokens": 3}],
)
def test_openai_responses_refuses_what_the_api_refuses(
    openai_client: openai.OpenAI, body: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError):
        openai_client.responses.create(model="m", extra_body=body)
    options: Any = {"include_usage": True}
    with pytest.raises(openai.BadRequestError):
        openai_client.responses.create(model="m", input="x", stream=True, stream_options=options)
