"""Anthropic's SDK."""

from collections.abc import Iterator

from anthropic import Anthropic
from driving import KEY, LOOK, MODEL, QUESTION, URL, drive, look

client = Anthropic(base_url=URL, api_key=KEY)
ASKED = {"model": MODEL, "max_tokens": 500}
TOOLS = [{"name": "look", "input_schema": LOOK}]


def plain() -> str:
    return client.messages.create(**ASKED, messages=QUESTION).content[0].text


def streamed() -> Iterator[str]:
    with client.messages.stream(**ASKED, messages=QUESTION) as stream:
        yield from stream.text_stream


def tool() -> str:
    first = client.messages.create(**ASKED, messages=QUESTION, tools=TOOLS)
    use = next(block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": look(**use.input)}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    return client.messages.create(**ASKED, messages=messages, tools=TOOLS).content[0].text


drive(plain, streamed, tool)
