"""The edges of all rooms and the gateway over them, put together: what a worker runs, without Flask."""

import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.threadpool import ThreadPool
from pymongo.database import Database

from app.accounts.client_keys import ClientKeyStore
from app.accounts.credentials import derived_secret
from app.accounts.directory import CachedDirectory
from app.accounts.rate_limiter import SharedRateLimiter
from app.accounts.rate_window import RateLimiter
from app.accounts.users import UserStore, hash_password
from app.alerts.alert_store import AlertStore
from app.alerts.conditions import Bounds, WorkerFacts, fees_of
from app.alerts.watch import AlertWatch
from app.common.clock import SystemClock
from app.credit.credit_gate import MongoCreditGate
from app.credit.credit_holds import CreditHolds
from app.exchange.admission import Admission
from app.exchange.attempts import AttemptLoop
from app.exchange.caller_limits import CallerLimits
from app.exchange.client_shares import ClientShares
from app.exchange.exchange import KeepAlive
from app.exchange.handler import Gateway
from app.exchange.ports import RecordSink, RequestObserver
from app.journal import JournaledQueue
from app.keys.backup_keys import BackupKeyStore
from app.keys.key_pool import SharedKeyPool
from app.keys.key_prober import TIMEOUT_S, KeyProber
from app.keys.key_rotation import KeyRotation
from app.keys.key_share_store import KeyShareStore
from app.keys.key_state_store import KeyStateStore
from app.keys.key_states import KeyStatus, Policy
from app.keys.key_sync import KeySync
from app.keys.provider_keys import ProviderKeyStore
from app.keys.worker_shares import KeyShares
from app.management.administration import Administration, Changes, build_administration, build_books
from app.management.audit import Actor
from app.management.price_book import UNSTORED, PriceBook
from app.management.price_history import PriceHistory
from app.metrics.gauges import WorkerGauges
from app.metrics.worker_metrics import WorkerMetrics
from app.objects.known_objects import KnownObjects
from app.objects.object_store import ObjectStore
from app.ohmygpt import account
from app.ohmygpt.asking import NotTold, ask, ask_any
from app.ohmygpt.catalogue import MAX_BODY, offered_ids
from app.ohmygpt.live_account import LiveAccount
from app.ohmygpt.live_catalogue import LiveCatalogue
from app.ohmygpt.readings import Readings
from app.persistence.store_watch import unreachable
from app.pricing.charge import ReasoningPlace
from app.pricing.model_table import ModelTable
from app.pricing.price_versions import RELOAD, PriceVersions
from app.reloading import LiveModelTable, Reloader
from app.settings import Settings, generated_secret
from app.store.connection import connect
from app.store.embedded_mongo import EmbeddedMongo
from app.store.key_cipher import KeyCipher
from app.store.secret_key_watch import SecretKeyWatch
from app.upstream.hosts import HostProber, UpstreamHosts
from app.upstream.proxies import ProxyStore
from app.upstream.proxy_bindings import BindingStore
from app.upstream.proxy_check import ProxyChecker
from app.upstream.proxy_pool import ProxyPool
from app.upstream.transport import LIST_MODELS, ProviderKey, UpstreamRequest
from app.upstream.upstream import RequestsUpstream
from app.wires.attribution import Attributor
from app.wires.scrubbing import host_names, upstream_names

_PASSWORD_THREADS = 2
_ALERTING = Actor("weir", "alerts")
_WORKING = (KeyStatus.HEALTHY, KeyStatus.RATE_LIMITED)


@dataclass(slots=True)
class Services:
    """Everything a worker runs, for those who start and stop it (the gunicorn hooks)."""

    settings: Settings
    database: Database[dict[str, Any]]
    secret_key: SecretKeyWatch
    queue: JournaledQueue
    directory: CachedDirectory
    key_pool: SharedKeyPool
    key_sync: KeySync
    key_prober: KeyProber
    host_prober: HostProber | None
    rate_limiter: RateLimiter
    login_limiter: SharedRateLimiter
    gateway: Gateway
    credit: MongoCreditGate
    objects: KnownObjects
    object_store: ObjectStore
    upstream: RequestsUpstream
    proxies: "OutboundProxies | None"
    models: LiveModelTable
    catalogue: LiveCatalogue | None
    account: LiveAccount | None
    gauges: WorkerGauges
    metrics: WorkerMetrics
    reloader: Reloader
    backup_keys: BackupKeyStore
    password_threads: ThreadPool
    administration: Administration
    price_book: PriceBook
    prices: PriceHistory
    alerts: AlertWatch | None


