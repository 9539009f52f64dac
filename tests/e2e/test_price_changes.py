"""Prices change while requests run: each record has the table of its beginning; bad tables change nothing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.pricing.model_table import version_of
from simulator.launcher import wait_until
from tests.support.lab import CHAT, Lab
from tests.support.metrics_page import ADMIN_TOKEN, ask_json, scrape
from tests.support.upstream_process import UpstreamProcess
from tests.support.weir_process import MODELS_FILE, WeirProcess

CHEAP = MODELS_FILE.read_text()
DEAR = CHEAP.replace("output = 10\n", "output = 20\n", 1)
BROKEN = CHEAP.replace("input = 1\n", 'input = "much"\n', 1)


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the model table."""
    path = tmp_path_factory.mktemp("prices") / "models.toml"
    path.write_text(CHEAP)
    return path


@pytest.fixture(scope="module")
def weir(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory, table_file: Path
) -> Iterator[WeirProcess]:
    """Two workers."""
    own = {"MODELS_FILE": str(table_file), "WEB_CONCURRENCY": "2", "ADMIN_TOKEN": ADMIN_TOKEN}
    with WeirProcess(tmp_path_factory.mktemp("weir"), upstream.url, **own) as process:
        yield process


@pytest.fixture
def table(table_file: Path, weir: WeirProcess) -> Iterator[Path]:
    """The file, whose table is in force; whatever a test does, the next one finds that again."""
    before = table_file.read_text()
    yield table_file
    if table_file.read_text() == BROKEN:
        table_file.write_text(before)
    if refused(weir):
        ask_json(weir, "/reload", "POST")
        wait_until(lambda: not refused(weir), what="the notice to go")


@pytest.fixture
def lab(weir: WeirProcess, upstream: UpstreamProcess) -> Lab:
    """Requests through it."""
    return Lab(weir, upstream)


def versions_in_use(weir: WeirProcess) -> set[str]:
    return {worker["priceVersion"] for worker in ask_json(weir, "/api/admin/health")["workers"]}


def refused(weir: WeirProcess) -> str:
    """Why the last reload was refused; nothing if it was not."""
    told = ask_json(weir, "/api/admin/health").get("reloadRefused")
    return "" if told is None else str(told["reason"])


def stored(weir: WeirProcess) -> dict[str, dict[str, Any]]:
    return {version["_id"]: version for version in weir.database["price_versions"].find()}


def test_each_record_has_the_table_of_its_beginning(weir: WeirProcess, lab: Lab, table: Path) -> None:
    before = lab.plain(CHAT, "prompt=100,out=7").record
    gate = lab.gate()
    with lab.open(CHAT, lab.stream_body(CHAT, f"prompt=100,out=7,gate={gate}")) as connection:
        wait_until(lambda: any(entry["end"] == "open" for entry in lab.entries()), what="the stream to begin")
        table.write_text(DEAR)
        assert ask_json(weir, "/reload", "POST")["success"]
        # Until one of them has reloaded, both have one version too: the former.
        dear = version_of(DEAR)
        wait_until(lambda: versions_in_use(weir) == {dear}, what="both workers to reload")
        after = lab.plain(CHAT, "prompt=100,out=7").record
        lab.upstream.open_gate(gate)
        meanwhile = lab.played(connection.read_response()).record

    assert before["costNanoUsd"] == meanwhile["costNanoUsd"] == 100 * 1000 + 7 * 10_000
    assert after["costNanoUsd"] == 100 * 1000 + 7 * 20_000
    assert before["priceVersion"] == meanwhile["priceVersion"] != after["priceVersion"]
    assert versions_in_use(weir) == {after["priceVersion"]}
    wait_until(lambda: len(stored(weir)) == 2, what="both texts to be stored")
    for record, price in ((before, 10_000), (meanwhile, 10_000), (after, 20_000)):
        explained = ask_json(weir, f"/api/admin/request-logs/{record['_id']}")["explanation"]
        assert explained["agrees"]
        assert [line["price"] for line in explained["lines"]] == ["1000", str(price)]
    texts = stored(weir)
    assert texts[before["priceVersion"]]["text"] == CHEAP
    assert texts[after["priceVersion"]]["text"] == DEAR
    assert (texts[after["priceVersion"]]["by"], texts[after["priceVersion"]]["actor"]) == (
        "reload",
        "admin-token",
    )
    wanted = [("start", before["priceVersion"]), ("reload", after["priceVersion"])]
    audit = weir.database["admin_audit"]
    wait_until(lambda: audit.count_documents({"action": "prices.put"}) >= len(wanted), what="the audit log")
    changes = audit.find({"action": "prices.put"}).sort("_id", 1)
    assert [(entry["via"], entry["target"].removeprefix("prices:")) for entry in changes] == wanted


@pytest.mark.parametrize("way", ["POST /reload", "SIGHUP"])
def test_a_bad_table_changes_nothing_and_everybody_hears(
    weir: WeirProcess, lab: Lab, table: Path, way: str
) -> None:
    def reload() -> dict[str, Any]:
        if way == "SIGHUP":
            os.kill(weir.pid, signal.SIGHUP)
            return {}
        return ask_json(weir, "/reload", "POST")

    wait_until(weir.is_up, what="the workers before a reload to be gone")
    whole, version, workers = table.read_text(), versions_in_use(weir), weir.worker_pids()
    errors = len(weir.log_messages("ERROR"))
    table.write_text(BROKEN)
    answer = reload()
    wait_until(lambda: refused(weir), what="the notice")
    for said in [refused(weir), *([answer["message"]] if answer else [])]:
        assert str(table) in said
        assert "model 'gpt-test': input: " in said
        assert "\n" not in said
    assert answer.get("_status", 500) == 500
    wait_until(lambda: scrape(weir)["weir_reload_refused"] == {(): 1.0}, what="the metric")
    wait_until(lambda: len(weir.log_messages("ERROR")) > errors, what="the log")
    assert versions_in_use(weir) == version
    assert weir.worker_pids() == workers
    assert lab.plain(CHAT, "prompt=1,out=1").record["priceVersion"] in version

    table.write_text(whole)
    reload()
    wait_until(lambda: not refused(weir), what="the notice to go")
    wait_until(lambda: scrape(weir)["weir_reload_refused"] == {(): 0.0}, what="the metric")
    wait_until(lambda: scrape(weir)["weir_model_table_info"] == {tuple(version): 2.0}, what="both workers")
