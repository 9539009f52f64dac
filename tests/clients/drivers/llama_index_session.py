"""LlamaIndex with either vendor's format, by `WEIR_ENDPOINT`."""

from collections.abc import Iterator
from typing import Any

from driving import ENDPOINT, KEY, MODEL, PROMPT, URL, drive, look
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

QUESTION = [ChatMessage(role="user", content=PROMPT)]


def _model() -> Any:
    if ENDPOINT == "messages":
        from llama_index.llms.anthropic import Anthropic

        return Anthropic(model=MODEL, base_url=URL, api_key=KEY, max_tokens=500)
    if ENDPOINT == "responses":
        from llama_index.llms.openai import OpenAIResponses

        return OpenAIResponses(model=MODEL, api_base=f"{URL}/v1", api_key=KEY)
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(
        model=MODEL, api_base=f"{URL}/v1", api_key=KEY, is_chat_model=True, is_function_calling_model=True
    )


model = _model()


def plain() -> str:
    return model.chat(QUESTION).message.content


def streamed() -> Iterator[str]:
    for chunk in model.stream_chat(QUESTION):
        yield chunk.delta or ""


def tool() -> str:
    tools = [FunctionTool.from_defaults(look)]
    first = model.chat_with_tools(tools, chat_history=QUESTION)
    (call,) = model.get_tool_calls_from_response(first)
    told = {"tool_call_id": call.tool_id}
    result = ChatMessage(role="tool", content=look(**call.tool_kwargs), additional_kwargs=told)
    return model.chat_with_tools(tools, chat_history=[*QUESTION, first.message, result]).message.content


drive(plain, streamed, tool)
