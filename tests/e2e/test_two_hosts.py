"""Two gunicorns, each with a data directory of its own, on one MongoDB: as two hosts behind a balancer."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.accounts.funds import DECISION_S
from app.common.clock import now_ms
from app.store.embedded_mongo import EmbeddedMongo
from simulator import Data, End, Head, Script, Wait
from simulator.launcher import PATIENCE_S, wait_until
from tests.support import sse
from tests.support.day import a_zone_where_it_is_day
from tests.support.lab import CHAT, Lab
from tests.support.metrics_page import ADMIN_TOKEN, ask_json, scrape
from tests.support.raw_http import Ending, RawConnection, RawResponse
from tests.support.sse import chunk
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user, used_nano_usd
from tests.support.weir_process import CLIENT_KEY, WeirProcess

ANSWER = sse.chat_answer(sse.USAGE_9_2)
KEYS = "sk-upstream-first-0123,sk-upstream-second-0123"
AT_ONCE = 8

Hosts = tuple[WeirProcess, WeirProcess]


@pytest.fixture(scope="module")
def hosts(upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    server = EmbeddedMongo(tmp_path_factory.mktemp("mongo"))
    server.start()
    shared = {
        "MONGODB_URI": server.uri,
        "SECRET_KEY": "one-secret-of-both-hosts",
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "WEB_CONCURRENCY": "2",
        "OHMYGPT_API_KEYS": KEYS,
        "STATS_TIMEZONE": a_zone_where_it_is_day(),
    }
    try:
        with (
            WeirProcess(tmp_path_factory.mktemp("a"), upstream.url, **shared) as first,
            WeirProcess(tmp_path_factory.mktemp("b"), upstream.url, **shared) as second,
        ):
            yield first, second
    finally:
        server.stop()


def post(host: WeirProcess, key: str, body: bytes) -> RawResponse:
    with RawConnection(host.url) as connection:
        connection.request("POST", CHAT, {"Authorization": f"Bearer {key}"}, body)
        return connection.read_response()


def spread(hosts: Hosts, count: int, ask: Callable[[WeirProcess], RawResponse]) -> list[RawResponse]:
    """So many requests, to both hosts by turns, some at a time."""
    turns = itertools.islice(itertools.cycle(hosts), count)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, turns))


def body(hosts: Hosts, upstream: UpstreamProcess, **members: Any) -> bytes:
    return Lab(hosts[0], upstream).body(CHAT, Script.body(ANSWER), **members)


def settled(hosts: Hosts, responses: list[RawResponse]) -> list[dict[str, Any]]:
    """The records of these requests."""
    ids = [response.request_id for response in responses]
    records = hosts[0].database["request_logs"]
    wait_until(lambda: records.count_documents({"_id": {"$in": ids}}) == len(ids), what="the records")
    return list(records.find({"_id": {"$in": ids}}))


def test_a_rate_limit_holds_over_both_hosts(hosts: Hosts, upstream: UpstreamProcess) -> None:
    """A key passes its limit at most by what the workers let through before they tell each other."""
    limit = 40
    user = add_user(hosts[0], credits="5", rpm=limit)
    request = body(hosts, upstream)
    responses = spread(hosts, 3 * limit, lambda host: post(host, user.key, request))
    windows = {response.headers["x-ratelimit-reset"] for response in responses}
    passed = [response for response in responses if response.status == 200]
    assert {response.status for response in responses} <= {200, 429}
    assert len(passed) >= limit
    # Four workers can each let a limit through at worst, if all of them are asked at once.
    assert len(passed) <= 4 * limit * len(windows)
    window = max(windows)
    wait_until(lambda: spent(hosts, user, request, window), what="all workers to know")
    settled(hosts, responses)


def spent(hosts: Hosts, user: User, request: bytes, window: str) -> bool:
    """Whether every worker refuses, or another minute has begun."""
    responses = spread(hosts, 12, lambda host: post(host, user.key, request))
    is_over = any(response.headers["x-ratelimit-reset"] != window for response in responses)
    return is_over or all(response.status == 429 for response in responses)


def test_credit_is_charged_once_whoever_serves(hosts: Hosts, upstream: UpstreamProcess) -> None:
    user = add_user(hosts[1], credits="100")
    request = body(hosts, upstream)
    responses = spread(hosts, 80, lambda host: post(host, user.key, request))
    assert Counter(response.status for response in responses) == {200: 80}
    records = settled(hosts, responses)
    cost = sum(record["costNanoUsd"] for record in records)
    assert cost > 0
    wait_until(lambda: used_nano_usd(hosts[0], user) == cost, what="the charges")
    document = hosts[0].database["usersNew"].find_one({"_id": user.name}) or {}
    assert round(document["credits"] * 10**9) == 100 * 10**9 - cost
    assert len(document["applied"]) >= 2, "it was charged by workers of both"


def test_a_user_without_credit_is_refused_by_both(hosts: Hosts, upstream: UpstreamProcess) -> None:
    user = add_user(hosts[0], credits="0.001")
    request = body(hosts, upstream, model="gpt-dear", max_tokens=10)
    wait_until(
        lambda: all(
            response.status == 402
            for response in spread(hosts, 8, lambda host: post(host, user.key, request))
        ),
        what="all workers to refuse",
    )


REVOCATIONS: dict[str, Callable[[Hosts, User], object]] = {
    "revoked by an administrator": lambda hosts, user: ask_json(
        hosts[0], f"/api/admin/keys/{user.key_id}", "DELETE"
    ),
    "user disabled by an administrator": lambda hosts, user: ask_json(
        hosts[0], f"/api/admin/users/{user.name}/disable", "POST"
    ),
    "revoked by another program": lambda hosts, user: write(
        hosts, "user_keys", {"name": user.name}, {"$set": {"isActive": False}}
    ),
    "expired": lambda hosts, user: write(
        hosts, "user_keys", {"name": user.name}, {"$set": {"expiresAt": now_ms()}}
    ),
    "deleted": lambda hosts, user: hosts[1].database["user_keys"].delete_one({"name": user.name}),
    "user disabled by another program": lambda hosts, user: write(
        hosts, "usersNew", {"_id": user.name}, {"$set": {"isActive": False}}
    ),
    "credit taken": lambda hosts, user: write(
        hosts, "usersNew", {"_id": user.name}, {"$set": {"credits": 0}}
    ),
}


def write(hosts: Hosts, collection: str, query: dict[str, Any], update: dict[str, Any]) -> None:
    assert hosts[1].database[collection].update_one(query, update).modified_count == 1


def test_a_revoked_key_is_refused_by_all_workers_two_seconds_later(
    hosts: Hosts, upstream: UpstreamProcess
) -> None:
    """Each of them knew each key; none is asked in between."""
    users = {how: add_user(hosts[0], credits="5") for how in REVOCATIONS}
    request = body(hosts, upstream)

    took_s: list[float] = []

    def ask(user: User) -> list[RawResponse]:
        return spread(hosts, 32, lambda host: timed(host, user))

    def timed(host: WeirProcess, user: User) -> RawResponse:
        began = time.monotonic()
        response = post(host, user.key, request)
        took_s.append(time.monotonic() - began)
        return response

    responses = [response for user in users.values() for response in ask(user)]
    assert {response.status for response in responses} == {200}
    settled(hosts, responses)

    for how, user in users.items():
        REVOCATIONS[how](hosts, user)
    time.sleep(2)
    wanted = {how: {402 if how == "credit taken" else 401} for how in users}
    told: dict[str, set[int]] = {}

    def is_told() -> bool:
        took_s.clear()
        told.update({how: {response.status for response in ask(user)} for how, user in users.items()})
        return told == wanted

    # While MongoDB does not answer in time, a worker goes on with what it knows.
    wait_until(lambda: is_told() or max(took_s) < DECISION_S, what="MongoDB to answer in time")
    assert told == wanted


def test_a_key_that_dies_on_one_host_is_left_alone_by_the_other(
    hosts: Hosts, upstream: UpstreamProcess
) -> None:
    first, _ = KEYS.split(",")
    upstream.key(first, "exhausted")
    request = body(hosts, upstream)
    try:
        wait_until(lambda: post(hosts[0], CLIENT_KEY, request) and is_out(hosts[0]), what="a failure")
        wait_until(lambda: is_out(hosts[1]), what="the other host to know")
        assert states(hosts[1])["env-2"] == "healthy"
        since = upstream.last_seq()
        responses = spread((hosts[1], hosts[1]), 20, lambda host: post(host, CLIENT_KEY, request))
        assert {response.status for response in responses} == {200}
        asked = Counter(entry["key"] for entry in upstream.tally(since))
        assert asked[first] <= 1, "no more than a trial whether it has money again"
    finally:
        upstream.key(first, "ok")
        hosts[0].forgive_keys()


def is_out(host: WeirProcess) -> bool:
    """Whether both of its workers know the first key as exhausted: the page has the more good keys of two."""
    page = scrape(host)
    is_known = states(host)["env-1"] == "exhausted"
    return is_known and page["weir_workers"] == {(): 2} and page["weir_upstream_keys"][("healthy",)] == 1


def states(host: WeirProcess) -> dict[str, str]:
    return {key["id"]: key["status"] for key in ask_json(host, "/keys/status")["keys"]}


def test_both_tell_the_same_statistics_and_they_are_right(hosts: Hosts, upstream: UpstreamProcess) -> None:
    request = body(hosts, upstream)
    settled(hosts, spread(hosts, 30, lambda host: post(host, CLIENT_KEY, request)))
    # Sums are booked after the records, so they may lag for a moment; then they agree, and on both hosts.
    wait_until(lambda: all(told(host) == recorded(host) for host in hosts), what="the statistics")
    assert told(hosts[0])
    for host in hosts:
        assert ask_json(host, "/api/admin/verify")["_status"] == 200


def told(host: WeirProcess) -> dict[str, tuple[int, int, int]]:
    """Requests, fresh input and nano-dollars of each model, as the statistics say."""
    rows = ask_json(host, "/api/admin/model-stats?period=all")["models"]
    return {
        row["model"]: (row["requestCount"], row["inputTokens"], round(row["creditsBurned"] * 10**9))
        for row in rows
        if row["model"]
    }


def recorded(host: WeirProcess) -> dict[str, tuple[int, int, int]]:
    """The same, summed up from the records."""
    sums: dict[str, tuple[int, int, int]] = {}
    for record in host.records({"model": {"$ne": None}}):
        count, tokens, cost = sums.get(record["model"], (0, 0, 0))
        sums[record["model"]] = (count + 1, tokens + record["inputTokens"], cost + record["costNanoUsd"])
    return sums


def test_a_rolling_restart_costs_no_request_and_no_stream(hosts: Hosts, upstream: UpstreamProcess) -> None:
    """One host after the other stops and starts; the balancer sends requests to who is ready."""
    lab = Lab(hosts[0], upstream)
    head = Head(200, (("Content-Type", "text/event-stream"),), "chunked", flush=True)
    request = body(hosts, upstream)
    # Records of earlier tests may still be on their way.
    began = now_ms()
    responses: list[RawResponse] = []
    for index, host in enumerate(hosts):
        other = hosts[1 - index]
        gate = lab.gate()
        script = Script.of(head, Data(chunk("hi")), Wait(gate), *map(Data, sse.chat()), End())
        with RawConnection(host.url) as stream:
            stream.request(
                "POST", CHAT, {"Authorization": f"Bearer {CLIENT_KEY}"}, lab.stream_body(CHAT, script)
            )
            stream.read_head()
            stream.read_until(b"hi")
            host.terminate()
            responses += spread((other, other), 20, lambda ready: post(ready, CLIENT_KEY, request))
            upstream.open_gate(gate)
            responses.append(stream.read_rest())
            assert responses[-1].ending is Ending.FINAL_CHUNK
        host.stop()
        host.start()
    assert {response.status for response in responses} == {200}
    settled(hosts, responses)
    of_this_test = {"createdAt": {"$gte": began}, "userKeyId": "env"}
    assert hosts[0].database["request_logs"].count_documents(of_this_test) == len(responses)


ADMISSIONS = "weir_credit_reservations_total"
LONG = "longest,chunks=1,prompt=100"


@pytest.mark.parametrize("of_key", [False, True], ids=["of the user", "of the key"])
def test_200_at_once_over_both_hosts_cannot_pass_a_budget(
    hosts: Hosts, upstream: UpstreamProcess, of_key: bool
) -> None:
    """Models answer as long as they may: only what one request lacks, and what needed no hold, is beyond.

    A request that got all that was left has its likely input covered, and not the dearest (100 tokens more);
    without a hold each of the four workers may have a hundredth of the budget running.
    """
    user = add_user(hosts[0], credits="1000")
    users = hosts[0].database["usersNew"]
    budgets = [{"usd": "0.05", "per": "day"}, {"usd": "7", "per": "month"}]
    place = f"/api/admin/keys/{user.key_id}" if of_key else f"/api/admin/users/{user.name}"
    assert ask_api(hosts[0], "PATCH", place, ADMIN_TOKEN, {"budgets": budgets})
    sent = Lab(hosts[0], upstream).body(CHAT, LONG)
    together = threading.Barrier(200)

    def ask(host: WeirProcess) -> RawResponse:
        with RawConnection(host.url) as connection:
            together.wait(PATIENCE_S)
            connection.request("POST", CHAT, {"Authorization": f"Bearer {user.key}"}, sent)
            return connection.read_response()

    with ThreadPoolExecutor(200) as pool:
        responses = list(pool.map(ask, itertools.islice(itertools.cycle(hosts), 200)))
    assert {response.status for response in responses} <= {200, 402, 429}
    records = settled(hosts, responses)
    spent = sum(record["costNanoUsd"] for record in records)
    # Where MongoDB did not answer in time, each other worker may spend what it saw of the budget.
    bound = 50_000_000 + 4 * 500_000 + 100 * 3000
    if spent > bound:
        wait_until(lambda: any(map(was_slow, hosts)), what="a worker to tell that MongoDB was slow")
        bound += 3 * 50_000_000
    assert 0 < spent <= bound
    name = f"{user.key_id}-day" if of_key else "day"
    wait_until(lambda: booked(users, user, name) == spent, what="the booking")
    refused = [record for record in records if record["statusCode"] == 402]
    assert refused
    assert {record["errorType"] for record in refused} == {"budget_exceeded"}
    # Now that all of it is booked, the next request is refused by either host, and told why and until when.
    for host in hosts:
        answer = post(host, user.key, sent)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"]) == (402, "budget_exceeded")
        assert error["budget"]["per"] == "day"
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
    limits = ask_api(hosts[1], "GET", "/api/user/limits", user.key)["key" if of_key else "user"]
    assert limits["budgets"][0]["spentNanoUsd"] == spent
    assert limits["budgets"][0]["leftNanoUsd"] == 0
    assert limits["budgets"][1]["spentNanoUsd"] == spent


def was_slow(host: WeirProcess) -> bool:
    """Whether it admitted anybody on a worker's own view; each tells of that once a second."""
    return bool(scrape(host)[ADMISSIONS].get(("unverified",)))


def ask_api(host: WeirProcess, method: str, path: str, token: str, body: Any = None) -> dict[str, Any]:
    with RawConnection(host.url) as connection:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, path, headers, b"" if body is None else json.dumps(body).encode())
        answer = connection.read_response()
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def booked(users: Any, user: User, name: str) -> int:
    spent = users.find_one({"_id": user.name}).get("budgetSpent", {}).get(name, {})
    return sum(spent.values())
