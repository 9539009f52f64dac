"""A session with both SDKs, whichever versions this interpreter has: `python sdk_session.py URL KEY MODELS`.

MODELS is a JSON object that gives the `user` directive of each kind of answer. Prints a JSON object with what
the SDKs made of the answers. It imports nothing of the project, so that any interpreter can run it.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic
import openai

HI: list[Any] = [{"role": "user", "content": "hello"}]
CHAT_TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TOOL: Any = {"name": "look", "input_schema": {"type": "object"}}


def openai_session(url: str, key: str, plays: dict[str, str]) -> dict[str, Any]:
    """Everything a frontend does with the OpenAI SDK."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:

        def create(play: str, **more: Any) -> Any:
            return client.chat.completions.create(model="gpt-test", messages=HI, user=plays[play], **more)

        plain = create("answer")
        chunks = list(create("answer", stream=True, stream_options={"include_usage": True}))
        silent = list(create("answer", stream=True))
        tools = create("tools", tools=[CHAT_TOOL], tool_choice="required")
        with client.chat.completions.stream(
            model="gpt-test", messages=HI, user=plays["answer"], stream_options={"include_usage": True}
        ) as stream:
            final = stream.get_final_completion()
        return {
            "plain": [
                plain.choices[0].message.content,
                plain.usage.prompt_tokens,
                plain.usage.completion_tokens,
            ],
            "streamed": _text(chunks),
            "streamed usage": [chunk.usage.completion_tokens for chunk in chunks if chunk.usage],
            "silent": _text(silent),
            "silent usage": [chunk for chunk in silent if chunk.usage or not chunk.choices],
            "helper": [
                final.choices[0].message.content,
                final.usage.completion_tokens if final.usage else None,
            ],
            "tool": json.loads(tools.choices[0].message.tool_calls[0].function.arguments),
            "models": [model.id for model in client.models.list()],
            "model": client.models.retrieve("vendor/model with space").id,
            "errors": _errors(
                {
                    "unknown model": lambda: client.chat.completions.create(model="nope", messages=HI),
                    "no such path": lambda: client.fine_tuning.jobs.list(),
                    "limited": lambda: create("limited"),
                    "refused key": lambda: create("refused"),
                    "bad": lambda: create("bad"),
                    "cut": lambda: list(create("cut", stream=True)),
                    "ended early": lambda: list(create("eof", stream=True)),
                    "error in the stream": lambda: list(create("error event", stream=True)),
                }
            ),
        }


def _text(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def anthropic_session(url: str, key: str, plays: dict[str, str]) -> dict[str, Any]:
    """Everything a frontend does with the Anthropic SDK."""
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:

        def create(play: str, **more: Any) -> Any:
            asked: dict[str, Any] = {"model": "claude-test", "messages": HI, "max_tokens": 500}
            return client.messages.create(**asked, metadata={"user_id": plays[play]}, **more)

        plain = create("answer")
        events = list(create("answer", stream=True))
        with client.messages.stream(
            model="claude-test", messages=HI, max_tokens=500, metadata={"user_id": plays["answer"]}
        ) as stream:
            pieces = list(stream.text_stream)
            final: Any = stream.get_final_message()
        tools = create("tools", tools=[TOOL], tool_choice={"type": "any"})
        counted = client.messages.count_tokens(model="claude-test", messages=HI)
        return {
            "plain": [plain.content[0].text, plain.usage.input_tokens, plain.usage.output_tokens],
            "streamed": "".join(
                getattr(getattr(event, "delta", None), "text", None) or "" for event in events
            ),
            "last event": events[-1].type,
            "helper": ["".join(pieces), final.content[0].text, final.usage.output_tokens],
            "tool": next(block.input for block in tools.content if block.type == "tool_use"),
            "counted": counted.input_tokens,
            "models": [model.id for model in client.models.list()],
            "model": client.models.retrieve("vendor/model with space").id,
            "errors": _errors(
                {
                    "unknown model": lambda: client.messages.create(model="nope", messages=HI, max_tokens=5),
                    "limited": lambda: create("limited"),
                    "refused key": lambda: create("refused"),
                    "bad": lambda: create("bad"),
                    "cut": lambda: list(create("cut", stream=True)),
                    "ended early": lambda: list(create("eof", stream=True)),
                    "error in the stream": lambda: list(create("error event", stream=True)),
                }
            ),
        }


def results_session(url: str, key: str) -> dict[str, Any]:
    """The calls of the OpenAI SDK whose answers are no conversation."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        embedded = client.embeddings.create(model="embed-test", input=["a", "b"])
        floats = client.embeddings.create(model="embed-test", input=[[1, 2], [3]], encoding_format="float")
        completed = client.completions.create(model="gpt-test", prompt="x", stream=True)
        judged = client.moderations.create(input="x")
        drawn = client.images.generate(model="image-test", prompt="x", n=2)
        edited = client.images.edit(model="image-test", prompt="x", image=("a.png", b"\x89PNG", "image/png"))
        spoken = client.audio.speech.create(model="spoken-test", voice="alloy", input="hi")
        heard = client.audio.transcriptions.create(model="heard-test", file=("a.wav", b"RIFF" * 100))
        subtitles: Any = client.audio.transcriptions.create(
            model="heard-test", file=("a.wav", b"RIFF" * 100), response_format="srt"
        )
        # The newest SDK warns of its own method for it.
        translated: Any = client.post(
            "/audio/translations",
            body={"model": "heard-test"},
            files={"file": ("a.wav", b"RIFF" * 100)},
            options={"headers": {"Content-Type": "multipart/form-data"}},
            cast_to=object,
        )
        return {
            "embeddings": [item.embedding for item in embedded.data],
            "floats": [len(floats.data), floats.usage.prompt_tokens > 0],
            "completion": "".join(chunk.choices[0].text for chunk in completed) != "",
            "flagged": judged.results[0].flagged,
            "images": [len(drawn.data or ()), len(edited.data or ())],
            "speech": spoken.read()[:2].hex(),
            "transcripts": [heard.text != "", "-->" in subtitles, translated["text"] != ""],
        }


def _errors(calls: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each call raised: the class and, where there is one, the status."""
    found: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # noqa: BLE001  whatever it is, it is what a frontend would see
            found[name] = [type(error).__name__, getattr(error, "status_code", None)]
        else:
            found[name] = None
    return found


def main(url: str, key: str, plays: str) -> None:
    """Run both sessions and print what came of them."""
    directives = json.loads(plays)
    result = {
        "versions": [openai.__version__, anthropic.__version__],
        "openai": openai_session(url, key, directives),
        "anthropic": anthropic_session(url, key, directives),
        "results": results_session(url, key),
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
