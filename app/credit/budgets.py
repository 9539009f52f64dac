"""Budgets: which of them a request is paid from, what of each is spent, and when it begins anew.

What is spent is kept in the user's document, for the user's own budgets and for those of their keys, in
buckets by the moment from which their period counts:

    usersNew.budgetSpent = {name: {"b" + epoch second: nano-dollars}}

The update that books a request's charge on the credit adds it here as well, exactly once for the same reason
(`app.persistence.booking`); its record says which budgets and buckets (`budgets`), by when the request was
accepted. So a period begins anew without anybody doing anything: from midnight on, another bucket counts, and
what is booked late of the day before goes to the bucket of that day. Calendar periods begin at midnight in
`STATS_TIMEZONE`, weeks on Mondays. Of `5h` there are buckets of a quarter of an hour: a charge counts for
five hours, and at most `STEP_S` longer. `total` has a single bucket.

A hold on the user's credit (`app.credit.credit_holds`) says which budgets it is on, so that one atomic update
sees credit, budgets, and all that runs.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, NamedTuple

from app.accounts.credentials import public_key_id
from app.accounts.limits import Budget, Limits
from app.accounts.principal import Principal

FIELD: Final = "budgetSpent"
GIVEN: Final = "budgetsGiven"
"""The user's field that says since when each budget holds, by its name."""

STEP_S: Final = 900
"""How much longer than five hours a charge may count, in seconds."""
_WINDOW_S: Final = 5 * 3600
_DAY: Final = timedelta(days=1)
_LONGEST: Final = {"day": 2 * _DAY, "week": 8 * _DAY, "month": 32 * _DAY}
_PREFIX: Final = "b"
_DIGITS: Final = 11

_KEPT_S: Final = {
    "5h": _WINDOW_S + 2 * STEP_S,
    "day": 2 * 86_400,
    "week": 14 * 86_400,
    "month": 62 * 86_400,
    "total": 0,
}
"""How far behind the newest bucket others are kept, in seconds: longer than any of them counts."""


class Claim(NamedTuple):
    """A budget that a request is paid from, at the moment it was accepted.

    `name` is the budget's among all of the user; `key_id` is there where it is one of the client key.
    Buckets count from `since` on, and the request's charge goes to `bucket`; both in epoch seconds.
    """

    name: str
    budget: Budget
    since: int
    bucket: int
    key_id: str | None = None

    @property
    def nano_usd(self) -> int:
        """How much there is for each period."""
        return self.budget.nano_usd

    def to_document(self) -> dict[str, Any]:
        """Return what the record says."""
        return {"name": self.name, "per": self.budget.per, "from": self.bucket}


def claims_of(principal: Principal, model: str | None, moment: datetime, tz: tzinfo) -> tuple[Claim, ...]:
    """Return the budgets that a request of this moment is paid from; with no model, those of all models."""
    return (
        *_claims(principal.user_limits, None, model, moment, tz),
        *_claims(principal.key_limits, public_key_id(principal.user_key_id), model, moment, tz),
    )


def _claims(
    limits: Limits | None, key_id: str | None, model: str | None, moment: datetime, tz: tzinfo
) -> Iterable[Claim]:
    for budget in limits.budgets if limits is not None else ():
        if budget.models is None or (model is not None and budget.covers(model)):
            yield claim_on(budget, key_id, moment, tz)


def claim_on(budget: Budget, key_id: str | None, moment: datetime, tz: tzinfo) -> Claim:
    """Return the claim on a budget of the user (`key_id` None) or of one of their keys."""
    name = budget.name if key_id is None else f"{key_id}-{budget.name}"
    return Claim(name, budget, since(budget.per, moment, tz), bucket(budget.per, moment, tz), key_id)


def bucket(per: str, moment: datetime, tz: tzinfo) -> int:
    """Return the bucket that a charge of this moment goes to."""
    if per == "total":
        return 0
    if per == "5h":
        return _step(moment.timestamp())
    return int(_begin(per, moment, tz).timestamp())


def since(per: str, moment: datetime, tz: tzinfo) -> int:
    """Return from which bucket on they count at this moment."""
    return _step(moment.timestamp() - _WINDOW_S) if per == "5h" else bucket(per, moment, tz)


def begins_anew(claim: Claim, spent: Mapping[str, Any], moment: datetime, tz: tzinfo) -> datetime | None:
    """Return when the budget, or the first part of it that is spent, is there again; None: never."""
    per = claim.budget.per
    if per == "total":
        return None
    if per == "5h":
        oldest = min(_counted(claim, spent), default=claim.bucket)
        return datetime.fromtimestamp(oldest + _WINDOW_S + STEP_S, UTC)
    return _end(per, _begin(per, moment, tz)).astimezone(UTC)


def charged_until(per: str, at: int, tz: tzinfo) -> datetime | None:
    """Return up to which moment, at the latest, requests are paid from this bucket; None: for ever.

    One that does not begin where periods begin was made while days began elsewhere.
    """
    if per == "total":
        return None
    moment = datetime.fromtimestamp(at, UTC)
    if per == "5h":
        return moment + timedelta(seconds=STEP_S)
    begin = _begin(per, moment, tz)
    if int(begin.timestamp()) != at:
        return moment + _LONGEST[per]
    return _end(per, begin).astimezone(UTC)


def _end(per: str, begin: datetime) -> datetime:
    if per == "month":
        return (begin.replace(day=1) + 32 * _DAY).replace(day=1)
    return begin + (7 * _DAY if per == "week" else _DAY)


def spent_nano(claim: Claim, spent: Mapping[str, Any]) -> int:
    """Return what of a budget is spent, in nano-dollars; `spent` is the user's field."""
    return sum(_counted(claim, spent).values())


def _counted(claim: Claim, spent: Mapping[str, Any]) -> dict[int, int]:
    buckets = spent.get(claim.name)
    if not isinstance(buckets, Mapping):
        return {}
    return {
        at: int(nano)
        for name, nano in buckets.items()
        if (at := _bucket_of(name)) >= claim.since and isinstance(nano, int | float)
    }


def bucket_name(at: int) -> str:
    """Return a bucket's name in the store; names sort as the moments do."""
    return f"{_PREFIX}{at:0{_DIGITS}}"


def _bucket_of(name: str) -> int:
    digits = name.removeprefix(_PREFIX)
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def kept_from(per: str, newest: int) -> int:
    """Return from which bucket on they are kept where this is the newest."""
    return max(0, newest - _KEPT_S.get(per, 0))


def _step(epoch: float) -> int:
    return int(epoch) // STEP_S * STEP_S


def _begin(per: str, moment: datetime, tz: tzinfo) -> datetime:
    """Return the midnight with which the period began; of one that does not exist, the moment it would be."""
    local = moment.astimezone(tz)
    day = datetime(local.year, local.month, local.day, tzinfo=tz)
    if per == "week":
        return day - local.weekday() * _DAY
    return day.replace(day=1) if per == "month" else day
