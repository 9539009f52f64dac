"""Booking records into MongoDB, each exactly once, without needing transactions.

Steps, in this order: the records themselves, then users' credits, client keys, upstream keys, hourly sums,
and marks on hours that were over already, whose summaries have to be made again. Every step can be repeated:

- A record's `_id` is its request id, so inserting it again is a duplicate, which counts as success.
- A document that is incremented keeps, beside its sums, the highest record number that is in them, one per
  writer (`applied.<writerId>`). Only records with a higher number are added, by an update that requires
  the number to be still the one that was read, or remembered from an earlier batch, and sets the new one
  together with the sums. Whatever is in doubt after a lost connection may therefore be sent again, with any
  batch boundaries: a late twin of the first attempt either came first (then this update matches nothing, and
  the number is read again) or comes last (then the twin matches nothing).
- So that marks of writers that are gone need not stay for ever, what is two months old is not added to sums
  any more (`app.persistence.writers` says why).
- What went on after its request is charged to whoever is the first to have claimed it
  (`app.persistence.settlements`): claims come before everything else, and the same claim has the same answer
  for ever.
- A hold on a user's credit is removed by the very update that books its request's charge, and removing it
  again changes nothing. So it is for requests that cost nothing, and for those that died with their
  process, of which nobody knows whether they had one.

What this asks of the caller: one caller at a time per writer id, and records in the order of their numbers.

The marks at work. Writer `w` books records 7 to 9 of user `ann` (3, 4 and 5 nano-dollars) and dies after the
second step; whoever adopts its journal books 7 to 10 again, in one batch or in several:

    request_logs             usersNew/ann                          user_keys/wk_1
    7 8 9 inserted           credits -12, applied.w: 6 -> 9        (killed before)
    ------------------------------------------------------------------------------ kill -9
    7 8 9 there already      applied.w is 9: only 10 is added      applied.w is 6: all four are added
    10 inserted              credits -2,  applied.w: 9 -> 10       requests +4, applied.w: 6 -> 10

Each document says by itself what is in it, so no step has to know how far the others came, and no
transaction has to span them. A record is acknowledged to the journal once all steps are through; until then
the journal would bring it again. The update that adds requires the mark it was computed from, so of two that
race, one matches nothing and reads again: an update that was lost on the wire, retried by the driver and then
found its way after all cannot count twice. Numbers only grow within a writer id, a slot keeps its writer id,
and one process at a time owns a slot (`app.journal.slots`): that is what makes "higher" mean "not added yet".
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from operator import attrgetter
from typing import Any

from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError, PyMongoError
from pymongo.read_concern import ReadConcern

from app.accounts.funds import pending_hold
from app.common.errors import StoreUnavailable
from app.common.money import NANO
from app.credit import budgets
from app.credit.credit_holds import FIELD as HOLDS
from app.credit.credit_holds import changed_holds
from app.persistence import writers
from app.persistence.record_writes import DeadLetter, bury, insert_records, raise_if_transient
from app.persistence.settlements import Settlements
from app.records.records import SequencedRecord
from app.statistics import rollups, summaries
from app.statistics.figures import Figures
from app.store.driver import DUPLICATE_KEY, store_problem, yielding
from app.store.fields import nano as _nano
from app.store.fields import number as _number
from app.store.incomplete_restore import refuse_incomplete

Document = dict[str, Any]
Update = dict[str, Any] | list[dict[str, Any]]

_WRITER_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

_TOO_OLD = "too old to be added to sums: it may have been, and nobody could tell any more"

_MAX_ROUNDS = 5
"""How often a document's marker may change between reading and writing before it is called a failure."""

_MAX_REMEMBERED = 5_000

_user_of, _client_key_of = attrgetter("user_id"), attrgetter("user_key_id")
_provider_key_of = attrgetter("factory_key_id")
_created_at, _seq_of = attrgetter("created_at"), attrgetter("seq")


