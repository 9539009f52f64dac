"""Charging once what goes on after its request: responses in the background, batches.

Whoever sees the end of one (a client's poll, a resumed stream, the proxy's own poll) leaves a record with
the usage, the cost and `settles`; several may, on any workers and hosts. Which of them is charged is decided
when they are booked: a record *claims* what it has seen by inserting `settlements/<id>` with its own request
id. The first one has it. A record that comes too late is booked with the figures of what it lost set to zero.

    settlements = {_id: "resp_1" or "msgbatch_1/custom-id", by: requestId, at}

Claims are made before anything else of a batch is booked, and nobody ever changes one: a batch that is
booked again, by whomever, finds the same answers and so the same figures. They are kept for longer than
anything can be booked again (`app.persistence.writers`).

The request that began it has a record with `pending`: cost 0, and what it may cost is held of the user's
credit (`usersNew.holds`, under a name of its own) by the update that books it. The hold goes with the
booking of a record that settles it. The two may be booked in either order, by different writers:

    who began it                              who saw its end
    1  the user: hold placed                  1  claim
    2  is there a claim? then hold removed    2  the user: charged, hold removed
       else the object is pending             3  the object is settled

If the hold is placed after it was to be removed, the claim was there before, and 2 on the left finds it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.read_concern import ReadConcern

from app.accounts.funds import pending_hold
from app.common.money import NANO
from app.credit.credit_holds import FIELD as HOLDS
from app.credit.credit_holds import without_holds
from app.objects.object_store import COLLECTION as OBJECTS
from app.objects.object_store import PENDING, ObjectStore
from app.objects.upstream_object import UpstreamObject
from app.persistence.record_writes import raise_if_transient
from app.persistence.writers import BOOKABLE, is_bookable
from app.records.records import Attribution, SequencedRecord
from app.store.driver import DUPLICATE_KEY, make_indexes
from app.store.fields import optional_int

Document = dict[str, Any]

COLLECTION: Final = "settlements"

_KEPT = BOOKABLE + timedelta(days=40)
_COST = "costNanoUsd"
_OF_THE_WHOLE = ("upstreamCostNanoUsd", "listCostNanoUsd")
ITEM_FIGURES: Final = (
    *(_COST, "inputTokens", "outputTokens", "cacheWriteTokens"),
    *("cacheWrite1hTokens", "cacheHitTokens", "reasoningTokens"),
)
"""What is told of each item of `settles.items`, in this order, behind its name.

