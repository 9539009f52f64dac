"""The process model: gevent workers, the embedded MongoDB in the master, the log writer in each worker.

gunicorn picks this file up by itself. `WEB_CONCURRENCY`, `HOST`, `PORT` and the rest come from the
environment (docs/configuration.md).
"""

from gevent import monkey

monkey.patch_all()

import os
import sys
from typing import Any

import gevent
import uuid_utils

from app.adapters.embedded_mongo import EmbeddedMongo, EmbeddedMongoError
from app.adapters.logs import RecordsInsteadOfAccessLog, logging_config
from app.settings import Settings, SettingsError, generated_secret

try:
    settings = Settings.from_env()
except SettingsError as error:
    sys.exit(f"weir: {error}")

bind = f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "gevent"
worker_connections = 10_000
# Each worker builds its own application after the fork: a MongoClient or a pooled connection made before
# it would be shared between processes.
preload_app = False
keepalive = 75
timeout = 60
# How long streams may go on after SIGTERM before they are cut.
graceful_timeout = settings.graceful_timeout_s
# gunicorn's control socket is a second way in that nobody here uses.
control_socket_disable = True
logconfig_dict = logging_config(settings)
logger_class = RecordsInsteadOfAccessLog
proc_name = "weir"

_MONGO_WATCH_S = 1.0


def on_starting(server: Any) -> None:
    """Master, before the first worker: make the secrets, start the embedded MongoDB unless another is set."""
    generated_secret(settings.data_dir, "secret-key", settings.secret_key)
    generated_secret(settings.data_dir, "admin-token", settings.admin_token)
    if settings.mongodb_uri is not None:
        return
    server.embedded_mongo = EmbeddedMongo(settings.data_dir, settings.mongod_bin)
    try:
        server.embedded_mongo.start()
    except EmbeddedMongoError as error:
        sys.exit(f"weir: {error}")
    gevent.spawn(_watch_mongo, server, os.getpid())


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


def post_worker_init(worker: Any) -> None:
    """Worker, application loaded: start what runs in the background."""
    from workers.worker_life import WorkerLife  # noqa: PLC0415  after the fork, with the application

    worker.weir_life = WorkerLife.start(worker.app.callable.extensions["weir"], is_first=worker.age == 1)


def worker_exit(server: Any, worker: Any) -> None:
    """Worker, its requests done: book what is left."""
    life = getattr(worker, "weir_life", None)
    if life is not None:
        life.stop()


def on_exit(server: Any) -> None:
    """Master, workers gone: stop the embedded MongoDB."""
    embedded = getattr(server, "embedded_mongo", None)
    if embedded is not None:
        embedded.stop()
