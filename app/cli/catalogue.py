"""The model table beside what the upstream offers: `weir models sync` and `weir prices diff --upstream`."""

import click

from app.cli.base import fail
from app.cli.doctor import look_into_store
from app.cli.output import print_json, shown
from app.cli.upstream_checks import upstream_for_commands
from app.common.display import counted
from app.ohmygpt.asking import NotTold, ask
from app.ohmygpt.catalogue import MAX_BODY, CatalogueError, Comparison, compare, offered_ids
from app.pricing.model_file import load_models
from app.settings import Settings
from app.upstream.transport import LIST_MODELS


def show_catalogue(settings: Settings, *, as_json: bool) -> bool:
    """Print what is new upstream, gone from it, or without a price; return whether there is nothing to do."""
    found = compare(load_models(settings.models_file), _offered(settings))
    if as_json:
        print_json(
            {
                "new": list(found.new),
                "gone": list(found.gone),
                "unpriced": list(found.unpriced),
                "agreeing": found.agreeing,
                "unpricedModels": settings.unpriced_models,
            }
        )
    else:
        _print(found, settings)
    return found.is_even


def _offered(settings: Settings) -> tuple[str, ...]:
    """Return what the first host offers that tells."""
    _, pool, proxies = look_into_store(settings)
    key = pool.some_key() if pool is not None else None
    if key is None:
        fail("there is no upstream key to ask with: weir doctor says why, weir keys add ID adds one")
    found: tuple[str, ...] | None = None
    problems = []
    for base_url in settings.ohmygpt_base_url:
        upstream = upstream_for_commands(settings, base_url, proxies)
        try:
            found = offered_ids(ask(upstream, key, LIST_MODELS, most=MAX_BODY))
            break
        except (NotTold, CatalogueError) as error:
            problems.append(f"{base_url}: {error}")
        finally:
            upstream.close()
    if proxies is not None:
        proxies.close()
    if found is None:
        fail(f"the upstream's models cannot be read: {'; '.join(problems)}")
    return found


def _print(found: Comparison, settings: Settings) -> None:
    allowed = settings.unpriced_models == "unmetered"
    usable = "usable without a price by callers without credit" if allowed else "unknown to clients"
    for ids, sign, what in (
        (found.new, "+", f"offered, and not in the table: {usable}"),
        (found.gone, "-", "in the table, and not offered under its upstream_id"),
        (found.unpriced, "!", "offered, and free of charge in the table"),
    ):
        if ids:
            click.echo(f"{what}:")
        for model_id in ids:
            click.echo(f"  {sign} {shown(model_id)}")
    agreeing = counted(found.agreeing, "offered models are", one="offered model is")
    click.echo(f"{agreeing} in the table with a price.")
