"""What the pages of the dashboard weigh and how fast they show, as Chromium's performance API tells it.

Each is opened in a window with an empty cache, and once more with what that left there. The browser is on the
load's core, the proxy on its own, over a database of some thousand records.
"""

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.growth import GrownWeir
from bench.machine import pinned
from bench.native import BenchTrouble
from bench.run import Results, Row, Site
from bench.shapes import Level
from simulator.launcher import Overdue, wait_until

FIGURE = "pages"
PAGES = {
    "Home": "/admin/",
    "Requests": "/admin/requests",
    "a request": "/admin/requests/{request}",
    "Usage": "/admin/usage",
    "Customers": "/admin/customers",
    "a customer": "/admin/customers/{user}",
    "Keys": "/admin/keys",
    "Billing": "/admin/billing",
    "Prices": "/admin/billing/prices",
    "Upstream": "/admin/upstream",
    "Settings": "/admin/settings",
}
_RECORDS, _OWNERS = 20_000, 200
_KIB = 1024
_PAINT_S = 15.0

# What has been counted since the page began to load; observers with `buffered` hear of what was before them.
_LISTEN = """
window.told = {largest: 0, blocked: 0};
const listen = (type, take) =>
    new PerformanceObserver(list => list.getEntries().forEach(take)).observe({type, buffered: true});
listen("largest-contentful-paint", entry => { window.told.largest = entry.startTime });
listen("longtask", entry => { window.told.blocked += entry.duration - 50 });
"""
_READ = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const others = performance.getEntriesByType("resource");
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    return {
        painted: paint ? paint.startTime : 0,
        loaded: page.loadEventEnd,
        requests: 1 + others.length,
        bytes: others.reduce((sum, entry) => sum + entry.transferSize, page.transferSize),
        document: page.decodedBodySize,
        server: page.responseStart - page.requestStart,
        interactive: page.domInteractive,
        nodes: document.querySelectorAll("*").length,
        ...window.told,
    };
}"""


def measure(site: Site, level: Level, results: Results, data: Path) -> None:
    """Measure every page as an administrator. Raises `BenchTrouble` without a browser."""
    try:
        from tests.support import chromium  # noqa: PLC0415  it needs what only developers have
    except ImportError as missing:
        raise BenchTrouble(f"pages need playwright ({missing}): make setup") from None
    if chromium.EXECUTABLE is None:
        raise BenchTrouble("this machine has no Chromium: apt install chromium")
    target = GrownWeir(site, data, _RECORDS, owners=_OWNERS)
    with ExitStack() as stack:
        stack.callback(target.stop)
        target.start()
        assert target.proxy is not None
        newest = target.database()["request_logs"].find_one({"userId": "user-17"}, sort=[("createdAt", -1)])
        names = {"request": newest["_id"] if newest else "none", "user": "user-17"}
        url = f"http://127.0.0.1:{target.proxy.port}"
        with pinned(site.load_core):
            browser = stack.enter_context(chromium.chromium())
        window = chromium.Watched(browser, url)
        window.log_in(target.token)
        cookies = window.context.cookies()
        window.close()
        rows = {}
        for name, path in PAGES.items():
            readings = []
            for _ in range(max(level.rounds, 3)):
                window = chromium.Watched(browser, url)
                window.context.add_cookies(cookies)  # type: ignore[arg-type]  # they are what was given
                window.context.add_init_script(_LISTEN)
                readings.append(_opened(window, path.format(**names)))
                if window.complaints:
                    raise BenchTrouble(f"{name}: {window.complaints}")
                window.close()
            rows[name] = {key: statistics.median(row[key] for row in readings) for key in readings[0]}
            told = rows[name]
            site.say(
                f"{FIGURE}: {name}: {told['requests']:.0f} requests, {told['kib']:.0f} KiB, "
                f"server {told['server_ms']:.0f} ms, first paint {told['paint_ms']:.0f} ms"
            )
        results.figures[FIGURE] = rows


def _opened(window: Any, path: str) -> Row:
    """Open the page, then open it again; return what the first cost, and the bytes of the second."""
    first, again = _visited(window, path), _visited(window, path)
    return {
        "requests": first["requests"],
        "kib": first["bytes"] / _KIB,
        "again_kib": again["bytes"] / _KIB,
        "document_kib": first["document"] / _KIB,
        "server_ms": first["server"],
        "paint_ms": first["painted"],
        "content_ms": first["largest"],
        "interactive_ms": first["interactive"],
        "loaded_ms": first["loaded"],
        "blocked_ms": first["blocked"],
        "nodes": first["nodes"],
    }


def _visited(window: Any, path: str) -> dict[str, float]:
    answer = window.page.goto(path, wait_until="load")
    if not answer.ok:
        raise BenchTrouble(f"{path} is answered {answer.status}")
    found: dict[str, float] = {}

    def look() -> bool:
        found.update(window.page.evaluate(_READ))
        return bool(found["painted"] and found["loaded"] and found["largest"])

    try:
        wait_until(look, _PAINT_S, "the page to be painted")
    except Overdue as error:
        raise BenchTrouble(f"{path}: {error}") from None
    return found
