"""`weir proxies …`: outbound proxies on the way to the upstream."""

from typing import Any

import click

from app.cli.base import Group, current_settings, json_option, shell_actor
from app.cli.output import print_json, print_table
from app.cli.secret_input import read_secret
from app.cli.store import open_administration
from app.common.display import counted
from app.management.proxies import ProxyChange
from app.management.views.proxies import proxies_view, proxy_view
from app.upstream.proxies import StoredProxy
from app.upstream.proxy_choice import ProxyKind

_KIND = click.Choice([kind.value for kind in ProxyKind])


@click.group("proxies", cls=Group)
def command() -> None:
    """Manage outbound proxies on the way to the upstream."""


@command.command("add")
@click.argument("proxy_id", metavar="ID")
@click.option("--type", "kind", type=_KIND, required=True, help="What it speaks.")
@click.option("--host", required=True, help="Its name or IP address.")
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--name", help="A name for people; ID if left out.")
@click.option("--username", help="Who to log in as; the password is asked for.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@json_option
def add_proxy(
    proxy_id: str, name: str | None, username: str | None, password_stdin: bool, as_json: bool, **where: Any
) -> None:
    """Add a proxy under ID; running workers use it within seconds."""
    if password_stdin and username is None:
        raise click.UsageError("--password-stdin needs --username")
    settings = current_settings()
    password = None
    if username is not None:
        password = read_secret("password", "--password-stdin", from_stdin=password_stdin)
    wanted = ProxyChange(name, where["kind"], where["host"], where["port"], username, password)
    with open_administration(settings) as administration:
        proxy = administration.proxies.add(shell_actor(), proxy_id, wanted)
    if as_json:
        print_json(proxy_view(proxy))
    else:
        click.echo(f"{proxy_id} is added; running workers use it within seconds.")


@command.command("list")
@json_option
def list_proxies(as_json: bool) -> None:
    """List the proxies and how they fare."""
    with open_administration(current_settings()) as administration:
        proxies = administration.proxies.list()
    if as_json:
        print_json(proxies_view(proxies))
        return
    print_table(
        ("ID", "NAME", "TYPE", "HOST", "PORT>", "LOGIN", "ACTIVE", "STATUS", "MS>", "CHECKED", "LAST ERROR"),
        (
            (
                *(proxy.proxy_id, proxy.name, proxy.kind, proxy.host, proxy.port, proxy.has_auth),
                *(proxy.is_active, proxy.health.status, proxy.health.latency_ms, proxy.health.checked_at),
                proxy.problem or proxy.health.last_error,
            )
            for proxy in proxies
        ),
        "No proxies: requests go to the upstream directly. weir proxies add ID",
    )


@command.command("check")
@click.argument("proxy_id", metavar="[ID]", required=False)
@json_option
@click.pass_context
def check_proxies(ctx: click.Context, proxy_id: str | None, as_json: bool) -> None:
    """Reach the upstream through proxy ID, or through each; exit status 1 if one does not get there."""
    with open_administration(current_settings()) as administration:
        store = administration.proxies
        if proxy_id is None:
            proxies = [proxy for proxy in store.list() if proxy.is_active]
        else:
            proxies = [store.get(proxy_id)]
        checked = []
        for proxy in proxies:
            checked.append(store.check(proxy))
            if not as_json:
                _print_check(checked[-1])
    is_sound = all(proxy.health.is_usable for proxy in checked)
    if as_json:
        print_json({"ok": is_sound, "proxies": [proxy_view(proxy) for proxy in checked]})
    elif not checked:
        click.echo("There is no active proxy.")
    if not is_sound:
        ctx.exit(1)


@command.command("enable")
@click.argument("proxy_id", metavar="ID")
@json_option
def enable_proxy(proxy_id: str, as_json: bool) -> None:
    """Use proxy ID again, as if nothing had been wrong with it."""
    _set_active(proxy_id, True, as_json)


@command.command("disable")
@click.argument("proxy_id", metavar="ID")
@json_option
def disable_proxy(proxy_id: str, as_json: bool) -> None:
    """Use proxy ID no more, and keep it and its bindings."""
    _set_active(proxy_id, False, as_json)


@command.command("delete")
@click.argument("proxy_id", metavar="ID")
@json_option
def delete_proxy(proxy_id: str, as_json: bool) -> None:
    """Delete proxy ID and its bindings."""
    with open_administration(current_settings()) as administration:
        unbound = administration.proxies.delete(shell_actor(), proxy_id)
    if as_json:
        print_json({"id": proxy_id, "deleted": True, "bindingsDeleted": unbound})
    else:
        click.echo(f"{proxy_id} is deleted, and {counted(unbound, 'bindings')} with it.")


def _set_active(proxy_id: str, is_active: bool, as_json: bool) -> None:
    with open_administration(current_settings()) as administration:
        change = ProxyChange(is_active=is_active)
        proxy = administration.proxies.change(shell_actor(), proxy_id, change)
    if as_json:
        print_json(proxy_view(proxy))
    else:
        click.echo(f"{proxy_id} is {'enabled' if is_active else 'disabled'}.")


def _print_check(proxy: StoredProxy) -> None:
    health = proxy.health
    if health.is_usable:
        click.echo(f"{click.style('✓', fg='green', bold=True)} {proxy.proxy_id}: {health.latency_ms} ms")
    else:
        click.echo(f"{click.style('✗', fg='red', bold=True)} {proxy.proxy_id}: {health.last_error}")
