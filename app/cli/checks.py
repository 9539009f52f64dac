"""What `flask doctor` looks at, one function per concern; nothing here changes the installation."""

import shutil
import socket
import ssl
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
from urllib.parse import urlsplit
from uuid import uuid4

from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.adapters.key_pool import KeyView, SharedKeyPool
from app.adapters.key_sync import KeySync
from app.adapters.mongo.connection import server_version, store_problem
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.provider_keys import ProviderKeyStore
from app.adapters.mongo.proxies import ProxyStore
from app.adapters.mongo.proxy_bindings import BindingStore
from app.adapters.mongo.users import UserStore
from app.adapters.proxy_pool import ProxyPool
from app.adapters.upstream import RequestsUpstream
from app.cli.base import cipher_of
from app.core.ports import ProviderKey, UpstreamFailure, UpstreamRequest
from app.core.pricing import ModelTable, ModelTableError
from app.settings import Settings

_TIMEOUT_S = 5.0
_LOW_DISK_MB = 500
_MB = 1024 * 1024
_OK = 200
_KEY_REFUSED = (401, 402, 403)


class State(StrEnum):
    """How a check came out. Only `FAILED` keeps the proxy from doing its work."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `advice` says what to do about it."""

    name: str
    state: State
    detail: str
    advice: str = ""


def check_data_dir(settings: Settings) -> Iterator[Check]:
    """Whether the journal, the embedded database and generated secrets have a place."""
    name, path = "data directory", settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (path, path / "journal"):
            if directory.exists():
                with tempfile.TemporaryFile(dir=directory):
                    pass
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        advice = "let the user who runs Weir write there, or set DATA_DIR"
        yield Check(name, State.FAILED, f"{path} cannot be written: {error.strerror}", advice)
        return
    free_mb = shutil.disk_usage(path).free // _MB
    missing_mb = settings.journal_max_mb - _size(path / "journal") // _MB - free_mb
    if mode & 0o077:
        advice = f"chmod 700 {path}"
        yield Check(name, State.WARNING, f"{path} holds secrets and is open to other users", advice)
    elif free_mb < _LOW_DISK_MB:
        yield Check(
            name, State.WARNING, f"{path} has only {free_mb} MB left", "make room: the journal needs it"
        )
    elif missing_mb > 0:
        detail = f"{path} has {free_mb} MB left, {missing_mb} MB less than the journal may grow"
        yield Check(name, State.WARNING, detail, "make room, or lower JOURNAL_MAX_MB")
    else:
        yield Check(name, State.OK, f"{path} can be written, {free_mb} MB free")


def _size(directory: Path) -> int:
    """Bytes of all files below; what goes meanwhile counts as nothing."""
    size = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size
    return size


def check_models(settings: Settings) -> Iterator[Check]:
    """Whether there is a model to serve, with a price."""
    name, path = "models", settings.models_file
    advice = "correct the file, or set MODELS_FILE"
    try:
        models = ModelTable.from_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelTableError) as error:
        yield Check(name, State.FAILED, f"{path}: {error}", advice)
        return
    if len(models) == 0:
        yield Check(name, State.FAILED, f"{path} has no [[models]]", advice)
    else:
        yield Check(name, State.OK, f"{len(models)} models in {path}")


def check_store(db: Database[dict[str, Any]], settings: Settings) -> Iterator[Check]:
    """Whether the database answers and takes writes."""
    kind = "embedded MongoDB" if settings.mongodb_uri is None else "MONGODB_URI"
    try:
        version = server_version(db)
        scratch = db["doctor_scratch"]
        marker = scratch.insert_one({"_id": uuid4().hex}).inserted_id
        scratch.delete_one({"_id": marker})
        users = sum(1 for _ in UserStore(db).list())
    except PyMongoError as error:
        yield failed_store(store_problem(error), settings)
        return
    yield Check("store", State.OK, f"{kind} {version}, database {db.name}, reads and writes")
    if users or settings.proxy_api_key is not None:
        yield Check("users", State.OK, f"{users} users")
    else:
        yield Check("users", State.WARNING, "nobody can call yet", "flask users add NAME --credits 5")


def failed_store(reason: str, settings: Settings) -> Check:
    """The store's line when it cannot be used."""
    advice = "see the reason; flask commands need it, running proxies journal meanwhile"
    if settings.mongodb_uri is not None:
        advice = "check MONGODB_URI, and that the server runs and lets this machine in"
    return Check("store", State.FAILED, reason, advice)


def read_pool(db: Database[dict[str, Any]] | None, settings: Settings, now: datetime) -> SharedKeyPool:
    """The key pool as a worker would see it now."""
    pool = SharedKeyPool([key.get_secret_value() for key in settings.ohmygpt_api_keys], now=lambda: now)
    if db is not None:
        KeySync(pool, ProviderKeyStore(db, cipher_of(settings)), KeyStateStore(db)).look()
    return pool


