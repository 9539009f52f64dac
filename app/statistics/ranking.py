"""Everything of a period by one or two fields, added up, put in order and cut into pages by the server."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from typing import Any

from app.statistics import summaries
from app.statistics.figures import SUM_FIELDS, Totals
from app.statistics.period_sources import Known, PeriodSources
from app.statistics.periods import Period
from app.statistics.spans import Range
from app.statistics.sum_sources import Source, at_once, merged
from app.statistics.summaries import FIELDS
from app.statistics.timeseries import ENDPOINT, TAGS, Timeline
from app.statistics.usage import Grouping, Key, UsagePage
from app.store.driver import yielding

Document = dict[str, Any]

_RANKED = ("costNanoUsd", "requests")
"""What tells the order."""
_READ = (*_RANKED, "_id.key", "_id.second")
_BATCH = 500


class Ranking:
    """A period's sums by a grouping. `timeline` cuts the period up where the grouping has a time.

    `selection` restricts it to one value of each of some fields of sums. Every method raises `PyMongoError`.
    """

    def __init__(
        self,
        known: Known,
        period: Period,
        by: Grouping,
        timeline: Timeline | None,
        selection: Mapping[str, str] | None = None,
    ) -> None:
        self._db = known.db
        self._period = period
        self._by = by
        self._timeline = timeline
        self._selection = dict(selection or {})
        self._parts = None if by.is_of_records else PeriodSources.of(known, period)

    def page(self, limit: int, shown: int) -> UsagePage:
        """Return the `limit` rows after the first `shown` ones.

        Who is on it is found out by cost alone; the other figures are read of those only.
        """
        rows = [{"$sort": self._order()}, {"$skip": shown}, {"$limit": limit}]
        if self._parts is None:
            whole = {"$group": {"_id": None, "count": {"$sum": 1}, **merged(SUM_FIELDS.values())}}
            (found,) = self._aggregate([{"$facet": {"rows": rows, "whole": [whole]}}], self._sources())
            ranked = [(self._key(row), _totals(row)) for row in found["rows"]]
            total = _totals(found["whole"][0]) if found["whole"] else Totals()
            count = _count(found["whole"])
        else:
            summed = self._summed_by()
            parts = self._parts.of_pairs() if len(summed) > 1 else self._parts
            month = parts.month() if summed else None
            if month is not None:
                keys, count = self._in_order(parts, month, summed, limit, shown)
            else:
                stages = [{"$facet": {"rows": rows, "whole": [{"$count": "count"}]}}]
                (found,) = self._aggregate(stages, self._sources(), _RANKED)
                keys, count = [self._key(row) for row in found["rows"]], _count(found["whole"])
            sums = self.of(keys)
            ranked = [(key, sums.get(key, Totals())) for key in keys]
            total = self.total()
        other = total.copy()
        for _, shown_sums in ranked:
            other.subtract(shown_sums)
        has_more = bool(ranked) and shown + len(ranked) < count
        return UsagePage(self._by, ranked, count - len(ranked), other, total, has_more)

    def every_key(self) -> Iterator[Key]:
        """Yield every key, in no order."""
        for key, _ in self.costs():
            yield key

    def costs(self) -> Iterator[tuple[Key, int]]:
        """Yield what every key cost, in nano-dollars and in no order."""
        for row in yielding(self._aggregate([], self._sources(), _RANKED)):
            yield self._key(row), int(row["costNanoUsd"])

    def rows(self) -> Iterator[tuple[Key, Totals]]:
        """Yield every row in order."""
        for row in yielding(self._aggregate([{"$sort": self._order()}], self._sources())):
            yield self._key(row), _totals(row)

    def of(self, keys: Sequence[Key]) -> dict[Key, Totals]:
        """Return the sums of these keys."""
        if not keys:
            return {}
        ids = [{f"key{place}": value for place, value in enumerate(key)} for key in keys]
        found = self._aggregate([{"$match": {"_id": {"$in": ids}}}], self._sources(keys))
        return {self._key(row): _totals(row) for row in found}

    def total(self) -> Totals:
        """Return everything together. What has several tags is in it once by each."""
        if self._parts is not None and not self._selection:
            return self._parts.total()
        whole = {"$group": {"_id": None, **merged(SUM_FIELDS.values())}}
        found = list(self._aggregate([whole], self._sources()))
        return _totals(found[0]) if found else Totals()

    def _summed_by(self) -> tuple[str, ...]:
        """Return the field, or the pair of them, that there are summaries by; empty: there are none."""
        fields = self._by.fields
        if self._selection or len(self._by.words) != len(fields) or self._parts is None:
            return ()
        known = ({(field,) for field in FIELDS if field} | self._parts.state.pairs) & {fields, fields[::-1]}
        return next(iter(known), ())

    def _in_order(
        self, parts: PeriodSources, month: Range, summed: tuple[str, ...], limit: int, shown: int
    ) -> tuple[list[Key], int]:
        """Return the keys of a page, and how many there are, of a period that is this month.

        An index has the month in its order. Only what is in no sums, if there is anything, is to be added up
        and put in between. That makes sums larger, never smaller: so whoever is on the page without it is
        among as many of the month.
        """
        is_turned = summed != self._by.fields

        def key_of(place: Document) -> Key:
            key = (place["key"], place["second"]) if len(summed) > 1 else (place["key"],)
            return key[::-1] if is_turned else key

        rest: dict[Key, tuple[int, int]] = {}
        for row in self._aggregate([], parts.unsummed({}), _RANKED):
            rest[self._key(row)] = int(row["costNanoUsd"]), int(row["requests"])
        collection = self._db[summaries.COLLECTION]
        place, wanted = summaries.of_month(month, summed), dict.fromkeys(_READ, 1)
        count = int(collection.count_documents(place)) + len(rest)
        ids = [summaries.id_of(month, summed, key[::-1] if is_turned else key) for key in rest]
        for at in range(0, len(ids), _BATCH):
            for found in collection.find({"_id": {"$in": ids[at : at + _BATCH]}}, wanted):
                key = key_of(found["_id"])
                cost, requests = rest[key]
                rest[key] = cost + int(found.get("costNanoUsd", 0)), requests + int(found.get("requests", 0))
                count -= 1
        order = list(summaries.IN_ORDER)
        if is_turned:
            order[-2:] = order[:-3:-1]
        ordered = collection.find(place, wanted).sort(order)
        # Those of `rest` are met here, too, and left out.
        ordered = ordered.limit(shown + limit) if rest else ordered.skip(shown).limit(limit)
        alone = (
            _rank(key, int(found.get("costNanoUsd", 0)), int(found.get("requests", 0)))
            for found in ordered
            if (key := key_of(found["_id"])) not in rest
        )
        merged = merge(alone, sorted(_rank(key, *sums) for key, sums in rest.items()))
        page = islice(merged, shown if rest else 0, shown + limit if rest else limit)
        return [tuple(name if is_named else None for is_named, name in key) for _, _, key in page], count

    def _aggregate(self, stages: list[Document], sources: Sequence[Source], only: Sequence[str] = ()) -> Any:
        pipelines = [(source, self._sums_of(source, only)) for source in sources]
        together = {"$group": {"_id": "$_id", **merged(only or SUM_FIELDS.values())}}
        return at_once(pipelines, [*([together] if len(pipelines) > 1 else []), *stages])

    def _sources(self, keys: Sequence[Key] | None = None) -> list[Source]:
        """Return where to read from; `keys`: at least everything of these."""
        if self._parts is None:
            records = Source.of_records(self._db, self._period.start, self._period.end)
            return [replace(records, match={**records.match, **self._selection})]
        fields = self._by.fields
        field = fields[0] if fields else None
        chosen: dict[str, list[str | None]] = {}
        if keys is not None:
            places = [place for place, word in enumerate(self._by.words) if word != self._by.bucket]
            for place, name in zip(places, fields, strict=True):
                # One that is not named is the usual one of the format.
                if name != ENDPOINT:
                    chosen[name] = list({key[place] for key in keys})
        selection: Document = {name: {"$in": values} for name, values in chosen.items()} | self._selection
        summed_by = self._summed_by()
        if len(summed_by) > 1:
            parts = self._parts.of_pairs()
            pair = summed_by[0], summed_by[1]
            return [*parts.unsummed(selection), *parts.summed_by_pair(pair, chosen)]
        if len(fields) > 1 or field not in FIELDS or self._selection:
            return self._parts.unsummed(selection, timeline=self._timeline, is_summed_up=False)
        summed = self._parts.summed(field, keys=chosen.get(field or ""), timeline=self._timeline)
        return [*self._parts.unsummed(selection, timeline=self._timeline), *summed]

    def _sums_of(self, source: Source, only: Sequence[str]) -> list[Document]:
        fields = iter(self._by.fields)
        group: Document = {}
        for place, word in enumerate(self._by.words):
            is_time = self._timeline is not None and word == self._by.bucket
            group[f"key{place}"] = (
                source.label(self._timeline) if self._timeline and is_time else source.value_of(next(fields))
            )
        return source.grouped(group, each=TAGS if TAGS in self._by.fields else None, only=only)

    def _order(self) -> Document:
        places = {f"_id.key{place}": 1 for place in range(len(self._by.words))}
        times = {f"_id.key{place}": 1 for place, word in enumerate(self._by.words) if word == self._by.bucket}
        return {**times, "costNanoUsd": -1, "requests": -1, **places}

    def _key(self, row: Document) -> Key:
        return tuple(row["_id"].get(f"key{place}") for place in range(len(self._by.words)))


def _count(found: Sequence[Document]) -> int:
    return int(found[0]["count"]) if found else 0


def _rank(key: Key, cost_nano: int, requests: int) -> tuple[int, int, tuple[tuple[bool, str], ...]]:
    """Return what sorts as `Ranking` does: null comes first where all else is the same."""
    return -cost_nano, -requests, tuple((name is not None, name or "") for name in key)


def _totals(row: Document) -> Totals:
    totals = Totals()
    totals.add(row)
    return totals
