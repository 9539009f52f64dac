"""OpenAI's SDK, chat completions."""

import json
from collections.abc import Iterator

from driving import KEY, LOOK, MODEL, QUESTION, URL, drive, look
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": LOOK}}]


def plain() -> str:
    return client.chat.completions.create(model=MODEL, messages=QUESTION).choices[0].message.content


def streamed() -> Iterator[str]:
    with client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True) as stream:
        for chunk in stream:
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""


def tool() -> str:
    first = client.chat.completions.create(model=MODEL, messages=QUESTION, tools=TOOLS).choices[0].message
    (call,) = first.tool_calls
    result = look(**json.loads(call.function.arguments))
    messages = [*QUESTION, first, {"role": "tool", "tool_call_id": call.id, "content": result}]
    return (
        client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message.content
    )


drive(plain, streamed, tool)