@dataclass(frozen=True, slots=True)
class BookedBatch:
    """What became of a batch: all of it is in the store, or has been put aside.

    `charges` says, in nano-dollars, what each user's records of this batch cost in all, also when they had
    been booked by an earlier attempt.
    """

    records: int
    charges: Mapping[str, int]
    dead: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class _Account:
    """A collection whose documents are charged: how to address one, and how records change it."""

    collection: str
    marker: str
    update: Callable[[Sequence[Figures]], Update]
    creates: bool = False


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Booking:
    """Books batches of records for one writer. Raises `StoreUnavailable` when a batch must be sent again."""

    def __init__(
        self,
        db: Database[Any],
        writer_id: str,
        *,
        now: Callable[[], datetime] | None = None,
        announces: bool = True,
        kept_s: int = 0,
        tz: tzinfo = UTC,
    ) -> None:
        """Make the books of one writer.

        `announces` is False where somebody else books for the writer, which may be gone. `kept_s` is how long
        records are kept (0: for ever). Days begin at midnight in `tz`.
        """
        if not _WRITER_ID.fullmatch(writer_id):
            raise ValueError("a writer id is a letter followed by up to 63 letters, digits, _ or -")
        self._db = db
        self._now = now or _utcnow
        self._tz = tz
        self._announces = announces
        self._announced_at: datetime | None = None
        # By collection, how far each document is booked, as far as is known. Where that is not true any
        # more, the update does not match, and the marker is read again.
        self._markers: defaultdict[str, dict[str, float | None]] = defaultdict(dict)
        self.writer_id = writer_id
        self._settlements = Settlements(db, kept_s)
        marker = f"applied.{writer_id}"
        self._users = _Account("usersNew", marker, lambda rows: _user_update(marker, rows))
        self._client_keys = _Account("user_keys", marker, lambda rows: _key_update(marker, rows))
        self._provider_keys = _Account("ohmygpt_keys", marker, lambda rows: _key_update(marker, rows))
        self._rollups = _Account(
            rollups.COLLECTION,
            rollups.MARKER,
            lambda rows: rollups.rollup_update(writer_id, rows, tz),
            creates=True,
        )

    def apply(self, batch: Sequence[SequencedRecord]) -> BookedBatch:
        """Book every record of the batch; return once all of it is acknowledged.

        Applying a batch again, or its records in other batches of the same order, changes nothing.
        """
        now = self._now()
        try:
            batch, lost = self._settlements.claim(batch, now)
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        rows, dead = _read(batch, self.writer_id)
        readable = batch
        if dead:
            seqs = {row.seq for row in rows}
            readable = [item for item in batch if item.seq in seqs]
        rows, stale = _divided(rows, now)
        dead += [DeadLetter.of_figures(row, self.writer_id, "sums", _TOO_OLD) for row in stale]
        try:
            self._announce(now)
            dead += insert_records(self._db["request_logs"], readable, self.writer_id)
            # A refused request has nothing to charge; its user's document need not be touched, unless it
            # was refused after credit had been held for it.
            charged = [row for row in rows if not row.is_rejected or row.may_have_hold]
            dead += self._book(self._users, _grouped(charged, _user_of))
            dead += self._book(self._client_keys, _grouped(rows, _client_key_of))
            dead += self._book(self._provider_keys, _grouped(rows, _provider_key_of))
            dead += self._book(self._rollups, rollups.by_document(self.writer_id, yielding(rows), self._tz))
            self._settlements.note(batch, now)
            # Also for records booked by an earlier attempt, which may have ended before it came to this.
            summaries.mark_late(self._db, map(_created_at, rows), now)
            bury(self._db, dead)
        except PyMongoError as error:
            self._markers.clear()  # the server may be another one, or an older state of this one
            raise StoreUnavailable(store_problem(error)) from error
        return BookedBatch(len(batch), _charges([*rows, *stale], lost), tuple(dead))

    def _announce(self, now: datetime) -> None:
        """Say that this writer lives, before it may leave a mark; refuse a half-restored database."""
        if not self._announces:
            return
        if self._announced_at is None or now - self._announced_at >= writers.ANNOUNCED:
            refuse_incomplete(self._db)
            writers.announce(self._db, self.writer_id)
            self._announced_at = now

    def put_aside(self, record: SequencedRecord, reason: str) -> DeadLetter:
        """Keep a record that cannot be booked in `request_logs_dead`, with the reason."""
        letter = DeadLetter.of(record, self.writer_id, "record", reason)
        try:
            bury(self._db, [letter])
        except PyMongoError as error:
            raise StoreUnavailable(store_problem(error)) from error
        return letter

    def _book(self, account: _Account, rows_by_id: dict[str, list[Figures]]) -> list[DeadLetter]:
        """Add to each document the records not in it yet; return what the server will never accept."""
        collection = self._db[account.collection]
        # A late twin may have set a marker that an election takes back: it must not pass for booked.
        certain = collection.with_options(read_concern=ReadConcern("majority"))
        dead: list[DeadLetter] = []
        markers = self._markers[account.collection]
        if len(markers) > _MAX_REMEMBERED:
            markers.clear()
        for _ in range(_MAX_ROUNDS):
            unknown = [key for key in rows_by_id if key not in markers]
            if unknown:
                found = certain.find({"_id": {"$in": unknown}}, {account.marker: 1})
                markers.update((document["_id"], _at(document, account.marker)) for document in found)
            fresh = _fresh(account, rows_by_id, markers)
            if not fresh:
                return dead
            ids = list(fresh)
            updates = [self._conditional(account, key, *fresh[key]) for key in yielding(ids)]
            for key in ids:
                markers.pop(key, None)
            try:
                result = collection.bulk_write(updates, ordered=False)
            except BulkWriteError as error:
                for index, reason in _refused(error):
                    refused = rows_by_id.pop(ids[index])
                    dead += [
                        DeadLetter.of_figures(row, self.writer_id, account.collection, reason)
                        for row in refused
                    ]
                continue
            if result.matched_count + result.upserted_count == len(updates):
                markers.update((key, _highest(rows)) for key, (_, rows) in fresh.items())
                return dead
        raise StoreUnavailable(f"{account.collection}: the documents kept changing")

    @staticmethod
    def _conditional(account: _Account, key: str, marker: float | None, rows: list[Figures]) -> UpdateOne:
        """Build the update, which applies only while the marker is what it was when `rows` were chosen."""
        is_new = marker is None
        unchanged = {"$not": {"$type": "number"}} if is_new else marker
        condition = {"_id": key, account.marker: unchanged}
        return UpdateOne(condition, account.update(rows), upsert=account.creates and is_new)


