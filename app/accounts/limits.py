"""What may be limited of a client key and of a user: tokens, requests at once, models, addresses, spending.

As given (JSON, commands, forms) it is checked by `checked_limits`, which makes the fields that are stored; as
stored it is read by `Limits.read`. A stored limit that cannot be read lets nothing pass: whoever damaged it
wanted some limit.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, Final

import msgspec

from app.accounts.client_address import Network, parse_networks
from app.common.money import NANO

PERIODS: Final = ("5h", "day", "week", "month", "total")
"""What a budget is for: the last five hours, a calendar day, week or month, or all time."""

MAX_BUDGETS: Final = 8
MAX_PATTERNS: Final = 50
MAX_NETWORKS: Final = 50
MAX_USD: Final = Decimal(1_000_000)
MAX_NUMBER: Final = 1_000_000_000
_MAX_PATTERN: Final = 128
_DECIMALS: Final = 9
_DIGEST_BYTES: Final = 5

LIMIT_FIELDS: Final = ("tpm", "maxParallel", "models", "allowedIps", "budgets")
"""The fields that hold limits, beside `rpm`, `expiresAt` and `isActive`; users have no `allowedIps`."""


class LimitError(ValueError):
    """A limit as it cannot be given; `field` is the one that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Budget(msgspec.Struct, frozen=True, gc=False):
    """So many nano-dollars for each period; of `models` alone (patterns with commas between), if given."""

    nano_usd: int
    per: str
    models: str | None = None

    @property
    def name(self) -> str:
        """What tells it from other budgets of the same key or user; fit for a field's name."""
        if self.models is None:
            return self.per
        return f"{self.per}-{blake2b(self.models.encode(), digest_size=_DIGEST_BYTES).hexdigest()}"

    @property
    def usd(self) -> str:
        """The amount in USD, as short as it can be written."""
        return f"{(Decimal(self.nano_usd) / NANO).normalize():f}"

    def covers(self, model: str) -> bool:
        """Return whether requests of this model are paid from it."""
        return self.models is None or allows(split_patterns(self.models), model)

    def to_document(self) -> dict[str, str]:
        """Return it as it is given and stored."""
        document = {"usd": self.usd, "per": self.per}
        return document if self.models is None else {**document, "models": self.models}


_NOTHING = Budget(0, "total")


class Limits(msgspec.Struct, frozen=True, gc=False):
    """The limits of a key or of a user; None and nothing: no such limit."""

    tpm: int | None = None
    max_parallel: int | None = None
    models: tuple[str, ...] | None = None
    allowed_ips: tuple[Network, ...] | None = None
    budgets: tuple[Budget, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Limits | None":
        """Read the limits in a stored document; None where there are none."""
        if not any(document.get(name) is not None for name in LIMIT_FIELDS):
            return None
        return cls(
            _count(document.get("tpm")),
            _count(document.get("maxParallel")),
            _texts(document.get("models")),
            _networks(document.get("allowedIps")),
            _budgets(document.get("budgets")),
        )

    def allows_model(self, model: str) -> bool:
        """Return whether this model may be asked, by its canonical id."""
        return self.models is None or allows(self.models, model)

    def allows_address(self, address: str | None) -> bool:
        """Return whether requests from this address are accepted."""
        if self.allowed_ips is None:
            return True
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self.allowed_ips)

    def to_document(self) -> dict[str, Any]:
        """Return the limits as they are shown."""
        return {
            "tpm": self.tpm,
            "maxParallel": self.max_parallel,
            "models": None if self.models is None else list(self.models),
            "allowedIps": None if self.allowed_ips is None else [str(found) for found in self.allowed_ips],
            "budgets": [budget.to_document() for budget in self.budgets],
        }


NO_LIMITS: Final = Limits()


def allows(patterns: Iterable[str], model: str) -> bool:
    """Return whether one of these patterns (`*`, `?`, `[…]`) is a model's."""
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def split_patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of a text with commas or spaces between them."""
    return tuple(dict.fromkeys(text.replace(",", " ").split()))


def checked_limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as they are stored, of those that are given; None takes a limit away.

    Numbers are whole; `models` and `allowedIps` are lists, or texts with commas between; `budgets` is a list
    of `{usd, per, models?}`. An empty list is no limit. Raises `LimitError`.
    """
    checks = {
        "rpm": _checked_number,
        "tpm": _checked_number,
        "maxParallel": _checked_number,
        "models": _checked_patterns,
        "allowedIps": _checked_networks,
        "budgets": _checked_budgets,
    }
    found: dict[str, Any] = {}
    for name, check in checks.items():
        if name in given:
            found[name] = None if given[name] is None else check(name, given[name])
    return found


