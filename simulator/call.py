"""What a request asks for, read from its body: the few fields the simulator's answer depends on."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from simulator.grammar import Options, parse_model, parse_spec
from simulator.wire import Request

OPENAI, ANTHROPIC = "openai", "anthropic"

_PATH = re.compile(
    r"/v[12]/(chat/completions|messages/count_tokens|messages|models(?:/.+)?"
    r"|responses(?:/(?:input_tokens|compact))?|completions|embeddings|moderations|rerank"
    r"|images/(?:generations|edits|variations)|audio/(?:speech|transcriptions|translations))/?$"
)
_NEEDED = {
    "completions": "prompt",
    "embeddings": "input",
    "moderations": "input",
    "rerank": "documents",
    "images/generations": "prompt",
    "images/edits": "image",
    "images/variations": "image",
    "audio/speech": "input",
    "audio/transcriptions": "file",
    "audio/translations": "file",
}
"""What a body has to have, for what is no chat."""
_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_FORM_NAME = re.compile(rb'name="([^"]*)"')

_NEVER_STREAMED = ("responses/input_tokens", "responses/compact")
_ELSEWHERE = frozenset(("prompt", "previous_response_id", "conversation"))
_LEAST_OUTPUT = 16


class CallError(Exception):
    """A request the API refuses: HTTP ``status`` and the message of the error body."""

    def __init__(self, status: int, message: str, kind: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param


@dataclass(slots=True)
class Call:
    """One generation as asked for. ``seed`` is the body's SHA-256: the only source of variation."""

    format: str
    endpoint: str
    model: str
    stream: bool
    include_usage: bool | None
    obfuscation: bool
    body: dict[str, Any]
    seed: bytes
    size: int
    uses_cache: bool
    options: Options


def endpoint_of(path: str) -> str:
    """Return a path's endpoint, or "".

    It is ``chat/completions``, ``messages``, ``messages/count_tokens``, ``responses``,
    ``responses/input_tokens``, ``responses/compact``, ``models`` or ``models/ID``.
    """
    found = _PATH.search(path)
    return found.group(1) if found else ""


def format_of(request: Request, endpoint: str) -> str:
    """Return the format errors and model lists are answered in."""
    if endpoint.startswith("messages"):
        return ANTHROPIC
    if endpoint.startswith("models") and request.header("anthropic-version"):
        return ANTHROPIC
    return OPENAI


def model_id_of(endpoint: str) -> str:
    """Return the decoded id in ``models/ID``."""
    return unquote(endpoint.partition("/")[2])


def decode_body(request: Request, cap: int) -> dict[str, Any]:
    """Decode the JSON object of a request body, decompressed when it says so; raises `CallError`."""
    data = request.body
    coding = request.fields.get("content-encoding", "identity").lower()
    if len(data) > cap:
        raise CallError(413, "Request exceeds the maximum size", "request_too_large")
    kind = request.fields.get("content-type", "")
    if kind.lower().startswith("multipart/form-data"):
        return _decode_form(data, kind)
    try:
        if coding == "gzip":
            data = gzip.decompress(data)
        elif coding == "deflate":
            data = zlib.decompress(data)
        elif coding != "identity":
            raise CallError(415, f"unsupported Content-Encoding {coding}")
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError, EOFError, zlib.error):
        raise CallError(400, "could not parse the JSON body of your request") from None
    if not isinstance(document, dict):
        raise CallError(400, "the body is not a JSON object")
    return document


