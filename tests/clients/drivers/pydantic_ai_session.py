"""Pydantic AI with either vendor's format, by `WEIR_ENDPOINT`."""

from collections.abc import Iterator
from typing import Any

from driving import ENDPOINT, KEY, MODEL, PROMPT, URL, drive, look
from pydantic_ai import Agent


def _model() -> Any:
    if ENDPOINT == "messages":
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key=KEY))
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = OpenAIResponsesModel if ENDPOINT == "responses" else OpenAIChatModel
    return kind(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key=KEY))


def plain() -> str:
    return Agent(_model()).run_sync(PROMPT).output


def streamed() -> Iterator[str]:
    yield from Agent(_model()).run_stream_sync(PROMPT).stream_text(delta=True, debounce_by=None)


def tool() -> str:
    return Agent(_model(), tools=[look]).run_sync(PROMPT).output


drive(plain, streamed, tool)
