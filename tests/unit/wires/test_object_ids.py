"""Which ids a request's body names."""

import json

import msgspec
import pytest

from app.wires.endpoints import MESSAGES, RESPONSES, forwarded_with_parameters, is_object_id
from app.wires.object_ids import MAX_NAMED, named_objects

ALL = (*RESPONSES.names_objects, *MESSAGES.names_objects)


def named(**members: object) -> list[tuple[str, str]]:
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in members.items()}
    return [(item.object_id, item.member) for item in named_objects(raw, ALL)]


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"previous_response_id": "resp_1"}, [("resp_1", "previous_response_id")]),
        ({"previous_response_id": None}, []),
        ({"previous_response_id": 5}, []),
        ({"conversation": "conv_1"}, [("conv_1", "conversation")]),
        ({"conversation": {"id": "conv_1"}}, [("conv_1", "conversation")]),
        ({"container": {"id": "container_1", "skills": []}}, [("container_1", "container")]),
        ({"container": {"skills": []}}, []),
        ({"input": "item_reference"}, []),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, [("msg_1", "input")]),
        ({"input": [{"id": "msg_1"}, {"type": None, "id": "rs_1"}]}, [("msg_1", "input"), ("rs_1", "input")]),
        ({"input": [{"type": "message", "id": "msg_1"}, {"role": "user", "id": "x"}, 5, None]}, []),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, [("cntr_1", "tools")]),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, []),
        ({"conversation": "a", "previous_response_id": "a"}, [("a", "previous_response_id")]),
    ],
)
def test_ids_are_found_where_they_are_named(members: dict[str, object], found: list[object]) -> None:
    assert named(**members) == found


def test_a_reference_spelled_with_escapes_is_one() -> None:
    raw = msgspec.Raw(rb'[{"ty\u0070e": "item\u005freference", "id": "msg\u005f1"}]')
    assert [item.object_id for item in named_objects({"input": raw}, ALL)] == ["msg_1"]


def test_no_more_ids_are_looked_for_than_a_request_may_name() -> None:
    rests: list[int] = []
    item = json.dumps([{"id": f"msg_{number}"} for number in range(50_000)]).encode()
    found = named_objects({"input": msgspec.Raw(item)}, ALL, lambda: rests.append(1))
    assert len(found) == MAX_NAMED + 1
    assert len(rests) < 50


@pytest.mark.parametrize("text", ["resp_1", "msgbatch_01AbC", "file-1.2", "a:b", "x=", "a" * 256])
def test_what_can_be_an_id(text: str) -> None:
    assert is_object_id(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a..b", "a/b", "a b", "a?b", "a#b", "a%2Fb", "a\n", "ä", "-a", "a" * 257]
)
def test_what_cannot_be_one(text: str) -> None:
    assert not is_object_id(text)


def test_paths_with_ids_belong_to_their_rows() -> None:
    def at(method: str, path: str) -> tuple[str, dict[str, str]] | None:
        found = forwarded_with_parameters(method, path)
        return None if found is None else (found[0].filled_path(found[1]), found[1])

    assert at("GET", "/v1/responses/r1") == ("/v1/responses/r1", {"id": "r1"})
    assert at("POST", "/v1/responses/r1/cancel") == ("/v1/responses/r1/cancel", {"id": "r1"})
    assert at("DELETE", "/v1/conversations/c/items/i") == (
        "/v1/conversations/c/items/i",
        {"id": "c", "item_id": "i"},
    )
    assert at("PUT", "/v1/responses/r1") is None
    assert at("GET", "/v1/responses/r1/more") is None
    assert at("GET", "/v1/models/a/b") is None
    assert at("GET", "/v2/responses/r1") is None
