"""What the upstream keeps under an id: only its maker may use it, with the key that made it, charged once."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from simulator import Script
from simulator.launcher import wait_until
from tests.support.raw_http import RawConnection, RawResponse
from tests.support.sse import compact
from tests.support.upstream_process import UpstreamProcess
from tests.support.users import User, add_user, used_nano_usd
from tests.support.weir_process import CLIENT_KEY, WeirProcess

RESPONSES = "/v1/responses"
KEYS = ("sk-upstream-of-objects-1", "sk-upstream-of-objects-2")
COST = 30 * 1_000 + 12 * 10_000
"""30 tokens in and 12 out of gpt-test."""


@dataclass
class World:
    """A proxy of two workers and two upstream keys, and what the upstream was asked since the test began."""

    weir: WeirProcess
    upstream: UpstreamProcess
    user: User
    since: int = 0
    began: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(milliseconds=1))
    asked: list[str] = field(default_factory=list)

    def ask(
        self, method: str, target: str, body: Mapping[str, Any] | None = None, *, key: str = CLIENT_KEY
    ) -> RawResponse:
        headers = {"Authorization": f"Bearer {key}"}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        with RawConnection(self.weir.url) as connection:
            connection.request(method, target, headers, compact(dict(body)) if body is not None else b"")
            response = connection.read_response()
        self.asked.append(response.request_id)
        return response

    def create(self, **members: Any) -> tuple[str, RawResponse]:
        """Make a response in the background; `polls` and the like are metadata."""
        metadata = {name: str(value) for name, value in members.pop("does", {}).items()}
        body = {"model": "gpt-test", "input": "hello", "background": True, "metadata": metadata} | members
        response = self.ask("POST", RESPONSES, body)
        assert response.status == 200, response.body
        return self.known(json_of(response)["id"]), response

    def known(self, object_id: str) -> str:
        """Wait until any worker finds this id: another one looks for it for a second at most."""
        objects = self.weir.database["upstream_objects"]
        wait_until(lambda: objects.find_one({"ids": object_id}), what=f"{object_id} to be known")
        return object_id

    def record(self, response: RawResponse) -> dict[str, Any]:
        return self.weir.wait_record(response.request_id)

    def records(self) -> list[dict[str, Any]]:
        """All records of this test, once those of its requests are booked."""
        for request_id in self.asked:
            self.weir.wait_record(request_id)
        return self.new_records()

    def new_records(self) -> list[dict[str, Any]]:
        """What was booked so far of requests since the test began, whoever made them."""
        return self.weir.records({"createdAt": {"$gte": self.began}})

    def hurry(self, object_id: str) -> None:
        """Make it due to be asked about by the proxy itself."""
        objects = self.weir.database["upstream_objects"]
        wait_until(lambda: objects.find_one({"_id": object_id, "state": "pending"}), what="it to be pending")
        objects.update_one({"_id": object_id}, {"$set": {"askedAt": datetime(2020, 1, 1, tzinfo=UTC)}})

    def entries(self) -> list[dict[str, Any]]:
        return self.upstream.tally(self.since)

    def wait_settled(self, object_id: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            kept = self.weir.database["upstream_objects"].find_one({"_id": object_id})
            found[:] = [kept] if kept is not None and "settledBy" in kept else []
            return bool(found)

        wait_until(look, what=f"{object_id} to be settled")
        return found[0]


def json_of(response: RawResponse) -> dict[str, Any]:
    document = json.loads(response.body)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def proxy(
    upstream: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WeirProcess, User]]:
    with WeirProcess(
        tmp_path_factory.mktemp("objects"),
        upstream.url,
        OHMYGPT_API_KEYS=",".join(KEYS),
        WEB_CONCURRENCY="2",
        BACKGROUND_POLL_S="600",
    ) as process:
        yield process, add_user(process, credits="1")


@pytest.fixture
def world(proxy: tuple[WeirProcess, User], upstream: UpstreamProcess) -> World:
    weir, user = proxy
    return World(weir, upstream, user, upstream.last_seq())


def costs(records: list[dict[str, Any]]) -> list[int]:
    return sorted(record["costNanoUsd"] for record in records if record["costNanoUsd"])


@pytest.mark.wire("R20")
@pytest.mark.wire("R21")
def test_a_response_in_the_background_is_charged_when_its_end_is_seen(world: World) -> None:
    object_id, created = world.create(does={"polls": 2})
    record = world.record(created)
    assert record["costNanoUsd"] == 0
    assert record["usageSource"] == "none"
    assert record["object"]["id"] == object_id
    assert record["pending"]["nanoUsd"] == 0  # the fixed key has no credit that could be held
    seen = [json_of(world.ask("GET", f"{RESPONSES}/{object_id}"))["status"] for _ in range(5)]
    assert seen == ["queued", "in_progress", "completed", "completed", "completed"]
    assert costs(world.records()) == [COST]
    assert [entry["key"] for entry in world.entries()] == [world.entries()[0]["key"]] * 6


@pytest.mark.wire("R22")
def test_of_many_who_see_its_end_one_is_charged(world: World) -> None:
    object_id, created = world.create(does={"polls": 0})
    with ThreadPoolExecutor(8) as threads:
        polls = list(threads.map(lambda _: world.ask("GET", f"{RESPONSES}/{object_id}"), range(16)))
    assert {json_of(poll)["status"] for poll in polls} == {"completed"}
    records = world.records()
    assert costs(records) == [COST]
    assert sum(record["outputTokens"] for record in records) == 12
    settled_by = world.wait_settled(object_id)["settledBy"]
    assert [record["_id"] for record in records if record["costNanoUsd"]] == [settled_by]
    marked = {"_id": world.record(created)["_id"], "pending.settledBy": settled_by}
    wait_until(lambda: world.weir.records(marked), what="the record of what began it to say so")


@pytest.mark.wire("R23")
def test_what_nobody_asks_about_is_asked_about_by_the_proxy(world: World) -> None:
    object_id, created = world.create(does={"polls": 1}, user="bob", safety_identifier="x")
    world.hurry(object_id)
    wait_until(lambda: len(world.entries()) == 2, what="the first look")
    world.hurry(object_id)
    settled_by = world.wait_settled(object_id)["settledBy"]
    first, last = world.records()
    assert (first["_id"], last["_id"]) == (created.request_id, settled_by)
    assert (last["costNanoUsd"], last["count"], last["outcome"]) == (COST, 0, "ok")
    assert last["settles"]["id"] == object_id
    assert (first["endUser"], last["endUser"]) == ("bob", "bob")


@pytest.mark.wire("R24")
def test_what_is_gone_before_it_told_its_cost_is_unknown(world: World) -> None:
    object_id, _ = world.create(does={"gone": 1})
    world.hurry(object_id)
    world.wait_settled(object_id)
    last = world.records()[-1]
    assert (last["costNanoUsd"], last["usageSource"], last["usageFlags"]) == (0, "none", ["never_told"])


@pytest.mark.wire("R25")
def test_what_was_cancelled_and_completed_all_the_same_is_charged_once(world: World) -> None:
    object_id, _ = world.create(does={"polls": 3, "late": 1})
    assert json_of(world.ask("POST", f"{RESPONSES}/{object_id}/cancel"))["status"] == "cancelled"
    seen = [json_of(world.ask("GET", f"{RESPONSES}/{object_id}"))["status"] for _ in range(6)]
    assert set(seen) == {"cancelled", "completed"}
    assert costs(world.records()) == [COST]
    entry = world.entries()[1]
    assert (entry["method"], entry["body_length"]) == ("POST", 0)
    assert "content-type" not in entry["headers"]


@pytest.mark.wire("R26")
def test_a_stream_that_was_cut_is_resumed_and_charged_once(world: World) -> None:
    body = {"model": "gpt-test", "input": "hello", "background": True, "stream": True}
    cut = world.ask("POST", RESPONSES, body | {"metadata": {"cut": "5"}})
    assert not cut.is_whole
    object_id = json.loads(cut.body.split(b"data: ", 1)[1].split(b"\n", 1)[0])["response"]["id"]
    world.known(object_id)
    rest = world.ask("GET", f"{RESPONSES}/{object_id}?stream=true&starting_after=5")
    numbers = [
        json.loads(line[6:])["sequence_number"] for line in rest.body.splitlines() if b"data: " in line
    ]
    assert numbers == list(range(6, 15))
    first, last = world.records()
    assert (first["outcome"], first["costNanoUsd"]) == ("upstream_truncated", 0)
    assert (last["stream"], last["costNanoUsd"]) == (True, COST)


@pytest.mark.wire("R27")
@pytest.mark.wire("R33")
def test_a_response_that_was_charged_at_once_is_free_to_look_at(world: World) -> None:
    object_id, _ = world.create(background=False, does={"input": 30})
    for _ in range(5):
        world.ask("GET", f"{RESPONSES}/{object_id}")
    deleted = json_of(world.ask("DELETE", f"{RESPONSES}/{object_id}"))
    assert deleted == {"id": object_id, "object": "response.deleted", "deleted": True}
    records = world.records()
    assert costs(records) == [COST]
    assert {record["outcome"] for record in records} == {"ok"}


@pytest.mark.wire("R28")
def test_what_a_request_names_goes_to_the_key_that_made_it(world: World) -> None:
    conversation = world.known(json_of(world.ask("POST", "/v1/conversations", {}))["id"])
    object_id, _ = world.create(background=False, does={"input": 30})
    made_by = {name: world.entries()[place]["key"] for place, name in enumerate((conversation, object_id))}
    item = world.known(json_of(world.ask("GET", f"{RESPONSES}/{object_id}"))["output"][0]["id"])
    for name, members in (
        (conversation, {"conversation": conversation}),
        (conversation, {"conversation": {"id": conversation}}),
        (object_id, {"previous_response_id": object_id}),
        (object_id, {"input": [{"type": "item_reference", "id": item}]}),
    ):
        for _ in range(3):
            world.create(background=False, does={"input": 30}, **members)
            assert world.entries()[-1]["key"] == made_by[name]


@pytest.mark.wire("R29")
@pytest.mark.wire("R30")
@pytest.mark.wire("G5")
def test_what_is_not_the_users_own_is_not_there(world: World) -> None:
    object_id, _ = world.create(does={"polls": 0})
    before = len(world.entries())
    for name in (object_id, "resp_of-nobody", "..", "%2e%2e", "a..b", "x" * 300):
        refused = world.ask("GET", f"{RESPONSES}/{name}", key=world.user.key)
        assert refused.status == 404, name
        assert json_of(refused)["error"]["type"] == "invalid_request_error"
    named = {"model": "gpt-test", "input": "hi", "previous_response_id": object_id}
    refused = world.ask("POST", RESPONSES, named, key=world.user.key)
    assert refused.status == 404
    assert json_of(refused)["error"] == {
        "message": f"Previous response with id '{object_id}' not found.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }
    for named in ({"previous_response_id": "resp_" + "x" * 200_000}, {"conversation": "\0" * 300}):
        refused = world.ask("POST", RESPONSES, {"model": "gpt-test", "input": "hi"} | named)
        assert refused.status == 404
        assert len(refused.body) < 1000
    assert len(world.entries()) == before


@pytest.mark.wire("R46")
def test_nobody_elses_is_reached_by_writing_it_in_another_way(world: World) -> None:
    object_id, _ = world.create(background=False, does={"input": 30})
    item = world.known(json_of(world.ask("GET", f"{RESPONSES}/{object_id}"))["output"][0]["id"])
    own = world.known(json_of(world.ask("POST", "/v1/conversations", {}, key=world.user.key))["id"])
    before = len(world.entries())
    spellings = (
        {"type": "item_reference", "role": "user", "id": item},
        {"type": "item_reference", "Id": item},
        {"Type": "item_reference", "id": item},
        {"type": "reasoning", "id": item, "summary": []},
        {"type": "image_generation_call", "id": item},
        {"type": "code_interpreter_call", "id": "ci_1", "container_id": item},
    )
    for spelling in spellings:
        asked = {"model": "gpt-test", "input": [{"role": "user", "content": "hi"}, spelling]}
        for target, body in (
            (RESPONSES, asked),
            (f"{RESPONSES}/compact", asked),
            ("/v1/conversations", {"items": [spelling]}),
            (f"/v1/conversations/{own}/items", {"items": [spelling]}),
        ):
            refused = world.ask("POST", target, body, key=world.user.key)
            assert refused.status == 404, (target, spelling)
            assert json_of(refused)["error"]["message"] == f"Item with id '{item}' not found."
    broken = world.ask("POST", "/v1/conversations", {"Items": [spellings[0]]}, key=world.user.key)
    assert broken.status == 400
    assert len(world.entries()) == before


def test_a_conversation_begins_with_the_users_own_items(world: World) -> None:
    object_id, _ = world.create(background=False, does={"input": 30})
    made_by = world.entries()[-1]["key"]
    item = world.known(json_of(world.ask("GET", f"{RESPONSES}/{object_id}"))["output"][0]["id"])
    items = [{"type": "item_reference", "id": item}, {"role": "user", "content": "hi"}]
    for _ in range(4):
        assert world.ask("POST", "/v1/conversations", {"items": items}).status == 200
        assert world.entries()[-1]["key"] == made_by


@pytest.mark.wire("G4")
def test_a_query_is_not_changed(world: World) -> None:
    object_id, _ = world.create(does={"polls": 0})
    world.ask("GET", f"{RESPONSES}/{object_id}?include[]=a&x=%2F")
    assert world.entries()[-1]["query"] == "include[]=a&x=%2F"


@pytest.mark.wire("G6")
def test_a_delete_has_no_body(world: World) -> None:
    object_id, _ = world.create(does={"polls": 0})
    assert world.ask("DELETE", f"{RESPONSES}/{object_id}").status == 200
    entry = world.entries()[-1]
    assert (entry["method"], entry["body_length"]) == ("DELETE", 0)
    assert "content-type" not in entry["headers"]


@pytest.mark.wire("R43")
def test_the_id_is_learnt_though_the_client_leaves_before_the_answer(world: World) -> None:
    body = compact({"model": "gpt-test", "input": "x", "background": True, "metadata": {"polls": "0"}})
    headers = {"Authorization": f"Bearer {CLIENT_KEY}", "Content-Type": "application/json"}
    with RawConnection(world.weir.url) as connection:
        connection.request("POST", RESPONSES, headers, body)
    wait_until(world.new_records, what="its record")
    (record,) = world.new_records()
    assert record["pending"]
    world.ask("GET", f"{RESPONSES}/{record['object']['id']}")
    assert costs(world.records()) == [COST]


@pytest.mark.wire("R44")
def test_what_is_pending_counts_against_the_credit_and_may_be_asked_about(world: World) -> None:
    user, used = world.user, used_nano_usd(world.weir, world.user)
    body = {"model": "gpt-dear", "input": "hi", "background": True, "max_output_tokens": 600}
    created = world.ask("POST", RESPONSES, body | {"metadata": {"output": "1"}}, key=user.key)
    assert created.status == 200, created.body
    world.known(json_of(created)["id"])
    assert world.record(created)["pending"]["nanoUsd"] >= 600_000_000
    refused = world.ask("POST", RESPONSES, body | {"max_output_tokens": 900}, key=user.key)
    # what is left pays for less than was asked for, or for nothing
    assert refused.status in (200, 402, 429)
    for _ in range(3):
        poll = world.ask("GET", f"{RESPONSES}/{json_of(created)['id']}", key=user.key)
        assert poll.status == 200
    world.wait_settled(json_of(created)["id"])
    wait_until(lambda: used_nano_usd(world.weir, user) > used, what="the charge")
    users, pending = world.weir.database["usersNew"], f"holds.pending-{created.request_id}"
    wait_until(
        lambda: not users.find_one({"_id": user.name, pending: {"$exists": True}}), what="the hold to go"
    )


BATCHES = "/v1/messages/batches"


def batch_of(*does: str, model: str = "claude-test") -> dict[str, Any]:
    """A batch with a request for each word of what is to come of it."""
    return {
        "requests": [
            {
                "custom_id": f"request-{number}",
                "params": {
                    "model": model,
                    "max_tokens": 100,
                    "messages": [{"role": "user", "content": "hi"}],
                    "metadata": {"user_id": told},
                },
            }
            for number, told in enumerate(does, start=1)
        ]
    }


def make_batch(world: World, *does: str, key: str = CLIENT_KEY) -> tuple[str, RawResponse]:
    response = world.ask("POST", BATCHES, batch_of(*does), key=key)
    assert response.status == 200, response.body
    return world.known(json_of(response)["id"]), response


# Half of 3 and 15 USD per million: 20/5 and 30/6.
BATCH_COSTS = (20 * 1_500 + 5 * 7_500, 30 * 1_500 + 6 * 7_500)
TWO = ("input=20,output=5,polls=1", "input=30,output=6")


@pytest.mark.wire("B1")
@pytest.mark.wire("B2")
@pytest.mark.wire("B3")
@pytest.mark.wire("B4")
@pytest.mark.wire("B5")
def test_a_batch_is_charged_when_its_results_are_seen(world: World) -> None:
    batch_id, created = make_batch(world, *TWO)
    assert json_of(created)["results_url"] is None
    record = world.record(created)
    assert (record["endpoint"], record["costNanoUsd"], bool(record["pending"])) == ("batches", 0, True)
    assert json_of(world.ask("GET", f"{BATCHES}/{batch_id}"))["processing_status"] == "in_progress"
    ended = world.ask("GET", f"{BATCHES}/{batch_id}")
    own = f"http://weir.test{BATCHES}/{batch_id}/results"
    assert json_of(ended)["results_url"] == own
    assert ended.headers["content-length"] == str(len(ended.body))
    direct = world.upstream.url.removeprefix("http://").encode()
    assert direct not in ended.body
    assert costs(world.records()) == []
    for _ in range(2):
        results = world.ask("GET", f"{BATCHES}/{batch_id}/results")
        assert {json.loads(line)["custom_id"] for line in results.body.splitlines()} == {
            "request-1",
            "request-2",
        }
    records = world.records()
    assert costs(records) == [sum(BATCH_COSTS)]
    (charged,) = [record for record in records if record["costNanoUsd"]]
    assert (charged["inputTokens"], charged["outputTokens"]) == (50, 11)
    assert charged["serviceTier"] == "batch"
    assert sum(item["nanoUsd"] for item in charged["costItems"]) == charged["costNanoUsd"]
    assert len(records) == 5


@pytest.mark.wire("B6")
def test_what_did_not_succeed_is_free(world: World) -> None:
    batch_id, _ = make_batch(world, "input=20,output=5,polls=0", "result=errored", "result=expired")
    world.ask("GET", f"{BATCHES}/{batch_id}")
    world.ask("GET", f"{BATCHES}/{batch_id}/results")
    assert costs(world.records()) == [BATCH_COSTS[0]]


@pytest.mark.wire("B7")
def test_results_that_nobody_fetches_are_fetched_by_the_proxy(world: World) -> None:
    batch_id, _ = make_batch(
        world, "input=20,output=5,polls=0,cost=0.0001", "input=30,output=6,cost=0.00000002"
    )
    world.hurry(batch_id)
    world.wait_settled(batch_id)
    last = world.records()[-1]
    assert (last["costNanoUsd"], last["count"]) == (sum(BATCH_COSTS), 0)
    assert last["upstreamCostNanoUsd"] == 100_020


@pytest.mark.wire("B8")
def test_results_that_break_off_are_charged_as_far_as_they_came(world: World) -> None:
    batch_id, _ = make_batch(world, "input=20,output=5,polls=0,cut=400", "input=30,output=6")
    world.ask("GET", f"{BATCHES}/{batch_id}")
    cut = world.ask("GET", f"{BATCHES}/{batch_id}/results")
    assert not cut.is_whole
    assert cut.body.count(b"\n") == 1
    assert costs(world.records()) == [BATCH_COSTS[1]]  # results come in any order
    world.ask("GET", f"{BATCHES}/{batch_id}/results")
    assert costs(world.records()) == sorted(BATCH_COSTS)


@pytest.mark.wire("B9")
@pytest.mark.wire("G10")
def test_every_request_of_a_batch_is_looked_at_and_batches_are_their_makers_own(world: World) -> None:
    batch = batch_of(*TWO)
    batch["requests"][1]["params"]["model"] = "claude-nobody"
    refused = world.ask("POST", BATCHES, batch)
    assert refused.status == 400
    assert json_of(refused)["error"]["type"] == "invalid_request_error"
    assert "requests.1.params.model" in json_of(refused)["error"]["message"]
    assert world.entries() == []
    assert world.ask("GET", BATCHES).status == 405  # it would show the whole account
    batch_id, _ = make_batch(world, *TWO)
    theirs = world.ask("GET", f"{BATCHES}/{batch_id}", key=world.user.key)
    assert (theirs.status, json_of(theirs)["error"]["type"]) == (404, "not_found_error")


def test_a_batch_is_not_deleted_before_its_cost_is_known(world: World) -> None:
    batch_id, _ = make_batch(world, "input=20,output=5,polls=1")
    assert world.ask("DELETE", f"{BATCHES}/{batch_id}").status == 409
    assert world.ask("DELETE", f"{BATCHES}/{batch_id}").status == 200
    world.wait_settled(batch_id)
    assert costs(world.records()) == [BATCH_COSTS[0]]


@pytest.mark.wire("B16")
def test_a_container_is_used_with_the_key_that_made_it(world: World) -> None:
    answer = compact(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-test",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "container": {"id": f"container_{world.since}", "expires_at": "2026-12-30T12:00:00Z"},
            "usage": {"input_tokens": 3, "output_tokens": 2},
        }
    )
    world.upstream.script("container", Script.body(answer))
    body = {
        "model": "claude-test",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hi"}],
        "metadata": {"user_id": "sim:script:container"},
    }
    assert world.ask("POST", "/v1/messages", body).status == 200
    world.known(f"container_{world.since}")
    made_by = world.entries()[0]["key"]
    for container in (f"container_{world.since}", {"id": f"container_{world.since}"}):
        for _ in range(3):
            assert world.ask("POST", "/v1/messages", body | {"container": container}).status == 200
            assert world.entries()[-1]["key"] == made_by
    theirs = body | {"container": f"container_{world.since}"}
    assert world.ask("POST", "/v1/messages", theirs, key=world.user.key).status == 404
    batch = batch_of(*TWO)
    batch["requests"][1]["params"]["container"] = f"container_{world.since}"
    assert world.ask("POST", BATCHES, batch, key=world.user.key).status == 404
    for _ in range(3):
        assert world.ask("POST", BATCHES, batch).status == 200
        assert world.entries()[-1]["key"] == made_by
