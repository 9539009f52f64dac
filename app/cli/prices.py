"""`weir prices …`: the model table and what it lacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.cli.base import Group, current_settings, fail, json_option
from app.cli.catalogue import show_catalogue
from app.cli.output import print_json, print_table, shown
from app.cli.period_option import period_of, period_options
from app.cli.price_history import explain, preview, versions
from app.cli.store import open_store
from app.common.clock import now_ms
from app.common.display import counted
from app.management.views.models import missing_models_view
from app.management.views.prices import (
    ConditionView,
    PriceRowView,
    condition_view,
    model_prices_view,
    prices_view,
)
from app.pricing.library_diff import Disagreement, compare_with_library
from app.pricing.model_file import load_models
from app.pricing.price_library import PACKAGE, LibraryMissing, PriceLibrary
from app.statistics.stats_store import StatsStore


@click.group("prices", cls=Group)
def command() -> None:
    """Look at the model table."""


for _kept in (versions, explain, preview):
    command.add_command(_kept)

_HEADINGS = {
    "input": "INPUT>",
    "cache_hit": "CACHE HIT>",
    "cache_write": "CACHE WRITE>",
    "cache_write_1h": "WRITE 1H>",
    "output": "OUTPUT>",
}
"""Kinds of tokens that have a column; the prices of others are beside them."""


@command.command("list")
@click.argument("pattern", default="")
@json_option
def list_prices(pattern: str, as_json: bool) -> None:
    """Show models and what they cost: all, or those with a name like PATTERN (`claude`, `gpt-5*`)."""
    table = load_models(current_settings().models_file)
    found = prices_view(table, pattern, now_ms())
    if as_json:
        print_json(found)
        return
    print_table(
        ("MODEL", *_HEADINGS.values(), "OTHERS", "MORE"),
        (
            (
                model["id"],
                *(model["prices"][0]["tokens"].get(unit) for unit in _HEADINGS),
                _others(model["prices"][0]),
                _more(model["prices"]),
            )
            for model in found["models"]
        ),
        f"No model is like {shown(pattern)!r}.",
    )
    if found["models"]:
        click.echo(f"USD per million tokens, else for one. {counted(len(found['models']), 'models')}.")


@command.command("show")
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show all that the table says of MODEL, which may be spelt as clients may spell it."""
    table = load_models(current_settings().models_file)
    found = table.resolve(model)
    if found is None:
        near = ", ".join(table.near(model))
        fail(f"the table has no {model!r}{f'; it has {near}' if near else ''}")
    view = model_prices_view(found, now_ms())
    rule = table.rule(model)
    if as_json:
        print_json({**view, "asked": model, "rule": rule})
        return
    window, output = view["contextWindow"], view["maxOutput"]
    click.echo(f"{shown(view['id'])} ({shown(view['name'])})")
    for name, value in (
        ("asked for as", f"{shown(model)}: {rule}"),
        ("aliases", ", ".join(view["aliases"]) or "none"),
        ("upstream id", view["upstreamId"]),
        ("context window", "not said" if window is None else f"{window:,} tokens"),
        ("largest output", "not said" if output is None else f"{output:,} tokens"),
        ("multiplier", view["multiplier"]),
    ):
        click.echo(f"  {name:<16}{value}")
    print_table(
        ("USD PER MILLION TOKENS", *_HEADINGS.values(), "OTHERS"),
        (
            (
                _condition(row),
                *(row["tokens"].get(unit) for unit in _HEADINGS),
                _others(row, beside=view["prices"][0] if number else None),
            )
            for number, row in enumerate(view["prices"])
        ),
        "",
    )


@command.command("diff")
@click.option(
    "--library", "source", flag_value="library", default=True, help=f"Compare with {PACKAGE} (default)."
)
@click.option("--upstream", "source", flag_value="upstream", help="Compare ids with GET /v1/models.")
@click.option("--check", is_flag=True, help="Exit with status 1 unless both agree.")
@json_option
@click.pass_context
def diff(ctx: click.Context, source: str, check: bool, as_json: bool) -> None:
    """Show where the table and a source of truth differ; nothing is changed."""
    settings = current_settings()
    if source == "upstream":
        is_even = show_catalogue(settings, as_json=as_json)
    else:
        is_even = _show_library(settings.models_file, as_json=as_json)
    if check and not is_even:
        ctx.exit(1)


