"""Key states in the database, where all workers and hosts meet, and the audit of their transitions.

A state is written only if it ranks higher than the stored one, in the order of `app.keys.key_states.merge`,
by one conditional update: whoever writes first or last, the same state remains. States of stored keys are
fields of their documents in `ohmygpt_keys`; those of `OHMYGPT_API_KEYS` are in `upstream_key_states`, under
a digest of the key.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bson import ObjectId
from bson.int64 import Int64
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.common.cursor import PageCursor
from app.keys.key_choice import Limits
from app.keys.key_states import KeyState, KeyStatus, Policy, Transition, restored, returns_at
from app.keys.model_limits import MAX_MODELS, Claim, ModelLimits, longest
from app.store.fields import optional_date, optional_int
from app.store.paging import newest_first

Document = dict[str, Any]

KEYS = "ohmygpt_keys"
ENV_STATES = "upstream_key_states"
EVENTS = "key_events"
EVENTS_KEPT_S = 90 * 86_400
BACKUP_WANTED = "backupWanted"
REPLACED_BY = "replacedBy"
MODEL_LIMITS = "modelLimits"
DEAD = (KeyStatus.EXHAUSTED, KeyStatus.ERROR)

_DUPLICATE_KEY = 11000
_SEVERITY: Mapping[str, int] = {str(status): number for number, status in enumerate(KeyStatus)}
_COOLING = (KeyStatus.RATE_LIMITED, KeyStatus.EXHAUSTED)
# A missing field is null there, which is lower than anything.
_STORED_RANK = [
    "$stateVersion",
    "$stateUntil",
    "$stateSeverity",
    "$updatedAt",
    "$stateSince",
    {"$ifNull": ["$suspectedBy", ""]},
    {"$ifNull": ["$lastError", ""]},
    {"$ifNull": ["$limitedBy", ""]},
]


def env_store_id(secret: str) -> str:
    """Return the id a configured key's state is stored under: the same on all hosts and in any order."""
    return f"env:{hashlib.sha256(secret.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class StoredState:
    """The state's fields as found; some may be missing, or written by other programs."""

    status: str = "healthy"
    since: datetime | None = None
    until: datetime | None = None
    updated_at: datetime | None = None
    suspected_by: str | None = None
    limited_by: str | None = None
    last_error: str | None = None
    version: int = 0
    model_limits: ModelLimits = field(default_factory=dict)
    replaced_by: str | None = None
    is_known: bool = False
    is_whole: bool = False

    @classmethod
    def from_document(cls, document: Document) -> "StoredState":
        """Read a document of either collection."""
        status = str(document.get("status", "healthy"))
        severity = optional_int(document.get("stateSeverity"))
        until = optional_date(document.get("cooldownUntil"))
        agrees = status not in _COOLING or until == document.get("stateUntil")
        return cls(
            status=status,
            since=optional_date(document.get("stateSince")),
            until=until,
            updated_at=optional_date(document.get("updatedAt")),
            suspected_by=_text(document.get("suspectedBy")),
            limited_by=_text(document.get("limitedBy")),
            model_limits=_model_limits(document.get(MODEL_LIMITS)),
            last_error=_text(document.get("lastError")),
            version=optional_int(document.get("stateVersion")) or 0,
            replaced_by=_text(document.get(REPLACED_BY)),
            is_known=severity is not None,
            is_whole=severity is not None and severity == _SEVERITY.get(status) and agrees,
        )

    def restore(self, first_seen: datetime, now: datetime, policy: Policy) -> KeyState:
        """Make the state. What another program changed since counts as an operator's word, given `now`."""
        if self.is_known and not self.is_whole:
            return restored(
                self.status,
                anchor=now,
                cooldown_until=self.until,
                last_error=self.last_error,
                version=self.version + 1,
                policy=policy,
            )
        state = restored(
            self.status,
            anchor=self.updated_at or first_seen,
            since=self.since,
            cooldown_until=self.until,
            suspected_by=self.suspected_by,
            last_error=self.last_error,
            version=self.version,
            policy=policy,
        )
        return state if self.limited_by is None else replace(state, limited_by=self.limited_by)


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """One line of the audit; `from_status` is None for a key that is new."""

    key_id: str
    from_status: str | None
    to_status: str
    why: str
    request_id: str | None
    at: datetime
    event_id: ObjectId = field(default_factory=ObjectId)

    @classmethod
    def of(cls, key_id: str, event: Transition) -> "KeyEvent":
        """Make the event of a transition."""
        return cls(
            key_id, str(event.from_status), str(event.to_status), event.why, event.request_id, event.at
        )


