"""What `weir doctor` looks at, one function per concern; nothing here changes the installation."""

import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.accounts.users import UserStore
from app.cli.base import cipher_of
from app.common.display import counted
from app.keys.key_pool import KeyView, SharedKeyPool
from app.keys.key_state_store import KeyStateStore
from app.keys.key_sync import KeySync
from app.keys.provider_keys import ProviderKeyStore
from app.pricing.model_table import ModelTable
from app.pricing.table_parser import ModelTableError
from app.settings import Settings
from app.store.connection import server_version
from app.store.driver import store_problem
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_bindings import BindingStore
from app.upstream.proxy_pool import ProxyPool

_TIMEOUT_S = 5.0
_LOW_DISK_MB = 500
_MB = 1024 * 1024


class CheckState(StrEnum):
    """How a check came out. Only `FAILED` keeps the proxy from doing its work."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `advice` says what to do about it."""

    name: str
    state: CheckState
    detail: str
    advice: str = ""


def check_data_dir(settings: Settings) -> Iterator[Check]:
    """Check that the journal, the embedded database and generated secrets have a place."""
    name, path = "data directory", settings.data_dir
    if not path.exists():
        state = CheckState.FAILED if settings.mongodb_uri is None else CheckState.WARNING
        advice = "set DATA_DIR as the service has it; a new one is made by weir init"
        yield Check(name, state, f"{path} does not exist", advice)
        return
    try:
        for directory in (path, path / "journal"):
            if directory.exists():
                with tempfile.TemporaryFile(dir=directory):
                    pass
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        advice = "let the user who runs Weir write there, or set DATA_DIR"
        yield Check(name, CheckState.FAILED, f"{path} cannot be written: {error.strerror}", advice)
        return
    free_mb = shutil.disk_usage(path).free // _MB
    missing_mb = settings.journal_max_mb - _size(path / "journal") // _MB - free_mb
    if mode & 0o077:
        advice = f"chmod 700 {path}"
        yield Check(name, CheckState.WARNING, f"{path} holds secrets and is open to other users", advice)
    elif free_mb < _LOW_DISK_MB:
        yield Check(
            name, CheckState.WARNING, f"{path} has only {free_mb} MB left", "make room: the journal needs it"
        )
    elif missing_mb > 0:
        detail = f"{path} has {free_mb} MB left, {missing_mb} MB less than the journal may grow"
        yield Check(name, CheckState.WARNING, detail, "make room, or lower JOURNAL_MAX_MB")
    else:
        yield Check(name, CheckState.OK, f"{path} can be written, {free_mb} MB free")


def _size(directory: Path) -> int:
    """Sum up the bytes of all files below; what goes meanwhile counts as nothing."""
    size = 0
    for folder, _, files in os.walk(directory):  # unlike rglob, it passes over folders that go meanwhile
        for name in files:
            with suppress(OSError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def check_models(settings: Settings) -> Iterator[Check]:
    """Check that there is a model to serve, with a price."""
    name, path = "models", settings.models_file
    advice = "correct the file, or set MODELS_FILE"
    try:
        models = ModelTable.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelTableError) as error:
        yield Check(name, CheckState.FAILED, f"{path}: {error}", advice)
        return
    if len(models) == 0:
        yield Check(name, CheckState.FAILED, f"{path} has no [[models]]", advice)
    else:
        yield Check(name, CheckState.OK, f"{counted(len(models), 'models')} in {path}")


def check_store(db: Database[dict[str, Any]], settings: Settings) -> Iterator[Check]:
    """Check that the database answers and takes writes."""
    kind = "embedded MongoDB" if settings.mongodb_uri is None else "MONGODB_URI"
    try:
        version = server_version(db)
        users = sum(1 for _ in UserStore(db).list())
    except PyMongoError as error:
        yield failed_store(store_problem(error), settings)
        return
    unacknowledged = _try_writing(db)
    if unacknowledged is not None:
        yield unacknowledged
        return
    yield Check("store", CheckState.OK, f"{kind} {version}, database {db.name}, reads and writes")
    if users or settings.proxy_api_key is not None:
        yield Check("users", CheckState.OK, counted(users, "users"))
    else:
        yield Check("users", CheckState.WARNING, "nobody can call yet", "weir users add NAME --credits 5")


