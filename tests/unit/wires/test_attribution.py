"""For whom and by what a request was made: what its client says, in bounds."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.records import NOT_ATTRIBUTED, Attribution
from app.wires.attribution import MAX_NAME, MAX_TAGS, Attributor, Person, person_of

FULL = Attributor()
DEVICE, ACCOUNT, SESSION = (
    "d" * 64,
    "0b1c2d3e-0000-4000-8000-000000000001",
    "99999999-aaaa-4bbb-8ccc-dddddddddddd",
)


def members(**body: Any) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(body), type=dict[str, msgspec.Raw])


@pytest.mark.parametrize(
    ("body", "person"),
    [
        ({}, Person()),
        ({"user": "ann"}, Person("ann")),
        ({"user": "", "safety_identifier": "s1"}, Person("s1")),
        ({"user": 7, "safety_identifier": None, "metadata": {"user_id": "u1"}}, Person("u1")),
        ({"user": "ann", "metadata": {"user_id": "u1"}}, Person("ann")),
        ({"metadata": {"user_id": 7}}, Person()),
        ({"metadata": []}, Person()),
        ({"metadata": {"user_id": "u", "x": "y" * 5000}}, Person()),
        ({"user": "x" * 5000}, Person()),
        ({"user": "x" * 300}, Person("x" * MAX_NAME)),
        ({"user": " a\nb\0c\u202ed "}, Person("abcd")),
        (
            {"metadata": {"user_id": f"user_{'a1' * 32}_account__session_{SESSION}"}},
            Person(f"user_{'a1' * 32}", SESSION),
        ),
        (
            {"metadata": {"user_id": f"user_{'a1' * 8}_account_{ACCOUNT}_session_{SESSION}"}},
            Person(f"user_{'a1' * 8}_account_{ACCOUNT}", SESSION),
        ),
        (
            {
                "metadata": {
                    "user_id": json.dumps({"device_id": DEVICE, "account_uuid": "", "session_id": SESSION})
                }
            },
            Person(DEVICE, SESSION),
        ),
        (
            {"metadata": {"user_id": json.dumps({"device_id": DEVICE, "account_uuid": ACCOUNT})}},
            Person(ACCOUNT),
        ),
        ({"metadata": {"user_id": "{no json"}}, Person("{no json")),
        ({"metadata": {"user_id": "{}"}}, Person("{}")),
    ],
)
def test_whom_a_body_names(body: dict[str, Any], person: Person) -> None:
    assert person_of(members(**body)) == person


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("OpenAI/Python 1.50.0", "OpenAI/Python 1.50.0"),
        ("AsyncAnthropic/Python 0.40.0", "AsyncAnthropic/Python 0.40.0"),
        ("claude-cli/2.0.1 (external, cli)", "claude-cli/2.0.1"),
        ("codex_cli_rs/0.50.0 (Debian 12; x86_64) xterm", "codex_cli_rs/0.50.0"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("Mozilla/5.0 (X11; Linux) AppleWebKit/537.36", "Mozilla/5.0"),
        ("python-requests/2.31.0 other/1", "python-requests/2.31.0"),
        ("(nothing)", None),
        ("   ", None),
        ("x" * 1000, "x" * MAX_NAME),
    ],
)
def test_which_program_it_was(agent: str, name: str | None) -> None:
    assert FULL.attribute({"user-agent": agent}, Person()).client_name == name


@pytest.mark.parametrize(
    ("headers", "person", "wanted"),
    [
        ({}, Person(), NOT_ATTRIBUTED),
        ({"x-session-id": "s"}, Person("ann", "inner"), Attribution("ann", "s")),
        ({}, Person("ann", "inner"), Attribution("ann", "inner")),
        ({"x-openwebui-user-email": "a@b", "x-openwebui-user-name": "A"}, Person(), Attribution("a@b")),
        ({"x-openwebui-user-id": "7"}, Person("ann"), Attribution("ann")),
        ({"x-openwebui-user-name": "Jos\xc3\xa9"}, Person(), Attribution("José")),
        ({"x-openwebui-user-name": "Jos\xe9"}, Person(), Attribution("José")),
        ({"x-weir-tags": " a, b ,,a,c"}, Person(), Attribution(tags=("a", "b", "c"))),
        ({"x-weir-tags": ",".join(map(str, range(20)))}, Person(), Attribution(tags=tuple("01234567"))),
        ({"x-weir-tags": "t" * 500}, Person(), Attribution(tags=("t" * MAX_NAME,))),
    ],
)
def test_what_headers_say(headers: dict[str, str], person: Person, wanted: Attribution) -> None:
    assert FULL.attribute(headers, person) == wanted


def test_hashed_names_tell_apart_and_tell_nothing() -> None:
    headers = {"x-session-id": "s1", "user-agent": "curl/8", "x-weir-tags": "t"}
    hashed = Attributor(key=b"k" * 32)
    first, again = (hashed.attribute(headers, Person("ann")) for _ in range(2))
    assert first == again
    assert (first.client_name, first.tags) == ("curl/8", ("t",))
    assert first.end_user is not None
    assert len(first.end_user) == 32
    assert "ann" not in first.end_user
    assert first.end_user != hashed.attribute(headers, Person("bob")).end_user
    assert first.end_user != Attributor(key=b"l" * 32).attribute(headers, Person("ann")).end_user
    assert first.session_id not in (None, "s1", first.end_user)


def test_off_says_nothing() -> None:
    told = {"x-session-id": "s", "user-agent": "curl/8", "x-weir-tags": "t"}
    assert Attributor(is_on=False).attribute(told, Person("ann")) == NOT_ATTRIBUTED


_HEADER = st.text(st.characters(max_codepoint=255), max_size=400)


@given(_HEADER, _HEADER, _HEADER, st.text(max_size=400) | st.none())
def test_whatever_is_sent_is_bounded_and_can_be_stored(
    tags: str, session: str, agent: str, user: str | None
) -> None:
    headers = {"x-weir-tags": tags, "x-session-id": session, "user-agent": agent}
    person = person_of(members(metadata={"user_id": user}, user=user and user[::-1]))
    said = FULL.attribute(headers, person)
    assert len(said.tags) <= MAX_TAGS
    for text in (said.end_user, said.session_id, said.client_name, *said.tags):
        assert text is None or (0 < len(text) <= MAX_NAME and text.isprintable())
        assert text is None or text.encode().decode() == text
    assert Attribution.from_document(said.to_document()) == said
