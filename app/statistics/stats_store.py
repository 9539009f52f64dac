"""Statistics over any period, exact to the record.

All sums but the newest are kept for ever, so that they stay right after records have expired. Where they are
read from is in `period_sources`. Percentiles come from histograms and are within five per cent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pymongo.database import Database

from app.common.display import iso_utc
from app.records.records import Outcome
from app.statistics import rollups, summaries
from app.statistics.figures import SUM_FIELDS, Totals, model_table, usd
from app.statistics.period_sources import Known, PeriodSources
from app.statistics.periods import ALL, Period
from app.statistics.ranking import Ranking
from app.statistics.spans import BEGINNING
from app.statistics.sum_sources import RANKS, STOOD_FOR, Source, Sums, add_up, at_once, merged
from app.statistics.timeseries import (
    AUTO,
    GROUPS,
    MINUTES,
    RECORD_GROUPS,
    Bucket,
    Series,
    Timeline,
    bucket_size,
    largest,
)
from app.statistics.usage import DEFAULT_LIMIT, Before, Grouping, Key, UsageBefore, UsagePage
from app.store.driver import make_indexes, store_errors
from app.store.fields import nano
from app.wires.endpoints import LIST_MODELS
from app.wires.errors import UNKNOWN_MODEL

Document = dict[str, Any]

_REFUSALS = 50_000
"""How many refused requests are looked through for unknown models, at most."""

GROUPINGS = frozenset(field for field in summaries.FIELDS if field)
"""What sums can be made by."""


class StatsStore:
    """Sums, model tables and figures of users. Every method raises `StoreUnavailable`."""

    def __init__(self, db: Database[Any], known: Known | None = None) -> None:
        """`known` is read but once; None: anew for each question."""
        self._db = db
        self._known = known
        self._rollups = db[rollups.COLLECTION]
        self._logs = db["request_logs"]
        self._users = db["usersNew"]

    def for_one_answer(self) -> "StatsStore":
        """Return one for several questions at a time: what decides where sums are is read but once."""
        return StatsStore(self._db, Known(self._db))

    def ensure_indexes(self) -> None:
        """Create the indexes that sums are selected by."""
        with store_errors():
            make_indexes(self._rollups, rollups.INDEXES)
            make_indexes(self._db[summaries.COLLECTION], summaries.INDEXES)

    def model_table(self, period: Period) -> Document:
        """Return the model table with the time it is of."""
        return {"models": self.model_stats(period), **period.to_json()}

    def model_stats(self, period: Period) -> list[Document]:
        """Return the rows of the model table, most tokens first."""
        return model_table(self.sums(period, by="model", with_latency=True))

    def metrics(self, period: Period) -> Document:
        """Return the figures of all requests together, those that never reached a model included."""
        totals = self.total(period)
        return {
            "total_requests": totals.requests,
            "tokens_used": totals.input_tokens + totals.output_tokens,
            "avg_latency_ms": totals.avg_latency_ms,
            "success_rate": totals.success_rate,
            "creditsBurned": usd(totals.cost_nano_usd),
            "costNanoUsd": totals.cost_nano_usd,
            **period.to_json(),
            "timestamp": iso_utc(period.now),
        }

    def rate_limited(self, period: Period) -> Document:
        """Count requests answered with 429, as far back as records are kept.

        Friend keys are earlier software's: their requests name one, all others came with a user's key.
        """
        limited: Document = {"statusCode": 429, **_within(period)}
        with store_errors():
            total = self._requests(limited)
            friends = self._requests({**limited, "friendKeyId": {"$gt": ""}}) if total else 0
        return {
            "total_429": total,
            "user_key_429": total - friends,
            "friend_key_429": friends,
            **period.to_json(),
            "timestamp": iso_utc(period.now),
        }

    def missing_models(self, period: Period, limit: int) -> tuple[list[Document], datetime | None]:
        """Return which models clients asked for in vain, most often first, as far back as records are kept.

        Looking a model up is not asking for it. Rows have `model` (None: of several, summed), `requests`,
        `users`, `firstAt` and `lastAt`. The second value is the moment back to which refused requests were
        looked through, where that was not all.
        """
        refused: Document = {"outcome": str(Outcome.REJECTED), **_within(period)}
        newest_first = {"createdAt": -1, "_id": -1}
        with store_errors():
            rest = self._logs.find(refused, {"createdAt": 1}).sort(newest_first).skip(_REFUSALS - 1).limit(2)
            ends = list(rest)
            rows = self._logs.aggregate(
                [
                    {"$match": refused},
                    {"$sort": newest_first},
                    {"$limit": _REFUSALS},
                    {
                        "$match": {
                            "errorType": UNKNOWN_MODEL.openai_code,
                            "endpoint": {"$ne": LIST_MODELS.name},
                        }
                    },
                    {"$group": _BY_MISSING_MODEL},
                    {"$addFields": {"users": {"$size": "$users"}}},
                    {"$sort": {"requests": -1, "lastAt": -1}},
                    {"$limit": limit},
                ]
            )
            found = [{"model": row.pop("_id"), **row} for row in rows]
        return found, ends[0]["createdAt"] if len(ends) > 1 else None

    def _requests(self, match: Document) -> int:
        """Count the requests that the matching records stand for."""
        counted = self._logs.aggregate(
            [{"$match": match}, {"$group": {"_id": None, "requests": {"$sum": STOOD_FOR}}}]
        )
        return sum(int(found["requests"]) for found in counted)

    def user_stats(self, period: Period) -> Document:
        """Return users' balances as they are now, and their use of credits and tokens within the period.

        For `all` the use is what the users' documents say, which includes the time before this product.
        """
        by_user = self.sums(period, by="userId")
        whole = Totals()
        for sums in by_user.values():
            whole.merge(sums)
        with store_errors():
            balances: Document = next(iter(self._users.aggregate([{"$group": _USER_BALANCES}])), {})
        if period.name == ALL:
            used_nano = int(balances.get("creditsUsedNano", 0))
            tokens = int(balances.get("inputTokens", 0)), int(balances.get("outputTokens", 0))
        else:
            used_nano = sum(sums.cost_nano_usd for sums in by_user.values())
            tokens = (
                sum(sums.input_tokens for sums in by_user.values()),
                sum(sums.output_tokens for sums in by_user.values()),
            )
        return {
            "total_users": balances.get("total", 0),
            "active_users": balances.get("active", 0),
            "users_with_requests": sum(user is not None for user in by_user),
            "total_credits_used": usd(used_nano),
            "total_credits": balances.get("credits", 0),
            "total_ref_credits": balances.get("refCredits", 0),
            "total_creditsNew": balances.get("creditsNew", 0),
            "total_creditsNewUsed": balances.get("creditsNewUsed", 0),
            "total_input_tokens": tokens[0],
            "total_output_tokens": tokens[1],
            **whole.ledger(),
            "creditsUsedNanoUsd": used_nano,
            "creditsNanoUsd": int(balances.get("creditsNano", 0)),
            "refCreditsNanoUsd": int(balances.get("refCreditsNano", 0)),
            "creditsNewNanoUsd": int(balances.get("creditsNewNano", 0)),
            "creditsNewUsedNanoUsd": int(balances.get("creditsNewUsedNano", 0)),
            **period.to_json(),
        }

    def ranking(self, by: Grouping, period: Period, selection: Mapping[str, str] | None = None) -> Ranking:
        """Return who used how much, to be read by pages or whole: what reads it raises `PyMongoError`.

        `selection` restricts it to one value of each of some fields of sums.
        """
        timeline = None if by.bucket is None else Timeline.of(period, by.bucket, self._first_of(period))
        return Ranking(self._where(), period, by, timeline, selection)

    def usage(
        self,
        by: Grouping,
        period: Period,
        *,
        limit: int = DEFAULT_LIMIT,
        shown: int = 0,
        selection: Mapping[str, str] | None = None,
    ) -> UsagePage:
        """Return who used how much: `limit` rows after the first `shown` ones, all others together."""
        with store_errors():
            return self.ranking(by, period, selection).page(limit, shown)

    def usage_rows(self, by: Grouping, period: Period) -> Iterator[tuple[Key, Totals]]:
        """Yield every row of the usage, in its order."""
        with store_errors():
            yield from self.ranking(by, period).rows()

    def usage_total(self, by: Grouping, period: Period, selection: Mapping[str, str] | None = None) -> Totals:
        """Return what all rows of the usage come to."""
        with store_errors():
            return self.ranking(by, period, selection).total()

    def usage_before(self, page: UsagePage, period: Period) -> UsageBefore:
        """Return what the rows of a page of this period were the period before."""
        before = period.previous()
        if before is None:
            return UsageBefore(None, {}, Totals())
        rows = self.usage_of(page.by, before, [key for key, _ in page.rows])
        return UsageBefore(before, rows, self.usage_total(page.by, before))

    def used_before(self, by: Grouping, period: Period) -> Before:
        """Return who says what keys used the period before this one."""
        before = period.previous()
        return lambda keys: None if before is None else self.usage_of(by, before, keys)

    def usage_of(
        self,
        by: Grouping,
        period: Period,
        keys: Sequence[Key],
        selection: Mapping[str, str] | None = None,
    ) -> dict[Key, Totals]:
        """Return what these keys used."""
        with store_errors():
            return self.ranking(by, period, selection).of(keys)

    def costs(self, by: Grouping, period: Period) -> dict[Key, int]:
        """Return what every key cost, in nano-dollars."""
        with store_errors():
            return dict(self.ranking(by, period).costs())

    def series_of(self, keys: Sequence[str], period: Period, *, by: str, bucket: str) -> Series:
        """Return what these keys used over time, in days or months.

        `by` is one of those there are summaries by. Nothing is read of others: `.total` and `.other` of the
        buckets are nothing.
        """
        field, first = GROUPS[by], self._first_of(period)
        timeline = Timeline.of(period, bucket, first)
        buckets = {timeline.label_of(begin): Bucket(begin) for begin in timeline.starts()}
        sums: Sums = {}
        if keys:
            with store_errors():
                parts = PeriodSources.of(self._where(), period)
                chosen = {field: {"$in": list(keys)}}
                unsummed = parts.unsummed(chosen, timeline=timeline)
                summed = parts.summed(field, keys=keys, timeline=timeline)
                add_up(sums, [*unsummed, *summed], field, timeline)
        for (key, label), totals in sums.items():
            if label in buckets:
                buckets[label].parts[str(key)] = totals
        return Series(bucket, list(keys), list(buckets.values()))

    def series(
        self,
        period: Period,
        *,
        by: str = "none",
        bucket: str = AUTO,
        rank_by: str = "requests",
        top: int = 5,
        with_latency: bool = False,
        selection: Mapping[str, str] | None = None,
        like: Series | None = None,
    ) -> Series:
        """Return the period over time, no bucket left out.

        `by` is "none" or one of `GROUPS` and `RECORD_GROUPS`. `like` has it cut into buckets of the same size
        and with the same keys as another series, for comparison.

        `.size` is the buckets' size; `.keys` the `top` models (users, …) with most of `rank_by` (one of
        `METRICS`); every bucket has `.start`, and `Totals` as `.total`, `.parts[key]` (absent: nothing) and
        `.other`. `with_latency` fills the histograms, which percentiles are made of. The first bucket holds
        only what came after the period's start, so that the buckets add up to the period's sums. Raises
        `UnknownChoiceError` for buckets that do not go with the period. `selection` restricts it to one
        value of each of some fields of sums; no summaries are read then.
        """
        first = self._first_of(period)
        size = bucket_size(bucket, period, first) if like is None else like.size
        timeline = Timeline.of(period, size, first)
        wanted = None if like is None else like.keys
        rest: Sums | None = None
        with store_errors():
            if by in RECORD_GROUPS:
                records = Source.of_records(self._db, period.start, period.end)
                records = replace(records, match={**records.match, **(selection or {})})
                cut = _RecordCutting(records, RECORD_GROUPS[by], timeline, with_latency)
                keys = cut.largest(rank_by, top) if wanted is None else wanted
                sums, whole, rest = cut.of(keys), cut.whole(), cut.without(keys)
            else:
                field = GROUPS.get(by)
                from_summaries = field in summaries.FIELDS and not selection
                parts = PeriodSources.of(self._where(), period, from_summaries=from_summaries)
                cutting = _Cutting(parts, timeline, with_latency, selection or {})
                sums, whole, keys = cutting.sums(field, rank_by, top, wanted)
        # What is dated after now, by another machine's clock, has no bucket.
        buckets = {timeline.label_of(begin): Bucket(begin) for begin in timeline.starts()}
        for (_, label), totals in whole.items():
            if label in buckets:
                buckets[label].total = totals
        for (key, label), totals in sums.items():
            if key in keys and label in buckets:
                buckets[label].parts[str(key)] = totals
        if rest is not None:
            for label, shown in buckets.items():
                shown.rest = rest.get((None, label), Totals())
        return Series(timeline.size, keys, list(buckets.values()))

    def total(self, period: Period, *, user: str | None = None, key: str | None = None) -> Totals:
        """Sum up everything of a period, or everything of a user, or of a client key."""
        return self.totals([period], user=user, key=key)[0]

    def totals(
        self, periods: Sequence[Period], *, user: str | None = None, key: str | None = None
    ) -> list[Totals]:
        """Sum up everything of each of these periods, or everything of a user, or of a client key."""
        by, whose = ("userId", user) if key is None else ("userKeyId", key)
        found = [Totals() for _ in periods]
        with store_errors():
            known = self._where()
            asked = [
                (source, source.grouped({"$literal": place}))
                for place, period in enumerate(periods)
                for source in PeriodSources.of(known, period).sources(by, whose)
            ]
            for sums in at_once(asked, [{"$group": {"_id": "$_id", **merged(SUM_FIELDS.values())}}]):
                found[sums["_id"]].add(sums)
        return found

    def sums(self, period: Period, *, by: str | None, with_latency: bool = False) -> dict[str | None, Totals]:
        """Sum up everything of a period per value of the field `by`, one of `GROUPINGS`.

        `by` None: all together, under None. `with_latency` fills the histograms, which percentiles are made
        of.
        """
        if by is not None and by not in GROUPINGS:
            raise ValueError(f"cannot sum by {by}")
        sums: Sums = {}
        with store_errors():
            parts = PeriodSources.of(self._where(), period)
            add_up(sums, [*parts.unsummed({}), *parts.summed(by)], by, None, with_latency=with_latency)
        return {key: totals for (key, _), totals in sums.items()}

    def booked_so_far(self, by: str) -> dict[str | None, Totals]:
        """Sum up everything that this product has ever booked, per value of the field `by`.

        What earlier software recorded is left out: it expires, and these sums never fall.
        """
        sums: Sums = {}
        with store_errors():
            parts = PeriodSources(self._db, None, None, self._where().state, BEGINNING, None)
            sources = (*parts.unsummed({}), *parts.summed(by))
            add_up(sums, [source for source in sources if not source.is_records], by, None)
        return {key: totals for (key, _), totals in sums.items()}

    def expired_before(self, by: Grouping | None, period: Period) -> datetime | None:
        """Return from when on a period is counted, where that is done from records that have expired before.

        `by` None: it is counted from records anyway.
        """
        if by is not None and not by.is_of_records:
            return None
        with store_errors():
            since = self._where().kept_since(period.now)
        return since if since is not None and (period.start is None or period.start < since) else None

    def _where(self) -> Known:
        return self._known or Known(self._db)

    def _first_of(self, period: Period) -> datetime:
        """Return the period's start, or else when the first request was that anything is known of."""
        if period.start is not None:
            return period.start
        with store_errors():
            hour = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
            earlier = self._logs.find_one({"outcome": None}, {"createdAt": 1}, sort=[("createdAt", 1)])
        moments = (hour and hour["hour"], earlier and earlier.get("createdAt"))
        return min((moment for moment in moments if isinstance(moment, datetime)), default=period.now)


