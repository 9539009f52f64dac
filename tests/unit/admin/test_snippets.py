"""What is shown to be copied can be read by what it is for."""

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from app.admin.snippets import Examples, examples, snippets
from app.pricing.model_table import ModelTable
from tests.clients.catalogue import CLIENTS

KEY = "sk-weir-0123456789"
URL = "https://weir.example.com"
MODELS = Examples("gpt-5.4", "claude-sonnet-5-5", "claude-haiku-5-5")
SHOWN = {snippet.name: snippet.text for snippet in snippets(URL, KEY, MODELS)}


def test_each_has_the_key_and_the_address():
    assert set(SHOWN) == {"curl", "openai", "anthropic", "claude-code", "codex", "open-webui"}
    for text in SHOWN.values():
        assert KEY in text
        assert URL in text


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_python_is_python(name):
    ast.parse(SHOWN[name])


def test_curl_sends_json():
    words = shlex.split(SHOWN["curl"].replace("\\\n", " "))
    assert words[:3] == ["curl", "-N", f"{URL}/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "gpt-5.4"
    assert f"Authorization: Bearer {KEY}" in words


@pytest.mark.parametrize(("name", "client"), [("claude-code", "claude-code"), ("codex", "codex-provider")])
def test_programs_are_set_up_as_those_that_were_run_against_weir(name, client):
    [ran] = [one for one in CLIENTS if one.name == client]
    given = {"url": URL, "key": KEY, "model": MODELS.chat if name == "codex" else MODELS.messages}
    given["small_model"] = MODELS.small
    for variable, value in ran.variables.items():
        assert f"export {variable}={value.format(**given)}" in SHOWN[name]
    for text in ran.files.values():
        assert text.format(**given).strip() in SHOWN[name]


def test_the_configuration_of_codex_can_be_read():
    text = re.search(r"<<'END'\n(.*)\nEND\n", SHOWN["codex"], re.DOTALL)
    provider = tomllib.loads(text[1])["model_providers"]["weir"]
    assert (provider["base_url"], provider["env_key"]) == (f"{URL}/v1", "WEIR_KEY")


def test_models_are_those_that_are_offered():
    table = ModelTable.from_toml(Path("models.toml").read_text())
    assert examples(table) == Examples("gpt-6.1-sol", "claude-sonnet-5-5", "claude-haiku-5-5")
    few = Path("tests/support/models.toml").read_text()
    for name in vars_of(examples(ModelTable.from_toml(few))):
        assert ModelTable.from_toml(few).resolve(name) is not None


def vars_of(found: Examples) -> tuple[str, ...]:
    return found.chat, found.messages, found.small