@command.command("missing")
@period_options()
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@json_option
def missing(period: str | None, from_: str | None, to: str | None, limit: int, as_json: bool) -> None:
    """Show models that clients asked for in vain; what users need may be a line in the table away."""
    settings, asked = current_settings(), period_of(period, from_, to)
    table = load_models(settings.models_file)
    with open_store(settings, reads_only=True) as db:
        rows, searched_to = StatsStore(db).missing_models(asked, limit)
    shown = missing_models_view(rows, searched_to, table, asked.name)
    if as_json:
        print_json(shown)
        return
    print_table(
        ("MODEL", "REQUESTS>", "USERS>", "LAST", "NOW", "LOOKS LIKE"),
        (
            (
                "(several)" if row["model"] is None else row["model"],
                row["requests"],
                row["users"],
                row["lastAt"],
                "known" if row["isKnownNow"] else "unknown",
                ", ".join(row["near"]),
            )
            for row in shown["models"]
        ),
        f"No request for an unknown model in this period ({asked}).",
    )
    if shown["searchedTo"] is not None:
        click.echo(f"Refused requests before {shown['searchedTo']} were not looked through.")


def _show_library(models_file: Path, *, as_json: bool) -> bool:
    """Print where the table and the installed library differ; return whether they agree."""
    try:
        library = PriceLibrary.installed()
    except LibraryMissing as error:
        fail(str(error))
    found = compare_with_library(load_models(models_file), library, now_ms())
    if as_json:
        print_json(
            {
                "library": f"{PACKAGE} {found.version}",
                "compared": found.compared,
                "differences": [_difference(each) for each in found.disagreements],
                "unknown": list(found.unknown),
            }
        )
        return not found.disagreements
    print_table(
        ("MODEL", "PRICE OF", "WHERE", "TABLE>", "LIBRARY>"),
        (
            (
                row["model"],
                row["unit"],
                _condition(row["condition"]),
                row["table"] or "none",
                row["library"] or "none",
            )
            for row in map(_difference, found.disagreements)
        ),
        f"No price differs from {PACKAGE} {found.version}.",
    )
    click.echo(f"{counted(found.compared, 'models are', one='model is')} in both.")
    if found.unknown:
        click.echo(f"Not in the library: {', '.join(found.unknown)}.")
    return not found.disagreements


def _difference(found: Disagreement) -> dict[str, Any]:
    model, (condition, unit, table, library) = found
    return {
        "model": model,
        "unit": unit,
        "condition": condition_view(condition),
        "table": None if table is None else format(table, "f"),
        "library": None if library is None else format(library, "f"),
    }


def _condition(row: ConditionView) -> str:
    """Say under what prices hold."""
    said = []
    if row["effectiveFrom"] is not None:
        said.append(f"from {row['effectiveFrom'].removesuffix('T00:00:00.000Z')}")
    if row["serviceTier"] is not None:
        said.append(row["serviceTier"])
    if row["inferenceGeo"] is not None:
        said.append(f"in {row['inferenceGeo']}")
    if row["aboveInputTokens"] is not None:
        said.append(f"above {row['aboveInputTokens']:,} tokens")
    return shown(", ".join(said) or "standard")


def _others(row: PriceRowView, *, beside: PriceRowView | None = None) -> str:
    """Name the prices that have no column, but for those that are as in another row."""
    prices = {**row["tokens"], **row["units"]}
    same = {} if beside is None else {**beside["tokens"], **beside["units"]}
    return ", ".join(
        f"{unit} {price}"
        for unit, price in prices.items()
        if unit not in _HEADINGS and same.get(unit) != price
    )


def _more(rows: Sequence[PriceRowView]) -> str:
    """Say under what else there are other prices."""
    limits = sorted({row["aboveInputTokens"] for row in rows if row["aboveInputTokens"] is not None})
    others = [row["serviceTier"] or row["inferenceGeo"] for row in rows]
    dates = [row["effectiveFrom"] for row in rows]
    said = [
        *(f"above {limit:,}" for limit in limits),
        *dict.fromkeys(other for other in others if other is not None),
        *dict.fromkeys(f"from {date[:10]}" for date in dates if date is not None),
    ]
    return ", ".join(said)
