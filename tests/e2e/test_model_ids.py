"""Model ids as resellers have them, with slashes, colons and dots; and those that have no price."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from simulator.launcher import wait_until
from tests.support.lab import CHAT, MESSAGES, Lab, check
from tests.support.metrics_page import ADMIN_TOKEN, ask, ask_json, scrape
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import add_user
from tests.support.weir_process import MODELS_FILE, WeirProcess

PRICED = ("alibaba:zhipu/glm-5.2", "qwen/qwen3.8-max", "azure:openai/gpt-6-sol")
UNPRICED = "TA/openai/gpt-oss-120b"


@pytest.fixture(scope="module")
def offering() -> Iterator[UpstreamProcess]:
    with UpstreamProcess() as process:
        process.offer(*PRICED, UNPRICED)
        yield process


@pytest.fixture(scope="module")
def odd_weir(offering: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    directory: Path = tmp_path_factory.mktemp("odd")
    table = directory / "models.toml"
    entries = [f'[[models]]\nid = "{model}"\ninput = 1\noutput = 2\n' for model in PRICED]
    table.write_text("\n".join([MODELS_FILE.read_text(), *entries]))
    with WeirProcess(
        directory / "data",
        offering.url,
        MODELS_FILE=str(table),
        UNPRICED_MODELS="unmetered",
        ADMIN_TOKEN=ADMIN_TOKEN,
    ) as process:
        yield process


def call(weir: WeirProcess, method: str, path: str, key: str, body: bytes = b"") -> RawResponse:
    with RawConnection(weir.url) as connection:
        connection.request(method, path, {"Authorization": f"Bearer {key}"}, body)
        return connection.read_response()


def tells_of(weir: WeirProcess, path: str, models: Iterable[str]) -> bool:
    """Whether statistics name the models: sums are brought up to date after the records they count."""
    text = ask(weir, f"/api/admin/{path}")[1]
    return all(json.dumps(model) in text for model in models)


def test_odd_ids_go_everywhere(odd_weir: WeirProcess, offering: UpstreamProcess) -> None:
    lab = Lab(odd_weir, offering)
    for model in PRICED:
        for path in (CHAT, MESSAGES):
            record = lab.plain(path, "prompt=100,out=20", model=model).record
            check(record, "100/0/0/20")
            assert (record["model"], record["costNanoUsd"]) == (model, 140_000)
        for shown in (quote(model, safe=""), quote(model)):
            found = json.loads(lab.refused("GET", f"/v1/models/{shown}", lab.headers()).body)
            assert found["id"] == model
        logs = ask_json(odd_weir, f"/api/admin/request-logs?model={quote(model, safe='')}")
        assert [row["model"] for row in logs["requests"]] == [model, model]
        exported = ask(odd_weir, f"/api/admin/request-logs/export?format=csv&model={quote(model, safe='')}")[
            1
        ]
        assert exported.count(f",{model},") >= 2
        page = ask(odd_weir, f"/admin/requests?model={quote(model, safe='')}")
        assert page[0] in (200, 302)

    def are_counted() -> bool:
        page = scrape(odd_weir)["weir_tokens_total"]
        return all(page.get(("output", model)) == 40 for model in PRICED)

    wait_until(are_counted, what="the tokens to be counted")
    series = "timeseries?metric=tokens&period=24h&by=model"
    for path in ("model-stats", "usage?by=model&period=24h", series):
        wait_until(partial(tells_of, odd_weir, path, PRICED), what=f"{path} to tell of all")


def test_a_model_without_a_price_is_for_callers_without_credit_and_marked(
    odd_weir: WeirProcess, offering: UpstreamProcess
) -> None:
    lab = Lab(odd_weir, offering)
    body = lab.body(CHAT, "prompt=100,cached=40,out=20", model=UNPRICED)
    key = lab.headers()["Authorization"].removeprefix("Bearer ")
    wait_until(lambda: call(odd_weir, "POST", CHAT, key, body).status == 200, what="the upstream's list")
    record = lab.plain(CHAT, "prompt=100,cached=40,out=20", model=UNPRICED).record
    check(record, "60/40/0/20")
    assert (record["model"], record["costNanoUsd"]) == (UNPRICED, 0)
    assert record["unpriced"] == ["cache_hit", "input", "output"]
    wait_until(
        lambda: scrape(odd_weir)["weir_unpriced_requests_total"].get(("other",), 0) >= 2, what="the count"
    )
    assert ask_json(odd_weir, "/api/admin/health")["unpricedRequests"] >= 2
    assert any(UNPRICED in line for line in odd_weir.log.splitlines())
    wait_until(partial(tells_of, odd_weir, "model-stats", (UNPRICED,)), what="the statistics")

    user = add_user(odd_weir, credits="5")
    for caller, is_listed in ((key, True), (user.key, False)):
        listed = json.loads(call(odd_weir, "GET", "/v1/models", caller).body)["data"]
        assert (UNPRICED in [model["id"] for model in listed]) is is_listed
        shown = call(odd_weir, "GET", f"/v1/models/{quote(UNPRICED, safe='')}", caller)
        assert shown.status == (200 if is_listed else 404)
    refused = call(odd_weir, "POST", CHAT, user.key, body)
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (404, "model_not_found")
    told = lab.body(MESSAGES, "out=1", model=UNPRICED)
    refused = call(odd_weir, "POST", MESSAGES, user.key, told)
    assert (refused.status, json.loads(refused.body)["error"]["type"]) == (404, "not_found_error")
    never = lab.body(CHAT, "out=1", model=f"{UNPRICED}x")
    assert call(odd_weir, "POST", CHAT, key, never).status == 404
