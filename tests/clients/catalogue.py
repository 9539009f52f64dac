"""The clients: what is installed, how it is run, and how it is pointed at Weir."""

import json
import platform
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.clients.cases import SECRET_WORD, Ask
from tests.clients.environments import NODE, NodeEnvironment, PythonEnvironment, node
from tests.clients.running import Client

CHAT_MODEL = "gpt-5.4"
MESSAGES_MODEL = "claude-sonnet-5-5"
"""Both are in the table of models that Weir comes with."""

_DRIVERS = Path(__file__).with_name("drivers")
_SETTINGS = {
    "WEIR_URL": "{url}",
    "WEIR_KEY": "{key}",
    "WEIR_MODEL": "{model}",
    # The simulator makes ids from what is asked: two users who ask the same would be told the same.
    "WEIR_PROMPT": "What does a weir do? ({user} asks)",
}


def _python(
    name: str,
    title: str,
    driver: str,
    endpoint: str,
    version: str,
    *,
    environment: str | None = None,
    package: str | None = None,
    **more: object,
) -> Client:
    place = PythonEnvironment(environment or name)
    return Client(
        name,
        title,
        package or place.name,
        version,
        endpoint,
        MESSAGES_MODEL if endpoint == "messages" else CHAT_MODEL,
        [place.program(), "-W", "ignore", str(_DRIVERS / f"{driver}.py"), "{ask}"],
        [place],
        _SETTINGS | {"WEIR_ENDPOINT": endpoint},
        stops_itself=True,
        **more,  # type: ignore[arg-type]
    )


def _node(
    name: str,
    title: str,
    driver: str,
    endpoint: str,
    version: str,
    package: str,
    *,
    environment: str | None = None,
    way: str | None = None,
    **more: object,
) -> Client:
    place = NodeEnvironment(environment or name)

    return Client(
        name,
        title,
        package,
        version,
        endpoint,
        MESSAGES_MODEL if endpoint == "messages" else CHAT_MODEL,
        [node(), str(_DRIVERS / f"{driver}.mjs"), "{ask}", str(place.directory)],
        [NODE, place],
        _SETTINGS | {"WEIR_ENDPOINT": way or endpoint},
        stops_itself=True,
        **more,  # type: ignore[arg-type]
    )


def _claude_code() -> Client:
    place = NodeEnvironment("claude-code")
    program = place.program("@anthropic-ai/claude-code-linux-{machine}/claude")
    return Client(
        "claude-code",
        "Claude Code",
        "@anthropic-ai/claude-code",
        "2.1.332",
        "messages",
        MESSAGES_MODEL,
        [program, "-p", "What does a weir do?", "--model", "{model}", "--allowedTools", "Read"],
        [place],
        {
            "ANTHROPIC_BASE_URL": "{url}",
            "ANTHROPIC_AUTH_TOKEN": "{key}",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-5-5",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        tool='Read:{"file_path":"{directory}/note.txt"}',
        streams=False,
        in_ci=True,
        is_program=True,
    )


def _opencode() -> Client:
    place = NodeEnvironment("opencode")
    program = place.program("opencode-linux-x64-baseline/bin/opencode")
    config = {
        "provider": {
            "weir": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "Weir",
                "options": {"baseURL": "{url}/v1", "apiKey": "{key}"},
                "models": {"{model}": {}},
            }
        },
        "model": "weir/{model}",
        "small_model": "weir/{model}",
        "autoupdate": False,
        "share": "disabled",
    }
    return Client(
        "opencode",
        "opencode",
        "opencode-ai",
        "1.18.33",
        "chat",
        CHAT_MODEL,
        [program, "run", "--model", "weir/{model}", "What does a weir do?"],
        [place],
        {"OPENCODE_DISABLE_MODELS_FETCH": "1"},
        {".config/opencode/opencode.json": json.dumps(config, indent=2)},
        tool='read:{"filePath":"{directory}/note.txt"}',
        streams=False,
        is_program=True,
    )


