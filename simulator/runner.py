"""The simulator in this process: a listening socket served by a gevent hub in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import gevent
from gevent import socket as gevent_socket
from gevent.event import Event as HubEvent
from gevent.pool import Pool
from gevent.server import StreamServer

from simulator.catalog import DEFAULT_MODELS
from simulator.control import Controller
from simulator.launcher import free_port
from simulator.script import Script
from simulator.tally import Entry, Seen, Tally
from simulator.upstream import Upstream

_BACKLOG = 2048
_START_TIMEOUT_S = 90.0


class Simulator:
    """A running upstream. Use it as a context manager; every method may be called from any thread.

    The server lives in a background thread with its own hub, so the caller's process need not be
    monkey-patched. In a patched process the same code runs as a greenlet.

    ``keys``: states of upstream keys (see `keys.STATES`); ``*`` stands for all others.
    ``clock`` gives the `created` of answers in Unix seconds; without it the value is fixed.
    ``max_body``: larger requests get 413. ``tally``: one with other limits than the default.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        models: Sequence[str] = DEFAULT_MODELS,
        keys: Mapping[str, str] | None = None,
        seed: int = 0,
        clock: Callable[[], float] | None = None,
        max_body: int = 32 * 1024 * 1024,
        tally: Tally | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.upstream = Upstream(
            models=models,
            keys=keys,
            seed=seed,
            clock=clock,
            tally=tally,
            max_body=max_body,
        )
        self.upstream.control = Controller(self.upstream, self._listen_from_hub)
        self._pool: Pool | None = None
        self._server: StreamServer | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake: Any = None

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; returns when connections are accepted. Raises what the socket raised (`OSError`)."""
        if self._thread is not None:
            raise RuntimeError("the simulator is running")
        self._ready.clear()
        self._failure = None
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise TimeoutError("the simulator did not start")
        self._raise_failure()
        return self

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self._thread = None
            raise self._failure

    def stop(self) -> None:
        """Close the listener and all connections, and join the thread. Does nothing when not running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._in_hub(self._stopping.set, wait=False)
        thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self._thread else "stopped"
        return f"<Simulator {self.url} {state}, {self.tally.count} requests>"

    # -- use ----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base URL without a path: append any prefix, and `/v1/…` after it."""
        return f"http://{self.host}:{self.port}"

    @property
    def tally(self) -> Tally:
        """What was received and answered so far."""
        return self.upstream.tally

    @property
    def connections(self) -> int:
        """Open connections."""
        return self.upstream.connections

    def script(self, name: str, script: Script) -> str:
        """Register a script; returns the model name that plays it."""
        self.upstream.scripts[name] = script
        return f"script:{name}"

    def behave(self, model: str, spec: str, times: int | None = None) -> None:
        """Give requests for a model (``*``: any) a behaviour (see `Rules.add`)."""
        self.upstream.rules.add(model, spec, times)

    def key(self, key: str, state: str) -> None:
        """Put an upstream key in a state (see `keys.STATES`)."""
        self.upstream.keys.set(key, state)

    def entries(self, since: int = 0) -> list[Entry]:
        """Tally entries after number ``since``."""
        return self.tally.entries(since)

    def requests(self, since: int = 0) -> list[Seen]:
        """Return the last requests in full."""
        return self.tally.requests(since)

    def open_gate(self, name: str) -> None:
        """Let scripts pass a `Wait`."""
        self.upstream.gates.open(name)

    def wait_gate(self, name: str, count: int = 1, timeout_s: float = 90.0) -> None:
        """Block until ``count`` scripts have reached a `Wait`."""
        self.upstream.gates.wait_arrived(name, count, timeout_s)

    def reset(self, *, keep_scripts: bool = False) -> None:
        """Forget tally, gates, rules and key states, and scripts unless they are to be kept."""
        self.upstream.reset(keep_scripts=keep_scripts)

    def stop_listening(self) -> None:
        """Refuse new connections; open ones go on."""
        self._in_hub(self._unlisten)

    def start_listening(self) -> None:
        """Accept connections again, on the same port."""
        self._in_hub(self._listen)

    def drop_connections(self) -> None:
        """Close every open connection, whatever it is doing."""
        self._in_hub(self._drop)

    # -- the hub's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        hub = gevent.get_hub()
        self._pool = Pool()
        self._stopping = HubEvent()
        self._wake = hub.loop.async_()
        self._wake.start(self._run_jobs)
        try:
            self._listen()
        except OSError as error:
            self._failure = error
            self._ready.set()
        else:
            self._ready.set()
            self._stopping.wait()
            self._unlisten()
            self._drop()
        finally:
            self._wake.stop()
            self._wake.close()
            if threading.current_thread() is not threading.main_thread() and not _patched():
                hub.destroy(destroy_loop=True)

    def _in_hub(self, job: Callable[[], None], *, wait: bool = True) -> None:
        """Run a job in the server's thread."""
        done = threading.Event()

        def task() -> None:
            try:
                job()
            finally:
                done.set()

        self._jobs.append(task)
        self._wake.send()
        if wait and not done.wait(_START_TIMEOUT_S):
            raise TimeoutError("the simulator does not react")

    def _run_jobs(self) -> None:
        while self._jobs:
            gevent.spawn(self._jobs.popleft())

    def _listen(self) -> None:
        if self._server is None:
            listener = _listener(self.host, self.port or free_port())
            self.port = listener.getsockname()[1]
            self._server = StreamServer(listener, self.upstream.serve, spawn=self._pool)
            self._server.start()

    def _unlisten(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _drop(self) -> None:
        if self._pool is not None:
            self._pool.kill()

    def _listen_from_hub(self, on: bool, off_s: float | None) -> None:
        if on:
            self._listen()
            return
        self._unlisten()
        if off_s is not None:
            gevent.spawn_later(off_s, self._listen)


def _listener(host: str, port: int) -> Any:
    listener = gevent_socket.socket(gevent_socket.AF_INET)
    try:
        listener.setsockopt(gevent_socket.SOL_SOCKET, gevent_socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _patched() -> bool:
    from gevent.monkey import is_module_patched  # noqa: PLC0415 - only asked when stopping

    return bool(is_module_patched("threading"))
