"""LiteLLM's SDK with either vendor's format, by `WEIR_ENDPOINT`."""

import json
from collections.abc import Iterator
from typing import Any

import litellm
from driving import ENDPOINT, KEY, LOOK, MODEL, QUESTION, URL, drive, look

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]
_WHERE = {
    "messages": (f"anthropic/{MODEL}", URL),
    "chat": (f"openai/{MODEL}", f"{URL}/v1"),
    "responses": (f"openai/responses/{MODEL}", f"{URL}/v1"),
}


def _ask(messages: list[Any], **more: Any) -> Any:
    model, base = _WHERE[ENDPOINT]
    return litellm.completion(model=model, api_base=base, api_key=KEY, messages=messages, **more)


def plain() -> str:
    return _ask(QUESTION).choices[0].message.content


def streamed() -> Iterator[str]:
    stream = _ask(QUESTION, stream=True)
    for chunk in stream:
        yield chunk.choices[0].delta.content or ""


def tool() -> str:
    first = _ask(QUESTION, tools=TOOLS).choices[0].message
    (call,) = first.tool_calls
    result = look(**json.loads(call.function.arguments))
    return (
        _ask([*QUESTION, first, {"role": "tool", "tool_call_id": call.id, "content": result}], tools=TOOLS)
        .choices[0]
        .message.content
    )


drive(plain, streamed, tool)
