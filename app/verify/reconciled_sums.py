"""Pairs of sums that must agree: records and hourly sums, documents' counters and hourly sums.

All sums are made by the server; what is held here is one hour's combinations, or one page of documents.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from app.accounts.credentials import is_key_id, shown_key_id
from app.accounts.users import GRANTED
from app.common.display import iso_utc
from app.keys.provider_keys import TAKEN_OVER
from app.records.records import Outcome
from app.statistics import rollups
from app.statistics.sum_sources import IS_TOLD, MARKUP_NANO, STOOD_FOR, sum_if
from app.store.driver import yielding
from app.store.fields import nano_usd
from app.verify.reconcile import CheckResult, Difference, Look, Sums, differing

Document = dict[str, Any]
Group = tuple[datetime, str | None, str | None, str | None, str | None, str | None]
"""An hour, and a value of each of `DIMENSIONS`."""

DIMENSIONS = ("model", "userId", "userKeyId", "factoryKeyId", "apiFormat")

PAGE = 500

_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_SUMS = (
    *("requests", "success", "rejected", "inputTokens", "outputTokens", "cacheWriteTokens"),
    *("cacheWrite1hTokens", "cacheHitTokens", "reasoningTokens", "costNanoUsd"),
    *("upstreamCostNanoUsd", "toldRequests", "toldCostNanoUsd", "markupNanoUsd", "toldMarkupNanoUsd"),
)
_ENCRYPTED = "enc:"
"""What upstream keys stored by this product begin with."""


class HourPairs:
    """The records (source) and the hourly sums (derived) of each combination within an hour."""

    def __init__(self, db: Database[Any]) -> None:
        self._logs = db["request_logs"]
        self._rollups = db[rollups.COLLECTION]

    def hours(self, first: datetime) -> list[datetime]:
        """List the hours from `first` on in which there is anything, oldest first."""
        by_hour = {"$subtract": ["$createdAt", {"$mod": [{"$toLong": "$createdAt"}, _HOUR_MS]}]}
        found = set(_group_ids(self._logs, _booked({"$gte": first}), by_hour))
        # An hour that a midnight falls into has sums of two parts.
        of_sums = {"$subtract": ["$hour", {"$mod": [{"$toLong": "$hour"}, _HOUR_MS]}]}
        found.update(_group_ids(self._rollups, {"hour": {"$gte": first}}, of_sums))
        return sorted(found)

    def first_looks(self, hour: datetime) -> tuple[int, dict[Group, list[Look]]]:
        """Count the hour's combinations, and return the looks at those that do not agree at first sight."""
        derived = self._hour(self._rollups, hour, None)
        source = self._hour(self._logs, hour, None)
        groups = derived.keys() | source.keys()
        return len(groups), {
            group: [Look(derived.get(group, {}), source.get(group, {}))]
            for group in groups
            if differing(source.get(group, {}), derived.get(group, {}))
        }

    def read_source(self, groups: Collection[Group]) -> Mapping[Group, Sums]:
        """Read what the records of these combinations add up to."""
        return self._read(self._logs, groups)

    def read_derived(self, groups: Collection[Group]) -> Mapping[Group, Sums]:
        """Read the hourly sums of these combinations, of all writers together."""
        return self._read(self._rollups, groups)

    def _read(self, collection: MongoCollection[Any], groups: Collection[Group]) -> dict[Group, Sums]:
        by_hour: dict[datetime, list[Group]] = defaultdict(list)
        for group in groups:
            by_hour[group[0]].append(group)
        found: dict[Group, Sums] = {}
        for hour, wanted in by_hour.items():
            found.update(self._hour(collection, hour, wanted))
        return found

    def _hour(
        self, collection: MongoCollection[Any], hour: datetime, wanted: Iterable[Group] | None
    ) -> dict[Group, Sums]:
        is_logs = collection is self._logs
        within = {"$gte": hour, "$lt": hour + _HOUR}
        match: Document = _booked(within) if is_logs else {"hour": within}
        if wanted is not None:
            match["$or"] = [dict(zip(DIMENSIONS, group[1:], strict=True)) for group in wanted]
        pipeline: list[Document] = [
            {"$match": match},
            {
                "$group": {
                    "_id": {name: f"${name}" for name in DIMENSIONS},
                    **(_RECORD_SUMS if is_logs else {name: {"$sum": f"${name}"} for name in _SUMS}),
                }
            },
        ]
        found: dict[Group, Sums] = {}
        for row in yielding(collection.aggregate(pipeline, allowDiskUse=True, batchSize=PAGE)):
            model, user, key, upstream_key, api_format = (row["_id"].get(name) for name in DIMENSIONS)
            found[hour, model, user, key, upstream_key, api_format] = _sums(row)
        return found

    def pending_hint(self, _group: Group) -> str | None:
        """Return None: nothing here is known to differ for now."""
        return None

    @staticmethod
    def differences(group: Group, look: Look) -> list[Difference]:
        """Describe in words what does not agree."""
        hour, model, user, key, upstream_key, api_format = group
        shown_key = None if key is None else shown_key_id(key)
        where = (
            f"hour {iso_utc(hour)}, model {model}, user {user}, client key {shown_key}, "
            f"upstream key {upstream_key}, {api_format}"
        )
        derived = look.before if look.after is None else look.after
        return [
            Difference(
                f"{name} of request_rollups",
                where,
                look.source.get(name, 0),
                derived.get(name, 0),
                _hour_hint(look.source.get(name, 0), derived.get(name, 0)),
            )
            for name in differing(look.source, derived)
        ]