def check_keys(states: list[KeyView]) -> Iterator[Check]:
    """Whether there is an upstream key to use, and which cannot be used."""
    name, usable = "upstream keys", sum(state.available for state in states)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(s.status for s in states).items())
    idle = [state.key_id for state in states if not state.available]
    if not states:
        advice = "flask keys add ID, or OHMYGPT_API_KEYS"
        yield Check(name, State.FAILED, "there is no key: every request is answered with 503", advice)
    elif not usable:
        yield Check(
            name, State.FAILED, f"no key can be used: {counts}", "flask keys list, flask keys reset ID"
        )
    elif idle:
        detail = f"{usable} of {len(states)} can be used ({counts}); not {', '.join(idle[:5])}"
        yield Check(name, State.WARNING, detail, "flask keys list, flask keys reset ID")
    else:
        yield Check(name, State.OK, f"{usable} can be used")


def read_proxies(db: Database[dict[str, Any]] | None, settings: Settings) -> ProxyPool | None:
    """The proxies as a worker would see them now; None when they are not to be used."""
    if settings.upstream_proxy_pool == "off" or db is None:
        return None
    allow_direct = settings.upstream_proxy_fallback_direct == "on"
    pool = ProxyPool(ProxyStore(db, cipher_of(settings)), BindingStore(db), allow_direct=allow_direct)
    pool.refresh()
    return pool


def check_proxies(proxies: ProxyPool | None) -> Iterator[Check]:
    """How the outbound proxies fare; nothing is said where there are none and none are needed."""
    health = proxies.health() if proxies is not None else {}
    failing = [proxy_id for proxy_id, state in health.items() if not state.is_usable]
    if proxies is not None and not health and not proxies.allow_direct:
        detail = "there is none, and UPSTREAM_PROXY_FALLBACK_DIRECT is off: every request fails"
        yield Check("proxies", State.FAILED, detail, "flask proxies add ID, or flask proxies enable ID")
    elif failing:
        detail = f"{len(health) - len(failing)} of {len(health)} can be used; not {', '.join(failing[:5])}"
        yield Check("proxies", State.WARNING, detail, "flask proxies check")
    elif health:
        yield Check("proxies", State.OK, f"{len(health)} can be used")


def check_upstream(
    settings: Settings, key: ProviderKey | None, proxies: ProxyPool | None = None
) -> Iterator[Check]:
    """Whether the upstream can be reached, the way requests go, and takes a key of the pool."""
    url = urlsplit(settings.ohmygpt_base_url)
    name, host = "upstream", url.hostname or ""
    is_forced = settings.upstream_proxy_pool == "on" and settings.upstream_proxy_fallback_direct == "off"
    if proxies is None and is_forced:
        detail = "not asked: UPSTREAM_PROXY_FALLBACK_DIRECT is off, and which proxies there are is not known"
        yield Check(name, State.WARNING, detail, "see to the store first")
        return
    is_direct = proxies is None or (proxies.allow_direct and not proxies.health())
    try:
        if is_direct:
            _connect(host, url.port or (443 if url.scheme == "https" else 80), tls=url.scheme == "https")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "check OHMYGPT_BASE_URL, the network and DNS"
        yield Check(name, State.FAILED, f"{host} cannot be reached: {reason}", advice)
        return
    if key is None:
        reached = f"{host} can be reached" if is_direct else f"{host} is reached through proxies"
        yield Check(name, State.WARNING, f"{reached}; without a key no more can be said")
        return
    yield _list_models(settings, host, key, proxies)


def _connect(host: str, port: int, *, tls: bool) -> None:
    with socket.create_connection((host, port), _TIMEOUT_S) as connection:
        if tls:
            with ssl.create_default_context().wrap_socket(connection, server_hostname=host):
                pass


def _list_models(settings: Settings, host: str, key: ProviderKey, proxies: ProxyPool | None) -> Check:
    upstream = RequestsUpstream(
        settings.ohmygpt_base_url,
        connect_timeout_s=_TIMEOUT_S,
        read_timeout_s=_TIMEOUT_S,
        auth=settings.upstream_auth,
        pool_size=1,
        proxies=proxies,
    )
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        reply = upstream.send(UpstreamRequest("GET", "/v1/models", "", headers, b""), key)
        status = reply.status
        reply.close()
    except UpstreamFailure as error:
        return Check("upstream", State.FAILED, f"{host}: {error}", "check OHMYGPT_BASE_URL and the network")
    finally:
        upstream.close()
    if status == _OK:
        return Check("upstream", State.OK, f"{host} answers and takes key {key.key_id}")
    if status in _KEY_REFUSED:
        detail = f"{host} refuses key {key.key_id} with {status}"
        return Check(
            "upstream", State.FAILED, detail, f"flask keys delete {key.key_id}, then add a valid one"
        )
    # Not every upstream lists models; that it answered at all is what counts.
    return Check("upstream", State.WARNING, f"{host} answered {status} to GET /v1/models")