def _checked_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise LimitError(name, f"takes a whole number from 0 to {MAX_NUMBER}")
    return value


def _checked_patterns(name: str, value: Any) -> list[str] | None:
    patterns = split_patterns(value if isinstance(value, str) else ",".join(map(str, value)))
    if len(patterns) > MAX_PATTERNS or any(len(pattern) > _MAX_PATTERN for pattern in patterns):
        raise LimitError(name, f"takes at most {MAX_PATTERNS} patterns of {_MAX_PATTERN} characters")
    if not all(pattern.isprintable() for pattern in patterns):
        raise LimitError(name, "takes patterns of models, such as claude-*, gpt-5.2")
    return list(patterns) or None


def _checked_networks(name: str, value: Any) -> list[str] | None:
    try:
        networks = parse_networks(value if isinstance(value, str) else ",".join(map(str, value)))
    except ValueError as error:
        raise LimitError(name, str(error)) from None
    if len(networks) > MAX_NETWORKS:
        raise LimitError(name, f"takes at most {MAX_NETWORKS} addresses or networks")
    return [str(network) for network in networks] or None


def _checked_budgets(name: str, value: Any) -> list[dict[str, str]] | None:
    if not isinstance(value, list) or len(value) > MAX_BUDGETS:
        raise LimitError(name, f"takes at most {MAX_BUDGETS} budgets")
    budgets = [_checked_budget(name, item) for item in value]
    if len({budget.name for budget in budgets}) < len(budgets):
        raise LimitError(name, "has two for the same period and models: give one of them")
    return [budget.to_document() for budget in budgets] or None


def _checked_budget(name: str, item: Any) -> Budget:
    if not isinstance(item, Mapping) or not {"usd", "per"} <= item.keys() <= {"usd", "per", "models"}:
        raise LimitError(name, 'takes budgets such as {"usd": "10", "per": "month", "models": "claude-*"}')
    if item["per"] not in PERIODS:
        raise LimitError(name, f"per: takes one of {', '.join(PERIODS)}")
    patterns = None if item.get("models") is None else _checked_patterns(name, item["models"])
    return Budget(_nano_usd(name, item["usd"]), str(item["per"]), ",".join(patterns) if patterns else None)


def _nano_usd(name: str, value: Any) -> int:
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        usd = Decimal(-1)
    if isinstance(value, bool) or not usd.is_finite() or not 0 <= usd <= MAX_USD:
        raise LimitError(name, f"usd: takes an amount in USD from 0 to {MAX_USD:,}")
    if usd != round(usd, _DECIMALS):
        raise LimitError(name, f"usd: takes at most {_DECIMALS} decimals")
    return int(usd * NANO)


def parse_budget(text: str) -> dict[str, str]:
    """Read a budget as commands and forms take it: `10/month`, `2.5/day:claude-*,gpt-5.2`.

    What is in it is checked by `checked_limits`. Raises `LimitError`.
    """
    amount, slash, rest = text.strip().removeprefix("$").partition("/")
    per, colon, models = rest.partition(":")
    if not slash or (colon and not models.strip()):
        raise LimitError("budgets", "takes budgets such as 10/month or 2.5/day:claude-*")
    budget = {"usd": amount.strip(), "per": per.strip()}
    return {**budget, "models": models.strip()} if colon else budget


def budget_text(budget: Budget) -> str:
    """Write a budget as `parse_budget` reads it."""
    of_models = "" if budget.models is None else f":{budget.models}"
    return f"{budget.usd}/{budget.per}{of_models}"


def _count(value: Any) -> int | None:
    """Read a number of tokens or places; 0 is no limit, and what is no number lets nothing pass."""
    if value is None or value == 0:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER
    return max(1, int(value)) if is_number else 1


def _texts(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _networks(value: Any) -> tuple[Network, ...] | None:
    if value is None:
        return None
    try:
        return parse_networks(",".join(map(str, value)))
    except (TypeError, ValueError):
        return ()


def _budgets(value: Any) -> tuple[Budget, ...]:
    if value is None:
        return ()
    try:
        return tuple(_checked_budget("budgets", item) for item in value)
    except (TypeError, LimitError):
        return (_NOTHING,)
