"""What a program does with a chat model of LangChain, whichever that is."""

from collections.abc import Iterator
from typing import Any

from driving import PROMPT, drive, look
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool as as_tool


def session(model: Any) -> None:
    """Do what the command line asks for."""
    tools = [as_tool(look)]

    def plain() -> str:
        return model.invoke(PROMPT).text

    def streamed() -> Iterator[str]:
        for chunk in model.stream(PROMPT):
            yield chunk.text

    def tool() -> str:
        bound, messages = model.bind_tools(tools), [HumanMessage(PROMPT)]
        messages.append(bound.invoke(messages))
        messages += [tools[0].invoke(call) for call in messages[-1].tool_calls]
        return bound.invoke(messages).text

    drive(plain, streamed, tool)
