"""How much input a request may amount to, and what it orders beside tokens."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.wires.endpoints import MESSAGES, RESPONSES
from app.wires.orders import (
    MOST_BESIDE,
    MOST_ORDERED,
    MOST_PER_CLIENT_TOOL,
    MOST_PER_IMAGE,
    USUAL_CALLS,
    Input,
    answered_tiers,
    ordered_calls,
    ordered_units,
    reachable_tiers,
    read_input,
    used_units,
)
from app.wires.wire_format import WireFormat

PIXELS = "A" * 10_000


def members(content: Any, **more: Any) -> dict[str, msgspec.Raw]:
    body = {"messages": [{"role": "user", "content": content}], **more}
    return msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw])


def part(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


TEXT = part("text", text="hi", cache_control={"type": "ephemeral"})
IMAGE_URL = part("image_url", image_url={"url": "data:image/png;base64," + PIXELS})
IMAGE = part("image", source={"type": "base64", "media_type": "image/png", "data": PIXELS})


@pytest.mark.parametrize(
    ("content", "more", "images", "tools", "inline"),
    [
        pytest.param("hello", {}, 0, 0, 0, id="a text"),
        pytest.param([TEXT, TEXT], {"system": [TEXT]}, 0, 0, 0, id="parts of text"),
        pytest.param([IMAGE_URL, TEXT], {}, 1, 0, len(PIXELS) + 22, id="an image in a chat"),
        pytest.param([IMAGE, IMAGE], {}, 2, 0, 2 * len(PIXELS), id="images in a message"),
        pytest.param([part("tool_result", content=[IMAGE])], {}, 1, 0, len(PIXELS), id="a tool's image"),
        pytest.param("x", {"tools": [{"name": "f"}, part("function")]}, 0, 0, 0, id="the client's tools"),
        pytest.param("x", {"tools": [part("bash_20250124", name="bash")]}, 0, 1, 0, id="tools it runs"),
        pytest.param("x", {"tools": None, "mcp_servers": []}, 0, 0, 0, id="nothing"),
    ],
)
def test_input_that_is_in_the_body_is_bounded_by_it(
    content: Any, more: dict[str, Any], images: int, tools: int, inline: int
) -> None:
    most = 50_000 - inline + images * MOST_PER_IMAGE + tools * MOST_PER_CLIENT_TOOL + MOST_BESIDE
    assert read_input(members(content, **more), 50_000, MESSAGES.members) == Input(most, is_cached_long=False)


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ([part("image_url", image_url={"url": "https://example.com/a.png"})], {}),
        ([part("image_url", image_url="data:application/pdf;base64,AAAA")], {}),
        ([part("image", source={"type": "url", "url": "https://example.com/a.png"})], {}),
        ([part("image", source={"type": "base64", "media_type": "application/pdf", "data": "A"})], {}),
        ([part("document", source={"type": "base64", "data": "A"})], {}),
        ([part("file", file={"file_id": "file-1"})], {}),
        ([part("input_audio", input_audio={"data": "A", "format": "wav"})], {}),
        ([part("text", text="hi", file_id="f")], {}),
        ([{"text": "no type"}], {}),
        ([part(["text"])], {}),  # type: ignore[arg-type]
        ([part("tool_result", content=[part("document")])], {}),
        ([part("tool_result", content=[part("tool_result", content=[part("tool_result", content=[
            part("tool_result", content=[part("tool_result", content=[TEXT])])])])])], {}),
        ("x", {"tools": [part("web_search_20250305", name="web_search")]}),
        ("x", {"tools": [{"google_search": {}}]}),
        ("x", {"tools": [part(7)]}),  # type: ignore[arg-type]
        ("x", {"tools": "odd"}),
        ("x", {"web_search_options": {}}),
        ("x", {"mcp_servers": [{"url": "https://example.com"}]}),
        ("x", {"models": ["a", "b"]}),
        ("x", {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
        ("x", {"messages": [3]}),
    ],
)  # fmt: skip
def test_input_that_comes_from_elsewhere_is_open(content: Any, more: dict[str, Any]) -> None:
    assert read_input(members(content, **more), 50_000, MESSAGES.members) == Input(None, is_cached_long=True)


def conversation(**more: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(more).encode(), type=dict[str, msgspec.Raw])


SHOT = {"type": "computer_screenshot", "image_url": "data:image/png;base64," + PIXELS}


@pytest.mark.parametrize(
    ("more", "images", "tools"),
    [
        ({"input": "hello", "instructions": "be brief"}, 0, 0),
        ({"input": [{"role": "user", "content": "hello"}], "tools": [part("function", name="f")]}, 0, 0),
        ({"input": [part("message", role="user", content=[part("input_text", text="hi")])]}, 0, 0),
        ({"input": [part("reasoning", encrypted_content="x"), part("function_call", arguments="{}")]}, 0, 0),
        ({"input": [part("function_call_output", output=[part("input_text", text="hi")])]}, 0, 0),
        ({"input": [part("computer_call_output", output=SHOT)], "tools": [part("local_shell")]}, 1, 1),
        ({"input": "x", "tools": [part("namespace", name="n", tools=[part("function", name="f")])]}, 0, 1),
        ({"input": "x", "previous_response_id": None, "prompt": None}, 0, 0),
    ],
)
def test_input_of_a_response_is_bounded_by_its_body(more: dict[str, Any], images: int, tools: int) -> None:
    most = 50_000 + images * (MOST_PER_IMAGE - len(PIXELS) - 22) + tools * MOST_PER_CLIENT_TOOL + MOST_BESIDE
    assert read_input(conversation(**more), 50_000, RESPONSES.members) == Input(most, is_cached_long=False)


@pytest.mark.parametrize(
    "more",
    [
        {"input": "x", "previous_response_id": "resp_1"},
        {"input": "x", "conversation": "conv_1"},
        {"input": "x", "prompt": {"id": "pmpt_1"}},
        {"input": [part("item_reference", id="msg_1")]},
        {"input": [{"role": "user", "content": [part("input_file", file_id="file_1")]}]},
        {"input": [part("function_call_output", output=[part("input_image", file_id="file_1")])]},
        {"input": "x", "tools": [part("web_search")]},
        {"input": "x", "tools": [part("mcp", server_url="https://example.com")]},
        {"input": [3, {"a": 1}]},
    ],
)
def test_input_of_a_response_that_comes_from_elsewhere_is_open(more: dict[str, Any]) -> None:
    assert read_input(conversation(**more), 50_000, RESPONSES.members) == Input()


@pytest.mark.parametrize(("ttl", "is_long"), [("30m", False), ("12h", True)])
def test_a_response_may_go_to_the_dearer_cache(ttl: str, is_long: bool) -> None:
    body = conversation(input="x", prompt_cache_options={"ttl": ttl})
    assert read_input(body, 1000, RESPONSES.members).is_cached_long is is_long


HOUR = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("content", "more", "is_long"),
    [
        ("x", {}, False),
        ([TEXT], {"cache_control": {"type": "ephemeral"}}, False),
        ([TEXT | {"cache_control": HOUR | {"ttl": "5m"}}], {}, False),
        ([TEXT | {"cache_control": HOUR}], {}, True),
        ([IMAGE | {"cache_control": HOUR}], {}, True),
        ([part("tool_result", content=[TEXT | {"cache_control": HOUR}])], {}, True),
        ("x", {"system": [TEXT | {"cache_control": HOUR}]}, True),
        ("x", {"tools": [{"name": "f", "cache_control": HOUR}]}, True),
        ("x", {"messages": [{"role": "user", "content": "x", "cache_control": HOUR}]}, True),
        ("x", {"cache_control": HOUR}, True),
        ("x", {"cache_control": "1h"}, True),
    ],
)
def test_what_may_go_to_the_dearer_cache(content: Any, more: dict[str, Any], is_long: bool) -> None:
    assert read_input(members(content, **more), 1000, MESSAGES.members).is_cached_long is is_long


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "content", "source", "url", "text", "name"]), inner)
    ),
    max_leaves=10,
)


@given(
    VALUES, st.dictionaries(st.sampled_from(["tools", "system", "modalities", "speed", "container"]), VALUES)
)
def test_whatever_stands_there_is_read_or_open_and_never_a_crash(content: Any, more: dict[str, Any]) -> None:
    body = members(content, **more)
    size = len(json.dumps(content))
    most = read_input(body, size, MESSAGES.members).tokens
    assert most is None or most >= MOST_BESIDE
    assert len(ordered_units(body)) <= MOST_ORDERED


@pytest.mark.parametrize(
    ("more", "units"),
    [
        ({}, set()),
        ({"tools": [part("function", function={"name": "f"}), {"name": "g", "input_schema": {}}]}, set()),
        ({"tools": [part("custom", name="f"), part("bash_20250124"), part("web_fetch_20250910")]}, set()),
        ({"tools": [part("web_search_20250305", name="web_search")]}, {"web_search"}),
        (
            {"tools": [part("web_search_preview"), part("code_execution_20250825")]},
            {"web_search", "code_session"},
        ),
        ({"tools": [{"google_search": {}}]}, {"tool"}),
        ({"web_search_options": {}}, {"web_search"}),
        ({"web_search_options": None, "plugins": []}, set()),
        ({"container": {"skills": []}}, {"code_session"}),
        ({"modalities": ["text", "audio"]}, {"output_audio"}),
        ({"service_tier": "auto", "speed": "standard", "inference_geo": "global"}, set()),
        ({"service_tier": "priority", "speed": "fast"}, {"service_tier:priority", "speed:fast"}),
        ({"service_tier": 7}, set()),
        ({"service_tier": "on_demand", "tools": [part("namespace", name="n", tools=[])]}, set()),
        ({"background_options": {"completion_window": "2h"}}, {"completion_window:2h"}),
        ({"background_options": ["2h"]}, set()),
    ],
)
def test_what_is_ordered_beside_tokens(more: dict[str, Any], units: set[str]) -> None:
    assert ordered_units(members("x", **more)) == units


def test_of_very_many_kinds_of_tools_some_are_told() -> None:
    units = ordered_units(members("x", tools=[part(f"kind{number}x") for number in range(1000)]))
    assert len(units) == MOST_ORDERED


OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC
SOME = {"input_tokens": 1}
USED_TWO = {
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1, "code_execution_requests": 1}
}


@pytest.mark.parametrize(
    ("ordered", "wire_format", "told", "raw", "tier", "units"),
    [
        (set(), OPENAI, {}, None, None, ()),
        ({"web_search"}, OPENAI, {}, SOME, None, ("web_search",)),
        ({"web_search"}, ANTHROPIC, {}, SOME, None, ()),
        ({"web_search"}, ANTHROPIC, {}, None, None, ("web_search",)),
        ({"web_search"}, ANTHROPIC, {"server_tool_use": {"web_search_requests": 0}}, SOME, None, ()),
        (set(), ANTHROPIC, USED_TWO, SOME, None, ("code_session", "web_search")),
        ({"service_tier:priority"}, OPENAI, {}, SOME, None, ("service_tier:priority",)),
        ({"service_tier:priority", "completion_window:2h"}, OPENAI, {}, SOME, "default",
         ("completion_window:2h",)),
        (set(), OPENAI, {}, SOME, "priority", ()),  # which is charged as such
        ({"speed:fast"}, ANTHROPIC, {"speed": "standard"}, SOME, None, ()),
        (set(), ANTHROPIC, {"speed": "fast", "inference_geo": "us"}, SOME, None, ()),
    ],
)  # fmt: skip
def test_the_answer_says_what_was_used_and_else_the_order(
    ordered: set[str],
    wire_format: WireFormat,
    told: dict[str, Any],
    raw: dict[str, Any] | None,
    tier: str | None,
    units: tuple[str, ...],
) -> None:
    found = used_units(frozenset(ordered), wire_format, told=told, is_told=raw is not None, tier=tier)
    assert found == units


@pytest.mark.parametrize(
    ("told", "tier", "tiers"),
    [
        ({}, None, ()),
        ({}, "default", ()),
        ({}, "Priority", ("service_tier:priority",)),
        ({"service_tier": "standard"}, "standard", ()),
        ({"service_tier": "batch", "speed": "fast", "inference_geo": "us"}, "batch",
         ("service_tier:batch", "speed:fast", "inference_geo:us")),
        ({"speed": 7, "inference_geo": "not_available"}, "flex" * 99, (f"service_tier:{'flex' * 10}",)),
    ],
)  # fmt: skip
def test_the_answer_says_in_which_tier_it_was_made(
    told: dict[str, Any], tier: str | None, tiers: tuple[str, ...]
) -> None:
    assert answered_tiers(told, tier) == tiers


def test_a_request_may_be_answered_in_what_it_asks_for_and_in_the_standard() -> None:
    assert reachable_tiers(frozenset(), is_auto=False) == ((),)
    assert reachable_tiers(frozenset(["web_search"]), is_auto=False) == [()]
    assert reachable_tiers(frozenset(), is_auto=True) == [(), ("service_tier:priority",)]
    ordered = frozenset(["service_tier:flex", "speed:fast", "web_search"])
    assert set(reachable_tiers(ordered, is_auto=False)) == {
        (),
        ("service_tier:flex",),
        ("speed:fast",),
        ("service_tier:flex", "speed:fast"),
    }


SEARCH = part("web_search_20250305", name="web_search")


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({}, {}),
        ({"service_tier": "flex", "modalities": ["audio"]}, {}),
        ({"tools": [SEARCH]}, {"web_search": USUAL_CALLS}),
        ({"web_search_options": {}}, {"web_search": USUAL_CALLS}),
        ({"tools": [SEARCH | {"max_uses": 3}]}, {"web_search": 3}),
        ({"tools": [SEARCH | {"max_uses": 3}, SEARCH | {"max_uses": 30}]}, {"web_search": 33}),
        ({"tools": [SEARCH | {"max_uses": "x"}], "max_tool_calls": 7}, {"web_search": 7}),
        ({"tools": [SEARCH | {"max_uses": 9}, part("file_search")], "max_tool_calls": 7},
         {"web_search": 7, "file_search": 7}),
        ({"tools": [SEARCH], "max_tool_calls": []}, {"web_search": USUAL_CALLS}),
    ],
)  # fmt: skip
def test_how_often_tools_may_be_called(more: dict[str, Any], calls: dict[str, int]) -> None:
    body = members("x", **more)
    assert ordered_calls(ordered_units(body), body) == calls


def test_no_crowd_of_tools_hides_what_is_dear() -> None:
    crowd = [part(f"a{chr(97 + n)}") for n in range(26)]
    units = ordered_units(members("x", tools=[*crowd, SEARCH], service_tier="priority"))
    assert len(units) == MOST_ORDERED
    assert {"service_tier:priority", "web_search"} <= units


def test_what_is_counted_is_priced_and_not_told_here() -> None:
    ordered = frozenset(("web_search", "image", "output_audio", "service_tier:flex"))
    counted = ("image:high:1024x1024", "output_audio", "web_search")
    found = used_units(ordered, OPENAI, told=USED_TWO, counted=counted, is_told=True, tier=None)
    assert found == ("code_session", "service_tier:flex")
