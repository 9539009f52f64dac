"""What budgets say is spent, and what was charged in their periods: neither less nor more.

A budget holds at least what the records that name it add up to, since it was given, and at most what was
charged in its period to its user (or client key) for the models that it covers. Between the two is what the
period had spent before the budget was given, which `app.management.limits` takes from the records.

The most is read from the records while all of the period's are there: they are booked before budgets, so a
budget that was read before them and holds more is wrong, whatever else is going on. Of older periods, and of
`total`, it is read from the hourly sums, which are booked after budgets; hours that a period shares with
another count whole.

Budgets that are not given any more, and periods that are too old to be kept, are no budgets: what is booked
late may have left a part there.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any, NamedTuple

from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from app.accounts.credentials import public_key_id
from app.accounts.limits import Budget, Limits
from app.credit.budgets import FIELD, GIVEN, bucket_name, charged_until, claim_on, kept_from
from app.statistics import rollups, spans
from app.verify.reconcile import CheckResult, Difference, Look, Sums

Document = dict[str, Any]

_SPENT = "costNanoUsd"
_PAGE = 500
_DAY = timedelta(days=1)
_BUCKET = re.compile(re.sub(r"\d+", lambda found: rf"\d{{{len(found[0])}}}", bucket_name(0)), re.ASCII)


class Side(StrEnum):
    """What a budget is compared with: what it holds at least, or at most by the records or the sums."""

    LEAST = "least"
    MOST_RECORDED = "most, by records"
    MOST_SUMMED = "most, by sums"


class SpentKey(NamedTuple):
    """A period of a budget of a user; `at` is its bucket."""

    user_id: str
    name: str
    at: int
    side: Side = Side.LEAST


class Wrong(NamedTuple):
    """A bucket of a user, by its path in the document, that holds `found` and not what is `right`."""

    user_id: str
    path: str
    found: int
    right: int


class _Given(NamedTuple):
    """A budget, the client key it is of (None: the user), and since when, where that is known."""

    budget: Budget
    stored_key: str | None
    since: datetime | None


_Stored = dict[SpentKey, int]
_Budgets = dict[tuple[str, str], _Given]


class BudgetPairs:
    """The budgets, and what each of their periods holds at least and at most.

    `first` is from when on all records are there (None: from the beginning), `tz` where days start.
    """

    def __init__(self, db: Database[Any], first: datetime | None, tz: tzinfo) -> None:
        self._users = db["usersNew"]
        self._keys = db["user_keys"]
        self._logs = db["request_logs"]
        self._rollups = db[rollups.COLLECTION]
        self._first, self._tz = first, tz
        self._given: _Budgets = {}
        self._source: dict[SpentKey, int] = {}
        self.wrong: list[Wrong] = []

    def first_looks(self, result: CheckResult) -> Iterator[dict[SpentKey, list[Look]]]:
        """Yield the looks at budgets that hold less or more than was charged."""
        spenders = [found["_id"] for found in self._users.find({FIELD: {"$exists": True}}, {"_id": 1})]
        for begin in range(0, len(spenders), _PAGE):
            stored = self._stored(spenders[begin : begin + _PAGE])
            named = self._all_named(spenders[begin : begin + _PAGE])
            result.compared += len(stored)
            looks: dict[SpentKey, list[Look]] = {}
            for key, spent in stored.items():
                least = named.get(key, 0)
                if spent < least:  # some of these may be of an earlier time when there was this budget
                    least = self._named(key)
                if spent < least:
                    looks[key] = [Look({_SPENT: spent}, {_SPENT: least})]
                elif spent > least and spent > (most := self._charged(key)):
                    if self._is_recorded(key):
                        looks[key._replace(side=Side.MOST_RECORDED)] = [Look({_SPENT: spent}, {_SPENT: most})]
                    else:
                        looks[key._replace(side=Side.MOST_SUMMED)] = [Look({_SPENT: most}, {_SPENT: spent})]
            yield looks

    def read_source(self, keys: Collection[SpentKey]) -> Mapping[SpentKey, Sums]:
        """Read of each what is booked first: records, or the budget itself where sums are the most."""
        stored = self._stored({key.user_id for key in keys})
        for key in keys:
            if key.side is Side.MOST_SUMMED:
                self._source[key] = stored.get(key._replace(side=Side.LEAST), 0)
            else:
                self._source[key] = self._named(key) if key.side is Side.LEAST else self._charged(key)
        return {key: {_SPENT: self._source[key]} for key in keys}

    def read_derived(self, keys: Collection[SpentKey]) -> Mapping[SpentKey, Sums]:
        """Read of each what is booked later; as the same, where it may be more (or less) than the source."""
        stored = self._stored({key.user_id for key in keys})
        found: dict[SpentKey, Sums] = {}
        for key in keys:
            spent = stored.get(key._replace(side=Side.LEAST), 0)
            if key.side is Side.MOST_SUMMED:
                spent = self._charged(key)
            bound = self._source.get(key, spent)
            found[key] = {_SPENT: max(spent, bound) if key.side is Side.MOST_RECORDED else min(spent, bound)}
        return found

    def pending_hint(self, _key: SpentKey) -> str | None:
        """Return None: nothing here is known to differ for now."""
        return None

    def differences(self, key: SpentKey, look: Look) -> list[Difference]:
        """Describe in words what does not agree, and note it in `wrong`."""
        source, derived = look.source, look.before if look.after is None else look.after
        if key.side is Side.MOST_SUMMED:
            source, derived = derived, source
        right, found = int(source.get(_SPENT, 0)), int(derived.get(_SPENT, 0))
        self.wrong.append(Wrong(key.user_id, f"{FIELD}.{key.name}.{bucket_name(key.at)}", found, right))
        effect = "requests are refused before it is used up"
        if key.side is Side.LEAST:
            effect = "more may be spent than it allows"
        hint = f"usersNew.{FIELD} was changed by other means: {effect}. `weir verify --repair-budgets`"
        where = f"user {key.user_id}, budget {key.name}, {bucket_name(key.at)}"
        return [Difference(f"{FIELD} (nano-USD)", where, right, found, hint)]

    def _stored(self, users: Collection[str]) -> _Stored:
        """Read what is spent of the budgets that these users and their client keys have now."""
        selected = {"_id": {"$in": list(users)}}
        documents = list(self._users.find(selected, {FIELD: 1, GIVEN: 1, "budgets": 1}))
        given = self._budgets_of(documents)
        self._given.update(given)
        found: _Stored = {}
        for document in documents:
            spent = document.get(FIELD)
            for name, buckets in spent.items() if isinstance(spent, Mapping) else ():
                budget = given.get((document["_id"], name))
                if budget is None or not isinstance(buckets, Mapping):
                    continue
                amounts = {
                    int(bucket[1:]): int(nano)
                    for bucket, nano in buckets.items()
                    if _BUCKET.fullmatch(bucket) and isinstance(nano, int | float)
                }
                oldest = kept_from(budget.budget.per, max(amounts, default=0))
                for at, nano in amounts.items():
                    if at >= oldest:
                        found[SpentKey(document["_id"], name, at)] = nano
        return found

    def _budgets_of(self, users: Sequence[Document]) -> _Budgets:
        owners: list[tuple[str, str | None, Document]] = [(user["_id"], None, user) for user in users]
        names = {"name": {"$in": [user["_id"] for user in users]}, "budgets": {"$exists": True}}
        owners += [
            (key["name"], key["_id"], key) for key in self._keys.find(names, {"name": 1, "budgets": 1})
        ]
        since = {user["_id"]: user[GIVEN] for user in users if isinstance(user.get(GIVEN), Mapping)}
        found: _Budgets = {}
        for user_id, stored_key, document in owners:
            limits = Limits.read({"budgets": document.get("budgets")})
            key_id = None if stored_key is None else public_key_id(stored_key)
            for budget in limits.budgets if limits is not None else ():
                name = claim_on(budget, key_id, datetime.fromtimestamp(0, UTC), self._tz).name
                at = since.get(user_id, {}).get(name)
                found[user_id, name] = _Given(budget, stored_key, at if isinstance(at, datetime) else None)
        return found

    def _all_named(self, users: Sequence[str]) -> dict[SpentKey, int]:
        """Read what the records that name budgets of these users add up to."""
        match: Document = {"userId": {"$in": list(users)}, "budgets": {"$exists": True}}
        if self._first is not None:
            match["createdAt"] = {"$gte": self._first}
        by = {"user": "$userId", "name": "$budgets.name", "at": "$budgets.from"}
        pipeline: list[Document] = [
            {"$match": match},
            {"$unwind": "$budgets"},
            {"$group": {"_id": by, _SPENT: {"$sum": f"${_SPENT}"}}},
        ]
        return {
            SpentKey(row["_id"]["user"], row["_id"]["name"], int(row["_id"]["at"])): int(row[_SPENT])
            for row in self._logs.aggregate(pipeline, allowDiskUse=True)
        }

    def _named(self, key: SpentKey) -> int:
        """Read what the records that name a budget add up to since it was given, for one that was before."""
        starts = [at for at in (self._first, self._given[key.user_id, key.name].since) if at is not None]
        match: Document = {
            "userId": key.user_id,
            "budgets": {"$elemMatch": {"name": key.name, "from": key.at}},
            **({"createdAt": {"$gte": max(starts)}} if starts else {}),
        }
        return self._sum(self._logs, match, None)

    def _charged(self, key: SpentKey) -> int:
        """Read what was charged in a period for what the budget covers."""
        given = self._given[key.user_id, key.name]
        begin, end = self._begin(key), charged_until(given.budget.per, key.at, self._tz)
        match: Document = {"userId": key.user_id}
        if given.stored_key is not None:
            match["userKeyId"] = given.stored_key
        until = {} if end is None else {"$lt": end}
        if self._is_recorded(key):
            return self._sum(self._logs, {**match, "createdAt": {"$gte": begin, **until}}, given.budget)
        first_hour = spans.begin(spans.Level.HOUR, begin, self._tz)
        return self._sum(self._rollups, {**match, "hour": {"$gte": first_hour, **until}}, given.budget)

    def _is_recorded(self, key: SpentKey) -> bool:
        return self._first is None or self._begin(key) >= self._first

    def _begin(self, key: SpentKey) -> datetime:
        """Return from when on a period was charged; of a total, a day before it was given (again)."""
        since = self._given[key.user_id, key.name].since
        if key.at == 0 and since is not None:
            return since - _DAY
        return datetime.fromtimestamp(key.at, UTC)

    @staticmethod
    def _sum(collection: MongoCollection[Any], match: Document, budget: Budget | None) -> int:
        """Add up what was charged, of the models that a budget covers alone where there is one."""
        group = {"_id": "$model", _SPENT: {"$sum": f"${_SPENT}"}}
        return sum(
            int(row[_SPENT])
            for row in collection.aggregate([{"$match": match}, {"$group": group}])
            if budget is None
            or budget.models is None
            or (isinstance(row["_id"], str) and budget.covers(row["_id"]))
        )
