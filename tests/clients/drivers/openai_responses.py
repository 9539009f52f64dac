"""OpenAI's SDK, Responses."""

import json
from collections.abc import Iterator

from driving import KEY, LOOK, MODEL, PROMPT, URL, drive, look
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
TOOLS = [{"type": "function", "name": "look", "parameters": LOOK, "strict": False}]


def plain() -> str:
    return client.responses.create(model=MODEL, input=PROMPT).output_text


def streamed() -> Iterator[str]:
    with client.responses.create(model=MODEL, input=PROMPT, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta


def tool() -> str:
    first = client.responses.create(model=MODEL, input=PROMPT, tools=TOOLS)
    call = next(item for item in first.output if item.type == "function_call")
    result = look(**json.loads(call.arguments))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": result}
    return client.responses.create(
        model=MODEL, previous_response_id=first.id, input=[output], tools=TOOLS
    ).output_text


drive(plain, streamed, tool)
