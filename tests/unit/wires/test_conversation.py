"""What tells the conversation of a request, and that it stays the same while the conversation goes on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.wires.conversation import LEAST_CACHED, MAX_ID, _first_texts, conversation_of, session_id
from app.wires.endpoints import CHAT, MESSAGES, RESPONSES
from app.wires.request_body import RequestBody, parse_body

LONG = "You are a careful assistant.\n" * (LEAST_CACHED // 20)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=1500)
Message = dict[str, Any]
Write = Callable[[Any], bytes]


def encoded(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


WRITERS: list[Write] = [
    lambda value: encoded(value, separators=(",", ":")),
    lambda value: encoded(value, ensure_ascii=False, sort_keys=True),
    lambda value: encoded(value, indent=1, sort_keys=True),
    lambda value: encoded(value, ensure_ascii=False),
]


def chat(messages: list[Message], write: Write = encoded, **others: Any) -> RequestBody:
    return parse_body(write({"model": "m", "messages": messages, **others}), CHAT)


def said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def in_parts(role: str, *texts: str, mark: bool = False) -> Message:
    parts: list[Message] = [{"type": "text", "text": text} for text in texts]
    if mark:
        parts[-1]["cache_control"] = {"type": "ephemeral"}
    return {"role": role, "content": parts}


def number(body: RequestBody, client: str = "key-1", **headers: str) -> int | None:
    return conversation_of(client, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@given(
    TEXT,
    TEXT,
    st.lists(TEXT, min_size=2, max_size=4),
    st.sampled_from(WRITERS),
    st.sampled_from(["system", "developer", ""]),
)
def test_a_conversation_of_chat_keeps_its_number(
    system: str, first: str, later: list[str], write: Write, leading: str
) -> None:
    messages = [said(leading, LONG + system)] if leading else []
    messages.append(said("user", first + LONG))
    begun = number(chat(messages, write))
    assert begun is not None
    for turn, text in enumerate(later):
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"role":"user"}'}}
        messages.append(
            {"role": "assistant", "content": text, "tool_calls": [call]}
            if turn % 2
            else said("assistant", text)
        )
        messages.append(
            {"role": "tool", "tool_call_id": "c", "content": text} if turn % 2 else said("user", text)
        )
        assert number(chat(messages, write)) == begun


@given(
    TEXT,
    st.lists(TEXT, min_size=1, max_size=6),
    st.lists(TEXT, min_size=2, max_size=3),
    st.sampled_from(WRITERS),
)
def test_a_conversation_of_messages_keeps_its_number_while_its_marks_move(
    system: str, first: list[str], later: list[str], write: Write
) -> None:
    numbers = set()
    messages: list[Message] = [in_parts("user", *first, LONG)]
    for turn, text in enumerate(later):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cch={turn};"}
        head = [billing, {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        shown = [
            *messages[:-1],
            {**in_parts("user", *(part["text"] for part in messages[-1]["content"]), mark=True)},
        ]
        body = write({"model": "m", "max_tokens": 9, "system": head, "messages": shown})
        numbers.add(number(parse_body(body, MESSAGES)))
        messages += [in_parts("assistant", text), in_parts("user", text)]
    assert len(numbers) == 1
    assert None not in numbers


@given(TEXT, TEXT, st.sampled_from(WRITERS))
def test_a_common_system_prompt_does_not_make_it_one_conversation(one: str, other: str, write: Write) -> None:
    assume(one[:80] != other[:80])
    bodies = [chat([said("system", LONG * 9), said("user", text)], write) for text in (one, other)]
    assert number(bodies[0]) != number(bodies[1])


def test_what_differs_in_the_system_prompt_or_the_client_is_another_conversation() -> None:
    bodies = [
        parse_body(
            encoded({"model": "m", "max_tokens": 9, "system": text, "messages": [said("user", LONG)]}),
            MESSAGES,
        )
        for text in ("Translate.", "Summarise.")
    ]
    assert number(bodies[0]) != number(bodies[1])
    assert number(bodies[0]) != number(bodies[0], client="key-2")


def test_a_first_request_that_no_vendor_caches_has_no_key_to_come_back_to() -> None:
    assert number(chat([said("user", "hi")])) is None
    assert number(chat([said("system", "Be kind."), said("user", "hi")])) is None
    goes_on = [said("user", 'say "role"'), said("assistant", "hello"), said("user", "and?")]
    assert number(chat(goes_on)) is not None
    assert number(chat(goes_on)) == number(chat([*goes_on, said("assistant", "x"), said("user", "y")]))
    assert number(chat([])) is None


SHORT = [said("user", "hi")]
GONE_ON = [*SHORT, said("assistant", "hello"), said("user", "and?")]


@pytest.mark.parametrize(
    "name",
    ["x-claude-code-session-id", "session-id", "thread-id", "x-session-id", "x-session-affinity"],
)
def test_a_session_named_by_a_header_counts_before_all_else(name: str) -> None:
    headers = {name: "s-1"}
    one = conversation_of("key-1", headers, chat(SHORT))
    other = conversation_of("key-1", headers, chat([said("user", LONG)], user="bob", prompt_cache_key="x"))
    assert one == other is not None
    assert conversation_of("key-1", {name: "s-2"}, chat(SHORT)) != one
    assert conversation_of("key-2", headers, chat(SHORT)) != one


def test_a_cache_that_the_body_names_is_a_conversation() -> None:
    one, other = (
        chat(SHORT, prompt_cache_key="t-1"),
        chat([said("user", LONG)], prompt_cache_key="t-1", user="u"),
    )
    assert number(one) == number(other) is not None
    assert number(chat(SHORT, prompt_cache_key="t-2")) != number(one)


@pytest.mark.parametrize(
    ("named", "others"),
    [
        ({"metadata": {"user_id": "session_1"}}, {"metadata": {"user_id": "session_2"}}),
        ({"user": "bob"}, {"user": "eve"}),
    ],
)
def test_who_has_it_counts_before_how_it_begins(named: dict[str, Any], others: dict[str, Any]) -> None:
    one, other = chat(GONE_ON, **named), chat([said("user", LONG)], **named)
    assert number(one) == number(other) is not None
    assert number(chat(GONE_ON, **others)) != number(one)
    assert number(chat(SHORT, **named)) is None, "a short first request has nothing to come back to"


def test_the_best_name_counts() -> None:
    both = {"metadata": {"user_id": "u"}, "user": "bob"}
    assert number(chat(GONE_ON, prompt_cache_key="t", **both)) == number(chat(SHORT, prompt_cache_key="t"))
    assert number(chat(GONE_ON, **both)) == number(chat(GONE_ON, metadata={"user_id": "u"}))


@pytest.mark.parametrize("value", [None, "", 7, [], {"user_id": None}, {"user_id": 3}])
@pytest.mark.parametrize("name", ["prompt_cache_key", "metadata", "user"])
def test_a_name_that_is_none_does_not_count(name: str, value: Any) -> None:
    assert number(chat(GONE_ON, **{name: value})) == number(chat(GONE_ON))


@given(TEXT, st.lists(TEXT, min_size=2, max_size=3), st.sampled_from(WRITERS))
def test_a_conversation_of_responses_keeps_its_number(first: str, later: list[str], write: Write) -> None:
    items: list[Message] = [
        {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
        for role, text in (("developer", LONG), ("user", first + LONG))
    ]
    numbers = set()
    for text in later:
        body = write({"model": "m", "instructions": LONG, "input": items, "store": False})
        numbers.add(number(parse_body(body, RESPONSES)))
        said_back = [{"type": "output_text", "text": text, "annotations": []}]
        items.append({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": text})
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "content": said_back})
        items.append({"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"role":"user"}'})
        items.append({"type": "function_call_output", "call_id": "c", "output": text})
    assert len(numbers) == 1
    assert None not in numbers


def test_a_prompt_in_place_of_messages_is_a_beginning() -> None:
    bodies = [encoded({"model": "m", "input": text}) for text in (LONG, LONG, "x" + LONG)]
    found = [number(parse_body(body, RESPONSES)) for body in bodies]
    assert found[0] == found[1] != found[2]
    assert None not in found


def test_metadata_of_any_size_are_not_read() -> None:
    large = {"user_id": "u", "other": "y" * 5000}
    assert number(chat(SHORT, metadata=large)) == number(chat(SHORT, other="y" * 5000)) is not None


def test_a_session_has_a_name_of_bounded_length() -> None:
    assert session_id({}) is None
    assert session_id({"x-session-id": "", "thread-id": "t"}) == "t"
    assert session_id({"x-session-id": "x", "session-id": "s" * 999}) == "s" * MAX_ID


@given(st.binary(max_size=200))
def test_any_messages_are_read(data: bytes) -> None:
    texts = _first_texts(b"[" + data + b"]")
    assert all(isinstance(text, bytes) for text in texts)
