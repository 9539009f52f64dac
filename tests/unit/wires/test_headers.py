import pytest

from app.wires.endpoints import CHAT, EDIT_IMAGES, LIST_MODELS, MESSAGES, RESPONSES, Endpoint
from app.wires.headers import request_headers, response_headers


def sent(client: dict[str, str], endpoint: Endpoint = CHAT) -> dict[str, str]:
    return request_headers(client, endpoint, default_anthropic_version="2023-06-01")


def test_a_bare_request_gets_what_the_upstream_needs() -> None:
    assert sent({}) == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
    }


def test_a_request_without_a_body_gets_no_type_of_one() -> None:
    assert "content-type" not in sent({}, LIST_MODELS)


def test_what_the_api_defines_travels_untouched() -> None:
    client = {
        "accept": "text/event-stream",
        "user-agent": "OpenAI/Python 3.54.0",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "openai-beta": "x=1",
    }
    added = {"accept-encoding": "identity", "content-type": "application/json"}
    assert sent(client, MESSAGES) == client | added


@pytest.mark.parametrize(
    "said",
    ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "application/json; charset=utf-8"],
)
def test_a_body_that_was_read_as_json_is_called_so(said: str) -> None:
    assert sent({"content-type": said})["content-type"] == "application/json"


def test_a_body_that_may_be_a_form_is_called_what_it_was_read_as() -> None:
    said = "application/json, multipart/form-data; boundary=x"
    assert sent({"content-type": said}, EDIT_IMAGES)["content-type"] == "application/json"
    form = "multipart/form-data; boundary=x"
    assert sent({"content-type": form}, EDIT_IMAGES)["content-type"] == form


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "x-api-key",
        "cookie",
        "host",
        "content-length",
        "content-encoding",
        "connection",
        "transfer-encoding",
        "te",
        "x-forwarded-for",
        "x-stainless-lang",
        "openai-organization",
        "proxy-authorization",
    ],
)
def test_nothing_else_goes_upstream(name: str) -> None:
    assert name not in sent({name: "x"})


def test_what_codex_says_of_a_conversation_goes_along_with_its_responses_alone() -> None:
    said = {"session-id": "s", "thread-id": "t", "x-codex-turn-state": "x", "x-codex-other": "no"}
    sent = request_headers(said, RESPONSES, default_anthropic_version="v")
    assert said.keys() & sent.keys() == {"session-id", "thread-id", "x-codex-turn-state"}
    assert not said.keys() & request_headers(said, CHAT, default_anthropic_version="v").keys()


def test_answers_are_asked_for_uncompressed_whatever_the_client_accepts() -> None:
    assert sent({"accept-encoding": "gzip, br"})["accept-encoding"] == "identity"


@pytest.mark.wire(72)
def test_a_version_is_added_only_for_messages_and_only_if_absent() -> None:
    assert sent({}, MESSAGES)["anthropic-version"] == "2023-06-01"
    assert sent({"anthropic-version": "2026-10-21"}, MESSAGES)["anthropic-version"] == "2026-10-21"
    assert "anthropic-version" not in sent({})


def test_the_client_gets_what_concerns_the_answer_and_nothing_of_its_sender() -> None:
    upstream = [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-store"),
        ("Date", "today"),
        ("Server", "cloudflare"),
        ("Via", "1.1 x"),
        ("Set-Cookie", "a=b"),
        ("CF-Ray", "1"),
        ("Content-Length", "5"),
        ("Content-Encoding", "gzip"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("X-Request-Id", "theirs"),
        ("OpenAI-Organization", "org"),
        ("X-RateLimit-Remaining-Requests", "1"),
        ("Access-Control-Allow-Origin", "*"),
    ]
    assert response_headers(upstream) == [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
    ]


@pytest.mark.wire(67)
def test_the_connection_header_can_withdraw_a_header() -> None:
    upstream = [("Connection", "close, Cache-Control"), ("Cache-Control", "x"), ("Content-Type", "a/b")]
    assert response_headers(upstream) == [("content-type", "a/b")]


@pytest.mark.parametrize("value", ["no\x01cache", "a\nb", "a\x7fb", "\u0100"])
def test_a_value_the_server_would_refuse_to_send_is_dropped(value: str) -> None:
    headers = [("Content-Type", "text/event-stream"), ("Cache-Control", value)]
    assert response_headers(headers) == [("content-type", "text/event-stream")]
