"""Telling a client's own words from those of the upstream."""

import json

import pytest

from app.wires.client_words import NO_WORDS, ClientWords

PHRASE = "Your account has been banned"


@pytest.mark.parametrize(
    "client",
    [
        ClientWords(b'{"user": "i was BANNED"}'),
        ClientWords(b'{"user": "\\u0062\\u0061nned"}'),
        ClientWords(b'{"user": "\\ud800 \\u0062anned"}'),
        ClientWords(b"not json: banned"),
        ClientWords(b"{}", "x=ba%6Eed&y=b%61nned"),
        ClientWords(b"{}", "", ("agent/1", "banned")),
        ClientWords(json.dumps({"arguments": json.dumps({"x": "\\u0062anned"})}).encode()),
        ClientWords(b'{"content": "see ?q=b%61nned"}'),
        ClientWords('{"content": "\uff42anned"}'.encode()),
    ],
)
def test_one_telling_word_is_enough_wherever_it_was_sent(client: ClientWords) -> None:
    assert client.repeats(PHRASE)
    assert not client.repeats_all(PHRASE)


@pytest.mark.parametrize(
    "text",
    [b"banned", b"\\u0062anned", b"\\u0062\\u0061\\u006E\\u006ee\\u0064 \\/ \\ud800", b'\\"\\nbanned\\u'],
)
def test_a_text_that_is_too_long_to_be_decoded_is_looked_through_all_the_same(text: bytes) -> None:
    client = ClientWords(b'["x\\n' + b"\xe5\xaf\x86 x" * 300_000 + text)  # no JSON, nor has it to be
    assert client.repeats(PHRASE)
    assert not client.repeats("suspended")


def test_words_of_every_sentence_tell_nothing() -> None:
    client = ClientWords(json.dumps({"content": "your account has been the best"}).encode())
    assert client.repeats(PHRASE)
    assert not client.repeats(PHRASE, but_for=frozenset({"account"}))
    assert not NO_WORDS.repeats(PHRASE)
    assert not NO_WORDS.repeats("")


@pytest.mark.parametrize("content", ["your  ACCOUNT has\nbeen banned!", "x your-account-has-been-banned x"])
def test_a_phrase_is_found_whatever_stands_between_its_words(content: str) -> None:
    client = ClientWords(json.dumps({"content": content}).encode())
    assert client.repeats_all(PHRASE)
    assert not client.repeats_all("")
    assert not ClientWords(b'{"a": "account banned"}').repeats_all(PHRASE)


@pytest.mark.parametrize(
    ("sent", "phrase", "is_theirs"),
    [
        ("封禁", "封禁", True),
        ("请禁用它", "用户 x 已被禁用", True),
        ("请禁用它", "该令牌已被禁用", True),
        ("你好", "该令牌已被禁用", False),
        ("封", "封禁", False),
    ],
)
def test_two_characters_of_chinese_are_a_word(sent: str, phrase: str, is_theirs: bool) -> None:
    client = ClientWords(json.dumps({"content": sent}, ensure_ascii=False).encode())
    assert client.repeats(phrase) == is_theirs


def test_words_that_tell_nothing_may_be_chinese() -> None:
    client = ClientWords('{"content": "用户"}'.encode())
    assert not client.repeats("用户被禁用", but_for=frozenset({"用户"}))


def test_a_large_request_is_not_taken_apart_in_every_way() -> None:
    large = b'{"content": "%s ?q=b%%61nned"}' % (b"x" * 1024 * 1024)
    assert not ClientWords(large).repeats(PHRASE, but_for=frozenset({"account"}))
    assert ClientWords(large + b" banned").repeats(PHRASE)
