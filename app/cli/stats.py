"""`flask stats …`: statistics."""

from zoneinfo import ZoneInfo

import click

from app.adapters.clock import now_ms
from app.adapters.mongo.stats import StatsStore
from app.cli.base import Group, current_settings, json_option
from app.cli.output import print_json, print_table
from app.cli.store import open_store
from app.core.periods import ADMIN_PERIODS


@click.group("stats", cls=Group)
def command() -> None:
    """Statistics."""


@command.command("models")
@click.option("--period", type=click.Choice(ADMIN_PERIODS), default="24h", show_default=True)
@json_option
def model_stats(period: str, as_json: bool) -> None:
    """Requests, tokens, cost and latency of every model; `today` begins at midnight in STATS_TIMEZONE."""
    settings = current_settings()
    with open_store(settings) as db:
        rows = StatsStore(db).model_stats(period, now_ms(), ZoneInfo(settings.stats_timezone))
    if as_json:
        print_json({"models": rows, "period": period})
        return
    print_table(
        (
            *("MODEL", "REQUESTS>", "FAILED>", "INPUT>", "OUTPUT>", "CACHE WRITE>", "CACHE HIT>", "COST>"),
            *("AVG MS>", "P50>", "P95>", "P99>", "TTFT MS>"),
        ),
        (
            (
                row["model"],
                row["requestCount"],
                row["errorCount"],
                row["inputTokens"],
                row["outputTokens"],
                row["cacheWriteTokens"],
                row["cacheHitTokens"],
                f"${row['creditsBurned']:.6f}",
                row["avgLatencyMs"],
                row["p50LatencyMs"],
                row["p95LatencyMs"],
                row["p99LatencyMs"],
                row["avgTtftMs"],
            )
            for row in rows
        ),
        f"No requests in this period ({period}).",
    )
