"""Sentences of the palette mean what they say, and nothing else."""

from decimal import Decimal

import pytest

from app.admin import palette
from app.admin.palette import Wish, wish_of


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("give credit acme 25", Wish(palette.GIVE, "acme", Decimal(25))),
        ("  Give  acme   $2.50 ", Wish(palette.GIVE, "acme", Decimal("2.50"))),
        (
            "give credit to acme-corp 25 for the outage",
            Wish(palette.GIVE, "acme-corp", Decimal(25), "the outage"),
        ),
        ("give 25 usd to acme", Wish(palette.GIVE, "acme", Decimal(25))),
        ("credit a@b.c 5", Wish(palette.GIVE, "a@b.c", Decimal(5))),
        ("take 3 from acme", Wish(palette.TAKE, "acme", Decimal(3))),
        ("debit acme 3 booked twice", Wish(palette.TAKE, "acme", Decimal(3), "booked twice")),
        ("new key for acme", Wish(palette.NEW_KEY, "acme")),
        ("make a client key acme", Wish(palette.NEW_KEY, "acme")),
        ("new user", Wish(palette.NEW_USER)),
        ("new user bob", Wish(palette.NEW_USER, "bob")),
        ("close 2026-11", Wish(palette.MONTH, "2026-11")),
        ("requests of acme", Wish(palette.REQUESTS, "acme")),
        ("go to audit log", Wish(palette.GO, "audit log")),
    ],
)
def test_a_sentence_is_understood(text: str, wish: Wish) -> None:
    assert wish_of(text) == wish


@pytest.mark.parametrize(
    "text",
    ["", "acme", "give", "give acme", "give acme much", "close 2026-13", "close it", "new key for",
     "take acme", "give <b> 25", "give acme 25\x00", "give acme 123456789", "01a2089d-519d-732b"],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert wish_of(text) is None


@pytest.mark.parametrize("text", palette.EXAMPLES)
def test_the_examples_are_sentences(text: str) -> None:
    assert wish_of(text) is not None
