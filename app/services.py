"""The adapters and the gateway over them, put together: what a worker runs, without Flask."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
import pymongo
from gevent.threadpool import ThreadPool
from pymongo.database import Database
from pymongo.errors import PyMongoError

from app.adapters.clock import SystemClock
from app.adapters.credit_gate import MongoCreditGate
from app.adapters.directory import CachedDirectory
from app.adapters.embedded_mongo import EmbeddedMongo
from app.adapters.journal import JournaledQueue
from app.adapters.key_cipher import KeyCipher
from app.adapters.key_pool import SharedKeyPool
from app.adapters.key_shares import KeyShares
from app.adapters.key_sync import KeySync
from app.adapters.metrics.vitals import Vitals
from app.adapters.metrics.worker_metrics import WorkerMetrics
from app.adapters.mongo.backup_keys import BackupKeyStore
from app.adapters.mongo.client_keys import ClientKeyStore
from app.adapters.mongo.connection import connect, store_problem
from app.adapters.mongo.credit_holds import CreditHolds
from app.adapters.mongo.key_rotation import KeyRotation
from app.adapters.mongo.key_shares import KeyShareStore
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.provider_keys import ProviderKeyStore
from app.adapters.mongo.proxies import ProxyStore
from app.adapters.mongo.proxy_bindings import BindingStore
from app.adapters.mongo.users import UserStore, hash_password
from app.adapters.proxy_check import ProxyChecker
from app.adapters.proxy_pool import ProxyPool
from app.adapters.rate_limiter import SharedRateLimiter
from app.adapters.reloading import LiveModelTable, Reloader
from app.adapters.upstream import RequestsUpstream
from app.core.key_states import Policy
from app.core.ports import RateLimiter, RecordSink, RequestObserver
from app.core.pricing import ModelTable
from app.exchange.admission import Admission
from app.exchange.attempts import AttemptLoop
from app.exchange.handler import Gateway
from app.management.administration import Administration, Changes, build_administration
from app.settings import Settings, generated_secret

_PING_TIMEOUT_S = 2.0
_PASSWORD_THREADS = 2


@dataclass(slots=True)
class Services:
    """Everything a worker runs, for those who start and stop it (the gunicorn hooks)."""

    settings: Settings
    worker_id: str
    database: Database[dict[str, Any]]
    queue: JournaledQueue
    directory: CachedDirectory
    key_pool: SharedKeyPool
    key_sync: KeySync
    rate_limiter: RateLimiter
    gateway: Gateway
    upstream: RequestsUpstream
    proxies: "OutboundProxies | None"
    models: LiveModelTable
    vitals: Vitals
    metrics: WorkerMetrics
    reloader: Reloader
    backup_keys: BackupKeyStore
    password_threads: ThreadPool
    administration: Administration


@dataclass(frozen=True, slots=True)
class OutboundProxies:
    """The proxies between this worker and the upstream, and what checks them."""

    pool: ProxyPool
    checker: ProxyChecker


def build_services(settings: Settings, load_models: Callable[[], ModelTable], clock: SystemClock) -> Services:
    """The adapters and the gateway over them; `load_models` reads the model table, now and at a reload."""
    models = LiveModelTable(load_models())
    worker_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
    uri = settings.mongodb_uri.get_secret_value() if settings.mongodb_uri else _embedded_uri(settings)
    database = connect(uri, settings.mongodb_db_name)
    cipher = KeyCipher(generated_secret(settings.data_dir, "secret-key", settings.secret_key))
    directory = _directory(settings, database, clock)
    env_keys = [key.get_secret_value() for key in settings.ohmygpt_api_keys]
    policy = Policy(probe_after_s=settings.key_probe_after_s)
    key_pool = SharedKeyPool(env_keys, start=os.getpid(), policy=policy, divides_limits=True)
    key_sync = KeySync(
        key_pool,
        ProviderKeyStore(database, cipher),
        KeyStateStore(database),
        KeyRotation(database, cipher),
        shares=KeyShares(worker_id, key_pool, KeyShareStore(database)),
    )
    queue = JournaledQueue(settings.log_queue_size)
    credit = MongoCreditGate(directory, CreditHolds(database), clock=clock.monotonic)
    metrics = WorkerMetrics(lambda: {model.id for model in models})
    rate_limiter = _rate_limiter(settings, worker_id)
    vitals = Vitals(queue, key_pool, credit.counts, lambda: metrics.recorder.in_flight, rate_limiter)
    metrics.watch(vitals)
    proxies = _outbound_proxies(settings, database, cipher)
    upstream = _upstream(settings, proxies)
    # Deriving a password takes tenths of a second of CPU: in a thread it holds up no stream. Few threads of
    # its own, since the hub's also sync the journal and look up names; and only values go in, since pymongo's
    # connections belong to this thread's event loop.
    password_threads = ThreadPool(_PASSWORD_THREADS)
    admission = _admission(settings, clock, models, directory, credit, rate_limiter)
    attempts = AttemptLoop(
        keys=key_pool,
        upstream=upstream,
        max_attempts=settings.upstream_max_attempts,
        max_total_s=settings.upstream_read_timeout_s,
    )
    return Services(
        settings=settings,
        worker_id=worker_id,
        database=database,
        queue=queue,
        directory=directory,
        key_pool=key_pool,
        key_sync=key_sync,
        rate_limiter=rate_limiter,
        gateway=_gateway(
            settings, clock, admission, attempts, directory, credit, sink=queue, observer=metrics.recorder
        ),
        upstream=upstream,
        proxies=proxies,
        models=models,
        vitals=vitals,
        metrics=metrics,
        reloader=_reloader(settings, models, load_models, key_pool, key_sync, directory, database),
        backup_keys=BackupKeyStore(database, cipher),
        password_threads=password_threads,
        administration=build_administration(
            settings,
            database,
            cipher,
            Changes(directory.invalidate_user, directory.invalidate_key_id, key_sync.refresh),
            derive=lambda password: password_threads.apply(hash_password, (password,)),
        ),
    )


def _directory(settings: Settings, database: Database[dict[str, Any]], clock: SystemClock) -> CachedDirectory:
    return CachedDirectory(
        UserStore(database),
        ClientKeyStore(database),
        clock=clock.monotonic,
        spawn=gevent.spawn,
        proxy_api_key=settings.proxy_api_key.get_secret_value() if settings.proxy_api_key else None,
    )


def _upstream(settings: Settings, proxies: OutboundProxies | None) -> RequestsUpstream:
    return RequestsUpstream(
        settings.ohmygpt_base_url,
        connect_timeout_s=settings.upstream_connect_timeout_s,
        read_timeout_s=settings.upstream_read_timeout_s,
        auth=settings.upstream_auth,
        proxies=proxies.pool if proxies else None,
    )


def _admission(
    settings: Settings,
    clock: SystemClock,
    models: ModelTable,
    directory: CachedDirectory,
    credit: MongoCreditGate,
    rate_limiter: RateLimiter,
) -> Admission:
    return Admission(
        rate_limiter=rate_limiter,
        directory=directory,
        credit=credit,
        models=models,
        clock=clock,
        default_rpm=settings.rate_limit_rpm,
        max_body_bytes=settings.max_body_bytes,
    )


def _gateway(
    settings: Settings,
    clock: SystemClock,
    admission: Admission,
    attempts: AttemptLoop,
    directory: CachedDirectory,
    credit: MongoCreditGate,
    *,
    sink: RecordSink,
    observer: RequestObserver,
) -> Gateway:
    return Gateway(
        admission=admission,
        attempts=attempts,
        directory=directory,
        credit=credit,
        sink=sink,
        refuses_when_full=settings.journal_full == "refuse",
        clock=clock,
        on_client_abort=settings.on_client_abort,
        abort_drain_s=settings.abort_drain_s,
        default_anthropic_version=settings.default_anthropic_version,
        observer=observer,
    )


def _outbound_proxies(
    settings: Settings, database: Database[dict[str, Any]], cipher: KeyCipher
) -> OutboundProxies | None:
    if settings.upstream_proxy_pool == "off":
        return None
    store = ProxyStore(database, cipher)
    allow_direct = settings.upstream_proxy_fallback_direct == "on"
    pool = ProxyPool(store, BindingStore(database), allow_direct=allow_direct)
    timeout_s = settings.upstream_connect_timeout_s
    return OutboundProxies(pool, ProxyChecker(pool, store, settings.ohmygpt_base_url, timeout_s=timeout_s))


def _reloader(
    settings: Settings,
    models: LiveModelTable,
    load_models: Callable[[], ModelTable],
    key_pool: SharedKeyPool,
    key_sync: KeySync,
    directory: CachedDirectory,
    database: Database[dict[str, Any]],
) -> Reloader:
    return Reloader(
        settings.data_dir / "reload",
        models=models,
        load_models=load_models,
        refresh_keys=key_sync.refresh,
        count_keys=lambda: len(key_pool.snapshot()),
        directory=directory,
        store_problem=lambda: unreachable(database),
    )


def unreachable(database: Database[dict[str, Any]]) -> str | None:
    """Why the store does not answer, in one line; None when it does. Takes two seconds at most."""
    try:
        with pymongo.timeout(_PING_TIMEOUT_S):
            database.command("ping")
    except PyMongoError as error:
        return store_problem(error)
    return None


def _embedded_uri(settings: Settings) -> str:
    """Where the embedded server of the data directory listens, whether it runs yet or not."""
    return EmbeddedMongo(settings.data_dir, settings.mongod_bin).uri


def _rate_limiter(settings: Settings, worker_id: str) -> RateLimiter:
    if settings.rate_limit_storage_uri:
        from app.adapters.storage_rate_limiter import StorageRateLimiter  # noqa: PLC0415  see its head

        return StorageRateLimiter(settings.rate_limit_storage_uri, time.time)
    return SharedRateLimiter(worker_id, time.time)
