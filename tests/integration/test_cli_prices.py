"""`weir prices list|show|diff`, which need neither a database nor a network."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from app.cli import commands_app
from app.settings import Settings

TABLE = """
[[models]]
id = "gpt-5.5"
name = "GPT-5.5"
aliases = ["gpt-5.5-2026-04-23"]
input = 5
output = 31
cache_write = 5
cache_hit = 0.5
context_window = 1000000
units = { web_search = 0.01, file_search = 0.0025 }
tiers = [{ above_input_tokens = 272000, input = 10, output = 45, cache_write = 10, cache_hit = 1 }]
service_tiers.batch = { factor = 0.5 }
changes = [{ from = 2999-01-01, output = 50 }]

[[models]]
id = "own"
units = { image = 0.04 }
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    table = tmp_path / "models.toml"
    table.write_text(TABLE)
    invoke = commands_app(Settings(data_dir=tmp_path / "var", models_file=table)).test_cli_runner().invoke
    return lambda *args: invoke(args=["prices", *args])


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_has_every_model_or_those_that_are_like_something(run: Run) -> None:
    shown = ok(run("list"))
    assert "above 272,000, batch, from 2999-01-01" in shown
    assert "image 0.04" in shown
    assert "2 models." in shown
    assert "own" not in ok(run("list", "GPT"))
    assert "1 model." in ok(run("list", "gpt-5.5-*"))
    assert "No model is like 'x\N{REPLACEMENT CHARACTER}'." in ok(run("list", "x\x1b"))
    models = json.loads(ok(run("list", "--json")))["models"]
    assert [model["id"] for model in models] == ["gpt-5.5", "own"]
    assert models[0]["prices"][0] == {
        "effectiveFrom": None,
        "aboveInputTokens": None,
        "serviceTier": None,
        "inferenceGeo": None,
        "tokens": {
            "input": "5",
            "cache_hit": "0.5",
            "cache_write": "5",
            "cache_write_1h": "10",
            "output": "31",
        },
        "units": {"web_search": "0.01", "file_search": "0.0025"},
    }


def test_one_model_is_shown_in_full_with_the_rule_by_which_its_name_was_found(run: Run) -> None:
    shown = ok(run("show", "openai/GPT-5-5@20260423"))
    assert "gpt-5.5 (GPT-5.5)" in shown
    assert "another spelling, with its vendor in front" in shown
    assert "batch, above 272,000 tokens" in shown
    assert "from 2999-01-01" in shown
    assert "1,000,000 tokens" in shown
    for name, rule in (
        ("gpt-5.5", "its id"),
        ("gpt-5.5-2026-04-23", "an alias"),
        ("gpt-5.5-2027-01-01", "a snapshot, by its date"),
        ("own-latest", "the latest one"),
    ):
        assert json.loads(ok(run("show", name, "--json")))["rule"] == rule
    missing = run("show", "gpt-5.6")
    assert (missing.exit_code, missing.stderr) == (1, "Error: the table has no 'gpt-5.6'; it has gpt-5.5\n")


def test_the_difference_to_the_library_is_shown_and_is_an_exit_status(run: Run) -> None:
    shown = ok(run("diff"))
    assert "1 model is in both." in shown
    assert "Not in the library: own." in shown
    found = json.loads(ok(run("diff", "--library", "--json")))
    rows = [(row["unit"], row["condition"], row["table"], row["library"]) for row in found["differences"]]
    standard = dict.fromkeys(("effectiveFrom", "aboveInputTokens", "serviceTier", "inferenceGeo"))
    assert ("output", standard, "31", "30") in rows
    assert ("output", {**standard, "serviceTier": "flex"}, None, "15") in rows
    assert not any(unit == "input" and condition == standard for unit, condition, *_ in rows)
    assert run("diff", "--check").exit_code == 1


def test_without_the_library_is_said_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "genai_prices.data", None)
    result = run("diff")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == "Error: genai-prices is not installed, since Weir runs without it: pip install genai-prices\n"
    )
