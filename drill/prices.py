"""The drill's own model table and arithmetic, so that costs are computed twice."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

CHAT_MODEL, MESSAGES_MODEL, DEAR_MODEL = "gpt-drill", "claude-drill", "gpt-dear"

_PRICES = {
    # fresh, output, 5-minute write, 1-hour write, cache hit: odd numbers, so that rounding matters
    CHAT_MODEL: ("1.37", "11.13", "1.71", "2.77", "0.137"),
    MESSAGES_MODEL: ("3.01", "15.07", "3.7603", "6.0201", "0.3007"),
    DEAR_MODEL: ("0.01", "1000", "0.01", "0.01", "0.01"),
}
_FIELDS = ("input", "output", "cache_write", "cache_write_1h", "cache_hit")


def model_table() -> str:
    """Return what `MODELS_FILE` is to hold."""
    tables = []
    for model, prices in _PRICES.items():
        lines = [f"{name} = {price}" for name, price in zip(_FIELDS, prices, strict=True)]
        tables.append("\n".join(["[[models]]", f'id = "{model}"', *lines]))
    return "\n\n".join(tables) + "\n"


def cost_nano(model: str, tokens: Mapping[str, Any]) -> int:
    """Return what tokens (as the simulator's tally names them) cost, in nano-dollars, rounded half up."""
    fresh, output, write_5m, write_1h, hit = map(Decimal, _PRICES[model])
    total = (
        fresh * tokens["fresh"]
        + output * tokens["output"]
        + write_5m * tokens["cache_write_5m"]
        + write_1h * tokens["cache_write_1h"]
        + hit * tokens["cache_read"]
    )
    return int((total * 1000).quantize(Decimal(1), ROUND_HALF_UP))


def recorded_tokens(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts of a record under the tally's names."""
    write_1h = record.get("cacheWrite1hTokens") or 0
    return {
        "fresh": record["inputTokens"],
        "cache_read": record["cacheHitTokens"],
        "cache_write_5m": record["cacheWriteTokens"] - write_1h,
        "cache_write_1h": write_1h,
        "output": record["outputTokens"],
        "reasoning": record["reasoningTokens"],
    }