def _decode_form(data: bytes, kind: str) -> dict[str, Any]:
    """Return the fields of a form: text as it is, of a file its size; `n` and `stream` as in JSON."""
    found = _BOUNDARY.search(kind)
    if found is None:
        raise CallError(400, "the form has no boundary")
    fields: dict[str, Any] = {}
    for part in (b"\r\n" + data).split(b"\r\n--" + found.group(1).encode())[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = _FORM_NAME.search(head)
        if name is None:
            continue
        key = name.group(1).decode().removesuffix("[]")
        fields[key] = len(value) if b"filename=" in head else value.decode("utf-8", "replace")
    fields["stream"] = fields.get("stream") == "true"
    if "n" in fields:
        fields["n"] = int(fields["n"])
    return fields


def read_call(request: Request, body: dict[str, Any], endpoint: str, override: str | None) -> Call:
    """Check a body the way the API does and find the options that apply; raises `CallError`, `GrammarError`.

    Options come from the model's name, then from ``user`` / ``metadata.user_id`` when it begins with
    ``sim:``, then from ``override`` (a `behave` rule).
    """
    wire_format = format_of(request, endpoint)
    model = body.get("model", "omni-moderation-latest" if endpoint == "moderations" else None)
    if not isinstance(model, str) or not model:
        raise CallError(400, _missing(wire_format, "model"), param="model")
    options = parse_model(model)
    directive = _directive(body)
    if directive is not None:
        options = parse_spec(directive, options)
    if override is not None:
        options = parse_spec(override, options)
    stream = body.get("stream") is True
    stream_options = body.get("stream_options")
    if not options.script:
        _validate(body, endpoint, stream)
    asked = stream_options if isinstance(stream_options, dict) else {}
    include = asked.get("include_usage")
    return Call(
        format=wire_format,
        endpoint=endpoint,
        model=model,
        stream=stream and endpoint not in _NEVER_STREAMED,
        include_usage=include if isinstance(include, bool) else None,
        obfuscation=options.obfuscation or asked.get("include_obfuscation") is True,
        body=body,
        seed=hashlib.sha256(request.body).digest(),
        size=len(request.body),
        uses_cache=b'"cache_control"' in request.body,
        options=options,
    )


def _directive(body: dict[str, Any]) -> str | None:
    metadata = body.get("metadata")
    for value in (body.get("user"), metadata.get("user_id") if isinstance(metadata, dict) else None):
        if isinstance(value, str) and value.startswith("sim:"):
            return value[len("sim:") :]
    return None


def _validate(body: dict[str, Any], endpoint: str, stream: bool) -> None:
    wire_format = ANTHROPIC if endpoint.startswith("messages") else OPENAI
    if (other := _NEEDED.get(endpoint)) is not None:
        if not body.get(other):
            raise CallError(400, f"'{other}' is a required property", param=other)
        return
    if endpoint.startswith("responses"):
        _validate_response(body)
    elif not isinstance(body.get("messages"), list) or not body["messages"]:
        raise CallError(400, _missing(wire_format, "messages"), param="messages")
    if wire_format == ANTHROPIC:
        limit = body.get("max_tokens")
        if endpoint == "messages" and (type(limit) is not int or limit < 1):
            raise CallError(400, "max_tokens: Field required")
        if "stream_options" in body:
            raise CallError(400, "stream_options: Extra inputs are not permitted")
    elif body.get("stream_options") is not None and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise CallError(400, message, param="stream_options")
    if body.get("stream") not in (None, True, False):
        raise CallError(400, "Invalid type for 'stream': expected a boolean", param="stream")


def _validate_response(body: dict[str, Any]) -> None:
    if not isinstance(body.get("input"), str | list) and not _ELSEWHERE & body.keys():
        raise CallError(400, _missing(OPENAI, "input"), param="input")
    if "messages" in body:
        message = "Unsupported parameter: 'messages'. In the Responses API, it has moved to 'input'."
        raise CallError(400, message, param="messages")
    options = body.get("stream_options")
    if isinstance(options, dict) and "include_usage" in options:
        message = "Unknown parameter: 'stream_options.include_usage'."
        raise CallError(400, message, param="stream_options.include_usage")
    limit = body.get("max_output_tokens")
    if limit is not None and (type(limit) is not int or limit < _LEAST_OUTPUT):
        message = f"Invalid 'max_output_tokens': expected a value >= {_LEAST_OUTPUT}"
        raise CallError(400, message, param="max_output_tokens")


def _missing(wire_format: str, name: str) -> str:
    if wire_format == ANTHROPIC:
        return f"{name}: Field required"
    return f"you must provide a {name} parameter"
