"""What is taken out of upstream messages, and what is not."""

import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.wires.client_words import ClientWords
from app.wires.scrubbing import MAX_MESSAGE, host_names, scrub, upstream_names
from tests.support.growth import assert_grows_linearly

NAMES = upstream_names("https://apic1.ohmycdn.com/api/v1/ai/openai/cc-omg")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Incorrect API key provided: sk-proj-abc***xyz. See", "Incorrect API key provided: [key]. See"),
        ("no sk-proj-abc***xyz, see https://files.example.com/a", "no [key], see [url]"),
        ("key sk-up...0001 and ****0001 and sk-abc\u2026xyz", "key [key] and [key] and [key]"),
        ("invalid key sk-ant-api03-aB3dE5fG7hI9jK1l.", "invalid key [key]."),
        ("in organization org-aB3dE5fG7hI9jK1l on tokens", "in organization [key] on tokens"),
        ("connect to api.ohmygpt.com:443/v1/chat failed", "connect to [host] failed"),
        ("apic1.ohmycdn.com timed out", "[host] timed out"),
        ("\u4e3b\u673aapic1.ohmycdn.com\u8d85\u65f6", "\u4e3b\u673a[host]\u8d85\u65f6"),
        ("\u8fde\u63a510.0.0.1:80\u5931\u8d25", "\u8fde\u63a5[host]\u5931\u8d25"),
        ("\u4ee4\u724csk-aB3dE5fG7hI9jK1l\u65e0\u6548", "\u4ee4\u724c[key]\u65e0\u6548"),
        ("\ufffdapic1.ohmycdn.com\ufffd", "\ufffd[host]\ufffd"),
        ("cn2us02.opapi.win, API.OhMyGPT.Com.", "[host], [host]."),
        ("see https://www.ohmygpt.com/settings?x=1 please", "see [url] please"),
        ("no POST /api/v1/ai/openai/cc-omg/chat here", "no POST [host]/chat here"),
        ("dial tcp 10.0.0.12:8080: refused", "dial tcp [host]: refused"),
        ("dial tcp: lookup gw.reseller.cn: no such host", "dial tcp: lookup [host]: no such host"),
        (
            "HTTPSConnectionPool(host='gw.reseller.cn', port=443)",
            "HTTPSConnectionPool(host='[host]', port=443)",
        ),
        ('Post "https://gw.reseller.cn/x": EOF', 'Post "[url]": EOF'),
        ("at https://gw.reseller.cn/v1/chat/completions", "at [url]"),
        ("read tcp [2001:db8::1]:443 and fe80::1", "read tcp [host] and [host]"),
        ("http://localhost:9000/v1 is down, localhost too", "[url] is down, [host] too"),
        ("http://one-api:3000/x, redis://cache/0", "[url], [url]"),
        ("relay-7.internal did not answer", "[host] did not answer"),
        ("https://me:word@files.example.com/x", "[url]"),
        ("OhMyGPT, oh-my-gpt, Oh My GPT and OhMyCDN", "upstream, upstream, upstream and upstream"),
        (
            "header 'Authorization: Bearer abcdef.ghijkl'",
            "header 'Authorization: Bearer abcdef.ghijkl'"[:23] + "[key]'",
        ),
        ("key a1b2c3d4e5 is disabled", "key [key] is disabled"),
    ],
)
def test_upstream_identity_and_keys_are_taken_out(message: str, expected: str) -> None:
    assert scrub(message, hosts=NAMES) == expected


INNOCENT = [
    "messages.0.content.1.text: Input should be a valid string",
    "max_tokens: 4097 > 4096, which is the maximum for gpt-5.6-mini",
    "the key parameter is missing",
    "tools.0.input_schema: JSON schema is invalid",
    "temperature 1.5 and top_p 0.9 cannot both be set",
    "Überlang: 消息太长",
    "In context=('properties', 'key_points'), 'additionalProperties' has to be false.",
    "tools.4.custom.input_schema.properties.app: has to be there",
    "tools.0.custom.input_schema.properties.layout.top: has to be an object",
    "tools.0.properties.local and properties.io.net: wrong",
    "The tool's name 'sk-learn-train_model' is not allowed in tools[0]",
    "The value of the key primary_key_1 in metadata is too long",
    "There was no image to be had at https://images.example.com/cat.png (messages[0]).",
    "could not read s3://bucket/photo.png or main.py:120 or app.py, index.ts at 12:30:45",
    "Invalid `signature` in `thinking` block",
    "prompt is too long: 212003 tokens > 200000 maximum",
    "See https://platform.openai.com/docs/guides/error-codes/api-errors.",
    "Bearer authentication is required, a bearer token-based one",
    "the request id is req_011CSHoEeqs5C35K2UUqR7Fy, **bold** and x.y.z",
    "the upstream key ring; end with stop",
]


@pytest.mark.parametrize("message", INNOCENT)
def test_what_helps_the_client_stays(message: str) -> None:
    assert scrub(message, ("sk-upstream-one-0001",), hosts=NAMES) == message


def test_the_secret_in_use_is_taken_out_whatever_it_looks_like() -> None:
    assert scrub("bad token 'häßlich'!", ("häßlich", "")) == "bad token '[key]'!"
    assert scrub("bad token q1!", ("q1",)) == "bad token [key]!"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("key sk-up-one-00 is cut", "key [key] is cut"),
        ("key p-one-0001xyz is cut", "key [key] is cut"),
        ("the key ending in 0001", "the key ending in [key]"),
        ("the key ends with 'e-0001'", "the key ends with '[key]'"),
        ("the key ending in 0002", "the key ending in 0002"),
        ("sk-up-o***", "[key]"),
    ],
)
def test_parts_of_the_secret_are_taken_out(message: str, expected: str) -> None:
    assert scrub(message, ("sk-up-one-0001",)) == expected