def _fresh(
    account: _Account, rows_by_id: Mapping[str, list[Figures]], markers: Mapping[str, float | None]
) -> dict[str, tuple[float | None, list[Figures]]]:
    """Find, per document, how far it is booked, and the records beyond that.

    Documents without such records are left out, and so are missing ones where a charge must not create them
    (the fixed key has no user).
    """
    fresh = {}
    for key, rows in rows_by_id.items():
        if key not in markers and not account.creates:
            continue
        marker = markers.get(key)
        new = rows if marker is None else [row for row in rows if row.seq > marker]
        if new:
            fresh[key] = (marker, new)
    return fresh


def _read(batch: Iterable[SequencedRecord], writer_id: str) -> tuple[list[Figures], list[DeadLetter]]:
    rows: list[Figures] = []
    dead: list[DeadLetter] = []
    for item in yielding(batch):
        try:
            rows.append(Figures.read(item.seq, item.document))
        except ValueError as error:
            dead.append(DeadLetter.of(item, writer_id, "record", str(error)))
    return rows, dead


def _divided(rows: list[Figures], now: datetime) -> tuple[list[Figures], list[Figures]]:
    """Divide records into those that may still be added to sums and those that are too old."""
    oldest = min(map(_created_at, rows), default=now)
    if writers.is_bookable(oldest, now):
        return rows, []
    fresh = [row for row in rows if writers.is_bookable(row.created_at, now)]
    return fresh, [row for row in rows if not writers.is_bookable(row.created_at, now)]


def _grouped(rows: Iterable[Figures], key_of: Callable[[Figures], str | None]) -> dict[str, list[Figures]]:
    groups: dict[str, list[Figures]] = defaultdict(list)
    for row in rows:
        key = key_of(row)
        if key is not None:
            groups[key].append(row)
    return dict(groups)


def _charges(rows: Iterable[Figures], lost: Mapping[str, int]) -> dict[str, int]:
    """Sum, by user, what was noted of these rows: also what others were charged for, and what is pending."""
    charges: dict[str, int] = defaultdict(int, lost)
    for row in rows:
        if noted := row.cost_nano_usd + row.pending_nano:
            charges[row.user_id] += noted
    return dict(charges)


def _at(document: Mapping[str, Any], path: str) -> float | None:
    """Return the marker at a dotted path; None when there is none."""
    value: Any = document
    for segment in path.split("."):
        value = value.get(segment) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _refused(error: BulkWriteError) -> list[tuple[int, str]]:
    """Return which updates the server will never accept; raises when the failure may pass."""
    raise_if_transient(error)
    problems = error.details["writeErrors"]
    # A duplicate key is a lost race for creating the document: the next round finds it.
    return [(item["index"], item["errmsg"]) for item in problems if item["code"] != DUPLICATE_KEY]