def _try_writing(db: Database[dict[str, Any]]) -> Check | None:
    """Write and delete a document; return what is wrong if that is not acknowledged within seconds."""
    try:
        with pymongo.timeout(_TIMEOUT_S):
            scratch = db["doctor_scratch"]
            marker = scratch.insert_one({"_id": uuid4().hex}).inserted_id
            scratch.delete_one({"_id": marker})
    except PyMongoError as error:
        detail = f"reads are answered, writes are not acknowledged: {store_problem(error)}"
        advice = "see rs.status(): most members that hold data have to run; an arbiter holds none"
        return Check("store", CheckState.FAILED, detail, advice)
    return None


def failed_store(reason: str, settings: Settings) -> Check:
    """Return the store's line when it cannot be used."""
    advice = "see the reason; commands need it, running proxies journal meanwhile"
    if settings.mongodb_uri is not None:
        advice = "check MONGODB_URI, and that the server runs and lets this machine in"
    return Check("store", CheckState.FAILED, reason, advice)


def read_pool(db: Database[dict[str, Any]] | None, settings: Settings, now: datetime) -> SharedKeyPool:
    """Return the key pool as a worker would see it now."""
    pool = SharedKeyPool([key.get_secret_value() for key in settings.ohmygpt_api_keys], now=lambda: now)
    if db is not None:
        KeySync(pool, ProviderKeyStore(db, cipher_of(settings)), KeyStateStore(db)).look()
    return pool


def check_keys(states: list[KeyView]) -> Iterator[Check]:
    """Check that there is an upstream key to use, and report those that cannot be used."""
    name, usable = "upstream keys", sum(state.available for state in states)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(s.status for s in states).items())
    idle = [state.key_id for state in states if not state.available]
    if not states:
        advice = "weir keys add ID, or OHMYGPT_API_KEYS; if the service has that, set it here as well"
        detail = "there is no key, neither stored nor in this environment: every request is answered with 503"
        yield Check(name, CheckState.FAILED, detail, advice)
    elif not usable:
        yield Check(
            name, CheckState.FAILED, f"no key can be used: {counts}", "weir keys list, weir keys reset ID"
        )
    elif idle:
        detail = f"{usable} of {len(states)} can be used ({counts}); not {', '.join(idle[:5])}"
        yield Check(name, CheckState.WARNING, detail, "weir keys list, weir keys reset ID")
    else:
        yield Check(name, CheckState.OK, f"{usable} can be used")


def read_proxies(db: Database[dict[str, Any]] | None, settings: Settings) -> ProxyPool | None:
    """Return the proxies as a worker would see them now; None when they are not to be used."""
    if settings.upstream_proxy_pool == "off" or db is None:
        return None
    allow_direct = settings.upstream_proxy_fallback_direct == "on"
    pool = ProxyPool(ProxyStore(db, cipher_of(settings)), BindingStore(db), allow_direct=allow_direct)
    pool.refresh()
    return pool


def check_proxies(proxies: ProxyPool | None) -> Iterator[Check]:
    """Report how the outbound proxies fare; nothing is said where there are none and none are needed."""
    health = proxies.health() if proxies is not None else {}
    failing = [proxy_id for proxy_id, state in health.items() if not state.is_usable]
    if proxies is not None and not health and not proxies.allow_direct:
        detail = "there is none, and UPSTREAM_PROXY_FALLBACK_DIRECT is off: every request fails"
        yield Check("proxies", CheckState.FAILED, detail, "weir proxies add ID, or weir proxies enable ID")
    elif failing:
        detail = f"{len(health) - len(failing)} of {len(health)} can be used; not {', '.join(failing[:5])}"
        yield Check("proxies", CheckState.WARNING, detail, "weir proxies check")
    elif health:
        yield Check("proxies", CheckState.OK, f"{len(health)} can be used")