class KeyStateStore:
    """The states and the audit."""

    def __init__(self, db: Database[Document]) -> None:
        self._keys = db[KEYS]
        self._env = db[ENV_STATES]
        self._events = db[EVENTS]

    def ensure_indexes(self) -> None:
        """Make the audit's indexes."""
        self._events.create_index([("createdAt", -1)], expireAfterSeconds=EVENTS_KEPT_S)
        self._events.create_index([("keyId", 1), ("createdAt", -1)])

    def states(self, store_ids: Iterable[str], *, is_env: bool) -> dict[str, StoredState]:
        """Read what is stored of these keys, configured ones or others."""
        wanted = list(store_ids)
        if not wanted:
            return {}
        found = self._collection(is_env).find({"_id": {"$in": wanted}})
        return {str(document["_id"]): StoredState.from_document(document) for document in found}

    def write(
        self, store_id: str, key_id: str, state: KeyState, *, is_env: bool, wants_backup: bool = False
    ) -> bool:
        """Store the state unless one that ranks higher is there; return whether it was stored by this call.

        With `wants_backup` a dead key asks for a backup key in the same step.
        """
        collection = self._collection(is_env)
        if is_env:
            _make(collection, store_id, key_id, state.since)
        update = state_update(state)
        if wants_backup and state.status in DEAD:
            update["$set"][BACKUP_WANTED] = True
        elif state.status not in DEAD:
            update["$unset"][BACKUP_WANTED] = ""
        beats = {"$expr": {"$lt": [_STORED_RANK, {"$literal": _rank(state)}]}}
        return collection.update_one({"_id": store_id, **beats}, update).modified_count == 1

    def limit_models(
        self, store_id: str, key_id: str, limits: ModelLimits, now: datetime, *, is_env: bool
    ) -> None:
        """Store limits of models: of each client's claims the longest; drop what is over."""
        collection = self._collection(is_env)
        if is_env:
            _make(collection, store_id, key_id, now)
        is_there = {"$eq": [{"$type": f"${MODEL_LIMITS}"}, "object"]}
        stored = {"$objectToArray": {"$cond": [is_there, f"${MODEL_LIMITS}", {}]}}
        left = {"$filter": {"input": stored, "cond": {"$gt": ["$$this.v.until", now]}}}
        known = {"$arrayToObject": {"$slice": [left, 2 * MAX_MODELS]}}
        # Documents are compared member by member: the one that holds longest is the greatest.
        claims = {
            f"{MODEL_LIMITS}.{_claim_id(model, claim)}": {
                "$max": [f"${MODEL_LIMITS}.{_claim_id(model, claim)}", {"$literal": _claim(model, claim)}]
            }
            for model, found in limits.items()
            for claim in found
        }
        if claims:
            collection.update_one({"_id": store_id}, [{"$set": {MODEL_LIMITS: known}}, {"$set": claims}])

    def put(self, store_id: str, key_id: str, state: KeyState, *, is_env: bool) -> bool:
        """Store an operator's word, whatever is there; return False when there is no such key."""
        collection = self._collection(is_env)
        if is_env:
            _make(collection, store_id, key_id, state.since)
        update = state_update(state)
        update["$unset"] |= {BACKUP_WANTED: "", REPLACED_BY: "", "retiredAt": "", MODEL_LIMITS: ""}
        return collection.update_one({"_id": store_id}, update).matched_count == 1

    def add_events(self, events: Sequence[KeyEvent]) -> None:
        """Keep events; an event that is there already is not kept twice."""
        if not events:
            return
        try:
            self._events.insert_many([_event_document(event) for event in events], ordered=False)
        except BulkWriteError as error:
            if any(problem["code"] != _DUPLICATE_KEY for problem in error.details["writeErrors"]):
                raise

    def events(self, key_id: str | None, limit: int) -> list[KeyEvent]:
        """Return the newest events, of one key or of all, newest first."""
        return self.event_page(key_id, limit)[0]

    def event_page(
        self, key_id: str | None, limit: int, cursor: PageCursor | None = None
    ) -> tuple[list[KeyEvent], str | None]:
        """Return a page of events, newest first, and the cursor of the next page."""
        query = {} if key_id is None else {"keyId": key_id}
        found, next_cursor = newest_first(self._events, query, "createdAt", limit, cursor)
        return [_event(document) for document in found], next_cursor

    def events_since(self, start: datetime, limit: int) -> list[KeyEvent]:
        """Return what has happened to all keys since then, newest first, `limit` of it at most."""
        found = self._events.find({"createdAt": {"$gte": start}}).sort("createdAt", -1).limit(limit)
        return [_event(document) for document in found]

    def _collection(self, is_env: bool) -> Collection[Document]:
        return self._env if is_env else self._keys


