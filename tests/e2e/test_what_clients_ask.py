"""What clients ask beside answers, and how they take a refusal: the newest SDKs, against a running proxy."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Self

import anthropic
import openai
import pytest

from simulator.launcher import wait_until
from tests.support.day import a_zone_where_it_is_day
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user
from tests.support.weir_process import CLIENT_KEY, WeirProcess

HI: list[Any] = [{"role": "user", "content": "hello"}]
TOO_LARGE: list[Any] = [{"role": "user", "content": "x" * 1_100_000}]
GATEWAY_TIMEOUT = "sim:fault=504"
RETRIES = 2


@pytest.fixture(scope="module")
def weir(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeirProcess]:
    own = {"MAX_BODY_MB": "1", "STATS_TIMEZONE": a_zone_where_it_is_day()}
    with WeirProcess(tmp_path_factory.mktemp("asked"), upstream.url, **own) as process:
        yield process


@pytest.fixture(scope="module")
def poor(weir: WeirProcess) -> User:
    return add_user(weir, credits="0")


@pytest.fixture(scope="module")
def rich(weir: WeirProcess) -> User:
    return add_user(weir, credits="5")


def ask(weir: WeirProcess, path: str, key: str, method: str = "GET", **headers: str) -> RawResponse:
    sent = {
        "Authorization": f"Bearer {key}",
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    with RawConnection(weir.url) as connection:
        connection.request(method, path, sent)
        return connection.read_response()


def send(weir: WeirProcess, path: str, key: str, body: dict[str, Any]) -> RawResponse:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with RawConnection(weir.url) as connection:
        connection.request("POST", path, headers, json.dumps(body).encode())
        return connection.read_response()


class Client:
    """An SDK's client that counts what it sends, and does not really wait before it sends it again."""

    def __init__(self, vendor: str, weir: WeirProcess, key: str = CLIENT_KEY, **headers: str) -> None:
        self.sent = 0
        sdk: Any = openai if vendor == "openai" else anthropic
        self.error: type[Exception] = sdk.APIStatusError
        self.client: Any = (openai.OpenAI if vendor == "openai" else anthropic.Anthropic)(
            base_url=f"{weir.url}/v1" if vendor == "openai" else weir.url,
            api_key=key,
            max_retries=RETRIES,
            default_headers={name.replace("_", "-"): text for name, text in headers.items()},
            http_client=sdk.DefaultHttpxClient(event_hooks={"request": [self._count]}),
        )
        self.client._sleep_for_retry = lambda **_: None
        self.path = "/chat/completions" if vendor == "openai" else "/v1/messages"
        self.is_openai = vendor == "openai"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()

    def _count(self, _request: object) -> None:
        self.sent += 1

    def answer(self, *, play: str | None = None, model: str | None = None, **more: Any) -> None:
        """Ask for an answer."""
        messages = more.pop("messages", HI)
        if self.is_openai:
            self.client.chat.completions.create(
                model=model or "gpt-test", messages=messages, user=play or "sim:chunks=1", **more
            )
        else:
            self.client.messages.create(
                model=model or "claude-test",
                max_tokens=9,
                messages=messages,
                metadata={"user_id": play or "sim:chunks=1"},
                **more,
            )


Asking = Callable[[Client], Any]
REFUSALS: dict[str, tuple[int, Asking]] = {
    "unknown model": (404, lambda it: it.answer(model="no-such-model")),
    "unknown path": (404, lambda it: it.client.post("/v1/nothing", cast_to=object, body={})),
    "wrong method": (405, lambda it: it.client.get(it.path, cast_to=object)),
    "bad body": (400, lambda it: it.answer(extra_body={"stream": "yes"})),
    "large body": (413, lambda it: it.answer(messages=TOO_LARGE)),
    "late upstream": (504, lambda it: it.answer(play=GATEWAY_TIMEOUT)),
}
BOTH = pytest.mark.parametrize("vendor", ["openai", "anthropic"])


def refused(client: Client, asking: Asking) -> Any:
    with pytest.raises(client.error) as error:
        asking(client)
    return error.value


@BOTH
def test_what_stays_refused_is_asked_for_once(weir: WeirProcess, poor: User, vendor: str) -> None:
    attempts: dict[str, tuple[int, Asking, Client]] = {
        name: (status, asking, Client(vendor, weir)) for name, (status, asking) in REFUSALS.items()
    }
    attempts |= {
        "unknown key": (401, Client.answer, Client(vendor, weir, "sk-wrong-key")),
        "two keys": (401, Client.answer, Client(vendor, weir, x_api_key="sk-another")),
        "no credit": (402, Client.answer, Client(vendor, weir, poor.key)),
    }
    found = {}
    for name, (_, asking, client) in attempts.items():
        with client:
            found[name] = refused(client, asking).status_code, client.sent
    assert found == {name: (status, 1) for name, (status, _, _) in attempts.items()}


