"""The process model: gevent workers, the embedded MongoDB in the master, the log writer in each worker.

gunicorn picks this file up by itself. `WEB_CONCURRENCY`, `HOST`, `PORT` and the rest come from the
environment (docs/configuration.md).
"""

import signal

from gevent import monkey

monkey.patch_all()
# Until gunicorn takes the signals, Ctrl-C just ends the process, as SIGTERM does: no traceback, and the
# embedded MongoDB ends with whoever started it.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import gc

# What is imported stays: looking through it for garbage again and again would take a fifth of the time.
gc.disable()

import math
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import uuid_utils
from gunicorn.arbiter import Arbiter

from app import __version__
from app.common.clock import now_ms
from app.common.errors import SettingsError, StoreUnavailable
from app.database_place import hosts_in, note_place
from app.logs.process_log import NullAccessLogger, logging_config
from app.metrics.directory import MetricsDirectory
from app.metrics.status import forget
from app.preflight import checked_settings, problem, secret_key_problem
from app.pricing.price_versions import SIGHUP, START
from app.reloading import ReloadNotice
from app.server import listening
from app.server.file_limit import SPARE_FILES, allow_many_files
from app.settings import close_data_dir, generated_secret
from app.store.embedded_mongo import EmbeddedMongo, EmbeddedMongoError
from workers.lifecycle import STOP_TIMEOUT_S

try:
    settings = checked_settings()
except SettingsError as error:
    sys.exit(f"weir: {error}")

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "app.server.gevent_worker.WeirWorker"
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
logger_class = NullAccessLogger
proc_name = "weir"

_PRIVATE = 0o077  # what the master, its workers and the embedded MongoDB write is for nobody else
_MONGO_WATCH_S = 1.0
_ON_TERMINAL = os.isatty(2)
_AT_ONCE = "stopping at once: answers under way are cut"
_FOR_THE_FIRST_S, _LOOK_S = 4.0, 0.1


def on_starting(server: Any) -> None:
    """Take the port, make the secrets, start the embedded MongoDB (master, before the first worker).

    Also makes room for the workers' counts, which begin at zero, and removes those of earlier runs.
    """
    if server.cfg.is_ssl:
        # Time limits of connections know nothing of TLS: it is for whoever stands in front of it.
        sys.exit(
            "weir: certfile: Weir speaks plain HTTP; a reverse proxy in front does TLS (docs/hardening.md)"
        )
    os.umask(_PRIVATE)
    try:
        bound = listening.bind(server.cfg.address) if listening.is_usual(server) else []
        if close_data_dir(settings.data_dir):
            server.log.warning(
                "%s was open to other users of this machine: it is closed now", settings.data_dir
            )
        generated_secret(settings.data_dir, "secret-key", settings.secret_key)
        generated_secret(settings.data_dir, "admin-token", settings.admin_token)
        note_place(settings)
        ReloadNotice(settings.data_dir).remove()
    except SettingsError as error:
        sys.exit(f"weir: {error}")
    except OSError as error:
        sys.exit(
            f"weir: DATA_DIR: cannot write to {settings.data_dir} ({error.strerror}): "
            "takes a directory that this user may write to"
        )
    _speak_plainly(server)
    try:
        server.weir_metrics = MetricsDirectory.create(settings.data_dir / "metrics")
    except OSError as error:
        server.log.error("each worker keeps its metrics to itself: %s", error)  # noqa: TRY400
    try:
        if settings.mongodb_uri is None:
            server.embedded_mongo = EmbeddedMongo(settings.data_dir, settings.mongod_bin)
            server.embedded_mongo.start()
            gevent.spawn(_watch_mongo, server, os.getpid())
        _import_all()
        if bound:
            listening.listen(server, bound)
    except (EmbeddedMongoError, SettingsError) as error:
        _let_go(server)
        sys.exit(f"weir: {error}")


def _import_all() -> None:
    """Import what workers run: once, before they are forked, so that later ones start fast, too."""
    # Not at the head: a start that cannot work ends without.
    import app.factory  # noqa: F401, PLC0415
    import workers.background_tasks  # noqa: F401, PLC0415

    gc.collect()
    gc.freeze()
    gc.enable()


def _speak_plainly(server: Any) -> None:
    """Have the master say what signals lead to; a reload is refused when it cannot work."""
    patience = f"answers under way may take {settings.graceful_timeout_s} s more"
    stops = {"term": f"stopping (SIGTERM): {patience}", "int": _AT_ONCE, "quit": _AT_ONCE}
    for name, said in stops.items():
        setattr(
            server, f"handle_{name}", partial(_say_and_stop, server, said, getattr(server, f"handle_{name}"))
        )
    server.handle_hup = lambda: _reload(server)


