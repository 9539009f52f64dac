"""The options of one answer, and the grammar that writes them into a model's name."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from urllib.parse import unquote

_DOCS_HINT = "see simulator/README.md"
_QUOTED = ("text", "call")

CHOICES: dict[str, tuple[str, ...]] = {
    "eol": ("lf", "crlf", "cr", "mixed"),
    "http": ("1.0", "1.1"),
    "framing": ("auto", "chunked", "length", "close"),
    "encoding": ("identity", "gzip", "deflate", "br", "zstd"),
    "usage": (
        "std",
        "always",
        "never",
        "finish",
        "finish_only",
        "every",
        "twice",
        "choice",
        "repeat",
        "zeros",
        "estimate",
    ),
    "shape": (
        "std",
        "bare",
        "both",
        "exclusive",
        "exclusive_total",
        "zero_native",
        "anthropic",
        "reasoning_outside",
        "iterations",
        "server_tools",
        "nosplit",
        "strings",
        "floats",
        "fraction",
        "negative",
        "bool",
        "nan",
        "huge",
        "null",
        "list",
        "text",
        "null_details",
        "all_zero",
    ),
    "envelope": ("native", "ohmygpt", "html", "empty", "text"),
}


class GrammarError(ValueError):
    """A model name or option string that means nothing; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything an answer can be told to be. -1 means: decide from the request. Times in milliseconds."""

    # amounts
    chunks: int = -1
    size: int = 0
    prompt: int = -1
    cached: int = -1
    write: int = -1
    write_1h: int = 0
    cache: int = 0
    out: int = -1
    reasoning: int = -1
    tools: int = -1
    args: int = 0
    pings: int = 1
    searches: int = 0
    pages: int = 0
    images: int = 0
    tier: str = ""
    # content
    echo: bool = False
    text: str = ""
    call: str = ""
    longest: bool = False
    unicode: bool = False
    bait: bool = False
    obfuscation: bool = False
    finish: str = ""
    model: str = ""
    # pace
    first_ms: float = 0.0
    ttft_ms: float = 0.0
    delay_ms: float = 0.0
    hold: str = ""
    gate: str = ""
    # usage
    usage: str = "std"
    shape: str = "std"
    # framing of events and of bytes
    eol: str = "lf"
    bom: bool = False
    multiline: bool = False
    nospace: bool = False
    nocolon: bool = False
    comments: bool = False
    fields: bool = False
    rechunk: int = 0
    per_send: int = 0
    gap_ms: float = 0.0
    flush: bool = False
    framing: str = "auto"
    http: str = "1.1"
    encoding: str = "identity"
    # faults
    fault: str = ""
    after: int = -1
    retry_after: str = ""
    should_retry: str = ""
    envelope: str = "native"
    # a registered script instead of a generated answer
    script: str = ""

    @property
    def paced(self) -> bool:
        """Whether the bytes have to leave one event at a time."""
        timed = self.delay_ms or self.ttft_ms or self.gap_ms or self.gate
        return bool(timed or self.per_send or self.flush)


_TYPES = {item.name: item.type for item in fields(Options)}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse_model(model: str) -> Options:
    """Read options in a model's name; any name without the grammar is an ordinary model.

    ``script:NAME`` plays a script; ``…sim:OPTIONS`` and ``ANY+OPTIONS`` carry options.
    """
    if model.startswith("script:"):
        return Options(script=model[len("script:") :])
    base, colon, text = model.partition(":")
    if colon and base.endswith("sim"):
        return parse_options(text)
    base, plus, text = model.partition("+")
    return parse_options(text) if plus and text else Options()


def parse_spec(spec: str, base: Options | None = None) -> Options:
    """Read what `behave` and ``play:`` key states take: ``script:NAME`` or ``OPTIONS`` on top of ``base``."""
    if spec.startswith("script:"):
        return Options(script=spec[len("script:") :])
    return parse_options(spec, base)


def parse_options(text: str, base: Options | None = None) -> Options:
    """Parse ``name=value,name=value``; a bare name is a flag. Raises `GrammarError`."""
    changes: dict[str, int | float | bool | str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        kind = _TYPES.get(name)
        if kind is None:
            raise GrammarError(f"simulator: unknown option {name!r}; {_DOCS_HINT}")
        if not equals and kind != "bool":
            raise GrammarError(f"simulator: option {name!r} needs a value; {_DOCS_HINT}")
        changes[name] = _value(name, str(kind), value if equals else "1")
    options = replace(base or Options(), **changes)  # type: ignore[arg-type]
    _check(options)
    return options


def _value(name: str, kind: str, value: str) -> int | float | bool | str:
    if kind == "bool":
        if value.lower() not in _TRUE + _FALSE:
            raise GrammarError(f"simulator: {name} takes 0 or 1, not {value!r}")
        return value.lower() in _TRUE
    if kind in ("int", "float"):
        try:
            number = int(value) if kind == "int" else float(value)
        except ValueError:
            raise GrammarError(f"simulator: {name} takes a number, not {value!r}") from None
        if not 0 <= number <= 10**9:
            raise GrammarError(f"simulator: {name} is from 0 to 10^9, not {value!r}")
        return number
    if name in _QUOTED:
        return unquote(value)
    if name in CHOICES and value not in CHOICES[name]:
        raise GrammarError(f"simulator: {name} is one of {', '.join(CHOICES[name])}; not {value!r}")
    return value


def _check(options: Options) -> None:
    if options.prompt >= 0 and options.prompt < max(options.cached, 0) + max(options.write, 0):
        raise GrammarError("simulator: prompt is the whole input, cached and write are parts of it")
    if options.write_1h > max(options.write, 0):
        raise GrammarError("simulator: write_1h is a part of write")
    if options.out >= 0 and options.reasoning > options.out:
        raise GrammarError("simulator: reasoning is a part of out")
