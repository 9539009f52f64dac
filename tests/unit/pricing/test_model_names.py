"""Names by rule: every other spelling of a model's name means it, and nothing else does."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pricing.model_names import LONGEST, ModelNames, did_you_mean, undated
from app.pricing.model_table import ModelTable
from app.shipped import shipped_file

NAMES = ModelNames(
    {
        "gpt-5.2": "gpt-5.2",
        "gpt-4o": "gpt-4o",
        "gpt-4o-2024-05-13": "a dear snapshot",
        "claude-sonnet-4-5": "sonnet 4.5",
        "claude-3-5-sonnet-20241022": "sonnet 3.5",
        "claude-3-haiku-20240307": "haiku 3",
        "codex-mini-latest": "codex mini",
        "qwen/qwen3.8-max": "qwen",
        "azure:openai/gpt-6-sol": "azure's sol",
        "gpt-6-sol": "openai's sol",
        "x-1.1": "one of two",
        "x-1-1": "the other",
    },
    {"claude-3-5-sonnet": "sonnet 3.5", "Best": "sonnet 4.5", "gpt-4o-2024-08-06": "gpt-4o"},
)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-5-2", "gpt-5.2"),
        ("GPT-5.2", "gpt-5.2"),
        ("openai/gpt-5.2", "gpt-5.2"),
        ("openai:gpt-5.2", "gpt-5.2"),
        ("azure/gpt-5.2", "gpt-5.2"),
        ("azure:openai/gpt-5.2", "gpt-5.2"),
        ("gpt-5.2-2025-12-11", "gpt-5.2"),
        ("gpt-5.2-latest", "gpt-5.2"),
        ("claude-sonnet-4.5", "sonnet 4.5"),
        ("anthropic/claude-sonnet-4.5", "sonnet 4.5"),
        ("openrouter/anthropic/claude-sonnet-4.5", "sonnet 4.5"),
        ("claude-sonnet-4-5@20250929", "sonnet 4.5"),
        ("claude-sonnet-4-5-20250929", "sonnet 4.5"),
        ("claude-sonnet-4-5@latest", "sonnet 4.5"),
        ("Anthropic/Claude-Sonnet-4.5-20250929", "sonnet 4.5"),
        ("best", "sonnet 4.5"),
        ("Qwen/Qwen3.8-Max", "qwen"),
        # What a date says of snapshots.
        ("gpt-4o-20240513", "a dear snapshot"),
        ("gpt-4o@20240806", "gpt-4o"),
        ("gpt-4o-2025-01-01", "gpt-4o"),
        ("claude-3-5-sonnet@20241022", "sonnet 3.5"),
        ("claude-3-5-sonnet-latest", "sonnet 3.5"),
        ("claude-3.5-sonnet", "sonnet 3.5"),
        ("claude-3-5-sonnet-20240620", None),
        ("claude-3-haiku", "haiku 3"),
        ("claude-3-haiku-latest", "haiku 3"),
        ("claude-3-haiku-20250101", None),
        ("codex-mini", "codex mini"),
        ("codex-mini-2025-01-01", None),
        # Two models of one spelling, and two of one name but for the seller.
        ("X-1.1", None),
        ("x-1-1-2026-01-01", None),
        ("Azure:OpenAI/GPT-6-Sol", "azure's sol"),
        ("openai/gpt-6-sol", "openai's sol"),
        # Other models, however much they look like one.
        *(("gpt-5.2-pro", None), ("gpt-5", None), ("gpt-5.20", None), ("gpt-52", None), ("gpt5.2", None)),
        *(
            ("gpt-4o-mini", None),
            ("gpt-4o-2024-13-01", None),
            ("gpt-4o-0513", None),
            ("gpt-4o-preview", None),
        ),
        *(("deepseek/gpt-5.2", None), ("TA/openai/gpt-5.2", None), ("ft:gpt-4o", None), ("", None)),
        *(("openai/", None), ("latest", None), ("-latest", None), ("@20250101", None)),
        ("ｇpt-5.2", None),
        ("gpt-5.2" + " " * LONGEST, None),
    ],
)
def test_meaning(name: str, model: str | None) -> None:
    assert NAMES.meant(name) == model


SHIPPED = ModelTable.from_toml(shipped_file("models.toml").read_text(encoding="utf-8"))
_CASES = st.sampled_from([str.upper, str.lower, str.title, str])
_SELLERS = st.sampled_from(["", "openai/", "anthropic/", "azure:openai/", "openai:", "OpenRouter/OpenAI/"])


@given(st.sampled_from(SHIPPED.models), st.data(), _CASES, _SELLERS, st.booleans())
def test_every_spelling_of_a_shipped_name_means_its_model(
    model: object, data: st.DataObject, case: object, seller: str, dashes: bool
) -> None:
    name = data.draw(st.sampled_from([model.id, *model.aliases]))  # type: ignore[attr-defined]
    spelt = seller + case(name.replace(".", "-") if dashes else name)  # type: ignore[operator]
    assert SHIPPED.resolve(spelt) is model


@given(st.text(string.ascii_lowercase + string.digits + "-./:@", max_size=40))
def test_whatever_is_resolved_differs_from_a_name_in_spelling_alone(name: str) -> None:
    model = SHIPPED.resolve(name)
    if model is not None:
        shown = "".join(character for character in name if character.isalnum())
        assert any(
            undated(known.replace(".", "-")).replace("-latest", "").replace("-", "") in shown
            for known in (model.id, *model.aliases)
        )


def test_no_two_shipped_models_have_one_spelling() -> None:
    for model in SHIPPED:
        for name in (model.id, *model.aliases):
            assert SHIPPED.resolve(name.upper()) is model


def test_near_names_are_of_different_models_the_likest_first() -> None:
    assert NAMES.near("claude-4.5-sonnet")[0] == "claude-sonnet-4-5"
    assert NAMES.near("gpt-4") == ["gpt-4o", "gpt-4o-2024-05-13", "gpt-5.2"]
    assert NAMES.near("cluade-sonnet-4.5")[0] == "claude-sonnet-4-5"
    assert NAMES.near("llama") == NAMES.near("") == []
    assert len(SHIPPED.near("gpt-5")) == 3


@given(st.text(max_size=300))
def test_near_names_are_few_and_of_the_table(name: str) -> None:
    near = SHIPPED.near(name)
    assert len(near) <= 3
    assert all(SHIPPED.resolve(known) for known in near)


def test_long_names_cost_no_more_than_others() -> None:
    started = time.process_time()
    for _ in range(20):
        SHIPPED.near("claude-sonnet-" * 100_000)
        assert SHIPPED.resolve("claude-sonnet-" * 100_000) is None
    assert time.process_time() - started < 2


def test_the_question() -> None:
    assert did_you_mean([]) == ""
    assert did_you_mean(["a"]) == " Did you mean 'a'?"
    assert did_you_mean(["a", "b", "c"]) == " Did you mean 'a', 'b' or 'c'?"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gpt-5.2", "its id"),
        ("o3-2025-04-16", "an alias"),
        ("GPT-5-2", "another spelling"),
        ("azure:openai/gpt-5.2", "another spelling, with its vendor in front"),
        ("gpt-5.2-2026-01-01", "a snapshot, by its date"),
        ("gpt-5.2-latest", "the latest one"),
        ("claude-haiku-3.5", None),
        ("x" * 1000, None),
    ],
)
def test_people_are_told_by_which_rule_a_name_means_a_model(name: str, rule: str | None) -> None:
    assert SHIPPED.rule(name) == rule
    assert (SHIPPED.resolve(name) is None) == (rule is None)
