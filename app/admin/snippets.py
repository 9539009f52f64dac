"""What a program needs to call Weir with a new key, ready to be copied: as docs/clients.md has it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.pricing.model_table import ModelTable

_CHAT = ("gpt-6.1-sol", "gpt-5.4", "gpt-5")
_MESSAGES = ("claude-sonnet-5-5", "claude-sonnet-4-5")
_SMALL = ("claude-haiku-5-5", "claude-haiku-4-5")


@dataclass(frozen=True, slots=True)
class Snippet:
    """What to type for one program; `note` says where it belongs."""

    name: str
    title: str
    text: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """Models that the snippets ask for: all of them offered."""

    chat: str
    messages: str
    small: str


def examples(models: ModelTable) -> Examples:
    """Choose models to show: well-known ones where they are offered, else the first of their kind."""
    ids = [model.id for model in models]

    def first(wanted: Iterable[str], prefix: str) -> str:
        found = next((name for name in wanted if models.resolve(name) is not None), None)
        return found or next((name for name in ids if name.startswith(prefix)), ids[0] if ids else "MODEL")

    messages = first(_MESSAGES, "claude-")
    return Examples(first(_CHAT, "gpt-"), messages, first((*_SMALL, messages), "claude-haiku"))


def snippets(base_url: str, key: str, models: Examples) -> Iterator[Snippet]:
    """Yield them for this address, as browsers see it (`https://weir.example.com`), and this key."""
    yield Snippet(
        "curl",
        "curl",
        f"""curl -N {base_url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{models.chat}", "stream": true, "messages": [{{"role": "user", "content": "hi"}}]}}'""",
    )
    yield Snippet(
        "openai",
        "OpenAI SDK (Python)",
        f"""from openai import OpenAI

client = OpenAI(base_url="{base_url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{models.chat}", messages=[{{"role": "user", "content": "hi"}}]
)
print(answer.choices[0].message.content)""",
        "pip install openai",
    )
    yield Snippet(
        "anthropic",
        "Anthropic SDK (Python)",
        f"""from anthropic import Anthropic

client = Anthropic(base_url="{base_url}", api_key="{key}")
answer = client.messages.create(
    model="{models.messages}", max_tokens=100, messages=[{{"role": "user", "content": "hi"}}]
)
print(answer.content[0].text)""",
        "pip install anthropic",
    )
    yield Snippet(
        "claude-code",
        "Claude Code",
        f"""export ANTHROPIC_BASE_URL={base_url}
export ANTHROPIC_AUTH_TOKEN={key}
export ANTHROPIC_DEFAULT_HAIKU_MODEL={models.small}
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
claude --model {models.messages}""",
    )
    yield Snippet(
        "codex",
        "Codex CLI",
        f"""export WEIR_KEY={key}
cat >> ~/.codex/config.toml <<'END'
model = "{models.chat}"
model_provider = "weir"

[model_providers.weir]
name = "Weir"
base_url = "{base_url}/v1"
env_key = "WEIR_KEY"
wire_api = "responses"
END
codex""",
        "For a new config.toml; in one that has something already, the first two lines go to its head.",
    )
    yield Snippet(
        "open-webui",
        "Open WebUI",
        f"""OPENAI_API_BASE_URL={base_url}/v1
OPENAI_API_KEY={key}""",
        "In its environment; or Admin Settings, Connections, OpenAI API: the same URL and key.",
    )