def _highest(rows: Iterable[Figures]) -> int:
    highest: int = max(map(_seq_of, rows))
    return highest


def _key_update(marker: str, rows: Sequence[Figures]) -> Update:
    return {
        "$inc": {
            "tokensUsed": sum(row.tokens_used for row in rows),
            "requestsCount": sum(row.requests for row in rows),
        },
        "$max": {"lastUsedAt": max(row.created_at for row in rows)},
        "$set": {marker: Int64(_highest(rows))},
    }


def _user_update(marker: str, rows: Sequence[Figures]) -> Update:
    """Take the cost from `credits`, then from `refCredits`, never below 0; the rest is overdraft.

    Balances are doubles in USD, as other readers expect, but the arithmetic is done in whole nano-dollars,
    which a double holds exactly up to nine million USD.
    """
    cost = Int64(sum(row.cost_nano_usd for row in rows))
    uncovered = {"$subtract": [cost, {"$add": ["$_taking.credits", "$_taking.refCredits"]}]}
    held = [row.request_id for row in rows if row.may_have_hold]
    held += [pending_hold(row.settles) for row in rows if row.settles is not None]
    pending = {
        pending_hold(row.request_id): (
            row.pending_nano,
            row.pending_until,
            {name: at for name, _, at in row.budgets},
        )
        for row in rows
        if row.pending_until is not None
    }
    return [
        {"$set": {"_taking.credits": _available("$credits", cost)}},
        {
            "$set": {
                "_taking.refCredits": _available("$refCredits", {"$subtract": [cost, "$_taking.credits"]})
            }
        },
        {
            "$set": {
                "credits": _less("$credits", "$_taking.credits"),
                "refCredits": _less("$refCredits", "$_taking.refCredits"),
                "overdraftNanoUsd": {
                    "$cond": [
                        {"$gt": [uncovered, 0]},
                        {"$add": [_number("$overdraftNanoUsd"), {"$toLong": uncovered}]},
                        "$overdraftNanoUsd",
                    ]
                },
                "creditsUsed": {"$divide": [{"$add": [_nano("$creditsUsed"), cost]}, NANO]},
                "totalInputTokens": _plus("$totalInputTokens", sum(row.input_tokens for row in rows)),
                "totalOutputTokens": _plus("$totalOutputTokens", sum(row.output_tokens for row in rows)),
                "lastUsedAt": {"$max": ["$lastUsedAt", max(row.created_at for row in rows)]},
                marker: Int64(_highest(rows)),
                **({HOLDS: changed_holds(held, pending)} if held or pending else {}),
                **_budgets_update(rows),
            }
        },
        {"$unset": "_taking"},
    ]


def _budgets_update(rows: Iterable[Figures]) -> Document:
    """Add each cost to the bucket of each budget it is paid from, and drop buckets that count no more."""
    added: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    periods: dict[str, str] = {}
    for row in rows:
        for name, per, at in row.budgets if row.cost_nano_usd else ():
            periods[name] = per
            added[name][at] += row.cost_nano_usd
    return {f"{budgets.FIELD}.{name}": _buckets(name, periods[name], added[name]) for name in added}


def _buckets(name: str, per: str, added: Mapping[int, int]) -> Document:
    stored = f"${budgets.FIELD}.{name}"
    names = {budgets.bucket_name(at): nano for at, nano in added.items()}
    oldest = budgets.bucket_name(budgets.kept_from(per, max(added)))
    others = {
        "$filter": {
            "input": {"$objectToArray": {"$cond": [{"$eq": [{"$type": stored}, "object"]}, stored, {}]}},
            "as": "bucket",
            "cond": {
                "$and": [{"$gte": ["$$bucket.k", oldest]}, {"$not": {"$in": ["$$bucket.k", sorted(names)]}}]
            },
        }
    }
    sums = [{"k": at, "v": {"$add": [_number(f"{stored}.{at}"), Int64(nano)]}} for at, nano in names.items()]
    return {"$arrayToObject": {"$concatArrays": [others, sums]}}


def _plus(field: str, amount: int) -> Document:
    return {"$add": [_number(field), Int64(amount)]}


def _available(field: str, wanted: Any) -> Document:
    return {"$max": [0, {"$min": [_nano(field), wanted]}]}


def _less(field: str, taken: str) -> Document:
    """Build the balance less what was taken, in USD; untouched when nothing was."""
    return {"$cond": [{"$gt": [taken, 0]}, {"$divide": [{"$subtract": [_nano(field), taken]}, NANO]}, field]}