def _hour_hint(records: float, sums: float) -> str:
    if records < sums:
        return "a record was removed or changed, or expired before LOG_RETENTION_DAYS, or sums were raised"
    return "hourly sums were lowered or removed, or a record was added or changed by other means"


@dataclass(frozen=True, slots=True)
class Counters:
    """A collection whose documents (source) count what the hourly sums (derived) count too.

    `fields` maps the document's fields to the sums' names; `unknown` says why a document's beginning is not
    known, None if it is.
    """

    name: str
    title: str
    unit: str
    collection: str
    by: str
    fields: Mapping[str, str]
    unknown: Callable[[Document], str | None]
    label: Callable[[str], str]


def _unknown_user(document: Document) -> str | None:
    return None if GRANTED in document else "made by other software: what they began with is not known"


def _unknown_client_key(document: Document) -> str | None:
    is_ours = is_key_id(str(document["_id"])) and not document.get("resetAt") and TAKEN_OVER not in document
    return None if is_ours else "made by other software, or their counters were reset"


def _unknown_upstream_key(document: Document) -> str | None:
    is_encrypted = str(document.get("apiKey", "")).startswith(_ENCRYPTED)
    is_ours = is_encrypted and not document.get("resetAt") and TAKEN_OVER not in document
    return None if is_ours else "added by other software, or their counters were reset"


_KEY_FIELDS = {"requestsCount": "requests", "tokensUsed": "tokensUsed"}

COUNTERS = (
    Counters(
        name="users",
        title="what users were charged = hourly sums",
        unit="users",
        collection="usersNew",
        by="userId",
        fields={
            "creditsUsed": "costNanoUsd",
            "totalInputTokens": "inputTokens",
            "totalOutputTokens": "outputTokens",
        },
        unknown=_unknown_user,
        label=lambda key: f"user {key}",
    ),
    Counters(
        name="client_keys",
        title="client keys' counters = hourly sums",
        unit="client keys",
        collection="user_keys",
        by="userKeyId",
        fields=_KEY_FIELDS,
        unknown=_unknown_client_key,
        label=lambda key: f"client key {shown_key_id(key)}",
    ),
    Counters(
        name="upstream_keys",
        title="upstream keys' counters = hourly sums",
        unit="upstream keys",
        collection="ohmygpt_keys",
        by="factoryKeyId",
        fields=_KEY_FIELDS,
        unknown=_unknown_upstream_key,
        label=lambda key: f"upstream key {key}",
    ),
)


