"""Draws the pictures of docs/images: `make screenshots`. Every page in light, in dark and on a phone.

The records are a proxy's own, of a dozen customers' requests to the simulated upstream. So that charts show
weeks, they are booked again for the days before, with other ids.
"""

import random
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, expect

from app.persistence.booking import Booking
from app.records.records import SequencedRecord
from simulator.launcher import PATIENCE_S, ROOT
from tests.support.chromium import EXECUTABLE, NARROW, WIDE, Watched, chromium
from tests.support.site import Site
from tests.support.upstream_process import UpstreamProcess

IMAGES = ROOT / "docs" / "images"
DAYS = 40
FAILURES = 0.02
VARIANTS = (("light", WIDE, "light"), ("dark", WIDE, "dark"), ("narrow", NARROW, "light"))


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks for what, and how often beside the others; `busiest` is an hour of the day, in UTC."""

    name: str
    credits: int
    models: tuple[str, ...]
    a_day: float
    client: str = "openai-python/2.9.0"
    busiest: int = 9


CUSTOMERS = (
    Customer("acme-support", 400, ("gpt-5-mini", "gpt-5"), 30, busiest=8),
    Customer("lena.hoffmann", 60, ("claude-sonnet-4-5", "claude-haiku-4-5"), 14, "claude-cli/2.4.1", 13),
    Customer("nguyen-minh", 25, ("claude-sonnet-4-5",), 9, "claude-cli/2.4.1", 3),
    Customer("blue-harbor-app", 900, ("gpt-5", "gpt-4o-mini"), 42, busiest=15),
    Customer("sofia-martins", 12, ("gpt-4o-mini",), 5, "OpenAI/JS 6.8.1", 19),
    Customer("research-desk", 250, ("claude-opus-4-5", "gpt-5"), 6, "Anthropic/Python 0.79.0", 11),
    Customer("night-batch", 150, ("gpt-5-nano",), 24, busiest=22),
    Customer("tenki-app", 40, ("gpt-5-mini",), 8, "OpenAI/JS 6.8.1", 1),
    Customer("h.al-ali", 15, ("gpt-4o-mini", "gpt-5"), 4, busiest=12),
    Customer("o.kowalczyk", 30, ("claude-sonnet-4-5", "gpt-5"), 7, "claude-cli/2.4.1", 10),
    Customer("internal-evaluation-pipeline-of-the-platform-team", 80, ("claude-haiku-4-5",), 11),
    Customer("trial-2291", 2, ("gpt-4o-mini",), 1, "curl/8.5.0", 16),
)
ANSWERS = ("prompt=900,cached=600,out=180", "prompt=5200,cached=4100,out=740", "prompt=320,out=90")


def add_customers(site: Site) -> None:
    """Make the customers, and have each send each of their requests once."""
    for customer in CUSTOMERS:
        made = _post(site, "users", {"username": customer.name, "credits": str(customer.credits)})
        for model in customer.models:
            for shape in ANSWERS:
                site.upstream.behave(model, f"{shape},chunks=6,delay_ms=3", times=1)
                _ask(site, made["apiKey"], customer.client, model, stream=shape is not ANSWERS[-1])
    site.settle()


def _ask(site: Site, key: str, client: str, model: str, *, stream: bool) -> None:
    path = "/v1/messages" if model.startswith("claude") else "/v1/chat/completions"
    messages = [{"role": "user", "content": "hi"}]
    answer = requests.post(
        site.weir.url + path,
        json={"model": model, "max_tokens": 2000, "messages": messages, "stream": stream},
        headers={"Authorization": f"Bearer {key}", "User-Agent": client},
        timeout=PATIENCE_S,
    )
    answer.raise_for_status()
    site.ids.append(answer.headers["x-request-id"])


def _post(site: Site, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {site.token}"}
    answer = requests.post(
        f"{site.weir.url}/api/admin/{path}", json=body, headers=headers, timeout=PATIENCE_S
    )
    answer.raise_for_status()
    said: dict[str, Any] = answer.json()
    return said


def add_history(site: Site) -> None:
    """Book the customers' records again, some failures of others as theirs, in the shape of weeks."""
    dice = random.Random(7)
    good: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    failed: list[dict[str, Any]] = []
    for record in site.weir.records():
        if record["outcome"] == "ok":
            good[record["userId"]].append(record)
        else:
            failed.append(record)
    now = max(record["createdAt"] for records in good.values() for record in records)
    copies: list[dict[str, Any]] = []
    for customer in CUSTOMERS:
        whose = {name: good[customer.name][0][name] for name in ("userId", "userKeyId")}
        for day in range(DAYS):
            busy = dice.uniform(0.7, 1.3) * (1 - day / DAYS / 2)
            for _ in range(round(customer.a_day * busy)):
                original = dice.choice(failed if dice.random() < FAILURES else good[customer.name])
                hour = dice.gauss(customer.busiest, 4) % 24
                at = now.replace(hour=0, minute=0, second=0) - timedelta(days=day) + timedelta(hours=hour)
                if at < now:
                    copies.append(original | whose | _changes(original, at, dice))
    copies.sort(key=lambda copy: copy["createdAt"])
    booking = Booking(site.weir.database, "history")
    for number, copy in enumerate(copies, 1):
        copy["_id"] = copy["requestId"] = f"history-{number:06}"
    numbered = [SequencedRecord(number, copy) for number, copy in enumerate(copies, 1)]
    for first in range(0, len(numbered), 500):
        booking.apply(numbered[first : first + 500])