@dataclass(frozen=True, slots=True)
class OutboundProxies:
    """The proxies between this worker and the upstream, and what checks them."""

    pool: ProxyPool
    checker: ProxyChecker


def build_services(settings: Settings, load_models: Callable[[], ModelTable], clock: SystemClock) -> Services:
    """Build the edges and the gateway over them; `load_models` reads the model table, also at reloads."""
    models = LiveModelTable(load_models())
    worker_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
    uri = settings.mongodb_uri.get_secret_value() if settings.mongodb_uri else _embedded_uri(settings)
    database = connect(uri, settings.mongodb_db_name)
    secret = generated_secret(settings.data_dir, "secret-key", settings.secret_key)
    cipher = KeyCipher(secret)
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
    object_store = ObjectStore(database, settings.log_retention_s)
    objects = KnownObjects(object_store)
    queue = JournaledQueue(settings.log_queue_size, refusals_per_minute=settings.refusal_records_rpm)
    credit = MongoCreditGate(directory, CreditHolds(database), clock=clock.monotonic)
    metrics = WorkerMetrics(lambda: {model.id for model in models})
    rate_limiter = _rate_limiter(settings, worker_id)
    hosts = UpstreamHosts(settings.ohmygpt_base_url)
    gauges = WorkerGauges(
        queue,
        key_pool,
        credit.counts,
        lambda: metrics.recorder.in_flight,
        rate_limiter,
        hosts.usable,
        lambda: objects.lost,
    )
    metrics.watch(gauges)
    proxies = _outbound_proxies(settings, database, cipher, hosts)
    upstream = _upstream(settings, hosts, proxies)
    # With connections of its own: an upstream that hangs must not hold up those of requests.
    probing_upstream = _probing_upstream(settings, hosts, proxies)
    gauges.account = _account(settings, database, key_pool, proxies)
    # Deriving a password takes tenths of a second of CPU: in a thread it holds up no stream. Few threads of
    # its own, since the hub's also sync the journal and look up names; and only values go in, since pymongo's
    # connections belong to this thread's event loop.
    password_threads = ThreadPool(_PASSWORD_THREADS)
    catalogue = _catalogue(settings, database, models, key_pool, probing_upstream)
    # A storage that fails lets requests pass; tries to log in, and what runs, must be counted then, too.
    shared_limiter = (
        rate_limiter
        if isinstance(rate_limiter, SharedRateLimiter)
        else SharedRateLimiter(worker_id, time.time)
    )
    limits = CallerLimits(shared_limiter)
    admission = _admission(settings, clock, models, directory, credit, rate_limiter, limits)
    attempts = AttemptLoop(
        keys=key_pool,
        upstream=upstream,
        max_attempts=settings.upstream_max_attempts,
        max_total_s=settings.upstream_read_timeout_s,
        hosts=_unspoken_hosts(settings, proxies),
        follows_conversations=settings.affinity == "conversation",
    )
    gateway = _gateway(
        settings, clock, admission, attempts, directory, credit, sink=queue, observer=metrics.recorder
    )
    gateway.objects = objects
    gateway.attributor = _attributor(settings, secret)
    administration = build_administration(
        settings,
        database,
        cipher,
        Changes(directory.user_changed, directory.key_changed, key_sync.refresh),
        derive=lambda password: password_threads.apply(hash_password, (password,)),
    )
    price_book = PriceBook(
        PriceVersions(database), administration.audit, settings.data_dir / UNSTORED, socket.gethostname()
    )
    reloader = _reloader(settings, models, load_models, price_book, key_pool, key_sync, directory, database)
    gauges.prices = lambda: models.version
    gauges.reload_refused = reloader.refused
    return Services(
        settings=settings,
        database=database,
        secret_key=SecretKeyWatch(database, secret, cipher),
        queue=queue,
        directory=directory,
        key_pool=key_pool,
        key_sync=key_sync,
        key_prober=KeyProber(key_pool, probing_upstream),
        host_prober=HostProber(hosts, probing_upstream.probe) if hosts.are_several else None,
        rate_limiter=rate_limiter,
        login_limiter=shared_limiter,
        gateway=gateway,
        credit=credit,
        objects=objects,
        object_store=object_store,
        upstream=upstream,
        proxies=proxies,
        models=models,
        catalogue=catalogue,
        account=gauges.account,
        gauges=gauges,
        metrics=metrics,
        reloader=reloader,
        backup_keys=BackupKeyStore(database, cipher),
        password_threads=password_threads,
        administration=administration,
        price_book=price_book,
        # A text takes a tenth of a second of CPU to read.
        prices=PriceHistory(
            database,
            lambda: models.in_force,
            lambda text: password_threads.apply(ModelTable.from_toml, (text,)),
        ),
        alerts=_alerts(settings, worker_id, database, administration, gauges, proxies),
    )