def _say_and_stop(server: Any, said: str, stop: Callable[[], None]) -> None:
    server.log.info(said)
    stop()


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Log how many workers there are to be (master, on SIGTTIN or SIGTTOU)."""
    if old_value not in (None, new_value):
        server.log.info("%d workers instead of %d", new_value, old_value)


def _reload(server: Any) -> None:
    """Reload on SIGHUP. gunicorn would end, and desert its workers, if the configuration were refused."""
    if _ON_TERMINAL and not os.isatty(2):
        server.handle_term()  # the terminal was closed: nobody would know of a server that goes on
    reason = problem() or secret_key_problem(settings.data_dir)
    if reason is not None:
        server.log.error("not reloaded, all goes on as before: %s", reason)
        ReloadNotice(settings.data_dir).write(reason)
        return
    ReloadNotice(settings.data_dir).remove()
    server.log.info("reloading (SIGHUP): new workers read the configuration, old ones end their answers")
    server.weir_started_by = SIGHUP
    try:
        type(server).handle_hup(server)  # which forks the new workers
    finally:
        server.weir_started_by = START


def _watch_mongo(server: Any, owner_pid: int) -> None:
    while os.getpid() == owner_pid:  # a forked worker inherits this greenlet, but not the duty
        gevent.sleep(_MONGO_WATCH_S)
        try:
            server.embedded_mongo.ensure_running()
        except EmbeddedMongoError as error:
            server.log.error("%s", error)  # noqa: TRY400  one line, for an operator


def when_ready(server: Any) -> None:
    """Keep for the first worker what says where things are (master, listening; see `post_worker_init`)."""
    urls = [str(listener) for listener in server.LISTENERS]
    server.weir_greeting = [
        f"Weir {__version__} answers on {', '.join(urls)}; dashboard: {urls[0]}/admin; "
        f"data: {settings.data_dir}; database: {_database(server)}"
    ]
    if settings.admin_token is None:
        server.weir_greeting.append(f"the admin token is in {settings.data_dir / 'admin-token'}")


def _database(server: Any) -> str:
    if settings.mongodb_uri is None:
        return f"MongoDB {server.embedded_mongo.version}, embedded"
    return f"MongoDB at {hosts_in(settings.mongodb_uri.get_secret_value())}"


def post_fork(server: Any, worker: Any) -> None:
    """Have request ids differ from those of the worker's siblings (worker, just forked)."""
    uuid_utils.reseed_rng()
    worker.cfg.set("graceful_timeout", settings.graceful_timeout_s)  # the worker's copy, not the master's
    worker.client_limits = settings.client_limits
    worker.masters_signals = server.SIG_QUEUE
    worker.weir_metrics = getattr(server, "weir_metrics", None)
    worker.weir_greeting = server.weir_greeting
    worker.weir_url = str(server.LISTENERS[0])
    worker.weir_started_by = getattr(server, "weir_started_by", START)


def pre_request(worker: Any, req: Any) -> None:
    """Log nothing (worker, a request read): gunicorn's own hook would log its path."""


def post_worker_init(worker: Any) -> None:
    """Start what runs in the background (worker, application loaded)."""
    from workers.background_tasks import BackgroundTasks  # noqa: PLC0415  after the fork, with the application

    try:
        worker.weir_life = BackgroundTasks.start(
            worker.app.callable.extensions["weir"],
            may_refuse=worker.age <= worker.cfg.workers,
            metrics=worker.weir_metrics,
            is_draining=lambda: not worker.alive,
            started_by=worker.weir_started_by,
        )
    except SettingsError as error:
        # One of those a start begins with: gunicorn ends as a whole. One that comes later goes on, not ready.
        if worker.age > 1 and not _is_left_alone(worker):
            sys.exit(0)
        sys.stderr.write(f"weir: {error}\n")
        sys.exit(Arbiter.APP_LOAD_ERROR)
    if worker.age == 1:
        # Said only now that the database is known as Weir's, or as away: commands work from here on.
        for line in (*worker.weir_greeting, *_first_steps(worker)):
            worker.log.info("%s", line)
        worker.weir_life.tell_what_concerns_all()


def _first_steps(worker: Any) -> list[str]:
    """Return what only the first start with a database says: where to begin, a secret that is good once."""
    try:
        secret = worker.app.callable.extensions["weir"].administration.first_owner.offer(now_ms())
    except StoreUnavailable:
        return []  # a later start says it
    if secret is None:
        return []
    return [f"set up the first owner, once and within 24 hours: {worker.weir_url}/admin/setup/{secret}"]


def _is_left_alone(worker: Any) -> bool:
    """Return whether no other worker has ended gunicorn meanwhile: the line is to be said once."""
    waited_s = 0.0
    while worker.alive and waited_s < _FOR_THE_FIRST_S:
        gevent.sleep(_LOOK_S)
        waited_s += _LOOK_S
    return bool(worker.alive)


def worker_exit(server: Any, worker: Any) -> None:
    """Book what is left (worker, its requests done)."""
    life = getattr(worker, "weir_life", None)
    if life is not None:
        life.stop()


def child_exit(server: Any, worker: Any) -> None:
    """Forget the state of a worker that is gone (master). Its counts stay: the next worker counts on."""
    metrics = getattr(server, "weir_metrics", None)
    if metrics is not None:
        try:
            forget(metrics.states(), worker.pid)
        except OSError as error:
            server.log.warning("the state of worker %s is left behind: %s", worker.pid, error)


def on_exit(server: Any) -> None:
    """Stop the embedded MongoDB (master, workers gone)."""
    _let_go(server)
    server.log.info("stopped")


def _let_go(server: Any) -> None:
    metrics = getattr(server, "weir_metrics", None)
    if metrics is not None:
        metrics.remove()
    embedded = getattr(server, "embedded_mongo", None)
    if embedded is not None:
        embedded.stop()
