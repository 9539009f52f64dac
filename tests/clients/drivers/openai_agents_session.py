"""OpenAI's Agents SDK, by chat completions or Responses (`WEIR_ENDPOINT`)."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from driving import ENDPOINT, KEY, MODEL, PROMPT, URL, drive, look
from openai import AsyncOpenAI

set_tracing_disabled(True)


def _agent(*tools: object) -> Agent:
    kind = OpenAIResponsesModel if ENDPOINT == "responses" else OpenAIChatCompletionsModel
    model = kind(MODEL, AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY))
    return Agent(name="clerk", model=model, tools=list(tools))


def plain() -> str:
    return Runner.run_sync(_agent(), PROMPT).final_output


def streamed() -> Iterator[str]:
    async def pieces() -> AsyncIterator[str]:
        run = Runner.run_streamed(_agent(), PROMPT)
        try:
            async for event in run.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    yield event.data.delta
        finally:
            run.cancel()

    with asyncio.Runner() as runner:
        source = pieces()
        try:
            while (piece := runner.run(anext(source, None))) is not None:
                yield piece
        finally:
            runner.run(source.aclose())


def tool() -> str:
    return Runner.run_sync(_agent(function_tool(look)), PROMPT).final_output


drive(plain, streamed, tool)