def _directory(settings: Settings, database: Database[dict[str, Any]], clock: SystemClock) -> CachedDirectory:
    return CachedDirectory(
        UserStore(database),
        ClientKeyStore(database),
        clock=clock.monotonic,
        spawn=gevent.spawn,
        proxy_api_key=settings.proxy_api_key.get_secret_value() if settings.proxy_api_key else None,
    )


def _upstream(settings: Settings, hosts: UpstreamHosts, proxies: OutboundProxies | None) -> RequestsUpstream:
    return RequestsUpstream(
        hosts,
        connect_timeout_s=settings.upstream_connect_timeout_s,
        read_timeout_s=settings.upstream_read_timeout_s,
        auth=settings.upstream_auth,
        proxies=proxies.pool if proxies else None,
    )


def _alerts(
    settings: Settings,
    worker_id: str,
    database: Database[dict[str, Any]],
    administration: Administration,
    gauges: WorkerGauges,
    proxies: OutboundProxies | None,
) -> AlertWatch | None:
    if not settings.alert_urls:
        return None

    def facts() -> WorkerFacts:
        status = gauges.queue.status()
        return WorkerFacts(
            worker_id,
            keys=tuple(status in _WORKING for status in gauges.pool.statuses()),
            proxies=tuple(health.is_usable for health in proxies.pool.health().values()) if proxies else (),
            lost=gauges.queue.lost,
            late_s=status.oldest_unbooked_s if status is not None else 0.0,
            fees=fees_of(gauges.pool.accounts()),
            balance=None if gauges.account is None else gauges.account.balance.balance,
        )

    return AlertWatch(
        AlertStore(database, settings.tz, administration.ledger.found_today),
        partial(administration.audit.action, _ALERTING, "alerts.send"),
        [url.get_secret_value() for url in settings.alert_urls],
        facts,
        settings.data_dir,
        bounds=Bounds(settings.alert_least_usable, settings.alert_least_balance),
    )


def _unspoken_hosts(settings: Settings, proxies: OutboundProxies | None) -> Callable[[], Iterable[str]]:
    """Return what tells the names no client may read: of the upstream and the proxies on the way to it."""
    upstream = tuple(dict.fromkeys(name for url in settings.ohmygpt_base_url for name in upstream_names(url)))
    return lambda: (*upstream, *host_names(proxies.pool.hosts() if proxies else ()))


def _probing_upstream(
    settings: Settings, hosts: UpstreamHosts, proxies: OutboundProxies | None
) -> RequestsUpstream:
    return RequestsUpstream(
        hosts,
        connect_timeout_s=TIMEOUT_S,
        read_timeout_s=TIMEOUT_S,
        auth=settings.upstream_auth,
        pool_size=1,
        proxies=proxies.pool if proxies else None,
    )


def _admission(
    settings: Settings,
    clock: SystemClock,
    models: ModelTable,
    directory: CachedDirectory,
    credit: MongoCreditGate,
    rate_limiter: RateLimiter,
    limits: CallerLimits,
) -> Admission:
    return Admission(
        rate_limiter=rate_limiter,
        directory=directory,
        credit=credit,
        models=models,
        clock=clock,
        default_rpm=settings.rate_limit_rpm,
        max_body_bytes=settings.max_body_bytes,
        shares=ClientShares(settings.share_limits),
        limits=limits,
        spool_dir=settings.data_dir,
    )


