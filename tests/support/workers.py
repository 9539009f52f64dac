"""Which worker of a running instance serves a connection, and a connection to each of them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from simulator.launcher import wait_until
from tests.support.raw_http import RawConnection
from tests.support.weir_process import WeirProcess


@contextmanager
def connections_to_all(weir: WeirProcess) -> Iterator[list[RawConnection]]:
    """Kept connections, one to each worker: which of them takes a new one is chance."""
    found: dict[int, RawConnection] = {}
    with ExitStack() as stack:

        def are_all_found() -> bool:
            connection = stack.enter_context(RawConnection(weir.url))
            connection.request("GET", "/health", {})
            connection.read_response()
            worker = _worker_of(weir, connection)
            if worker is not None:
                found.setdefault(worker, connection)
            return found.keys() >= set(weir.worker_pids())

        wait_until(are_all_found, what="a connection to each worker")
        yield list(found.values())


def _worker_of(weir: WeirProcess, connection: RawConnection) -> int | None:
    wanted = f"0100007F:{weir.port:04X}", f"0100007F:{connection.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    links = {f"socket:[{row[9]}]" for row in rows if (row[1], row[2]) == wanted}
    return next((pid for pid in weir.worker_pids() if links & _open_files(pid)), None)


def _open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(link))
    return found