class CounterPairs:
    """The documents of one collection of `COUNTERS` and the hourly sums they must agree with."""

    def __init__(self, db: Database[Any], counters: Counters) -> None:
        self.counters = counters
        self._documents = db[counters.collection]
        self._rollups = db[rollups.COLLECTION]

    def first_looks(self, result: CheckResult) -> Iterator[dict[str, list[Look]]]:
        """Yield, page by page, the looks that do not agree at first sight; notes what is not checked."""
        skipped: dict[str, int] = defaultdict(int)
        for page in _pages(self._documents):
            reasons = {str(found["_id"]): self.counters.unknown(found) for found in page}
            made = {str(found["_id"]): found.get("createdAt") for found in page}
            derived, first_hours = self._derived([key for key, reason in reasons.items() if reason is None])
            for key, first_hour in first_hours.items():
                made_at = made[key]
                if not isinstance(made_at, datetime) or first_hour < rollups.hour_of(made_at):
                    reasons[key] = "its name was in use before it was made: not counted from the beginning"
            known = [key for key, reason in reasons.items() if reason is None]
            for reason in filter(None, reasons.values()):
                skipped[reason] += 1
            source = self.read_source(known)
            result.compared += len(known)
            looks = {key: [Look(derived.get(key, {}), source.get(key, {}))] for key in known}
            yield {key: seen for key, seen in looks.items() if differing(seen[0].source, seen[0].before)}
        result.notes += [f"{count} not checked: {reason}" for reason, count in skipped.items()]

    def read_source(self, keys: Collection[str]) -> Mapping[str, Sums]:
        """Read what the documents say, under the sums' names."""
        fields = self.counters.fields
        found = self._documents.find({"_id": {"$in": list(keys)}}, dict.fromkeys(fields, 1))
        return {
            str(document["_id"]): {
                name: _counter(field, document.get(field)) for field, name in fields.items()
            }
            for document in found
        }

    def read_derived(self, keys: Collection[str]) -> Mapping[str, Sums]:
        """Read what the hourly sums say."""
        return self._derived(keys)[0]

    def _derived(self, keys: Collection[str]) -> tuple[dict[str, Sums], dict[str, datetime]]:
        by = self.counters.by
        names = set(self.counters.fields.values())
        sums = {
            name: {"$sum": f"${name}"} for name in ("requests", "inputTokens", "outputTokens", "costNanoUsd")
        }
        pipeline: list[Document] = [
            {"$match": {by: {"$in": list(keys)}}},
            {"$group": {"_id": f"${by}", **sums, "firstHour": {"$min": "$hour"}}},
            {"$addFields": {"tokensUsed": {"$add": ["$inputTokens", "$outputTokens"]}}},
        ]
        derived: dict[str, Sums] = {}
        first_hours: dict[str, datetime] = {}
        for row in self._rollups.aggregate(pipeline, allowDiskUse=True):
            derived[row["_id"]] = {name: value for name, value in _sums(row).items() if name in names}
            first_hours[row["_id"]] = row["firstHour"]
        return derived, first_hours

    def pending_hint(self, _key: str) -> str | None:
        """Return None: nothing here is known to differ for now."""
        return None

    def differences(self, key: str, look: Look) -> list[Difference]:
        """Describe in words what does not agree; money is in nano-dollars."""
        derived = look.before if look.after is None else look.after
        counters = self.counters
        hint = f"{counters.collection} or request_rollups was changed by other means, or it was deleted and "
        hint += "made again within the hour"
        return [
            Difference(
                f"{field} (nano-USD)" if name == "costNanoUsd" else field,
                counters.label(key),
                derived.get(name, 0),
                look.source.get(name, 0),
                hint,
            )
            for field, name in counters.fields.items()
            if derived.get(name, 0) != look.source.get(name, 0)
        ]


_RECORD_SUMS: Document = {
    "requests": {"$sum": STOOD_FOR},
    "success": sum_if({"$eq": ["$outcome", str(Outcome.OK)]}),
    "rejected": sum_if({"$eq": ["$outcome", str(Outcome.REJECTED)]}),
    "toldRequests": sum_if(IS_TOLD),
    "toldCostNanoUsd": {"$sum": {"$cond": [IS_TOLD, "$costNanoUsd", 0]}},
    "markupNanoUsd": {"$sum": MARKUP_NANO},
    "toldMarkupNanoUsd": {"$sum": {"$cond": [IS_TOLD, MARKUP_NANO, 0]}},
}
_RECORD_SUMS |= {name: {"$sum": f"${name}"} for name in _SUMS if name not in _RECORD_SUMS}


def _booked(created_at: Document) -> Document:
    """Select the records that are in the hourly sums; earlier software's have no `outcome`."""
    return {"createdAt": created_at, "outcome": {"$ne": None}}


def _group_ids(collection: MongoCollection[Any], match: Document, key: Any) -> Iterator[Any]:
    for row in collection.aggregate([{"$match": match}, {"$group": {"_id": key}}], allowDiskUse=True):
        yield row["_id"]


def _pages(collection: MongoCollection[Any]) -> Iterator[list[Document]]:
    wanted = {"_id": 1, "createdAt": 1, "apiKey": 1, "resetAt": 1, GRANTED: 1, TAKEN_OVER: 1}
    documents = iter(collection.find({}, wanted).sort("_id", 1))
    while page := list(islice(documents, PAGE)):
        yield page


def _sums(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def _counter(field: str, value: Any) -> float:
    if field == "creditsUsed":
        return nano_usd(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
