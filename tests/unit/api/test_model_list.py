"""The model list, in both vendors' shapes."""

import json
from typing import Any

import anthropic.types
import openai.types
import pytest

from app.accounts.limits import Limits
from app.accounts.principal import Principal
from app.api.model_list import ModelList
from app.pricing.model_table import ModelTable
from app.wires.errors import Refusal
from app.wires.wire_format import WireFormat

MODELS = ModelList(
    ModelTable.from_toml(
        """
        [[models]]
        id = "vendor/large"
        name = "Large"
        aliases = ["big"]
        input = 1
        output = 2
        context_window = 200000
        max_output = 64000

        [[models]]
        id = "small"
        input = 1
        output = 2
        """
    )
)


ANN = Principal("ann", "wk_ann")


def listed(wire_format: WireFormat, **query: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MODELS.listing(wire_format, query, ANN))
    return found


def test_openais_shape_tells_sizes_under_every_name_that_clients_read() -> None:
    large, small = listed(WireFormat.OPENAI)["data"]
    assert {name: large[name] for name in ("id", "object", "name", "display_name")} == {
        "id": "vendor/large",
        "object": "model",
        "name": "Large",
        "display_name": "Large",
    }
    window = ("context_window", "context_length", "max_model_len", "max_input_tokens")
    output = ("max_output_tokens", "max_completion_tokens")
    assert {large[name] for name in window} == {200_000}
    assert {large[name] for name in output} == {64_000}
    assert openai.types.Model.model_validate(large).owned_by
    assert not {*window, *output} & small.keys()  # unknown is not told as if it were known


def test_anthropics_shape_is_what_its_sdk_expects() -> None:
    large, small = listed(WireFormat.ANTHROPIC)["data"]
    info = anthropic.types.ModelInfo.model_validate(large, strict=False)
    assert (info.id, info.display_name, info.lifecycle) == ("vendor/large", "Large", "active")
    assert (info.max_input_tokens, info.max_tokens) == (200_000, 64_000)
    assert (small["max_input_tokens"], small["max_tokens"]) == (None, None)


def test_anthropics_list_has_pages() -> None:
    first = listed(WireFormat.ANTHROPIC, limit="1")
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, "vendor/large", "vendor/large")
    rest = listed(WireFormat.ANTHROPIC, limit="1", after_id=first["last_id"])
    assert (rest["has_more"], rest["data"][0]["id"]) == (False, "small")
    back = listed(WireFormat.ANTHROPIC, limit="1", before_id="small")
    assert (back["has_more"], back["data"][0]["id"]) == (False, "vendor/large")
    for limit in ("0", "1001", "x", "-1", "١"):
        with pytest.raises(Refusal):
            listed(WireFormat.ANTHROPIC, limit=limit)


@pytest.mark.parametrize("wire_format", WireFormat)
@pytest.mark.parametrize("name", ["vendor/large", "big", "Vendor/Large", "vendor/large-20260414"])
def test_one_model_by_any_of_its_names(wire_format: WireFormat, name: str) -> None:
    assert json.loads(MODELS.one(wire_format, name, ANN))["id"] == "vendor/large"


def test_no_model_by_another_name() -> None:
    with pytest.raises(Refusal, match="Did you mean 'small'"):
        MODELS.one(WireFormat.OPENAI, "smalls", ANN)
    with pytest.raises(Refusal) as refusal:
        MODELS.one(WireFormat.OPENAI, "x" * 100_000, ANN)
    assert len(refusal.value.message) < 400


def test_a_caller_sees_the_models_they_may_use() -> None:
    key, user = Limits(models=("vendor/*", "small*")), Limits(models=("vendor/*",))
    caller = Principal("ann", "wk_ann", key_limits=key, user_limits=user)
    for wire_format in WireFormat:
        found = json.loads(MODELS.listing(wire_format, {}, caller))["data"]
        assert found
        assert all(model["id"].startswith("vendor/") for model in found)
        assert len(found) < len(json.loads(MODELS.listing(wire_format, {}, ANN))["data"])
    with pytest.raises(Refusal):
        MODELS.one(WireFormat.OPENAI, "small", caller)