@dataclass(frozen=True, slots=True)
class _Cutting:
    """Cuts a period into buckets."""

    parts: PeriodSources
    timeline: Timeline
    with_latency: bool
    selection: Mapping[str, str]

    def sums(
        self, field: str | None, rank_by: str, top: int, wanted: list[str] | None = None
    ) -> tuple[Sums, Sums, list[str]]:
        """Return the largest keys' sums by bucket, those of all requests, and which keys are the largest.

        `wanted` are keys to be looked at in their place.

        What is in summaries is looked at three times (all requests, every key over the whole period, and the
        largest keys by bucket), since all keys by bucket would be far more.
        """
        sums: Sums = {}
        unsummed = self.parts.unsummed(dict(self.selection), timeline=self.timeline)
        add_up(sums, unsummed, field, self.timeline, with_latency=self.with_latency)
        whole: Sums = {}
        by_key: dict[str | None, Totals] = {}
        for (key, label), totals in sums.items():
            whole.setdefault((None, label), Totals()).merge(totals)
            by_key.setdefault(key, Totals()).merge(totals)
        self._add(whole, None, None)
        if field is None:
            return sums, whole, []
        keys = self._largest(field, by_key, rank_by, top) if wanted is None else wanted
        if keys:
            self._add(sums, field, keys)
        return sums, whole, keys

    def _largest(self, field: str, by_key: dict[str | None, Totals], rank_by: str, top: int) -> list[str]:
        """Return the keys with most; `by_key` has what is in no summary."""
        ranked: Sums = {}
        add_up(
            ranked, self.parts.summed(field, timeline=self.timeline if self._is_short else None), field, None
        )
        for (key, _), totals in ranked.items():
            by_key.setdefault(key, Totals()).merge(totals)
        return largest(by_key, rank_by, top)

    @property
    def _is_short(self) -> bool:
        """Whether all of it is counted from records."""
        return self.timeline.size == MINUTES

    def _add(self, sums: Sums, field: str | None, keys: list[str] | None) -> None:
        summed = self.parts.summed(field, keys=keys, timeline=self.timeline)
        add_up(sums, summed, field, self.timeline, with_latency=self.with_latency)


