"""Answers that hold no chat: completions, embeddings, ranks, moderations, images, speech, transcripts."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from simulator.answer import Answer
from simulator.call import Call
from simulator.events import DONE, Event
from simulator.plan import JSON, SSE
from simulator.tokens import Tokens

encode = msgspec.json.encode

Made = tuple[list[Event], str, Tokens | None, dict[str, float]]
"""Parts, their content type, the tokens and the other units they cost."""

_NOTHING = Tokens(0, 0, 0, 0, 0, 0)
_SECONDS = 12.5
_PNG = base64.b64encode(b"\x89PNG simulated " * 64).decode()
_TEXT = {"text": "text/plain; charset=utf-8", "srt": "application/x-subrip", "vtt": "text/vtt"}


def completion(answer: Answer, call: Call) -> Made:
    """Return a completion in the old format, streamed or not."""
    tokens, is_told = answer.tokens, call.options.usage != "never"
    usage = {
        "prompt_tokens": tokens.fresh + tokens.cache_read,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.fresh + tokens.cache_read + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read},
    }
    head = {"id": f"cmpl-{answer.tag}", "object": "text_completion", "created": answer.created}
    head["model"] = answer.model

    def choices(text: str, finish: str | None) -> list[dict[str, Any]]:
        return [
            {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
            for index in range(answer.choices)
        ]

    if not call.stream:
        body = {**head, "choices": choices("".join(answer.pieces), "stop")}
        told = {"usage": usage} if is_told else {}
        return [Event(encode(body | told), tokens if is_told else None)], JSON, tokens, {}
    events = [Event(_data(head | {"choices": choices(piece, None)})) for piece in answer.pieces]
    events.append(Event(_data(head | {"choices": choices("", "stop")})))
    if call.include_usage and is_told:
        events.append(Event(_data(head | {"choices": [], "usage": usage}), tokens))
    return [*events, Event(DONE)], SSE, tokens, {}


def embeddings(answer: Answer, call: Call) -> Made:
    """Return three numbers for each input, as text or in base64."""
    tokens = Tokens(answer.tokens.fresh, 0, 0, 0, 0, 0)
    asked = call.body.get("input")
    is_one = not isinstance(asked, list) or (bool(asked) and isinstance(asked[0], int))
    vector: Any = [0.25, -0.5, 0.125]
    if call.body.get("encoding_format") == "base64":
        vector = "AACAPgAAAL8AAAA+"
    count = 1 if is_one else len(asked or ())
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)],
        "model": answer.model,
    }
    usage = {"usage": {"prompt_tokens": tokens.fresh, "total_tokens": tokens.fresh}}
    is_told = call.options.usage != "never"
    return [Event(encode(body | (usage if is_told else {})), tokens if is_told else None)], JSON, tokens, {}


def moderation(answer: Answer, call: Call) -> Made:
    """Find nothing harmful in whatever it is."""
    results = [{"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.01}}]
    body = {"id": f"modr-{answer.tag}", "model": answer.model, "results": results}
    return [Event(encode(body), _NOTHING)], JSON, None, {}


def rerank(_answer: Answer, call: Call) -> Made:
    """Leave the documents in their order, and bill by the hundred."""
    documents = call.body.get("documents")
    count = len(documents) if isinstance(documents, list) else 1
    units = -(-count // 100)
    results = [{"index": index, "relevance_score": 1 / (index + 1)} for index in range(count)]
    body = {"results": results, "meta": {"billed_units": {"search_units": units}}}
    return [Event(encode(body), _NOTHING)], JSON, None, {"search_unit": units}


def images(answer: Answer, call: Call) -> Made:
    """Return as many images as asked for, and the tokens that they took."""
    count = int(call.body.get("n") or 1)
    tokens = Tokens(answer.tokens.fresh, 0, 0, 0, answer.tokens.output * count, 0)
    usage = {
        "input_tokens": tokens.fresh,
        "input_tokens_details": {"text_tokens": tokens.fresh, "image_tokens": 0},
        "output_tokens": tokens.output,
        "total_tokens": tokens.fresh + tokens.output,
    }
    units = {"output_image": float(tokens.output)}
    if call.stream:
        prefix = "image_edit" if call.endpoint.endswith("edits") else "image_generation"
        image = {"b64_json": _PNG, "size": "1024x1024", "quality": "low"}
        partial = {"type": f"{prefix}.partial_image", "partial_image_index": 0, **image}
        final = {"type": f"{prefix}.completed", **image, "usage": usage}
        parts = [Event(_named(partial)), Event(_named(final), tokens)]
        return parts, SSE, tokens, units
    body = {"created": answer.created, "quality": "low", "size": "1024x1024"}
    data = [{"b64_json": _PNG}] * count
    return [Event(encode(body | {"data": data, "usage": usage}), tokens)], JSON, tokens, units


def speech(answer: Answer, call: Call) -> Made:
    """Return bytes that look like audio, or events that tell what they took."""
    text = str(call.body.get("input") or "")
    sound = (b"\xff\xf3\x64\xc4" + answer.tag.encode()) * 16
    if call.body.get("stream_format") != "sse":
        return [Event(sound, _NOTHING)], "audio/mpeg", None, {"character": len(text)}
    tokens = Tokens(answer.tokens.fresh, 0, 0, 0, answer.tokens.output, 0)
    usage = {"input_tokens": tokens.fresh, "output_tokens": tokens.output}
    usage["total_tokens"] = tokens.fresh + tokens.output
    delta = {"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()}
    done = {"type": "speech.audio.done", "usage": usage}
    units = {"output_audio": float(tokens.output)}
    return [Event(_data(delta)), Event(_data(done), tokens)], SSE, tokens, units


def transcript(answer: Answer, call: Call) -> Made:
    """Return what a recording of 12.5 seconds says, in the form that was asked for."""
    text = "".join(answer.pieces).strip()
    form = str(call.body.get("response_format") or "json")
    units: dict[str, float] = {"second": _SECONDS}
    if call.stream:
        tokens = Tokens(answer.tokens.fresh, 0, 0, 0, answer.tokens.output, 0)
        done = {"type": "transcript.text.done", "text": text, "usage": _heard(tokens)}
        events = [Event(_data({"type": "transcript.text.delta", "delta": piece})) for piece in answer.pieces]
        return [*events, Event(_data(done), tokens)], SSE, tokens, {"input_audio": float(tokens.fresh)}
    if form == "verbose_json":
        body = {"task": "transcribe", "language": "english", "duration": _SECONDS, "text": text}
        return [Event(encode(body | {"segments": []}), _NOTHING)], JSON, None, units
    if form in ("srt", "vtt"):
        mark = "," if form == "srt" else "."
        cue = f"00:00:00{mark}000 --> 00:00:12{mark}500\n{text}\n\n"
        start = "1\n" if form == "srt" else "WEBVTT\n\n"
        return [Event((start + cue).encode(), _NOTHING)], _TEXT[form], None, units
    if form == "text":
        return [Event(f"{text}\n".encode(), _NOTHING)], _TEXT[form], None, {}
    usage = {"type": "duration", "seconds": _SECONDS}
    return [Event(encode({"text": text, "usage": usage}), _NOTHING)], JSON, None, units


def _heard(tokens: Tokens) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": tokens.fresh,
        "input_token_details": {"text_tokens": 0, "audio_tokens": tokens.fresh},
        "output_tokens": tokens.output,
        "total_tokens": tokens.fresh + tokens.output,
    }


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + encode(body) + b"\n\n"


def _named(body: dict[str, Any]) -> bytes:
    return b"event: %b\n%b" % (str(body["type"]).encode(), _data(body))


WRITERS: dict[str, Callable[[Answer, Call], Made]] = {
    "completions": completion,
    "embeddings": embeddings,
    "moderations": moderation,
    "rerank": rerank,
    "images/generations": images,
    "images/edits": images,
    "images/variations": images,
    "audio/speech": speech,
    "audio/transcriptions": transcript,
    "audio/translations": transcript,
}
"""What answers each endpoint."""
