"""The upstream's list of models, read and compared with the table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ohmygpt.catalogue import MAX_MODELS, CatalogueError, compare, offered_ids
from app.pricing.model_table import ModelTable

ODD = ("TA/openai/gpt-oss-120b", "alibaba:zhipu/glm-5.2", "azure:openai/gpt-6-sol", "qwen/qwen3.8-max")
TABLE = ModelTable.from_toml(
    """
    [[models]]
    id = "glm"
    upstream_id = "alibaba:zhipu/glm-5.2"
    input = 1
    output = 2

    [[models]]
    id = "free"
    input = 0
    output = 0

    [[models]]
    id = "old"
    aliases = ["qwen/qwen3.8-max"]
    input = 1
    output = 2
    """
)


def listed(*ids: object) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": model_id} for model_id in ids]}).encode()


def test_ids_are_read_as_they_are_and_what_is_none_is_left_out() -> None:
    assert offered_ids(listed(*reversed(ODD), ODD[0], 5, "", "a\nb", " x", "y" * 201, None)) == ODD
    assert offered_ids(b'[{"id": "m"}, "n"]') == ("m",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"5",
        b"{}",
        b'{"data": {}}',
        listed(),
        listed(5),
        b"[" * 5000,
        listed(*range(MAX_MODELS + 1)),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(CatalogueError) as caught:
        offered_ids(body)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_anything_is_read_or_refused(body: bytes) -> None:
    try:
        assert offered_ids(body)
    except CatalogueError:
        return


def test_the_table_is_compared_by_what_goes_upstream() -> None:
    found = compare(TABLE, [*ODD, "free"])
    assert found.new == ("TA/openai/gpt-oss-120b", "azure:openai/gpt-6-sol")
    assert found.gone == ("old",)
    assert found.unpriced == ("free",)
    assert found.agreeing == 2
    assert not found.is_even


def test_a_table_that_agrees_leaves_nothing_to_say() -> None:
    table = ModelTable.from_toml('[[models]]\nid = "m"\ninput = 1\noutput = 1')
    assert compare(table, ["m"]).is_even
