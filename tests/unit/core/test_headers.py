import pytest

from app.core.headers import request_headers, response_headers


def sent(client: dict[str, str], *, is_messages: bool = False) -> dict[str, str]:
    return request_headers(client, is_messages=is_messages, default_anthropic_version="2023-06-01")


def test_a_bare_request_gets_what_the_upstream_needs() -> None:
    assert sent({}) == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
    }


def test_what_the_api_defines_travels_untouched() -> None:
    client = {
        "accept": "text/event-stream",
        "content-type": "application/json; charset=utf-8",
        "user-agent": "OpenAI/Python 3.54.0",
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "openai-beta": "x=1",
    }
    assert sent(client, is_messages=True) == {**client, "accept-encoding": "identity"}


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


def test_answers_are_asked_for_uncompressed_whatever_the_client_accepts() -> None:
    assert sent({"accept-encoding": "gzip, br"})["accept-encoding"] == "identity"


@pytest.mark.wire(72)
def test_a_version_is_added_only_for_messages_and_only_if_absent() -> None:
    assert sent({}, is_messages=True)["anthropic-version"] == "2023-06-01"
    assert sent({"anthropic-version": "2026-10-21"}, is_messages=True)["anthropic-version"] == "2026-10-21"
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
