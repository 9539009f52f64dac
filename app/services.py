"""The adapters and the gateway over them, put together: what a worker runs, without Flask."""

import os
import time
from dataclasses import dataclass
from typing import Any

import gevent
from pymongo.database import Database

from app.adapters.clock import SystemClock
from app.adapters.credit_gate import MongoCreditGate
from app.adapters.directory import CachedDirectory
from app.adapters.embedded_mongo import EmbeddedMongo
from app.adapters.journal import JournaledQueue
from app.adapters.key_cipher import KeyCipher
from app.adapters.key_pool import SharedKeyPool
from app.adapters.key_sync import KeySync
from app.adapters.mongo.client_keys import ClientKeyStore
from app.adapters.mongo.connection import connect
from app.adapters.mongo.credit_holds import CreditHolds
from app.adapters.mongo.key_rotation import KeyRotation
from app.adapters.mongo.key_states import KeyStateStore
from app.adapters.mongo.provider_keys import ProviderKeyStore
from app.adapters.mongo.users import UserStore
from app.adapters.rate_limiter import SharedRateLimiter, StorageRateLimiter
from app.adapters.upstream import RequestsUpstream
from app.core.ports import RateLimiter
from app.core.pricing import ModelTable
from app.exchange.admission import Admission
from app.exchange.attempts import AttemptLoop
from app.exchange.handler import Gateway
from app.settings import Settings, generated_secret


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


def build_services(settings: Settings, models: ModelTable, clock: SystemClock) -> Services:
    """The adapters and the gateway over them."""
    worker_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
    uri = settings.mongodb_uri.get_secret_value() if settings.mongodb_uri else _embedded_uri(settings)
    database = connect(uri, settings.mongodb_db_name)
    cipher = KeyCipher(generated_secret(settings.data_dir, "secret-key", settings.secret_key))
    directory = CachedDirectory(
        UserStore(database),
        ClientKeyStore(database),
        clock=clock.monotonic,
        spawn=gevent.spawn,
        proxy_api_key=settings.proxy_api_key.get_secret_value() if settings.proxy_api_key else None,
    )
    key_pool = SharedKeyPool([key.get_secret_value() for key in settings.ohmygpt_api_keys], start=os.getpid())
    key_sync = KeySync(
        key_pool,
        ProviderKeyStore(database, cipher),
        KeyStateStore(database),
        KeyRotation(database, cipher),
    )
    upstream = RequestsUpstream(
        settings.ohmygpt_base_url,
        connect_timeout_s=settings.upstream_connect_timeout_s,
        read_timeout_s=settings.upstream_read_timeout_s,
        auth=settings.upstream_auth,
    )
    queue = JournaledQueue(settings.log_queue_size)
    rate_limiter = _rate_limiter(settings, worker_id)
    credit = MongoCreditGate(directory, CreditHolds(database), clock=clock.monotonic)
    admission = Admission(
        rate_limiter=rate_limiter,
        directory=directory,
        credit=credit,
        models=models,
        clock=clock,
        default_rpm=settings.rate_limit_rpm,
        max_body_bytes=settings.max_body_bytes,
    )
    gateway = Gateway(
        admission=admission,
        attempts=AttemptLoop(
            keys=key_pool,
            upstream=upstream,
            max_attempts=settings.upstream_max_attempts,
            max_total_s=settings.upstream_read_timeout_s,
        ),
        directory=directory,
        credit=credit,
        sink=queue,
        refuses_when_full=settings.journal_full == "refuse",
        clock=clock,
        on_client_abort=settings.on_client_abort,
        abort_drain_s=settings.abort_drain_s,
        default_anthropic_version=settings.default_anthropic_version,
    )
    return Services(
        settings, worker_id, database, queue, directory, key_pool, key_sync, rate_limiter, gateway, upstream
    )


def _embedded_uri(settings: Settings) -> str:
    """Where the embedded server of the data directory listens, whether it runs yet or not."""
    return EmbeddedMongo(settings.data_dir, settings.mongod_bin).uri


def _rate_limiter(settings: Settings, worker_id: str) -> RateLimiter:
    if settings.rate_limit_storage_uri:
        return StorageRateLimiter(settings.rate_limit_storage_uri, time.time)
    return SharedRateLimiter(worker_id, time.time)
