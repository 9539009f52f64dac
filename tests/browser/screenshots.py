"""Draws the pictures of docs/images: `make screenshots`. Every page in light, in dark and on a phone.

The figures are a proxy's own, of requests to the simulated upstream. So that charts show a day, those records
are booked again for the hours before, with other ids.
"""

import random
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser

from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from simulator.launcher import ROOT
from tests.support.chromium import EXECUTABLE, NARROW, WIDE, Watched, chromium
from tests.support.site import Site
from tests.support.upstream_process import UpstreamProcess

IMAGES = ROOT / "docs" / "images"
HOURS = 30
VARIANTS = (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("narrow", NARROW, "light"))


def add_history(site: Site) -> None:
    """Book the site's records again, in the shape of a day."""
    dice = random.Random(7)
    originals = site.weir.records()
    copies: list[dict[str, Any]] = []
    for hour in range(1, HOURS + 1):
        busy = 1.2 + (hour % 24 - 12) ** 2 / 40
        for number in range(round(busy * len(originals))):
            original = dice.choice(originals)
            if original["outcome"] != "ok" and dice.random() < 0.7:
                continue
            ago = timedelta(hours=hour - dice.random())
            changes = {
                "_id": f"history-{hour:03}-{number:04}",
                "createdAt": original["createdAt"] - ago,
                "latencyMs": round(original["latencyMs"] * dice.lognormvariate(4, 0.4)),
            }
            if original.get("ttftMs"):
                changes["ttftMs"] = round(changes["latencyMs"] / 6)
            copies.append({**original, **changes, "requestId": changes["_id"]})
    booking = Booking(site.weir.database, "history")
    booking.apply([SequencedRecord(number, document) for number, document in enumerate(copies, 1)])


def furnish(site: Site) -> None:
    """What an administrator makes, so that no page is empty."""
    user = site.users[0].name
    for path, body in (
        ("ohmygpt/keys", {"id": "key-berlin", "apiKey": "sk-upstream-berlin-0123456789"}),
        ("ohmygpt/backup-keys", {"id": "spare-1", "apiKey": "sk-upstream-spare-0123456789"}),
        ("proxies", {"id": "proxy-1", "name": "Berlin", "type": "http", "host": "10.0.0.7", "port": 3128}),
        ("ohmygpt/bindings", {"proxyId": "proxy-1", "ohmygptKeyId": "key-berlin"}),
        ("keys", {"name": user, "notes": "the frontend"}),
        (f"users/{user}/credits/add", {"amount": 25, "reason": "invoice 4711"}),
    ):
        answer = requests.post(
            f"{site.weir.url}/api/admin/{path}",
            json=body,
            headers={"Authorization": f"Bearer {site.token}"},
            timeout=30,
        )
        answer.raise_for_status()


def pages(site: Site) -> dict[str, str]:
    """What is shown, by the picture's name."""
    retried = next(record for record in site.weir.records() if len(record["attempts"]) > 1)
    return {
        "home": "/admin/?period=24h",
        "usage": "/admin/usage?period=24h&by=model&compare=yes",
        "requests": "/admin/requests",
        "record": f"/admin/requests/{retried['_id']}",
        "users": "/admin/customers",
        "user": f"/admin/customers/{site.users[0].name}",
        "client-keys": "/admin/keys",
        "upstream": "/admin/upstream",
        "proxies": "/admin/upstream/proxies",
        "audit": "/admin/settings/audit",
    }


def shoot(site: Site, browser: Browser, directory: Path) -> list[str]:
    """All pictures; what the browser complained about."""
    complaints = []
    directory.mkdir(parents=True, exist_ok=True)
    for name, size, scheme in VARIANTS:
        window = Watched(browser, site.weir.url, size=size, scheme=scheme)
        window.page.goto("/admin/login")
        window.page.screenshot(path=directory / f"login-{name}.png")
        window.log_in(site.token)
        for title, path in pages(site).items():
            window.page.goto(path)
            window.page.screenshot(path=directory / f"{title}-{name}.png", full_page=title != "requests")
        complaints += window.complaints
        window.close()
    return complaints


def main() -> int:
    """Start everything, draw, stop everything."""
    if EXECUTABLE is None:
        print("no Chromium on this machine: apt-get install chromium", file=sys.stderr)
        return 1
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as data, UpstreamProcess() as upstream, chromium() as browser:
        site = Site(Path(data), upstream)
        with site.weir:
            site.prepare()
            furnish(site)
            add_history(site)
            complaints = shoot(site, browser, directory)
    print("\n".join(complaints) or f"drawn into {directory}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
