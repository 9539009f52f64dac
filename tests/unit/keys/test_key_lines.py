import pytest

from app.keys.provider_keys import KeyFileError, parse_key_lines


def test_lines_become_keys_in_their_order() -> None:
    text = "\ufeff# our keys\r\n\r\n b-2 | sk-bbbbbbbb \r\na-1|sk-aaaaaaaa|x\n"
    assert parse_key_lines(text, taken=set()) == [("b-2", "sk-bbbbbbbb"), ("a-1", "sk-aaaaaaaa|x")]


def test_every_bad_line_is_named_and_no_key_is_told() -> None:
    text = "\n".join(
        [
            "good|sk-good-good",
            "no separator sk-secret-1",
            "|sk-secret-2",
            "empty|",
            "short|sk-1234",
            "space|sk-secret 3",
            "good|sk-secret-4",
            "other|sk-good-good",
            "taken|sk-secret-5",
            "env-1|sk-secret-6",
            "bad id|sk-secret-7",
        ]
    )
    with pytest.raises(KeyFileError) as caught:
        parse_key_lines(text, taken={"taken"})
    assert [number for number, _ in caught.value.problems] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert "sk-" not in str(caught.value)


def test_an_empty_file_has_no_keys() -> None:
    assert parse_key_lines("\n# nothing\n", taken=set()) == []