Last comes what the upstream says it charged, None where it does not; records of earlier versions have none.
"""
_TOLD_PLACE: Final = len(ITEM_FIGURES) + 1


class Settlements:
    """Claims and what follows from them; raises `PyMongoError`, and everything may be done again."""

    def __init__(self, db: Database[Any], kept_s: int = 0) -> None:
        self._claims = db[COLLECTION]
        self._logs = db["request_logs"]
        self._users = db["usersNew"]
        self._objects = db[OBJECTS]
        self._store = ObjectStore(db, kept_s)

    def ensure_indexes(self) -> None:
        """Make the missing indexes."""
        kept_s = int(_KEPT.total_seconds())
        make_indexes(self._claims, [IndexModel([("at", ASCENDING)], expireAfterSeconds=kept_s)])

    def claim(
        self, batch: Sequence[SequencedRecord], now: datetime
    ) -> tuple[Sequence[SequencedRecord], Mapping[str, int]]:
        """Claim what these records have seen the end of.

        Returns the batch, with the figures of what others were charged for taken off, and by user what that
        was in nano-dollars.
        """
        seen = {
            item.seq: item.document
            for item in batch
            if _settles(item.document) and _counts(item.document, now)
        }
        if not seen:
            return batch, {}
        wanted = {name: document["_id"] for document in seen.values() for name in _claims_of(document)}
        owners = self._claim(wanted, now)
        lost: defaultdict[str, int] = defaultdict(int)
        claimed = []
        for item in batch:
            document = seen.get(item.seq)
            if document is not None and (reduced := _without_lost(document, owners)) is not document:
                lost[str(document.get("userId"))] += document[_COST] - reduced[_COST]
                claimed.append(SequencedRecord(item.seq, reduced, item.queued_at))
            else:
                claimed.append(item)
        return claimed, lost

    def _claim(self, wanted: Mapping[str, str], now: datetime) -> dict[str, str]:
        """Claim these names for these requests; return whose each is."""
        try:
            claims = [{"_id": name, "by": by, "at": now} for name, by in wanted.items()]
            self._claims.insert_many(claims, ordered=False)
        except BulkWriteError as error:
            raise_if_transient(error)
            if any(problem["code"] != DUPLICATE_KEY for problem in error.details["writeErrors"]):
                raise
        return self._owners(wanted)

    def _owners(self, names: Iterable[str]) -> dict[str, str]:
        # What an election may still take back must not decide.
        certain = self._claims.with_options(read_concern=ReadConcern("majority"))
        return {found["_id"]: found["by"] for found in certain.find({"_id": {"$in": list(names)}})}

    def note(self, batch: Sequence[SequencedRecord], now: datetime) -> None:
        """Note what the records of a batch have made, left pending or settled; after users were booked."""
        documents = [item.document for item in batch]
        made = [(document, found) for document in documents if (found := _object_of(document)) is not None]
        ended = [document for document in documents if (_settles(document) or {}).get("isWhole")]
        if not made and not ended:
            return
        pending = [(document, found) for document, found in made if document.get("pending")]
        names = {found.object_id for _, found in pending} | {_id_of(document) for document in ended}
        owners = self._owners(names) if names else {}
        updates = [self._store.addition(found, now) for _, found in made]
        updates += [_pending(document, found) for document, found in pending if found.object_id not in owners]
        beginnings = {document["settles"]["requestId"]: _id_of(document) for document in ended}
        late = [document for document, found in pending if found.object_id in owners]
        beginnings |= {document["_id"]: document["object"]["id"] for document in late}
        updates += [_settled(name, owners[name]) for name in beginnings.values() if name in owners]
        if updates:
            self._objects.bulk_write(updates, ordered=True)
        if late:
            self._users.bulk_write([_without_hold(document) for document in late], ordered=False)
        marks = [_marked(began, owners[name]) for began, name in beginnings.items() if name in owners]
        if marks:
            self._logs.bulk_write(marks, ordered=False)


def _settles(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    settles = document.get("settles")
    return settles if settles and isinstance(settles, Mapping) else None


def _counts(document: Mapping[str, Any], now: datetime) -> bool:
    """Return whether the record is one that sums are made of, so that it may claim."""
    created_at = document.get("createdAt")
    if not isinstance(created_at, datetime):
        return False
    return is_bookable(created_at if created_at.tzinfo else created_at.replace(tzinfo=UTC), now)


def _claims_of(document: Mapping[str, Any]) -> Iterator[str]:
    settles = document["settles"]
    for item in settles.get("items", ()):
        yield f"{settles['id']}/{item[0]}"
    if settles.get("isWhole"):
        yield settles["id"]


def _without_lost(document: Document, owners: Mapping[str, str]) -> Document:
    """Return the document without the figures of what others were charged for; itself if that is nothing."""
    settles, by = document["settles"], document["_id"]
    items = settles.get("items")
    if items is None:
        if owners.get(settles["id"]) == by:
            return document
        figures = dict.fromkeys(ITEM_FIGURES, 0)
    else:
        lost = [item for item in items if owners.get(f"{settles['id']}/{item[0]}") != by]
        if not lost:
            return document
        # What it keeps is its own: a record that is booked once more is not reduced once more.
        names = {item[0] for item in lost}
        kept = [item for item in items if item[0] not in names]
        settles = {**settles, "items": kept}
        figures = {
            name: max(0, document.get(name, 0) - sum(optional_int(item[place]) or 0 for item in lost))
            for place, name in enumerate(ITEM_FIGURES, start=1)
        }
        told_nano = [
            item[_TOLD_PLACE] for item in kept if len(item) > _TOLD_PLACE and item[_TOLD_PLACE] is not None
        ]
        if kept and len(told_nano) == len(kept):
            figures["upstreamCostNanoUsd"] = sum(told_nano)
    tokens = figures["inputTokens"] + figures["outputTokens"]
    told = {name: value for name, value in document.items() if name not in _OF_THE_WHOLE}
    return {
        **told,
        **figures,
        "costItems": [],
        "tokensUsed": tokens,
        "creditsCost": figures[_COST] / NANO,
        "settles": {**settles, "isLate": True},
    }


def _object_of(document: Mapping[str, Any]) -> UpstreamObject | None:
    """Return what a record says its request has made."""
    made = document.get("object")
    if not made or not isinstance(made, Mapping):
        return None
    return UpstreamObject(
        object_id=made["id"],
        key=made["upstreamKey"],
        user_id=document["userId"],
        user_key_id=document["userKeyId"],
        request_id=document["_id"],
        endpoint=document["endpoint"],
        api_format=document["apiFormat"],
        created_at=document["createdAt"],
        model=document.get("model"),
        parts=tuple(made.get("parts", ())),
        is_background=document.get("pending") is not None,
        attribution=Attribution.from_document(document),
    )


def _pending(document: Mapping[str, Any], found: UpstreamObject) -> UpdateOne:
    """Have it asked about, unless its end has been seen."""
    pending = document["pending"]
    return UpdateOne(
        {"_id": found.object_id, "settledBy": {"$exists": False}, "state": {"$exists": False}},
        {
            "$set": {
                "state": PENDING,
                "isBackground": True,
                "askedAt": document["createdAt"],
                "until": pending["until"],
                "estimateNanoUsd": pending["nanoUsd"],
            }
        },
    )


def _settled(object_id: str, by: str) -> UpdateOne:
    return UpdateOne({"_id": object_id}, {"$set": {"settledBy": by}, "$unset": {"state": "", "askedAt": ""}})


def _marked(began: str, by: str) -> UpdateOne:
    """Have the record of what began it say who was charged in the end."""
    return UpdateOne({"_id": began, "pending": {"$exists": True}}, {"$set": {"pending.settledBy": by}})


def _id_of(document: Mapping[str, Any]) -> str:
    return str(document["settles"]["id"])


def _without_hold(document: Mapping[str, Any]) -> UpdateOne:
    names = [pending_hold(document["_id"])]
    return UpdateOne({"_id": document["userId"]}, [{"$set": {HOLDS: without_holds(names)}}])
