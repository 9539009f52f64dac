"""Instructor with either vendor's format, by `WEIR_ENDPOINT`: it asks for an object, by a forced tool."""

from collections.abc import Iterator
from typing import Any

import instructor
from driving import ENDPOINT, KEY, MODEL, QUESTION, URL, drive, look
from pydantic import BaseModel


class Found(BaseModel):
    """What the model is to fill in."""

    query: str
    limit: int
    exact: bool


def _client() -> Any:
    if ENDPOINT == "messages":
        from anthropic import Anthropic

        return instructor.from_anthropic(Anthropic(base_url=URL, api_key=KEY), max_tokens=500)
    from openai import OpenAI

    return instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=KEY))


client = _client()


def plain() -> str:
    found = client.create(model=MODEL, messages=QUESTION, response_model=Found)
    return look(**found.model_dump())


def streamed() -> Iterator[str]:
    for part in client.create_partial(model=MODEL, messages=QUESTION, response_model=Found):
        yield f"{part}\n"


drive(plain, streamed, plain)
