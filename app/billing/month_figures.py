"""What statements are made of, read from the hourly sums, the ledger and the balances."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
from pymongo.database import Database

from app.accounts.credentials import shown_key_id
from app.accounts.users import GRANTED
from app.billing.statement import Charge, LedgerLine, Month, Statement
from app.credit.credit_ledger import COLLECTION as LEDGER
from app.credit.credit_ledger import PENDING
from app.statistics.figures import SUM_FIELDS, Totals
from app.statistics.period_sources import Known, PeriodSources
from app.statistics.periods import Period
from app.statistics.ranking import Ranking
from app.statistics.rollups import COLLECTION as ROLLUPS
from app.statistics.sum_sources import Sums, add_up
from app.statistics.timeseries import DAY, Timeline
from app.statistics.usage import Grouping
from app.store.driver import yielding
from app.store.fields import nano_usd

Document = dict[str, Any]

AT_ONCE = 200
"""How many users' figures are read at once."""

_PAUSE_S = 0.3
_LOOKS = 5
_BY_USER = Grouping(("user",))
_INSTANT = timedelta(milliseconds=1)
_EVER = datetime(9000, 1, 1, tzinfo=UTC)


class MonthFigures:
    """Reads statements of any month as the books say it now. Every method raises `PyMongoError`."""

    def __init__(self, db: Database[Any]) -> None:
        self._db = db
        self._users = db["usersNew"]
        self._ledger = db[LEDGER]

    def first_month(self) -> datetime | None:
        """Return when the first thing was that there are sums of."""
        found = self._db[ROLLUPS].find_one({}, {"hour": 1}, sort=[("hour", 1)])
        return None if found is None else found["hour"]

    def users(self, month: Month, now: datetime) -> list[str]:
        """List everybody with a balance, or with requests in the month, in order."""
        named = {str(found["_id"]) for found in yielding(self._users.find({}, {"_id": 1}))}
        ranking = Ranking(Known(self._db), month.period(now), _BY_USER, None)
        named.update(user for (user,) in ranking.every_key() if user is not None)
        return sorted(named)

    def statements(
        self, month: Month, users: Sequence[str], now: datetime, *, itemised: bool = True
    ) -> Iterator[Statement]:
        """Yield the statements of these users; not `itemised`, with one charge for everything."""
        for at in range(0, len(users), AT_ONCE):
            yield from self._some(month, users[at : at + AT_ONCE], now, itemised)

    def requests(self, month: Month, now: datetime) -> int:
        """Count the requests of the month."""
        return Ranking(Known(self._db), month.period(now), _BY_USER, None).total().requests

    def _some(self, month: Month, users: Sequence[str], now: datetime, itemised: bool) -> list[Statement]:
        balances = self._balances(users)
        ledger = self._lines(users, balances, month.end)
        brought, unexplained = self._brought_forward(balances, ledger, now)
        spent_before = self._spent(users, month.before(now))
        charges = self._charges(month, users, now) if itemised else self._together(month, users, now)
        statements = []
        for user in users:
            opening = None
            lines = ledger[user]
            if user in balances:
                given = sum(line.nano for line in lines if line.at < month.start)
                opening = brought[user] + given - spent_before.get(user, 0)
            statements.append(
                Statement(
                    user,
                    opening,
                    tuple(charges[user]),
                    tuple(line for line in lines if month.start <= line.at < month.end),
                    spent_before_nano=spent_before.get(user, 0),
                    unexplained_nano=unexplained.get(user, 0),
                )
            )
        return statements

    def _balances(self, users: Sequence[str]) -> dict[str, Document]:
        wanted = dict.fromkeys(
            ("credits", "refCredits", "overdraftNanoUsd", "creditsUsed", GRANTED, PENDING), 1
        )
        found = self._users.find({"_id": {"$in": list(users)}}, wanted)
        return {str(document["_id"]): document for document in yielding(found)}

    def _lines(
        self, users: Sequence[str], balances: Mapping[str, Document], end: datetime
    ) -> dict[str, list[LedgerLine]]:
        """Return the lines of the ledger before `end`, also those that are on their way to it."""
        lines: dict[Any, tuple[str, LedgerLine]] = {}
        stored = self._ledger.find({"username": {"$in": list(users)}, "at": {"$lt": end}})
        for document in yielding(stored):
            lines[document["_id"]] = document["username"], _ledger_line(document)
        for user, balance in balances.items():
            for document in balance.get(PENDING) or ():
                if document["at"] < end:
                    lines[document["_id"]] = user, _ledger_line(document)
        found: dict[str, list[LedgerLine]] = defaultdict(list)
        for user, line in lines.values():
            found[user].append(line)
        for each in found.values():
            each.sort(key=lambda line: (line.at, line.nano))
        return found

    def _brought_forward(
        self, balances: Mapping[str, Document], ledger: Mapping[str, list[LedgerLine]], now: datetime
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Return what each user had before there were books, and what their books do not explain.

        Of users made by this product everything given is known, together with the balance and all that was
        charged, in one document. Of others, what they began with is what is left of the balance when the
        ledger and the sums are taken out: these are read until two looks agree, since charges are booked
        there a moment later.
        """
        unexplained = {}
        others = []
        for user, document in balances.items():
            granted = document.get(GRANTED)
            if isinstance(granted, int):
                unexplained[user] = _left(document) + nano_usd(document.get("creditsUsed")) - granted
            else:
                others.append(user)
        brought = dict.fromkeys(balances, 0)
        if others:
            brought.update(self._settled(others, now))
        return brought, unexplained

    def _settled(self, users: Sequence[str], now: datetime) -> dict[str, int]:
        found = self._beginnings(users, now)
        for _ in range(_LOOKS):
            gevent.sleep(_PAUSE_S)
            again = self._beginnings(users, now)
            if again == found:
                break
            found = again
        return found

    def _beginnings(self, users: Sequence[str], now: datetime) -> dict[str, int]:
        balances = self._balances(users)
        ledger = self._lines(users, balances, _EVER)
        spent = self._spent(users, Period(None, None, None, now, UTC))
        return {
            user: _left(document) - sum(line.nano for line in ledger[user]) + spent.get(user, 0)
            for user, document in balances.items()
        }

    def _spent(self, users: Sequence[str], period: Period) -> dict[str, int]:
        return {user: totals.cost_nano_usd for user, totals in self._sums(users, period).items()}

    def _together(self, month: Month, users: Sequence[str], now: datetime) -> dict[str, list[Charge]]:
        charges: dict[str, list[Charge]] = defaultdict(list)
        for user, totals in self._sums(users, month.period(now)).items():
            numbers = (getattr(totals, of) for of, name in SUM_FIELDS.items() if name in _SUMMED)
            charges[user].append(Charge(month.name, None, "", *numbers))
        return charges

    def _sums(self, users: Sequence[str], period: Period) -> dict[str, Totals]:
        sources = PeriodSources.of(Known(self._db), period)
        sums: Sums = {}
        chosen = {"userId": {"$in": list(users)}}
        add_up(sums, [*sources.unsummed(chosen), *sources.summed("userId", keys=users)], "userId", None)
        return {str(user): totals for (user, _), totals in sums.items()}

    def _charges(self, month: Month, users: Sequence[str], now: datetime) -> dict[str, list[Charge]]:
        timeline = Timeline(DAY, month.start, month.end - _INSTANT, month.tz)
        sources = PeriodSources.of(Known(self._db), month.period(now), from_summaries=False)
        sums: dict[tuple[str, str, str | None, str], list[int]] = {}
        for source in sources.unsummed({"userId": {"$in": list(users)}}):
            group = {
                "user": "$userId",
                "day": source.label(timeline),
                "model": source.value_of("model"),
                "key": source.value_of("userKeyId"),
            }
            for found in yielding(source.collection.aggregate(source.grouped(group), allowDiskUse=True)):
                place = found["_id"]
                shown = shown_key_id(str(place.get("key") or ""))
                charge = place["user"], place["day"], place.get("model"), shown
                known = sums.setdefault(charge, [0] * len(_SUMMED))
                for at, name in enumerate(_SUMMED):
                    known[at] += int(found.get(name) or 0)
        charges: dict[str, list[Charge]] = defaultdict(list)
        for (user, day, model, key), numbers in sorted(sums.items(), key=_in_order):
            charges[user].append(Charge(day, model, key, *numbers))
        return charges


_SUMMED = ("requests", "inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "costNanoUsd")


def _in_order(item: tuple[tuple[str, str, str | None, str], list[int]]) -> tuple[str, str, str, str]:
    user, day, model, key = item[0]
    return user, day, model or "", key


def _left(document: Document) -> int:
    """Return a user's balance, which is below 0 where more was charged than there was."""
    overdraft = document.get("overdraftNanoUsd")
    left = nano_usd(document.get("credits")) + nano_usd(document.get("refCredits"))
    return left - (int(overdraft) if isinstance(overdraft, int | float) else 0)


def _ledger_line(document: Document) -> LedgerLine:
    return LedgerLine(
        document["at"],
        int(document["amountNanoUsd"]),
        str(document["change"]),
        str(document["purse"]),
        str(document["by"]),
        document.get("reason"),
    )
