"""Summaries against what they are made of.

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
Place = tuple[Level, datetime, str, str | None]
"""A span, the field it is summed by (`all`: none), and the key."""

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
        return self._read(places, self._source)

    def read_derived(self, places: Collection[Place]) -> Mapping[Place, Sums]:
        """Read the summaries of these spans, now."""
        return self._read(places, self._derived)

    def _read(self, places: Collection[Place], read: Any) -> dict[Place, Sums]:
        state = summaries.State.read(self._summaries)
        wanted: dict[tuple[Level, datetime], set[Place]] = defaultdict(set)
        for place in places:
            wanted[place[0], place[1]].add(place)
        found: dict[Place, Sums] = {}
        for (level, start), chosen in wanted.items():
            if level is Level.RUNNING:
                end = state.month_reached or start
            else:
                end = following(level, start, state.tz)
            sums = read(level, start, end, state)
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
        shown = shown_key_id(key) if by == "userKeyId" and key is not None else key
        where = f"{level} from {iso_utc(start.astimezone(UTC))}, " + (
            "all requests" if by == summaries.ALL_TOGETHER else f"{by} {shown}"
        )
        return [
            Difference(
                f"{name} of request_summaries", where, look.source.get(name, 0), derived.get(name, 0), _HINT
            )
            for name in differing(look.source, derived)
        ]


def _numbers(document: Document) -> dict[str, float]:
    return {
        name: value
        for name, value in document.items()
        if name != "_id" and isinstance(value, int | float) and value
    }