def state_update(state: KeyState) -> dict[str, Document]:
    """Build the update that makes a document say this state."""
    fields: Document = {
        "status": str(state.status),
        "stateVersion": Int64(state.version),
        "stateSince": state.since,
        "stateUntil": _holds_until(state),
        "stateSeverity": _SEVERITY[state.status],
        "updatedAt": state.updated_at,
        "cooldownUntil": state.cooldown_until,
        "suspectedBy": state.suspected_by,
        "limitedBy": state.limited_by,
        "lastError": state.last_error,
    }
    return {
        "$set": {name: value for name, value in fields.items() if value is not None},
        "$unset": {name: "" for name, value in fields.items() if value is None},
    }


def limits_of(document: Document) -> Limits:
    """Read an operator's limits of a key (`weight`, `rpm`, `maxInFlight`); what cannot be a limit is none."""
    weight, rpm, at_once = (optional_int(document.get(name)) for name in ("weight", "rpm", "maxInFlight"))
    return Limits(
        weight if weight is not None and weight >= 1 else 1,
        rpm if rpm is not None and rpm >= 0 else None,
        at_once if at_once is not None and at_once >= 0 else None,
    )


def _make(collection: Collection[Document], store_id: str, key_id: str, now: datetime) -> None:
    """Make the key's document if there is none: an upsert cannot have the condition that ranks states."""
    try:
        collection.update_one(
            {"_id": store_id}, {"$setOnInsert": {"keyId": key_id, "createdAt": now}}, upsert=True
        )
    except DuplicateKeyError:
        return  # made by another worker in this very moment


def _holds_until(state: KeyState) -> datetime:
    return state.updated_at if state.status is KeyStatus.HEALTHY else returns_at(state)


def _rank(state: KeyState) -> list[object]:
    return [
        Int64(state.version),
        _holds_until(state),
        _SEVERITY[state.status],
        state.updated_at,
        state.since,
        state.suspected_by or "",
        state.last_error or "",
        state.limited_by or "",
    ]


def _claim_id(model: str, claim: Claim) -> str:
    """Name a claim's field: a model's or client's own name may have dots in it."""
    return hashlib.sha256(f"{model}\0{claim.client}".encode("utf-8", "replace")).hexdigest()[:16]


def _claim(model: str, claim: Claim) -> Document:
    return {
        "until": claim.until,
        "since": claim.since,
        "model": model,
        "client": claim.client,
    }


def _model_limits(value: object) -> ModelLimits:
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, list[Claim]] = {}
    for item in list(value.values())[: 4 * MAX_MODELS]:
        known = item if isinstance(item, Mapping) else {}
        until, since = optional_date(known.get("until")), optional_date(known.get("since"))
        model, client = _text(known.get("model")), _text(known.get("client"))
        if until is not None and since is not None and model is not None and client is not None:
            found.setdefault(model, []).append(Claim(until, since, client))
    return {model: longest(claims) for model, claims in found.items()}


def _event(document: Document) -> KeyEvent:
    return KeyEvent(
        key_id=str(document.get("keyId")),
        from_status=_text(document.get("from")),
        to_status=str(document.get("to")),
        why=str(document.get("why")),
        request_id=_text(document.get("requestId")),
        at=document["createdAt"],
        event_id=document["_id"],
    )


def _event_document(event: KeyEvent) -> Document:
    return {
        "_id": event.event_id,
        "keyId": event.key_id,
        "from": event.from_status,
        "to": event.to_status,
        "why": event.why,
        "requestId": event.request_id,
        "createdAt": event.at,
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