@dataclass(frozen=True, slots=True)
class _RecordCutting:
    """Cuts the records of a period into buckets, by a field that only they have; the server ranks keys."""

    records: Source
    field: str
    timeline: Timeline
    with_latency: bool

    def largest(self, rank_by: str, top: int) -> list[str]:
        """Return the `top` keys with most of a metric."""
        return self.records.largest(self.field, RANKS[rank_by], top)

    def of(self, keys: list[str]) -> Sums:
        """Return the sums of these keys by bucket."""
        return self._sums({"$in": keys}, self.field) if keys else {}

    def without(self, keys: list[str]) -> Sums:
        """Return the sums of what has none of these keys, by bucket."""
        return self._sums({"$nin": keys}, None)

    def whole(self) -> Sums:
        """Return the sums of everything, by bucket."""
        return self._sums(None, None)

    def _sums(self, condition: Document | None, by: str | None) -> Sums:
        sums: Sums = {}
        match = self.records.match if condition is None else {**self.records.match, self.field: condition}
        records = replace(self.records, match=match)
        add_up(sums, [records], by, self.timeline, with_latency=self.with_latency)
        return sums


def _within(period: Period) -> Document:
    times = {"$gte": period.start, "$lt": period.end}
    given = {name: time for name, time in times.items() if time is not None}
    return {"createdAt": given} if given else {}


_BY_MISSING_MODEL: Document = {
    "_id": {"$ifNull": ["$requestedModel", None]},
    "requests": {"$sum": STOOD_FOR},
    "users": {"$addToSet": "$userId"},
    "firstAt": {"$min": "$createdAt"},
    "lastAt": {"$max": "$createdAt"},
}
_USER_BALANCES: Document = {
    "_id": None,
    "total": {"$sum": 1},
    "active": {"$sum": {"$cond": [{"$ne": ["$isActive", False]}, 1, 0]}},
    "creditsUsedNano": {"$sum": nano("$creditsUsed")},
    "creditsNano": {"$sum": nano("$credits")},
    "refCreditsNano": {"$sum": nano("$refCredits")},
    "creditsNewNano": {"$sum": nano("$creditsNew")},
    "creditsNewUsedNano": {"$sum": nano("$creditsNewUsed")},
    "credits": {"$sum": "$credits"},
    "refCredits": {"$sum": "$refCredits"},
    "creditsNew": {"$sum": "$creditsNew"},
    "creditsNewUsed": {"$sum": "$creditsNewUsed"},
    "inputTokens": {"$sum": "$totalInputTokens"},
    "outputTokens": {"$sum": "$totalOutputTokens"},
}
