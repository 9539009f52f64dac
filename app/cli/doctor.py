"""`flask doctor`: checks the installation and says what to do."""

from collections.abc import Iterator
from typing import Any

import click
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.adapters.clock import now_ms
from app.adapters.embedded_mongo import EmbeddedMongoError
from app.adapters.key_pool import SharedKeyPool
from app.adapters.mongo.connection import store_problem
from app.adapters.proxy_pool import ProxyPool
from app.cli import checks, store_checks
from app.cli.base import current_settings, json_option
from app.cli.checks import Check, State
from app.cli.output import print_json, shown
from app.cli.store import open_store
from app.core.ports import Lease
from app.settings import Settings, SettingsError

_SIGNS = {State.OK: "✓", State.WARNING: "!", State.FAILED: "✗"}
_COLOURS = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red"}


@click.command("doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check configuration, store, data directory, upstream and keys; exit status 1 if one of them fails."""
    done = []
    for check in run_checks(current_settings()):
        done.append(check)
        if not as_json:
            _print(check)
    is_sound = all(check.state is not State.FAILED for check in done)
    if as_json:
        rows = [
            {"name": check.name, "state": str(check.state), "detail": check.detail, "advice": check.advice}
            for check in done
        ]
        print_json({"ok": is_sound, "checks": rows})
    if not is_sound:
        ctx.exit(1)


def run_checks(settings: Settings) -> Iterator[Check]:
    """Every check in turn, as it comes out."""
    # With an invalid variable, or model file, no command gets this far: loading the application says so.
    yield Check("configuration", State.OK, "every variable is valid")
    yield from checks.check_data_dir(settings)
    yield from checks.check_models(settings)
    found, pool, proxies = _look_into_store(settings)
    yield from found
    yield from checks.check_keys(pool.snapshot())
    yield from checks.check_proxies(proxies)
    lease = pool.acquire(frozenset())
    yield from checks.check_upstream(settings, lease.key if isinstance(lease, Lease) else None, proxies)
    if proxies is not None:
        proxies.close()


def _look_into_store(settings: Settings) -> tuple[list[Check], SharedKeyPool, ProxyPool | None]:
    try:
        with open_store(settings) as db:
            found = list(checks.check_store(db, settings))
            is_up = all(check.state is not State.FAILED for check in found)
            if is_up:
                found += _look_closer(db, settings)
            usable = db if is_up else None
            pool = checks.read_pool(usable, settings, now_ms())
            return found, pool, checks.read_proxies(usable, settings)
    except PyMongoError as error:
        reason = store_problem(error)
    except (EmbeddedMongoError, SettingsError, OSError) as error:
        reason = str(error)
    return [checks.failed_store(reason, settings)], checks.read_pool(None, settings, now_ms()), None


def _look_closer(db: Database[dict[str, Any]], settings: Settings) -> Iterator[Check]:
    now = now_ms()
    yield from store_checks.check_server(db)
    yield from store_checks.check_secrets(db, settings, now)
    yield from store_checks.check_retention(db, settings)
    yield from store_checks.check_earlier_software(db, settings, now)
    yield from store_checks.check_prices(db, settings, now)


def _print(check: Check) -> None:
    sign = click.style(_SIGNS[check.state], fg=_COLOURS[check.state], bold=True)
    advice = f" → {check.advice}" if check.advice else ""
    click.echo(f"{sign} {check.name}: {shown(check.detail)}{advice}")
