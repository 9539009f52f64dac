"""`weir doctor`: checks the installation and says what to do."""

from collections.abc import Iterator
from typing import Any

import click
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.cli import checks, store_checks, upstream_checks
from app.cli.base import current_settings, json_option
from app.cli.checks import Check, CheckState
from app.cli.output import print_json, shown
from app.cli.store import open_store
from app.common.clock import now_ms
from app.common.errors import SettingsError, StoreUnavailable
from app.keys.key_pool import SharedKeyPool
from app.keys.lease import Lease
from app.settings import Settings
from app.store.driver import store_problem
from app.store.embedded_mongo import EmbeddedMongoError
from app.upstream.proxy_pool import ProxyPool

_SIGNS = {CheckState.OK: "✓", CheckState.WARNING: "!", CheckState.FAILED: "✗"}
_COLOURS = {CheckState.OK: "green", CheckState.WARNING: "yellow", CheckState.FAILED: "red"}


@click.command("doctor")
@click.option("--probe", is_flag=True, help="Try which endpoints the upstream has, at no cost.")
@json_option
@click.pass_context
def command(ctx: click.Context, probe: bool, as_json: bool) -> None:
    """Check configuration, store, data directory, upstream and keys; exit status 1 if one of them fails."""
    done = []
    for check in run_checks(current_settings(), probes=probe):
        done.append(check)
        if not as_json:
            _print(check)
    is_sound = all(check.state is not CheckState.FAILED for check in done)
    if as_json:
        rows = [
            {"name": check.name, "state": str(check.state), "detail": check.detail, "advice": check.advice}
            for check in done
        ]
        print_json({"ok": is_sound, "checks": rows})
    if not is_sound:
        ctx.exit(1)


def run_checks(settings: Settings, *, probes: bool = False) -> Iterator[Check]:
    """Run every check in turn, and yield each result as it comes out; with `probes` of each endpoint, too."""
    # With an invalid variable, or model file, no command gets this far: loading the application says so.
    yield Check("configuration", CheckState.OK, "every variable is valid")
    yield from checks.check_data_dir(settings)
    yield from checks.check_models(settings)
    found, pool, proxies = look_into_store(settings)
    yield from found
    if pool is None:  # what is stored cannot be read
        return
    yield from checks.check_keys(pool.snapshot())
    yield from checks.check_proxies(proxies)
    lease = pool.acquire(frozenset())
    key = lease.key if isinstance(lease, Lease) else None
    yield from upstream_checks.check_upstream(settings, key, proxies)
    if probes:
        yield from upstream_checks.probe_endpoints(settings, key, proxies)
    if proxies is not None:
        proxies.close()


def look_into_store(settings: Settings) -> tuple[list[Check], SharedKeyPool | None, ProxyPool | None]:
    """Return what was found in the store, and upstream keys and proxies as a worker would see them.

    Without the store there are the configured keys; with another SECRET_KEY there is nothing.
    """
    try:
        with open_store(settings, reads_only=True) as db:
            found = list(checks.check_store(db, settings))
            is_up = all(check.state is not CheckState.FAILED for check in found)
            if is_up:
                secret_key = list(store_checks.check_secret_key(db, settings))
                if any(check.state is CheckState.FAILED for check in secret_key):
                    return [*found, *secret_key], None, None
                found += [*secret_key, *_look_closer(db, settings)]
            usable = db if is_up else None
            pool = checks.read_pool(usable, settings, now_ms())
            return found, pool, checks.read_proxies(usable, settings)
    except PyMongoError as error:
        reason = store_problem(error)
    except (EmbeddedMongoError, SettingsError, StoreUnavailable, OSError) as error:
        reason = str(error)
    return [checks.failed_store(reason, settings)], checks.read_pool(None, settings, now_ms()), None


def _look_closer(db: Database[dict[str, Any]], settings: Settings) -> Iterator[Check]:
    now = now_ms()
    yield from store_checks.check_uri_options(settings)
    yield from store_checks.check_server(db)
    yield from store_checks.check_holds(db, now)
    yield from store_checks.check_secrets(db, settings, now)
    yield from store_checks.check_retention(db, settings)
    yield from store_checks.check_earlier_software(db, settings, now)
    yield from store_checks.check_prices(db, settings, now)
    yield from store_checks.check_doubtful_costs(db, now)
    yield from store_checks.check_account(db, settings, now)


def _print(check: Check) -> None:
    sign = click.style(_SIGNS[check.state], fg=_COLOURS[check.state], bold=True)
    advice = f" → {check.advice}" if check.advice else ""
    click.echo(f"{sign} {check.name}: {shown(check.detail)}{advice}")