@BOTH
def test_over_the_rate_limit_clients_are_told_how_long_to_wait_and_counting_is_free(
    weir: WeirProcess, vendor: str
) -> None:
    user = add_user(weir, credits="1", rpm=2)
    # A new minute would forgive what is counted here.
    wait_until(lambda: time.time() % 60 < 40, what="the next minute")
    with anthropic.Anthropic(base_url=weir.url, api_key=user.key, max_retries=0) as counter:
        assert [_free_call(counter) for _ in range(3)] == [200, 200, 429]
    with Client(vendor, weir, user.key) as client:
        for _ in range(2):
            client.answer()
        error = refused(client, Client.answer)
        assert (error.status_code, client.sent) == (429, 2 + 1 + RETRIES)
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining"] == "0"


def _free_call(client: anthropic.Anthropic) -> int:
    with suppress(anthropic.RateLimitError):
        client.messages.count_tokens(model="claude-test", messages=HI)
        return 200
    return 429


def test_a_name_in_another_spelling_is_served_and_recorded_under_the_id(weir: WeirProcess) -> None:
    answer = send(weir, "/v1/chat/completions", CLIENT_KEY, {"model": "openai/GPT-Alias", "messages": HI})
    assert answer.status == 200
    record = weir.wait_record(answer.request_id)
    assert (record["model"], record["requestedModel"]) == ("gpt-renamed", "openai/GPT-Alias")


def test_models_asked_for_in_vain_are_counted_for_the_admin(weir: WeirProcess, rich: User) -> None:
    for key in (rich.key, CLIENT_KEY, rich.key):
        answer = send(weir, "/v1/messages", key, {"model": "cluade-test", "messages": HI, "max_tokens": 9})
        assert (answer.status, answer.headers["x-should-retry"]) == (404, "false")
        error = json.loads(answer.body)["error"]
        told, like = error["message"].split(" Did you mean ")
        assert told == "The model 'cluade-test' does not exist."
        assert like == "'claude-test', 'image-test' or 'piece-test'?"
        weir.wait_record(answer.request_id)
    token = weir.admin_token
    found = json.loads(ask(weir, "/api/admin/prices/missing?period=24h", token).body)
    (row,) = [row for row in found["models"] if row["model"] == "cluade-test"]
    assert (row["requests"], row["users"], row["isKnownNow"]) == (3, 2, False)
    assert row["near"] == ["claude-test", "image-test", "piece-test"]
    assert row["firstAt"] <= row["lastAt"]
    assert found["searchedTo"] is None


def test_what_a_key_has_used_and_what_is_left(weir: WeirProcess, rich: User, poor: User) -> None:
    body = {"model": "gpt-test", "messages": HI, "user": "sim:chunks=2,prompt=90,cached=20,out=6"}
    answer = send(weir, "/v1/chat/completions", rich.key, body)
    cost = weir.wait_record(answer.request_id)["costNanoUsd"]
    told: dict[str, Any] = {}

    def is_summed_up() -> bool:
        told.update(json.loads(ask(weir, "/v1/usage", rich.key).body))
        return bool(told["today"]["cost_nano_usd"])  # which is read first

    wait_until(is_summed_up, what="the booking")
    for period in ("today", "last_30_days", "total"):
        used = told[period]
        assert (used["input_tokens"], used["cache_read_tokens"], used["output_tokens"]) == (70, 20, 6)
        assert (used["cost_nano_usd"], used["cost_usd"]) == (cost, cost / 1e9)
    assert (told["remaining"], told["unit"]) == (5 - cost / 1e9, "USD")
    for prefix in ("/v1", ""):
        limit = json.loads(ask(weir, f"{prefix}/dashboard/billing/subscription", rich.key).body)
        dates = "start_date=2026-11-01&end_date=2026-12-01"
        used = json.loads(ask(weir, f"{prefix}/dashboard/billing/usage?{dates}", rich.key).body)
        assert limit["hard_limit_usd"] == 5
        assert used["total_usage"] == pytest.approx(cost / 1e7)

    nothing = json.loads(ask(weir, "/v1/usage", poor.key).body)
    assert (nothing["remaining"], nothing["total"]["cost_nano_usd"]) == (0, 0)
    fixed = json.loads(ask(weir, "/v1/usage", CLIENT_KEY).body)
    assert fixed["remaining"] is None
    assert ask(weir, "/v1/usage", "sk-wrong").status == 401


@pytest.mark.parametrize(
    ("path", "headers", "is_anthropic"),
    [
        ("/v2/messages", {"anthropic_version": "2023-06-01"}, True),
        ("/v1/nothing", {"anthropic_version": "2023-06-01"}, True),
        ("/some/where", {}, False),
        ("/v1/nothing", {}, False),
    ],
)
def test_an_unknown_path_answers_in_the_callers_format(
    weir: WeirProcess, path: str, headers: dict[str, str], is_anthropic: bool
) -> None:
    answer = ask(weir, path, CLIENT_KEY, "POST", **headers)
    told = json.loads(answer.body)
    assert (answer.status, answer.headers["x-should-retry"]) == (404, "false")
    assert told["error"]["type"] == ("not_found_error" if is_anthropic else "invalid_request_error")
    assert ("request_id" in told) is is_anthropic
    assert "base URL" in told["error"]["message"]
    assert weir.wait_record(answer.request_id)["endpoint"] == "unknown"
    with RawConnection(weir.url) as connection:
        connection.request("GET", "/some/where", {})
        assert isinstance(json.loads(connection.read_response().body)["error"], str)
