"""Summaries against what they are made of.

Months by pairs are compared with the hourly sums, and by the server, since there may be very many of them.
Hours are compared with the hourly sums, days with their hours, months with their days (and the hours of the
day that is running).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from app.accounts.credentials import shown_key_id
from app.common.display import iso_utc
from app.statistics import rollups, summaries
from app.statistics.spans import FINER, Level, Range, begin, cover, following
from app.store.driver import yielding
from app.verify.reconcile import CheckResult, Difference, Look, Sums, differing

Document = dict[str, Any]
Key = str | tuple[str | None, str | None] | None
Place = tuple[Level, datetime, str, Key]
"""A span, the field it is summed by (`all`: none), or the pair of them, and the key."""

_DAY_MS = 86_400_000
_HOUR = timedelta(hours=1)
_SUMS = {name: {"$sum": f"${name}"} for name in summaries.COUNTS}
_LATE_HINT = "something was booked into it late, and it will be summed up again within two minutes"
_HINT = "drop the collection request_summaries: it is made anew in the background, and nothing is lost"


class SummaryPairs:
    """What spans are made of (source) and their summaries (derived), for spans statistics read."""

    def __init__(self, db: Database[Any]) -> None:
        self._summaries = db[summaries.COLLECTION]
        self._rollups = db[rollups.COLLECTION]

    def first_looks(self, result: CheckResult) -> Iterator[dict[Place, list[Look]]]:
        """Yield, span by span, the sums that do not agree at first sight; counts all sums in `result`."""
        state = summaries.State.read(self._summaries)
        if state.up_to is None:
            result.notes.append("none have been made yet")
            return
        for level, start, end in self._spans(state, state.up_to):
            derived, source = self._derived(level, start, end, state), self._source(level, start, end, state)
            places = derived.keys() | source.keys()
            result.compared += len(places)
            yield {
                place: [Look(derived.get(place, {}), source.get(place, {}))]
                for place in places
                if differing(source.get(place, {}), derived.get(place, {}))
            }

        for month in self._months_by_pairs(state):
            for pair in sorted(state.pairs):
                match = summaries.of_month(month, pair)
                result.compared += self._summaries.count_documents(match)
                places = {
                    (month.level, month.start, summaries.named(pair), (found["key"], found["second"]))
                    for found in self._differing_pairs(month, pair)
                }
                kept, made_of = self.read_derived(places), self.read_source(places)
                yield {place: [Look(kept.get(place, {}), made_of.get(place, {}))] for place in places}

    def _months_by_pairs(self, state: summaries.State) -> Iterator[Range]:
        """Yield the months there are summaries by pairs of."""
        oldest = self._rollups.find_one({}, {"hour": 1}, sort=[("hour", 1)])
        start = None if oldest is None else begin(Level.MONTH, oldest["hour"], state.tz)
        while start is not None and (month := state.of_month(start, by_pairs=True)) is not None:
            yield month
            start = None if month.level is Level.RUNNING else month.end

    def _differing_pairs(self, month: Range, pair: summaries.Pair) -> Iterator[Document]:
        """Yield the pairs whose sums, of which those of summaries are taken away, do not come to nothing."""
        negative = {name: {"$multiply": [-1, {"$ifNull": [f"${name}", 0]}]} for name in summaries.COUNTS}
        place = {"key": "$_id.key", "second": "$_id.second"}
        stored: list[Document] = [
            {"$match": summaries.of_month(month, pair)},
            {"$replaceWith": {"_id": place, **negative}},
        ]
        pipeline: list[Document] = [
            {"$match": {"hour": {"$gte": month.start, "$lt": month.end}}},
            {"$group": {"_id": _pair_group(pair), **_SUMS}},
            {"$unionWith": {"coll": self._summaries.name, "pipeline": stored}},
            {"$group": {"_id": "$_id", **_SUMS}},
            {"$match": {"$or": [{name: {"$ne": 0}} for name in summaries.COUNTS]}},
            {"$project": {"_id": 1}},
        ]
        for found in yielding(self._rollups.aggregate(pipeline, allowDiskUse=True)):
            yield found["_id"]

    def _pair_sums(
        self,
        level: Level,
        start: datetime,
        end: datetime,
        pair: summaries.Pair,
        keys: set[Key],
        *,
        stored: bool,
    ) -> dict[Place, Sums]:
        """Return the sums of these pairs, as they are stored or as the hourly sums have them."""
        firsts = [key[0] for key in keys if isinstance(key, tuple)]
        if stored:
            match = {**summaries.of_month(Range(level, start, end), pair), "_id.key": {"$in": firsts}}
            found: Iterable[Document] = self._summaries.find(match)
        else:
            hours: Document = {"hour": {"$gte": start, "$lt": end}, pair[0]: {"$in": firsts}}
            group = {"$group": {"_id": _pair_group(pair), **_SUMS}}
            found = self._rollups.aggregate([{"$match": hours}, group], allowDiskUse=True)
        return {
            (level, start, summaries.named(pair), key): _numbers(document)
            for document in yielding(found)
            if (key := (document["_id"]["key"], document["_id"]["second"])) in keys
        }

    def _spans(self, state: summaries.State, up_to: datetime) -> Iterator[tuple[Level, datetime, datetime]]:
        """Yield the days whose hours are to be looked at, then the days themselves, then the months."""
        by_day = {"$subtract": ["$hour", {"$mod": [{"$toLong": "$hour"}, _DAY_MS]}]}
        pipeline: list[Document] = [{"$match": {"hour": {"$lt": up_to}}}, {"$group": {"_id": by_day}}]
        found = {row["_id"] for row in self._rollups.aggregate(pipeline)}
        # A day of UTC is a part of two days of the zone.
        moments = found | {day + timedelta(days=1, milliseconds=-1) for day in found}
        moments |= set(self._summaries.distinct("_id.start", {"_id.by": {"$exists": True}}))
        for level, within in ((Level.HOUR, Level.DAY), (Level.DAY, Level.DAY), (Level.MONTH, Level.MONTH)):
            for start in sorted({begin(within, moment, state.tz) for moment in moments}):
                if level is Level.MONTH:
                    month = state.of_month(start)
                    if month is not None:
                        yield month.level, start, month.end
                    continue
                end = following(within, start, state.tz)
                end = min(end, up_to) if level is Level.HOUR else end
                if start < end <= up_to:
                    yield level, start, end

    def read_source(self, places: Collection[Place]) -> Mapping[Place, Sums]:
        """Read what these spans are made of, now."""
        return self._read(places, stored=False)

    def read_derived(self, places: Collection[Place]) -> Mapping[Place, Sums]:
        """Read the summaries of these spans, now."""
        return self._read(places, stored=True)

    def _read(self, places: Collection[Place], *, stored: bool) -> dict[Place, Sums]:
        state = summaries.State.read(self._summaries)
        wanted: dict[tuple[Level, datetime, summaries.Pair | None], set[Place]] = defaultdict(set)
        pairs = {summaries.named(pair): pair for pair in state.pairs}
        for place in places:
            wanted[place[0], place[1], pairs.get(place[2])].add(place)
        found: dict[Place, Sums] = {}
        for (level, start, pair), chosen in wanted.items():
            if level is Level.RUNNING:
                end = (state.month_reached if pair is None else state.pairs_reached) or start
            else:
                end = following(level, start, state.tz)
            if pair is not None:
                found |= self._pair_sums(level, start, end, pair, {key for *_, key in chosen}, stored=stored)
                continue
            sums = (self._derived if stored else self._source)(level, start, end, state)
            found.update((place, sums[place]) for place in chosen if place in sums)
        return found

    def _derived(
        self, level: Level, start: datetime, end: datetime, _state: summaries.State
    ) -> dict[Place, Sums]:
        match = summaries.selection([Range(level, start, end)], *summaries.FIELDS)
        found = self._summaries.find(match, dict.fromkeys(summaries.COUNTS, 1), batch_size=500)
        return {
            (level, place["start"], place["by"], place["key"]): _numbers(document)
            for document in yielding(found)
            if (place := document["_id"])
        }

    def _source(
        self, level: Level, start: datetime, end: datetime, state: summaries.State
    ) -> dict[Place, Sums]:
        found: dict[Place, Sums] = {}
        for by in summaries.FIELDS:
            for group, document in self._added_up(level, start, end, by, state):
                found[level, group["start"], by or summaries.ALL_TOGETHER, group.get("key")] = _numbers(
                    document
                )
        return found

    def _added_up(
        self, level: Level, start: datetime, end: datetime, by: str | None, state: summaries.State
    ) -> Iterable[tuple[Document, Document]]:
        if level is Level.HOUR:
            match: Document = {"hour": {"$gte": start, "$lt": end}}
            group: Document = {"start": "$hour", "key": None if by is None else {"$ifNull": [f"${by}", None]}}
            collection = self._rollups
        else:
            parts = cover([(start, end)], state.tz, FINER[level])
            match = summaries.selection(parts, by)
            group = {"start": {"$literal": start}, "key": {"$ifNull": ["$_id.key", None]}}
            collection = self._summaries
        pipeline: list[Document] = [{"$match": match}, {"$group": {"_id": group, **_SUMS}}]
        for document in yielding(collection.aggregate(pipeline, allowDiskUse=True)):
            yield document["_id"], document

    def pending_hint(self, place: Place) -> str | None:
        """Say why these sums may differ for now (then statistics do not read them); None: no reason known."""
        level, start = place[:2]
        state = summaries.State.read(self._summaries)
        end = following(Level.MONTH if level is Level.RUNNING else level, start, state.tz)
        return _LATE_HINT if any(start < hour + _HOUR and hour < end for hour in state.late) else None

    @staticmethod
    def differences(place: Place, look: Look) -> list[Difference]:
        """Describe in words what does not agree."""
        level, start, by, key = place
        derived = look.before if look.after is None else look.after
        shown = ", ".join(
            shown_key_id(value) if name == "userKeyId" and value is not None else str(value)
            for name, value in zip(by.split(","), key if isinstance(key, tuple) else (key,), strict=True)
        )
        where = f"{level} from {iso_utc(start.astimezone(UTC))}, " + (
            "all requests" if by == summaries.ALL_TOGETHER else f"{by} {shown}"
        )
        return [
            Difference(
                f"{name} of request_summaries", where, look.source.get(name, 0), derived.get(name, 0), _HINT
            )
            for name in differing(look.source, derived)
        ]


def _pair_group(pair: summaries.Pair) -> Document:
    return {
        name: {"$ifNull": [f"${field}", None]} for name, field in zip(("key", "second"), pair, strict=True)
    }


def _numbers(document: Document) -> dict[str, float]:
    return {
        name: value
        for name, value in document.items()
        if name != "_id" and isinstance(value, int | float) and value
    }
