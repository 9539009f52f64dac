"""What somebody means who types a sentence into the palette: `give credit acme 25`, `close 2026-11`."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

GIVE: Final = "give"
TAKE: Final = "take"
NEW_KEY: Final = "new-key"
NEW_USER: Final = "new-user"
MONTH: Final = "month"
REQUESTS: Final = "requests"
GO: Final = "go"

EXAMPLES: Final = (
    "give credit acme 25",
    "new key for acme",
    "new user bob",
    "requests of acme",
    "close 2026-11",
)
"""What can be said, for who does not know."""

_NAME = r"(?P<name>[A-Za-z0-9][\w.@+-]{0,63})"
_AMOUNT = r"\$?(?P<amount>\d{1,7}(?:\.\d{1,9})?)(?: ?usd| ?dollars?| ?\$)?"
_REASON = r"(?:,? (?:for |because )?(?P<reason>\S.{0,199}))?"

_SENTENCES: Final = tuple(
    (action, re.compile(pattern, re.IGNORECASE | re.ASCII))
    for action, pattern in (
        (GIVE, rf"(?:give|add)(?: credits?)?(?: to)? {_NAME} {_AMOUNT}{_REASON}"),
        (GIVE, rf"(?:give|add)(?: credits?)? {_AMOUNT}(?: credits?)?(?: to)? {_NAME}"),
        (GIVE, rf"credit {_NAME} {_AMOUNT}{_REASON}"),
        (TAKE, rf"(?:take|debit)(?: credits?)?(?: from)? {_NAME} {_AMOUNT}{_REASON}"),
        (TAKE, rf"(?:take|debit)(?: credits?)? {_AMOUNT}(?: credits?)?(?: from)? {_NAME}"),
        (NEW_KEY, rf"(?:new|make|add)(?: an?)?(?: client)? key(?: for)? (?!for$){_NAME}"),
        (NEW_USER, rf"(?:new|make|add)(?: an?)? (?:user|customer)(?: {_NAME})?"),
        (MONTH, r"(?:close|bill|month|statements?)(?: of| for)? (?P<name>\d{4}-(?:0[1-9]|1[0-2]))"),
        (REQUESTS, rf"requests?(?: of| by| from)? {_NAME}"),
        (GO, r"(?:go(?: to)?|open|show) (?P<name>\S.{0,60})"),
    )
)


@dataclass(frozen=True, slots=True)
class Wish:
    """Something to do: `action` with a user's, month's or page's `name`; money is in USD."""

    action: str
    name: str = ""
    amount: Decimal | None = None
    reason: str = ""


def wish_of(text: str) -> Wish | None:
    """Return what a sentence asks for; None for what is no such sentence."""
    words = " ".join(text.split())
    for action, sentence in _SENTENCES:
        found = sentence.fullmatch(words)
        if found is not None:
            said = found.groupdict()
            amount = said.get("amount")
            return Wish(
                action,
                said.get("name") or "",
                Decimal(amount) if amount is not None else None,
                said.get("reason") or "",
            )
    return None