def test_what_the_client_sent_stays() -> None:
    content = "see http://10.0.0.7:9000/a.png, sk-abc***xyz and OhMyGPT, or sk-up-one"
    client = ClientWords(json.dumps({"content": content}).encode())
    assert scrub(content, ("sk-up-one-0001",), hosts=NAMES, client=client) == content
    assert scrub("http://10.0.0.8:9000/a.png", client=client) == "[url]"


def test_a_whole_key_goes_even_if_the_client_sent_it() -> None:
    client = ClientWords(b'{"content": "is it sk-up-one-0001?"}')
    assert scrub("no sk-up-one-0001 here", ("sk-up-one-0001",), client=client) == "no [key] here"


def test_the_client_is_asked_about_so_much_and_no_more() -> None:
    asked: list[str] = []

    class Counting(ClientWords):
        def repeats_all(self, phrase: str) -> bool:
            asked.append(phrase)
            return True

    text = " ".join(f"10.0.0.{number}" for number in range(100))
    assert scrub(text, client=Counting()).count("[host]") == 92
    assert len(asked) == 8


@pytest.mark.parametrize(
    ("base_url", "said"),
    [
        ("https://eu.gateway.example.co.uk/v1", "us.gateway.example.co.uk"),
        ("http://192.0.2.7:8080", "192.0.2.7"),
        ("http://[2001:db8::7]:8080", "2001:db8::7"),
        ("http://upstream:8080", "upstream:8080"),
    ],
)
def test_the_hosts_of_a_base_url_are_ours(base_url: str, said: str) -> None:
    assert said not in scrub(f"at {said}!", hosts=upstream_names(base_url))
    assert scrub("The upstream is busy", hosts=upstream_names(base_url)) == "The upstream is busy"


def test_a_secret_is_taken_out_even_across_the_place_where_a_text_is_cut() -> None:
    secret = "zz yy " * 10
    for before in range(4 * MAX_MESSAGE - 70, 4 * MAX_MESSAGE + 5):
        assert "zz yy" not in scrub("https://h/" + "x" * before + " " + secret, (secret,))


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


SPELLINGS = st.sampled_from(
    [
        lambda text, _: text,
        lambda text, _: text.upper(),
        lambda text, _: percent(text),
        lambda text, _: quote(percent(text)),
        lambda text, at: text[:at] + percent(text[at : at + 1]) + text[at + 1 :],
        lambda text, at: text[:at] + '"' + text[at:],
        lambda text, at: text[:at] + "\u200b" + text[at:],
        lambda text, _: "'".join(text),
        lambda text, _: text.replace("-", "\\u002d").replace(".", "\\x2e"),
        lambda text, _: text.title(),
    ]
)
WORDS = st.text(st.characters(codec="utf-8"), max_size=40)
BODY = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=10, max_size=60)


def readable(text: str) -> str:
    """As somebody would read it who undoes whatever was done to it."""
    for _ in range(3):
        for code in range(33, 127):
            text = text.replace(f"%{code:02X}", chr(code)).replace(f"%{code:02x}", chr(code))
    text = text.replace("\\u002d", "-").replace("\\x2e", ".")
    return "".join(c for c in text.lower() if c not in "\"'\\\u200b`" and not c.isspace())


@given(WORDS, BODY, WORDS, SPELLINGS, st.integers(0, 60))
@example("", "0000000000", "", lambda text, _: text, 0)
def test_no_spelling_of_a_key_comes_through(before, body, after, spell, at) -> None:  # type: ignore[no-untyped-def]
    secret = f"sk-{body}"
    scrubbed = scrub(f"{before} {spell(secret, at)} {after}", (secret,))
    assert secret not in readable(scrubbed)
    assert len(scrubbed) <= MAX_MESSAGE


@given(WORDS, st.text("abcxyz0189", min_size=1, max_size=8), WORDS, SPELLINGS, st.integers(0, 20))
def test_no_spelling_of_a_host_comes_through(before, label, after, spell, at) -> None:  # type: ignore[no-untyped-def]
    host = f"{label}.gateway.example"
    names = host_names([f"api.{host}"])
    assert "gateway.example" not in readable(scrub(f"{before} {spell(host, at)} {after}", hosts=names))


@given(st.lists(st.sampled_from(INNOCENT), max_size=5), st.text("abcde fgh,;", max_size=50))
def test_a_text_without_any_is_unchanged(parts: list[str], words: str) -> None:
    text = " \n".join([*parts, words])[:MAX_MESSAGE]
    assert scrub(text, ("sk-upstream-one-0001",), hosts=NAMES) == text


PARTS = [
    "a.",
    "a-",
    "a",
    "h://",
    "1.",
    "sk-",
    "key ",
    "Bearer ",
    "oh",
    "a+",
    "a.com",
    "a:",
    "*",
    "%25",
    "&#x2d;",
]


@pytest.mark.parametrize(
    "part", [*PARTS, "sk-x", "ohmygpt.com", "x***", "sk-up-one", "ending in 0001 ", "host=a.b "]
)
def test_scrubbing_is_quick_whatever_an_upstream_sends(part: str) -> None:
    secrets = ("sk-up-one-0001",)
    assert_grows_linearly(lambda size: scrub(part * (size // len(part)), secrets, hosts=NAMES), 1900)
