"""No upstream key in an answer, whatever it is written like and cut into; every other byte as it came."""

import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.key_mask import KeyMask

KEY = "sk-up-SECRETkey/123"
keys = st.sampled_from([KEY, "sk-s-sk-s-1", "aaaa1", "u0073u0073", "ssssssss", 'a"b/c-0'])


def masked(mask: KeyMask, pieces: Iterable[bytes]) -> bytes:
    return b"".join([*map(mask.feed, pieces), mask.flush()])


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]


@st.composite
def spelt(draw: st.DrawFn, key: str) -> bytes:
    """A key as JSON may have it, perhaps quoted several times."""
    parts = []
    for character in key:
        backslashes = "\\" * draw(st.integers(1, 8))
        code = f"u{ord(character):04{draw(st.sampled_from('xX'))}}"
        ways = [character, backslashes + code] + ([backslashes + character] if character in '"/' else [])
        parts.append(draw(st.sampled_from(ways)))
    return "".join(parts).encode()


@given(st.data())
def test_a_key_is_masked_in_every_spelling_and_cut(data: st.DataObject) -> None:
    key = data.draw(keys)
    between = st.sampled_from([b"", b"x", b" \n", b'":"', b"sk-", key[:-1].encode(), b"u00", b'{"a":"'])
    plain, expected = b"", b""
    for _ in range(data.draw(st.integers(1, 3))):
        text, found = data.draw(between), data.draw(spelt(key))
        plain += text + b"|" + found + b"|"
        expected += text + b"|" + b"*" * len(found) + b"|"
    mask = KeyMask(key)
    assert masked(mask, cut(plain, data.draw(st.lists(st.integers(1, 30), max_size=60)))) == expected
    assert mask.has_found


@given(st.data())
def test_the_cuts_change_nothing(data: st.DataObject) -> None:
    """Of bytes that are much like the key: whatever the pieces are, the answer is that of one piece."""
    key = data.draw(keys)
    alphabet = st.sampled_from(
        [key[:1], key[:4], key, "\\", "\\u00", "\\u0073", "\\u002D", "\\/", "u", "0", "-", "é"]
    )
    whole = "".join(data.draw(st.lists(alphabet, max_size=20))).encode()
    sizes = data.draw(st.lists(st.integers(1, 9), max_size=80))
    one, many = KeyMask(key), KeyMask(key)
    result = masked(one, [whole])
    assert masked(many, cut(whole, sizes)) == result
    assert (many.has_found, len(result)) == (one.has_found, len(whole))
    assert key.encode() not in result
    assert one.has_found is (result != whole)


@given(st.lists(st.binary(max_size=40)), keys)
def test_what_holds_no_key_comes_back_as_it_was(pieces: list[bytes], key: str) -> None:
    mask = KeyMask(key)
    whole = b"".join(pieces)
    if masked(KeyMask(key), [whole]) == whole:
        assert masked(mask, pieces) == whole
        assert not mask.has_found


@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([b"sk-up\n", b"sk", KEY.encode()]))))
def test_clean_is_what_feeding_would_not_change(pieces: list[bytes]) -> None:
    mask = KeyMask(KEY)
    for piece in pieces:
        is_clean, was_holding = bool(piece) and mask.is_clean(piece), mask.is_holding
        fed = mask.feed(piece)
        if is_clean:
            assert not was_holding
            assert fed is piece
            assert not mask.is_holding


def test_an_event_passes_as_the_object_it_is() -> None:
    event = b'data: {"choices":[{"delta":{"content":"sk-up-SECRET \\u00e9 is no key"}}]}\n\n'
    mask = KeyMask(KEY)
    assert mask.feed(event) is event
    assert not mask.is_holding


def test_no_more_than_the_beginning_of_a_key_is_held_back() -> None:
    mask = KeyMask(KEY)
    assert mask.feed(b'{"a":"what sk-up-SEC') == b'{"a":"what '
    assert mask.is_holding
    assert mask.feed(b"x") == b"sk-up-SECx"
    assert mask.feed(b"s") == b""
    assert mask.flush() == b"s"
    assert not mask.is_holding


def test_json_stays_json_of_the_same_length() -> None:
    inner = json.dumps({"authorization": f"Bearer {KEY}", "x": 'a "quoted" \\ word'})
    body = json.dumps({"content": json.dumps(inner)}).encode()
    mask = KeyMask(KEY)
    found = masked(mask, [body])
    assert len(found) == len(body)
    assert KEY not in json.loads(json.loads(json.loads(found)["content"]))
    escaped = re.sub(r"[-/A-Z]", lambda m: f"\\u{ord(m[0]):04x}", KEY)
    found = masked(KeyMask(KEY), [f'{{"content": "{escaped}"}}'.encode()])
    assert set(json.loads(found)["content"]) == {"*"}


@pytest.mark.parametrize("key", ["", "key", "secret", "sk1"])
def test_what_may_stand_in_any_text_is_not_looked_for(key: str) -> None:
    data = f"a {key} and a secret {key}".encode()
    mask = KeyMask(key)
    assert mask.feed(data) is data
    assert mask.is_clean(data)
    assert mask.text(data.decode()) == data.decode()


def test_a_text_is_masked_at_once() -> None:
    mask = KeyMask(KEY)
    assert mask.text("text/plain; charset=utf-8") == "text/plain; charset=utf-8"
    assert mask.text(f"ü {KEY}") == f"ü {'*' * len(KEY)}"
    assert not mask.has_found  # which is about the answer's bytes
