"""The simulator's independent bill, against amounts worked out by hand from vendors' lists."""

import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.pricing.model_table import ModelTable
from simulator.bill import PriceList

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PRICES = PriceList(
    {
        "input": "2",
        "output": "10",
        "cache_hit": "0.2",
        "cache_write": "2.5",
        "cache_write_1h": "4",
        "input_audio": "6",
        "output_image": "30",
    },
    {"web_search": "0.01", "second": "0.0001"},
    tiers=((272_000, {"input": "4", "output": "15", "cache_hit": "0.4"}),),
    service_tiers={"flex": "0.5", "priority": "2"},
    changes=((NOW, {"input": "1"}),),
)
BEFORE = NOW - timedelta(microseconds=1)


def tokens(fresh: int = 0, read: int = 0, write: int = 0, hour: int = 0, output: int = 0) -> dict[str, int]:
    return {
        "fresh": fresh,
        "cache_read": read,
        "cache_write_5m": write,
        "cache_write_1h": hour,
        "output": output,
        "reasoning": output // 2,
    }


@pytest.mark.parametrize(
    ("spent", "units", "more", "nano"),
    [
        (tokens(200, 2000, 400, 0, 9), {}, {}, 1_890_000),
        (tokens(200, 2000, 300, 100, 9), {}, {}, 2_040_000),
        (tokens(200, 2000, 400, 0, 9), {"web_search": 2}, {}, 21_890_000),
        (tokens(200, 2000, 400, 0, 9), {"web_search": 2}, {"tier": "flex"}, 20_945_000),
        (tokens(200, 2000, 400, 0, 9), {}, {"tier": "priority", "factor": "0.8"}, 3_024_000),
        (tokens(200, 2000, 400, 0, 9), {}, {"tier": "default", "began": NOW}, 1_690_000),
        (tokens(272_000, output=1), {}, {}, 544_010_000),
        (tokens(1, 272_000, output=1), {}, {}, 108_819_000),
        (tokens(272_001), {}, {"began": NOW}, 1_088_004_000),
        (tokens(200, output=1300), {"output_image": 1100.0}, {}, 35_400_000),
        (tokens(110, output=20), {"input_audio": 100.0}, {}, 820_000),
        (None, {"second": 12.5}, {}, 1_250_000),
        (None, {}, {}, 0),
    ],
)
def test_an_answer_costs_what_the_list_says(
    spent: dict[str, int] | None, units: dict[str, float], more: dict[str, Any], nano: int
) -> None:
    assert PRICES.cost_nano(spent, units, **{"began": BEFORE} | more) == nano


def test_a_request_is_rounded_once_and_half_up() -> None:
    odd = PriceList({"input": "0.0001", "output": "0.0004"})
    assert odd.cost_nano(tokens(1, output=1), {}, began=NOW) == 1  # half a nano-dollar
    assert odd.cost_nano(tokens(4), {}, began=NOW) == 0


def test_the_list_is_an_entry_of_a_model_table() -> None:
    text = PRICES.toml("gpt-bill")
    (entry,) = tomllib.loads(text)["models"]
    assert entry["changes"] == [{"from": NOW, "input": "1"}]
    (model,) = ModelTable.from_toml(text)
    assert model.id == "gpt-bill"