def _aider() -> Client:
    place = PythonEnvironment("aider")
    command = (
        f"{place.program('aider')} --model openai/{{model}} --weak-model openai/{{model}} --no-git "
        "--yes-always --no-check-update --analytics-disable --no-show-model-warnings "
        "--no-show-release-notes --no-pretty"
    )
    return Client(
        "aider",
        "aider",
        "aider-chat",
        "0.86.2",
        "chat",
        CHAT_MODEL,
        [*command.split(), "--message", "What does a weir do?"],
        [place],
        {"OPENAI_API_BASE": "{url}/v1", "OPENAI_API_KEY": "{key}", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        skips={"tool": "it calls no tools: edits are read from the text"},
        most=9,
        fails_quietly=frozenset(("no-credit", "unknown-model", "wrong-key")),
        is_program=True,
    )


def _llm() -> Client:
    place = PythonEnvironment("llm")
    models = (
        "- model_id: weir\n  model_name: {model}\n  api_base: {url}/v1\n"
        "  api_key_name: weir\n  supports_tools: true\n"
    )
    look = "def look(query: str, limit: int, exact: bool) -> str:\n    return open('note.txt').read()"
    return Client(
        "llm",
        "llm",
        "llm",
        "0.36",
        "chat",
        CHAT_MODEL,
        [place.program("llm"), "-m", "weir", "What does a weir do?"],
        [place],
        {"LLM_USER_PATH": "{home}/llm"},
        {"llm/extra-openai-models.yaml": models, "llm/keys.json": '{"weir": "{key}"}'},
        more={Ask.PLAIN: ["--no-stream"], Ask.TOOL: ["--functions", look]},
        is_program=True,
    )


def _codex(name: str, title: str, variable: str, config: str) -> Client:
    place = NodeEnvironment("codex")
    target = f"{platform.machine()}-unknown-linux-musl"
    program = place.program(f"@openai/codex-linux-{{machine}}/vendor/{target}/bin/codex")
    return Client(
        name,
        title,
        "@openai/codex",
        "0.171.0",
        "responses",
        CHAT_MODEL,
        [program, "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "What does a weir do?"],
        [place],
        {variable: "{key}"},
        {".codex/config.toml": config},
        tool='exec_command:{"cmd":"cat note.txt"}',
        streams=False,
        in_ci=True,
        is_program=True,
    )


_BOTH = ("chat", "messages")
_ALL = (*_BOTH, "responses")
_FORCED: dict[str, Any] = {
    "shows": {"plain": SECRET_WORD, "streamed": "query='weir'"},
    "streams": False,
    "skips": {"tool": "each of its requests is a tool call", "cancel": "the stream is the vendor's SDK's"},
}
_SDK_VERSIONS = (
    ("", "3.57.0", "2.14.0", "7.59.0", "1.14.0"),
    ("-old", "1.109.0", "0.70.0", "5.23.2", "0.137.0"),
)


def _sdks() -> Iterator[Client]:
    for old, *versions in _SDK_VERSIONS:
        of_openai, of_anthropic, of_openai_node, of_anthropic_node = versions
        for endpoint in ("chat", "responses"):
            yield _python(
                f"openai-{endpoint}{old}",
                "OpenAI SDK (Python)",
                f"openai_{endpoint}",
                endpoint,
                of_openai,
                environment=f"openai{old}",
                package="openai",
            )
            yield _node(
                f"openai-node-{endpoint}{old}",
                "OpenAI SDK (Node)",
                f"openai_{endpoint}",
                endpoint,
                of_openai_node,
                "openai",
                environment=f"openai{old}",
                in_ci=not old,
            )
        yield _python(
            f"anthropic{old}",
            "Anthropic SDK (Python)",
            "anthropic_messages",
            "messages",
            of_anthropic,
            package="anthropic",
        )
        yield _node(
            f"anthropic-node{old}",
            "Anthropic SDK (Node)",
            "anthropic_messages",
            "messages",
            of_anthropic_node,
            "@anthropic-ai/sdk",
            environment=f"anthropic{old}",
            in_ci=not old,
        )


def _ai_sdk() -> Iterator[Client]:
    for package, way, endpoint, version in (
        ("openai", "responses", "responses", "4.0.118"),
        ("openai", "chat", "chat", "4.0.118"),
        ("openai-compatible", "compatible", "chat", "3.0.92"),
        ("anthropic", "messages", "messages", "4.0.105"),
    ):
        yield _node(
            f"ai-sdk-{way}",
            "Vercel AI SDK",
            "ai_sdk",
            endpoint,
            version,
            f"@ai-sdk/{package}",
            environment="ai-sdk",
            way=way,
        )


def _langchain() -> Iterator[Client]:
    for vendor, endpoint, version in (
        ("openai", "chat", "1.7.4"),
        ("openai", "responses", "1.7.4"),
        ("anthropic", "messages", "1.7.10"),
    ):
        yield _python(
            f"langchain-{endpoint}",
            "LangChain",
            f"langchain_{vendor}_session",
            endpoint,
            version,
            environment="langchain",
            package=f"langchain-{vendor}",
        )


_KNOWS: dict[str, Any] = {
    "skips": {"unknown-model": "it knows the vendor's names, and refuses others itself"}
}
_LIBRARIES: tuple[tuple[str, str, str, str, tuple[str, ...], dict[str, Any]], ...] = (
    ("llama-index", "LlamaIndex", "llama-index-llms-openai-like", "0.8.1", ("chat",), {}),
    ("llama-index", "LlamaIndex", "llama-index-llms-anthropic", "0.12.3", ("messages",), _KNOWS),
    ("llama-index", "LlamaIndex", "llama-index-llms-openai", "0.8.3", ("responses",), _KNOWS),
    ("pydantic-ai", "Pydantic AI", "pydantic-ai-slim", "2.68.0", _ALL, {}),
    ("instructor", "Instructor", "instructor", "1.17.0", _BOTH, _FORCED),
    ("openai-agents", "OpenAI Agents SDK", "openai-agents", "0.24.0", ("chat", "responses"), {}),
    ("litellm", "LiteLLM SDK", "litellm", "1.110.2", _ALL, {}),
)


def _libraries() -> Iterator[Client]:
    for name, title, package, version, endpoints, more in _LIBRARIES:
        for endpoint in endpoints:
            yield _python(
                f"{name}-{endpoint}",
                title,
                f"{name.replace('-', '_')}_session",
                endpoint,
                version,
                environment=name,
                package=package,
                **more,
            )


CLIENTS: tuple[Client, ...] = (
    _claude_code(),
    _codex("codex", "Codex CLI", "CODEX_API_KEY", 'model = "{model}"\nopenai_base_url = "{url}/v1"\n'),
    _codex(
        "codex-provider",
        "Codex CLI, a provider of its own",
        "WEIR_KEY",
        'model = "{model}"\nmodel_provider = "weir"\n\n[model_providers.weir]\nname = "Weir"\n'
        'base_url = "{url}/v1"\nenv_key = "WEIR_KEY"\nwire_api = "responses"\n',
    ),
    _opencode(),
    _aider(),
    _llm(),
    *_sdks(),
    *_ai_sdk(),
    *_langchain(),
    *_libraries(),
)


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}-")


def chosen(patterns: Iterable[str]) -> list[Client]:
    """The clients of these names or families of names (`openai`, `*-chat`); raises `KeyError` for others."""
    found: list[Client] = []
    for pattern in patterns:
        fitting = [client for client in CLIENTS if _is_meant(client.name, pattern)]
        if not fitting:
            raise KeyError(pattern)
        found += [client for client in fitting if client not in found]
    return found
