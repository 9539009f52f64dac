"""What open windows of the dashboard cost requests: one worker with none beside one with ten.

Half of the windows show Home, the others the requests, each with a filter of its own, as people who look for
something would have. They are on the load's core, and take what they are sent.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import requests

from bench.native import BenchTrouble
from bench.run import Figure, Results, Site, measure_by_turns
from bench.shapes import Level, plain
from bench.weir import WeirTarget

PLAIN = "windows, plain"
WINDOWS = 10

_TIMEOUT_S = 30.0


class WatchedWeir(WeirTarget):
    """A proxy that this many windows follow."""

    def __init__(
        self,
        upstream_port: int,
        directory: Path,
        cores: tuple[int, ...],
        load_core: int,
        windows: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(upstream_port, directory, cores, load_core, settings)
        self.name = f"weir, {windows} windows"
        self._count = windows
        self._windows: list[requests.Response] = []

    def start(self) -> None:
        """Start the proxy and open the windows."""
        super().start()
        assert self.proxy is not None
        admin = f"http://127.0.0.1:{self.proxy.port}/admin"
        browser = requests.Session()
        page = browser.get(f"{admin}/login", timeout=_TIMEOUT_S).text
        found = re.search(r'name="csrf_token"[^>]* value="([^"]+)"', page)
        if found is None:
            raise BenchTrouble("the dashboard's login has no form")
        token = (self.proxy.data_dir / "admin-token").read_text().strip()
        browser.post(f"{admin}/login", data={"csrf_token": found[1], "token": token}, timeout=_TIMEOUT_S)
        for number in range(self._count):
            path = "/" if number % 2 else f"/requests?minLatencyMs={number}"
            headers = {"Accept": "text/event-stream"}
            url = f"{admin}/live?page={quote(path, safe='')}"
            window = browser.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S)
            if window.status_code != requests.codes.ok:
                raise BenchTrouble(f"a window was refused with {window.status_code}")
            self._windows.append(window)
            Thread(target=_take, args=(window,), daemon=True).start()

    def stop(self) -> None:
        """Stop the proxy, which lets the windows go."""
        super().stop()
        for window in self._windows:
            window.close()


def _take(window: requests.Response) -> None:
    try:
        for _ in window.iter_content(65536):
            pass
    except (requests.RequestException, OSError, AttributeError):
        return  # the proxy has stopped


def measure(site: Site, level: Level, results: Results) -> None:
    """Measure plain requests with no window and with ten, by turns."""
    targets = [
        WatchedWeir(
            site.upstream.port,
            site.directory / f"windows-{windows}",
            (site.proxy_core,),
            site.load_core,
            windows,
        )
        for windows in (0, WINDOWS)
    ]
    measure_by_turns(site, level, results, targets, [Figure(PLAIN, plain)])
