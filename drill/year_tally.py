"""An independent account of a year: plain sums over what happened, by nothing of the product's.

It is told of every request, grant, withdrawal, booking and closing as they happen, and says what the
statement of each user and month has to be, what is left of each budget, and what everybody has. Money is in
nano-dollars, moments are in UTC. Days and months begin at midnight in the zone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

_STEP_S = 900
_WINDOW_S = 5 * 3600

Line = tuple[str, str | None, str]
"""Day, model and client key of charges."""


@dataclass(slots=True, eq=False)
class Spent:
    """A request. `taken` is what it takes of budgets and credit until it is booked: its hold.

    `booked` is when it was booked, None before.
    """

    user: str
    key: str
    model: str
    moment: datetime
    process: str
    taken: int
    cost: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    booked: datetime | None = None
    day: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget as the tally sees it: of a user, or of one `key`; of one `model`, if given."""

    nano: int
    per: str
    model: str | None = None
    key: str | None = None

    def covers(self, spent: Spent) -> bool:
        """Return whether a request is paid from it."""
        return self.model in (None, spent.model) and self.key in (None, spent.key)


class YearTally:
    """The account of one instance, whose days begin in `zone`."""

    def __init__(self, zone: str, limits: Mapping[str, Iterable[Limit]]) -> None:
        self._tz = ZoneInfo(zone)
        self._limits = {user: tuple(found) for user, found in limits.items()}
        self._periods: defaultdict[tuple[str, Limit, str], list[Spent]] = defaultdict(list)
        self._requests: defaultdict[str, list[Spent]] = defaultdict(list)
        self._given: defaultdict[str, list[tuple[datetime, int]]] = defaultdict(list)
        self._closed: dict[str, datetime] = {}
        self.began: dict[str, int | None] = {}
        """What each user had before the year; None: no balance."""

    # What happens

    def ask(self, spent: Spent) -> None:
        """Note a request that has begun, or was refused (`taken` and `cost` 0)."""
        spent.day = self.day_of(spent.moment)
        self._requests[spent.user].append(spent)
        for limit in self._limits.get(spent.user, ()):
            if limit.covers(spent):
                self._periods[spent.user, limit, self._period(limit, spent.moment)].append(spent)

    def give(self, user: str, moment: datetime, nano: int) -> None:
        """Note credit that was given, or with a negative amount taken away."""
        self._given[user].append((moment, nano))

    def close(self, month: str, moment: datetime) -> None:
        """Note that a month was closed; what is booked into it from then on is shown in a later one."""
        self._closed[month] = moment

    # What has to come of it

    def day_of(self, moment: datetime) -> str:
        """Return the day on whose line a charge is."""
        return f"{moment.astimezone(self._tz):%Y-%m-%d}"

    def statement(self, user: str, month: str) -> dict[str, int | None]:
        """Return the sums of a user's statement, by the names that it has for them."""
        shown: list[Spent] = []
        late = before = spent_before = 0
        for spent in self._requests[user]:
            told, of = self._shown_in(spent), spent.day[:7]
            if told is None:
                continue
            if told == of == month:
                shown.append(spent)
            elif told == month:
                late += spent.cost
            elif told < month:
                before += spent.cost
            spent_before += spent.cost * (of < month)
        given = [(self.day_of(at)[:7], nano) for at, nano in self._given[user]]
        credits = sum(nano for of, nano in given if of == month and nano > 0)
        debits = -sum(nano for of, nano in given if of == month and nano < 0)
        charges = sum(spent.cost for spent in shown)
        began = self.began[user]
        opening = closing = None
        if began is not None:
            opening = began + sum(nano for of, nano in given if of < month) - before
            closing = opening + credits - debits - charges - late
        tokens: Counter[str] = Counter()
        for spent in shown:
            tokens.update(spent.tokens)
        return {
            "openingNanoUsd": opening,
            "creditsNanoUsd": credits,
            "debitsNanoUsd": debits,
            "chargesNanoUsd": charges,
            "lateNanoUsd": late,
            "closingNanoUsd": closing,
            "unexplainedNanoUsd": 0,
            "spentNanoUsd": spent_before + charges,
            "requestCount": len(shown),
            "inputTokens": tokens["fresh"],
            "outputTokens": tokens["output"],
            "cacheWriteTokens": tokens["cache_write_5m"],
            "cacheHitTokens": tokens["cache_read"],
        }

    def lines(self, user: str, month: str) -> Counter[Line]:
        """Return what each line of charges of a user's statement comes to."""
        found: Counter[Line] = Counter()
        for spent in self._requests[user]:
            if spent.day[:7] == month == self._shown_in(spent):
                found[spent.day, spent.model, spent.key] += spent.cost
        return found

    def requests_of(self, month: str) -> int:
        """Count the requests of a month that were booked before it was closed."""
        return sum(
            self._shown_in(spent) == spent.day[:7] == month
            for requests in self._requests.values()
            for spent in requests
        )

    def users_of(self, month: str) -> set[str]:
        """Return who has to have a statement: everybody with a balance, or with requests in the month."""
        asked = {
            user
            for user, requests in self._requests.items()
            if any(spent.day[:7] == month for spent in requests)
        }
        return asked | {user for user, began in self.began.items() if began is not None}

    def charged(self, user: str | None = None) -> int:
        """Return what everything cost that a user, or everybody, has asked."""
        users = self._requests if user is None else (user,)
        return sum(spent.cost for name in users for spent in self._requests[name])

    def given(self, user: str | None = None) -> int:
        """Return what a user, or everybody, was given and not taken away."""
        users = self._given if user is None else (user,)
        return sum(nano for name in users for _, nano in self._given[name])

    def left(self, user: str) -> int:
        """Return what of a user's credit is neither spent nor set aside for a request."""
        taken = sum(spent.cost if spent.booked else spent.taken for spent in self._requests[user])
        return (self.began[user] or 0) + self.given(user) - taken

    def left_of(self, user: str, limit: Limit, moment: datetime) -> int:
        """Return what of a budget is neither spent nor set aside at this moment."""
        return limit.nano - sum(
            spent.cost if spent.booked else spent.taken for spent in self._counting(user, limit, moment)
        )

    def passed_by(self, user: str, limit: Limit, moment: datetime) -> tuple[int, int]:
        """Return by how much a budget is passed, and how many processes have served its period's requests."""
        counting = self._counting(user, limit, moment)
        return sum(spent.cost for spent in counting) - limit.nano, len({spent.process for spent in counting})

    def _counting(self, user: str, limit: Limit, moment: datetime) -> list[Spent]:
        if limit.per != "5h":
            return self._periods[user, limit, self._period(limit, moment)]
        first = (int(moment.timestamp()) - _WINDOW_S) // _STEP_S * _STEP_S
        found = []
        for spent in reversed(self._periods[user, limit, ""]):  # in the order of time
            if spent.moment.timestamp() < first:
                break
            found.append(spent)
        return found

    def _period(self, limit: Limit, moment: datetime) -> str:
        """Return the day, Monday or month that a period is called by."""
        day = moment.astimezone(self._tz).date()
        if limit.per == "day":
            return f"{day}"
        if limit.per == "week":
            return f"{day - timedelta(days=day.weekday())}"
        return f"{day:%Y-%m}" if limit.per == "month" else ""

    def _shown_in(self, spent: Spent) -> str | None:
        """Return the month whose statement a request is in; None where it is not booked."""
        if spent.booked is None:
            return None
        month = spent.day[:7]
        while month in self._closed and not self._in_time(spent, month):
            year, number = divmod(int(month[:4]) * 12 + int(month[5:]), 12)
            month = f"{year}-{number + 1:02}"
        return month

    def _in_time(self, spent: Spent, month: str) -> bool:
        return spent.booked is not None and spent.booked <= self._closed[month]
