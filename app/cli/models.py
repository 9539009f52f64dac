"""`weir models …`: the model table, beside what the upstream offers."""

import click

from app.cli.base import Group, current_settings, json_option
from app.cli.catalogue import show_catalogue


@click.group("models", cls=Group)
def command() -> None:
    """Compare the model table with what the upstream offers."""


@command.command("sync")
@click.option(
    "--from-upstream", is_flag=True, required=True, help="Read GET /v1/models with a key of the pool."
)
@click.option("--check", is_flag=True, help="Exit with status 1 unless table and upstream agree.")
@json_option
@click.pass_context
def sync(ctx: click.Context, from_upstream: bool, check: bool, as_json: bool) -> None:
    """Show which models are new upstream, gone from it, or without a price in the table.

    Nothing is changed: what a new model costs is not known. Give it an entry in MODELS_FILE.
    """
    is_even = show_catalogue(current_settings(), as_json=as_json)
    if check and not is_even:
        ctx.exit(1)
