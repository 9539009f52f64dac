"""Which ids a request's body names."""

import json

import msgspec
import pytest

from app.wires.endpoints import MESSAGES, RESPONSES, forwarded_with_parameters, is_object_id
from app.wires.errors import Refusal
from app.wires.object_ids import MAX_NAMED, MAX_TOLD, named_objects

ALL = (*RESPONSES.names_objects, *MESSAGES.names_objects)


def named(**members: object) -> list[tuple[str, str]]:
    raw = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in members.items()}
    return [(item.object_id, item.member) for item in named_objects(raw, ALL) if item.is_needed]


def in_input(item: bytes) -> dict[str, bool]:
    """The ids in an input of one item, written so; with each whether it is needed."""
    raw = {"input": msgspec.Raw(b"[" + item + b"]")}
    return {named.object_id: named.is_needed for named in named_objects(raw, ALL)}


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


@pytest.mark.parametrize(
    "item",
    [
        b'{"type":"item_reference","role":"user","id":"msg_1"}',
        b'{"type":"item_reference","role":"\xff","id":"msg_1"}',
        b'{"type":"item_reference","content":"hi","id":"msg_1"}',
        b'{"type":"item_reference","id":"msg_1","id":"msg_2"}',
        b'{"type":"item_reference","id":"msg_2","id":"msg_1"}',
        b'{"type":"item_reference","id":"msg_2","ID":"msg_1"}',
        b'{"type":"item_reference","i\\u0064":"msg_1"}',
        b'{"type":"item_reference","id\\u0000":"msg_1"}',
        b'{"type":"item_reference","id":"msg_1","type":"message"}',
        b'{"type":"message","id":"msg_1","type":"item_reference"}',
        b'{"type":"message","id":"msg_1","Type":"Item_Reference"}',
        b'{"Type":"item_reference","id":"msg_1"}',
        b'{"Type":"message","Role":"user","id":"msg_1"}',
        b'{"type":"message","type":null,"id":"msg_1"}',
        b'{"role":null,"role":"user","id":"msg_1"}',
        b'{"role":null,"id":"msg_1","content":"hi"}',
    ],
)
def test_what_any_reader_may_take_for_a_reference_is_one(item: bytes) -> None:
    assert in_input(item)["msg_1"]


def test_an_input_that_is_one_item_is_read_too() -> None:
    assert named(input={"type": "item_reference", "id": "msg_1"}) == [("msg_1", "input")]


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (b'{"type":"reasoning","id":"rs_1","summary":[]}', {"rs_1": False}),
        (b'{"type":"image_generation_call","id":"ig_1"}', {"ig_1": False}),
        (b'{"role":"assistant","id":"msg_1","content":"hi"}', {"msg_1": False}),
        (
            b'{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"}',
            {"cntr_1": False, "ci_1": False},
        ),
        (b'{"type":"shell_call","environment":{"container_id":"cntr_1"}}', {"cntr_1": False}),
        (b'{"type":"message","id":"a"},{"type":"item_reference","id":"a"}', {"a": True}),
        (b'{"type":"message","id":5},{"type":"function_call","call_id":"call_1"}', {}),
    ],
)
def test_ids_in_a_history_are_not_needed(item: bytes, found: dict[str, bool]) -> None:
    assert in_input(item) == found


@pytest.mark.parametrize(
    "tool",
    [
        b'{"type":"code_interpreter","container":"cntr_2","container":"cntr_1"}',
        b'{"type":"code_interpreter","Container":"cntr_1"}',
        b'{"type":"code_interpreter","container":{"type":"auto","id":"cntr_1"}}',
        b'{"type":"shell","environment":{"type":"container_reference","container_id":"cntr_1"}}',
    ],
)
def test_a_container_is_found_wherever_a_tool_names_it(tool: bytes) -> None:
    found = named_objects({"tools": msgspec.Raw(b"[" + tool + b"]")}, ALL)
    assert "cntr_1" in [named.object_id for named in found if named.is_needed]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("previous_response_id", b'"resp_\xff"'),
        ("conversation", b'{"id":"conv_\xff"}'),
        ("input", b'[{"type":"item_reference","id":"msg_\xff"}]'),
        ("input", b'[{"type":"item_\xffreference","id":"msg_1"}]'),
        ("tools", b'[{"container":"\xff"}]'),
    ],
)
def test_what_cannot_be_read_is_refused(member: str, value: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        named_objects({member: msgspec.Raw(value)}, ALL)
    assert (caught.value.status, caught.value.param) == (400, member)


def test_a_reference_spelled_with_escapes_is_one() -> None:
    raw = msgspec.Raw(rb'[{"ty\u0070e": "item\u005freference", "id": "msg\u005f1"}]')
    assert [item.object_id for item in named_objects({"input": raw}, ALL)] == ["msg_1"]


def test_no_more_ids_are_looked_for_than_a_request_may_name() -> None:
    rests: list[int] = []
    item = json.dumps([{"id": f"msg_{number}"} for number in range(50_000)]).encode()
    found = named_objects({"input": msgspec.Raw(item)}, ALL, lambda: rests.append(1))
    assert len(found) == MAX_NAMED + 1
    assert len(rests) < 50


@pytest.mark.parametrize(
    ("member", "start", "end"),
    [
        ("input", b'[{"type":"message"', b"}]"),
        ("tools", b'[{"type":"message"', b"}]"),
        ("input", b'[{"environment":{"a":1', b"}}]"),
        ("conversation", b'{"a":1', b"}"),
    ],
)
def test_an_object_of_very_many_members_is_refused(member: str, start: bytes, end: bytes) -> None:
    with pytest.raises(Refusal, match="it cannot be read what it refers to"):
        named_objects({member: msgspec.Raw(start + b',"id":"a"' * 256 + end)}, ALL)


def test_histories_may_have_more_ids_within_a_bound() -> None:
    item = json.dumps([{"type": "message", "id": f"msg_{number}"} for number in range(50_000)]).encode()
    found = named_objects({"input": msgspec.Raw(item)}, ALL)
    assert len(found) == MAX_TOLD + 1


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
