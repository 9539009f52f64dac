"""Statistics over any period, exact to the record.

Where the sums come from: every full hour from the hourly sums, which are kept for ever, so that they stay
right after records have expired; the part of an hour at the start of a period from the records themselves.
Records of earlier software (recognised by having no `outcome`) are in no hourly sums and are therefore always
read directly. Percentiles come from histograms and are within five per cent.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from pymongo.database import Database

from app.adapters.mongo import rollups
from app.adapters.mongo.request_logs import make_indexes, store_errors
from app.core.display import iso_utc
from app.core.histogram import bucket_key
from app.core.periods import ALL, period_start
from app.core.records import NANO, Outcome
from app.core.stats import SUM_FIELDS, Totals, model_table, usd

Document = dict[str, Any]

_HOUR = timedelta(hours=1)

GROUPINGS = frozenset({"model", "userId", "userKeyId", "factoryKeyId", "apiFormat"})
"""What sums can be made by."""


class StatsStore:
    """Sums, model tables and figures of users. Every method raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any]) -> None:
        self._rollups = db[rollups.COLLECTION]
        self._logs = db["request_logs"]
        self._users = db["usersNew"]

    def ensure_indexes(self) -> None:
        """What the sums are selected by."""
        with store_errors():
            make_indexes(self._rollups, rollups.INDEXES)

    def model_stats(self, period: str, now: datetime, tz: tzinfo) -> list[Document]:
        """The rows of the model table, most tokens first."""
        start = period_start(period, now, tz)
        return model_table(self.sums(start, by="model", with_latency=True))

    def metrics(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """The figures of all requests together, those that never reached a model included."""
        totals = self.total(period_start(period, now, tz))
        return {
            "total_requests": totals.requests,
            "tokens_used": totals.input_tokens + totals.output_tokens,
            "avg_latency_ms": totals.avg_latency_ms,
            "success_rate": totals.success_rate,
            "period": period,
            "timestamp": iso_utc(now),
        }

    def user_stats(self, period: str, now: datetime, tz: tzinfo) -> Document:
        """Balances as they are now; use of credits and tokens within the period.

        For `all` the use is what the users' documents say, which includes the time before this product.
        """
        start = period_start(period, now, tz)
        by_user = self.sums(start, by="userId")
        with store_errors():
            balances: Document = next(iter(self._users.aggregate([{"$group": _USER_BALANCES}])), {})
        if period == ALL:
            used = float(balances.get("creditsUsed", 0))
            tokens = int(balances.get("inputTokens", 0)), int(balances.get("outputTokens", 0))
        else:
            used = usd(sum(sums.cost_nano_usd for sums in by_user.values()))
            tokens = (
                sum(sums.input_tokens for sums in by_user.values()),
                sum(sums.output_tokens for sums in by_user.values()),
            )
        return {
            "total_users": balances.get("total", 0),
            "active_users": balances.get("active", 0),
            "users_with_requests": sum(user is not None for user in by_user),
            "total_credits_used": used,
            "total_credits": balances.get("credits", 0),
            "total_ref_credits": balances.get("refCredits", 0),
            "total_creditsNew": balances.get("creditsNew", 0),
            "total_creditsNewUsed": balances.get("creditsNewUsed", 0),
            "total_input_tokens": tokens[0],
            "total_output_tokens": tokens[1],
            "period": period,
        }

    def total(self, start: datetime | None, selection: Document | None = None) -> Totals:
        """The sums of everything since `start` (None: ever)."""
        return self.sums(start, by=None, selection=selection).get(None, Totals())

    def sums(
        self,
        start: datetime | None,
        *,
        by: str | None,
        selection: Document | None = None,
        with_latency: bool = False,
    ) -> dict[str | None, Totals]:
        """Sums per value of the field `by` (one of `GROUPINGS`; None: all together, under None).

        `selection` restricts them to some values of those fields, such as `{"userId": "ann"}`;
        `with_latency` fills the histograms, which percentiles are made of.
        """
        if by is not None and by not in GROUPINGS:
            raise ValueError(f"cannot sum by {by}")
        key = None if by is None else f"${by}"
        hours, records = _sources(start, selection or {})
        totals: dict[str | None, Totals] = {}
        with store_errors():
            for found in self._rollups.aggregate([{"$match": hours}, _hour_sums(key)]):
                totals.setdefault(found["_id"], Totals()).add(found)
            for found in self._logs.aggregate([{"$match": records}, _record_sums(key)]):
                totals.setdefault(found["_id"], Totals()).add(found)
            if with_latency:
                self._add_latencies(totals, key, hours, records)
        return totals

    def _add_latencies(
        self, totals: dict[str | None, Totals], key: str | None, hours: Document, records: Document
    ) -> None:
        for found in self._rollups.aggregate([{"$match": hours}, *_hour_buckets(key)]):
            totals[found["_id"].get("key")].add_latency(found["_id"]["bucket"], found["number"])
        for found in self._logs.aggregate([{"$match": records}, *_record_durations(key)]):
            bucket = bucket_key(int(found["_id"]["latencyMs"]))
            totals[found["_id"].get("key")].add_latency(bucket, found["number"])


def _sources(start: datetime | None, selection: Document) -> tuple[Document, Document]:
    """Which hourly sums and which records make up everything since `start`, each record exactly once."""
    if start is None:
        return selection, {**selection, "outcome": None}
    start = start.astimezone(UTC)
    hour = rollups.hour_of(start)
    first_full_hour = hour if hour == start else hour + _HOUR
    edge = {"createdAt": {"$gte": start, "$lt": first_full_hour}}
    earlier_software = {"createdAt": {"$gte": first_full_hour}, "outcome": None}
    return (
        {**selection, "hour": {"$gte": first_full_hour}},
        {"$or": [{**selection, **edge}, {**selection, **earlier_software}]},
    )


def _number(field: str) -> Document:
    return {"$cond": [{"$isNumber": field}, field, 0]}


def _is_outcome(outcome: Outcome) -> Document:
    return {"$eq": ["$outcome", str(outcome)]}


def _sum_if(condition: Document | str, amount: Any = 1) -> Document:
    return {"$sum": {"$cond": [condition, amount, 0]}}


_IS_TIMED: Document = {"$and": [{"$ne": ["$outcome", str(Outcome.REJECTED)]}, {"$isNumber": "$latencyMs"}]}
_HAS_FIRST_BYTE: Document = {"$and": [_IS_TIMED, {"$isNumber": "$ttftMs"}]}

# Earlier software stored the cost in USD only.
_COST = {
    "$ifNull": [
        "$costNanoUsd",
        {"$toLong": {"$round": [{"$multiply": [_number("$creditsCost"), float(NANO)]}, 0]}},
    ]
}

_USER_BALANCES: Document = {
    "_id": None,
    "total": {"$sum": 1},
    "active": _sum_if({"$ne": ["$isActive", False]}),
    "creditsUsed": {"$sum": "$creditsUsed"},
    "credits": {"$sum": "$credits"},
    "refCredits": {"$sum": "$refCredits"},
    "creditsNew": {"$sum": "$creditsNew"},
    "creditsNewUsed": {"$sum": "$creditsNewUsed"},
    "inputTokens": {"$sum": "$totalInputTokens"},
    "outputTokens": {"$sum": "$totalOutputTokens"},
}


def _hour_sums(key: str | None) -> Document:
    sums = {name: {"$sum": f"${name}"} for name in SUM_FIELDS.values()}
    return {"$group": {"_id": {"$ifNull": [key, None]}, **sums}}


def _record_sums(key: str | None) -> Document:
    tokens = ("inputTokens", "outputTokens", "cacheWriteTokens", "cacheHitTokens", "reasoningTokens")
    return {
        "$group": {
            "_id": {"$ifNull": [key, None]},
            "requests": {"$sum": 1},
            "success": _sum_if("$isSuccess"),
            "rejected": _sum_if(_is_outcome(Outcome.REJECTED)),
            **{name: {"$sum": f"${name}"} for name in tokens},
            "costNanoUsd": {"$sum": _COST},
            "latencyCount": _sum_if(_IS_TIMED),
            "latencySumMs": _sum_if(_IS_TIMED, "$latencyMs"),
            "ttftCount": _sum_if(_HAS_FIRST_BYTE),
            "ttftSumMs": _sum_if(_HAS_FIRST_BYTE, "$ttftMs"),
        }
    }


def _hour_buckets(key: str | None) -> list[Document]:
    return [
        {"$project": {"key": {"$ifNull": [key, None]}, "bucket": {"$objectToArray": "$latency"}}},
        {"$unwind": "$bucket"},
        {"$group": {"_id": {"key": "$key", "bucket": "$bucket.k"}, "number": {"$sum": "$bucket.v"}}},
    ]


def _record_durations(key: str | None) -> list[Document]:
    group = {"key": {"$ifNull": [key, None]}, "latencyMs": "$latencyMs"}
    return [
        {"$match": {"outcome": {"$ne": str(Outcome.REJECTED)}, "latencyMs": {"$type": "number"}}},
        {"$group": {"_id": group, "number": {"$sum": 1}}},
    ]