def _account(
    settings: Settings,
    database: Database[dict[str, Any]],
    key_pool: SharedKeyPool,
    proxies: OutboundProxies | None,
) -> LiveAccount | None:
    if settings.ohmygpt_management_key is None:
        return None
    key = ProviderKey("management", settings.ohmygpt_management_key.get_secret_value())
    upstreams = [
        RequestsUpstream(
            "{0.scheme}://{0.netloc}".format(urlsplit(url)),
            connect_timeout_s=TIMEOUT_S,
            read_timeout_s=TIMEOUT_S,
            pool_size=1,
            proxies=proxies.pool if proxies else None,
        )
        for url in settings.ohmygpt_base_url
    ]

    def ask_for(question: UpstreamRequest) -> bytes:
        return ask_any(upstreams, key, question, most=account.MAX_BODY)

    return LiveAccount(
        Readings(database),
        key_pool,
        lambda: ask_for(account.ASK_BALANCE),
        lambda: ask_for(account.ASK_TOKENS),
        books=build_books(settings, database),
    )


def _catalogue(
    settings: Settings,
    database: Database[dict[str, Any]],
    models: LiveModelTable,
    key_pool: SharedKeyPool,
    upstream: RequestsUpstream,
) -> LiveCatalogue | None:
    if settings.unpriced_models == "off":
        return None

    def read() -> tuple[str, ...]:
        if (key := key_pool.some_key()) is None:
            raise NotTold("there is no upstream key to ask with")
        return offered_ids(ask(upstream, key, LIST_MODELS, most=MAX_BODY))

    return LiveCatalogue(Readings(database), read, models)


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
        keeps_messages=settings.record_error_messages == "on",
        refuses_when_full=settings.journal_full == "refuse",
        clock=clock,
        on_client_abort=settings.on_client_abort,
        abort_drain_s=settings.abort_drain_s,
        default_anthropic_version=settings.default_anthropic_version,
        observer=observer,
        reasoning=ReasoningPlace(settings.upstream_reasoning),
        keep_alive=_keep_alive(settings),
        zone=settings.tz,
    )


def _attributor(settings: Settings, secret: str) -> Attributor:
    is_hashed = settings.attribution == "hashed"
    # The same on every host, so that a person or session has one digest; nobody finds the name by trying.
    key = bytes.fromhex(derived_secret(secret, "weir attribution v1")) if is_hashed else b""
    return Attributor(settings.attribution != "off", key)


def _keep_alive(settings: Settings) -> KeepAlive | None:
    if settings.sse_keepalive_s is None:
        return None
    return KeepAlive(settings.sse_keepalive_s, settings.upstream_read_timeout_s)


def _outbound_proxies(
    settings: Settings, database: Database[dict[str, Any]], cipher: KeyCipher, hosts: UpstreamHosts
) -> OutboundProxies | None:
    if settings.upstream_proxy_pool == "off":
        return None
    store = ProxyStore(database, cipher)
    allow_direct = settings.upstream_proxy_fallback_direct == "on"
    pool = ProxyPool(store, BindingStore(database), allow_direct=allow_direct)
    timeout_s = settings.upstream_connect_timeout_s
    return OutboundProxies(pool, ProxyChecker(pool, store, hosts, timeout_s=timeout_s))


def _reloader(
    settings: Settings,
    models: LiveModelTable,
    load_models: Callable[[], ModelTable],
    price_book: PriceBook,
    key_pool: SharedKeyPool,
    key_sync: KeySync,
    directory: CachedDirectory,
    database: Database[dict[str, Any]],
) -> Reloader:
    return Reloader(
        settings.data_dir,
        models=models,
        load_models=load_models,
        note_table=lambda table, admin: price_book.note(table, RELOAD, admin),
        refresh_keys=key_sync.refresh,
        count_keys=lambda: len(key_pool.snapshot()),
        directory=directory,
        store_problem=lambda: unreachable(database),
    )


def _embedded_uri(settings: Settings) -> str:
    """Return where the embedded server of the data directory listens, whether it runs yet or not."""
    return EmbeddedMongo(settings.data_dir, settings.mongod_bin).uri


def _rate_limiter(settings: Settings, worker_id: str) -> RateLimiter:
    if settings.rate_limit_storage_uri:
        from app.accounts.storage_rate_limiter import StorageRateLimiter  # noqa: PLC0415  see its head

        return StorageRateLimiter(settings.rate_limit_storage_uri, time.time)
    return SharedRateLimiter(worker_id, time.time)
