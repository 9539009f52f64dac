"""The process model: gevent workers, the embedded MongoDB in the master, the log writer in each worker.

gunicorn picks this file up by itself. `WEB_CONCURRENCY`, `HOST`, `PORT` and the rest come from the
environment (docs/configuration.md).
"""

from gevent import monkey

monkey.patch_all()

import math
import os
import sys
from typing import Any

import gevent
import uuid_utils

from app.adapters.embedded_mongo import EmbeddedMongo, EmbeddedMongoError
from app.adapters.logs import RecordsInsteadOfAccessLog, logging_config
from app.adapters.metrics.directory import MetricsDirectory
from app.adapters.metrics.status import forget
from app.preflight import checked_settings, problem
from app.settings import SettingsError, generated_secret
from workers.file_limit import SPARE_FILES, allow_many_files
from workers.lifecycle import STOP_TIMEOUT_S

try:
    settings = checked_settings()
except SettingsError as error:
    sys.exit(f"weir: {error}")

bind = f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "workers.gevent_worker.WeirWorker"
# Each takes two files: the client's socket and the upstream's.
worker_connections = min(settings.worker_connections, (allow_many_files() - SPARE_FILES) // 2)
# Each worker builds its own application after the fork: a MongoClient or a pooled connection made before
# it would be shared between processes.
preload_app = False
keepalive = math.ceil(settings.client_keepalive_s)
timeout = 60
# The master's patience, after which it kills. A worker's own is shorter (`post_fork`): it cuts what still
# runs after GRACEFUL_TIMEOUT_S, records that, and has time to book it.
graceful_timeout = settings.graceful_timeout_s + STOP_TIMEOUT_S
# gunicorn's control socket is a second way in that nobody here uses.
control_socket_disable = True
# No client says under which path the application is mounted, whatever proxy lets such headers through.
forwarder_headers = ""
logconfig_dict = logging_config(settings)
logger_class = RecordsInsteadOfAccessLog
proc_name = "weir"

_MONGO_WATCH_S = 1.0


def on_starting(server: Any) -> None:
    """Master, before the first worker: make the secrets, start the embedded MongoDB unless another is set.

    Also makes room for the workers' counts, which begin at zero, and removes those of earlier runs.
    """
    if server.cfg.is_ssl:
        # Time limits of connections know nothing of TLS: it is for whoever stands in front of it.
        sys.exit(
            "weir: certfile: Weir speaks plain HTTP; a reverse proxy in front does TLS (docs/hardening.md)"
        )
    try:
        generated_secret(settings.data_dir, "secret-key", settings.secret_key)
        generated_secret(settings.data_dir, "admin-token", settings.admin_token)
    except (SettingsError, OSError) as error:
        sys.exit(f"weir: DATA_DIR: {error}")
    server.handle_hup = lambda: _reload(server)
    try:
        server.weir_metrics = MetricsDirectory.create(settings.data_dir / "metrics")
    except OSError as error:
        server.log.error("each worker keeps its metrics to itself: %s", error)  # noqa: TRY400
    if settings.mongodb_uri is not None:
        return
    server.embedded_mongo = EmbeddedMongo(settings.data_dir, settings.mongod_bin)
    try:
        server.embedded_mongo.start()
    except EmbeddedMongoError as error:
        sys.exit(f"weir: {error}")
    gevent.spawn(_watch_mongo, server, os.getpid())


def _reload(server: Any) -> None:
    """SIGHUP. gunicorn would end, and leave its workers to themselves, if the configuration were refused."""
    reason = problem()
    if reason is not None:
        server.log.error("not reloaded, all goes on as before: %s", reason)
        return
    type(server).handle_hup(server)


def _watch_mongo(server: Any, owner_pid: int) -> None:
    while os.getpid() == owner_pid:  # a forked worker inherits this greenlet, but not the duty
        gevent.sleep(_MONGO_WATCH_S)
        try:
            server.embedded_mongo.ensure_running()
        except EmbeddedMongoError as error:
            server.log.error("%s", error)  # noqa: TRY400  one line, for an operator


def when_ready(server: Any) -> None:
    """Master, listening: say where things are."""
    server.log.info("Weir answers on %s", ", ".join(str(listener) for listener in server.LISTENERS))
    if settings.admin_token is None:
        server.log.info("the admin token is in %s", settings.data_dir / "admin-token")


def post_fork(server: Any, worker: Any) -> None:
    """Worker, just forked: its request ids must not repeat those of its siblings."""
    uuid_utils.reseed_rng()
    worker.cfg.set("graceful_timeout", settings.graceful_timeout_s)  # the worker's copy, not the master's
    worker.client_limits = settings.client_limits
    worker.weir_metrics = getattr(server, "weir_metrics", None)


def pre_request(worker: Any, req: Any) -> None:
    """Worker, a request read: gunicorn's own hook would log its path."""


def post_worker_init(worker: Any) -> None:
    """Worker, application loaded: start what runs in the background."""
    from workers.worker_life import WorkerLife  # noqa: PLC0415  after the fork, with the application

    worker.weir_life = WorkerLife.start(
        worker.app.callable.extensions["weir"],
        is_first=worker.age == 1,
        metrics=worker.weir_metrics,
        is_draining=lambda: not worker.alive,
    )


def worker_exit(server: Any, worker: Any) -> None:
    """Worker, its requests done: book what is left."""
    life = getattr(worker, "weir_life", None)
    if life is not None:
        life.stop()


def child_exit(server: Any, worker: Any) -> None:
    """Master, a worker gone: its state is over. Its counts stay, and the next worker counts on from them."""
    metrics = getattr(server, "weir_metrics", None)
    if metrics is not None:
        try:
            forget(metrics.states(), worker.pid)
        except OSError as error:
            server.log.warning("the state of worker %s is left behind: %s", worker.pid, error)


def on_exit(server: Any) -> None:
    """Master, workers gone: stop the embedded MongoDB."""
    metrics = getattr(server, "weir_metrics", None)
    if metrics is not None:
        metrics.remove()
    embedded = getattr(server, "embedded_mongo", None)
    if embedded is not None:
        embedded.stop()
