"""`weir bindings …`: which proxies an OhMyGPT key goes through."""

import click

from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.store import open_administration
from app.management.views.proxies import binding_view
from app.upstream.proxy_bindings import PRIORITIES

_LOWEST, _HIGHEST = PRIORITIES.start, PRIORITIES.stop - 1


@click.group("bindings", cls=Group)
def command() -> None:
    """Choose which proxies an OhMyGPT key goes through."""


@command.command("add")
@click.argument("proxy_id", metavar="PROXY")
@click.argument("key_id", metavar="KEY")
@click.option(
    "--priority",
    type=click.IntRange(_LOWEST, _HIGHEST),
    default=_LOWEST,
    show_default=True,
    help="1 comes first; equals take turns.",
)
@json_option
def add_binding(proxy_id: str, key_id: str, priority: int, as_json: bool) -> None:
    """Have key KEY go through proxy PROXY; running workers follow within seconds."""
    with open_administration(current_settings()) as administration:
        binding = administration.bindings.add(shell_actor(), proxy_id, key_id, priority)
    if as_json:
        print_json(binding_view(binding))
    else:
        click.echo(f"Key {key_id} goes through proxy {proxy_id}, priority {priority}.")


@command.command("list")
@json_option
def list_bindings(as_json: bool) -> None:
    """List the bindings by key, in the order in which they are used."""
    with open_administration(current_settings()) as administration:
        bindings = administration.bindings.list()
    if as_json:
        print_json({"bindings": [binding_view(binding) for binding in bindings]})
        return
    print_table(
        ("KEY", "PROXY", "PRIORITY>", "ACTIVE", "MADE"),
        (
            (
                stored.binding.key_id,
                stored.binding.proxy_id,
                stored.binding.priority,
                stored.is_active,
                stored.created_at,
            )
            for stored in bindings
        ),
        "No bindings: weir bindings add PROXY KEY",
    )


@command.command("delete")
@click.argument("proxy_id", metavar="PROXY")
@click.argument("key_id", metavar="KEY")
@json_option
def delete_binding(proxy_id: str, key_id: str, as_json: bool) -> None:
    """Unbind key KEY from proxy PROXY."""
    with open_administration(current_settings()) as administration:
        administration.bindings.delete(shell_actor(), proxy_id, key_id)
    if as_json:
        print_json({"proxyId": proxy_id, "ohmygptKeyId": key_id, "deleted": True})
    else:
        click.echo(f"Key {key_id} is not bound to proxy {proxy_id} any more.")