def _changes(original: dict[str, Any], at: datetime, dice: random.Random) -> dict[str, Any]:
    latency = round(original["latencyMs"] * dice.lognormvariate(4, 0.4))
    ttft = {"ttftMs": round(latency / 6)} if original.get("ttftMs") else {}
    return {"createdAt": at, "latencyMs": latency, **ttft}


def furnish(site: Site) -> None:
    """What an administrator makes, so that no page is empty."""
    user = CUSTOMERS[0].name
    for path, body in (
        ("ohmygpt/keys", {"id": "key-berlin", "apiKey": "sk-upstream-berlin-0123456789"}),
        ("ohmygpt/backup-keys", {"id": "spare-1", "apiKey": "sk-upstream-spare-0123456789"}),
        ("proxies", {"id": "proxy-1", "name": "Berlin", "type": "http", "host": "10.0.0.7", "port": 3128}),
        ("ohmygpt/bindings", {"proxyId": "proxy-1", "ohmygptKeyId": "key-berlin"}),
        ("keys", {"name": user, "notes": "the frontend"}),
        (f"users/{user}/credits/add", {"amount": 25, "reason": "invoice 4711"}),
    ):
        _post(site, path, body)


def pages(site: Site) -> dict[str, str]:
    """What is shown, by the picture's name."""
    retried = next(record for record in site.weir.records() if len(record["attempts"]) > 1)
    return {
        "home": "/admin/?period=7d",
        "usage": "/admin/usage?period=30d&by=model&compare=yes",
        "requests": "/admin/requests?period=7d",
        "record": f"/admin/requests/{retried['_id']}",
        "users": "/admin/customers",
        "user": f"/admin/customers/{CUSTOMERS[1].name}",
        "client-keys": "/admin/keys",
        "billing": "/admin/billing",
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
            charts = window.page.locator("figure.chart:has(.plot)").count()
            expect(window.page.locator("figure.chart canvas")).to_have_count(charts)
            window.page.screenshot(path=directory / f"{title}-{name}.png", full_page=title != "requests")
        complaints += window.complaints
        window.close()
    return complaints


def draw(browser: Browser, directory: Path) -> list[str]:
    """Start everything, draw all pictures, stop everything; return what the browser complained about."""
    with tempfile.TemporaryDirectory() as data, UpstreamProcess() as upstream:
        site = Site(Path(data), upstream)
        with site.weir:
            site.prepare()
            add_customers(site)
            furnish(site)
            add_history(site)
            return shoot(site, browser, directory)


def main() -> int:
    """Draw into docs/images, or into the directory that is given."""
    if EXECUTABLE is None:
        print("no Chromium on this machine: apt-get install chromium", file=sys.stderr)
        return 1
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with chromium() as browser:
        complaints = draw(browser, directory)
    print("\n".join(complaints) or f"drawn into {directory}")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
