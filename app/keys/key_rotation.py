"""Backup keys for dead ones: exactly one for each, however many workers and hosts notice the death.

A dead key asks for a backup key (`backupWanted`) in the very write that says it is dead. Every worker looks
for such keys; the claim is one atomic update of the backup key, and a unique index on whom it is for lets
only one succeed. All steps after it can be repeated, so a claim whose maker died is finished by anybody
(`tidy`). The dead key is kept, with `replacedBy`; an operator's reset ends that, and entitles it to another
backup key. A key that came back by its daily trial and dies again has its stand-in still, and gets another
only if that one has left the pool: a key whose money ends every day does not use a backup key every day.

An outage of the upstream's authentication looks like the death of every key. So there is a budget, shared by
all: `RotationPolicy`.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from app.keys.key_state_store import (
    BACKUP_WANTED,
    DEAD,
    ENV_STATES,
    KEYS,
    REPLACED_BY,
    KeyEvent,
    KeyStateStore,
    state_update,
)
from app.keys.key_states import KeyStatus, new_state
from app.keys.provider_keys import decrypted, encrypt_plain
from app.store.key_cipher import KeyCipher
from app.upstream.proxy_bindings import BindingStore

Document = dict[str, Any]

BACKUPS = "ohmygpt_backup_keys"
FROM_BACKUP = "fromBackup"

_BUDGET_ID = "rotations"
_MAX_NAMES = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """At most one backup key per `min_interval_s`, and in `window_s` no more than `share` of the pool.

    One is always allowed in the window, or a pool of one key would never get any.
    """

    min_interval_s: float = 10.0
    window_s: float = 600.0
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class _Dead:
    store_id: str
    key_id: str
    version: int


class KeyRotation:
    """Puts backup keys in the place of dead ones, and sees to what is left lying about."""

    def __init__(
        self, db: Database[Document], cipher: KeyCipher, policy: RotationPolicy | None = None
    ) -> None:
        self._keys = db[KEYS]
        self._env = db[ENV_STATES]
        self._backups = db[BACKUPS]
        self._budget = db["key_rotations"]
        self._bindings = BindingStore(db)
        self._states = KeyStateStore(db)
        self._cipher = cipher
        self._policy = policy or RotationPolicy()
        self._is_indexed = False
        self._without_spare: set[str] = set()

    def replace_dead_keys(self, now: datetime, pool_size: int) -> int:
        """Put backup keys in the place of dead ones that ask for it, within the budget; return how many."""
        replaced = 0
        for dead in self._asking():
            spares = list(self._usable_spares())
            if not spares:
                self._warn_once(dead)
                continue
            if not self._has_index():
                break
            turn = self._take_turn(now, pool_size)
            if turn is None:
                break
            if any(self._claim(spare, dead, now) for spare in spares):
                replaced += 1
            else:
                self._give_turn_back(turn)
        return replaced

    def tidy(self, now: datetime) -> None:
        """Finish claims whose makers died, and encrypt keys that are there in plain text."""
        self._has_index()
        unfinished = {"isUsed": True, "activated": {"$ne": True}, "usedForVersion": {"$exists": True}}
        for backup in self._backups.find(unfinished):
            self._finish(backup, now)
        for collection in (self._keys, self._backups):
            encrypt_plain(collection, self._cipher, now)

    def allow(self) -> None:
        """Begin the budget anew, since an operator has looked."""
        self._budget.delete_one({"_id": _BUDGET_ID})

    # -- claims -------------------------------------------------------------------------------------------

    def _asking(self) -> Iterator[_Dead]:
        query = {BACKUP_WANTED: True, "status": {"$in": [str(status) for status in DEAD]}}
        for collection in (self._keys, self._env):
            for document in collection.find(query).sort("stateSince", 1):
                if REPLACED_BY in document and not self._reopened(collection, document):
                    continue
                store_id = str(document["_id"])
                yield _Dead(store_id, str(document.get("keyId", store_id)), document["stateVersion"])

    def _reopened(self, collection: Collection[Document], document: Document) -> bool:
        """Return whether a replaced key that died again may ask anew: under a version that has no claim yet.

        The document is changed accordingly, here and in the store.
        """
        died_again = document["stateSince"] > document.get("retiredAt", document["stateSince"])
        if not died_again or self._has_stand_in(document):
            return False
        known = {name: document[name] for name in ("_id", REPLACED_BY, "stateVersion")}
        anew = {"$inc": {"stateVersion": 1}, "$unset": {REPLACED_BY: "", "retiredAt": ""}}
        document["stateVersion"] += 1
        return collection.update_one(known, anew).modified_count == 1

    def _has_stand_in(self, document: Document) -> bool:
        """Return whether the dead key's replacement, or that one's own replacement and so on, is in the pool.

        A replacement that is dead counts too: it asks for a backup key itself.
        """
        for _ in range(_MAX_NAMES):
            if REPLACED_BY not in document:
                return True
            found = self._keys.find_one({"_id": document[REPLACED_BY]}, {REPLACED_BY: True})
            if found is None:
                return False
            document = found
        return True

    def _usable_spares(self) -> Iterator[Document]:
        for spare in self._backups.find({"isUsed": {"$ne": True}}).sort([("createdAt", 1), ("_id", 1)]):
            if decrypted(self._cipher, spare)[0] is not None:
                yield spare

    def _claim(self, spare: Document, dead: _Dead, now: datetime) -> bool:
        """Claim the backup key for the dead one; return whether this very call has done so."""
        claim = {
            "isUsed": True,
            "activated": False,
            "usedFor": dead.store_id,
            "usedForVersion": dead.version,
            "usedAt": now,
        }
        try:
            backup = self._backups.find_one_and_update(
                {"_id": spare["_id"], "isUsed": {"$ne": True}},
                {"$set": claim},
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:
            return False  # the dead key has its backup key already
        if backup is None:
            return False
        self._finish(backup, now)
        return True

    def _finish(self, backup: Document, now: datetime) -> None:
        dead = {"_id": backup["usedFor"], "stateVersion": backup["usedForVersion"]}
        key_id = self._insert(backup, now)
        retired = {"$set": {REPLACED_BY: key_id, "retiredAt": now}, "$unset": {BACKUP_WANTED: ""}}
        dead_document = self._keys.find_one_and_update(dead, retired) or self._env.find_one_and_update(
            dead, retired
        )
        document = dead_document or {}
        dead_id = str(document.get("keyId", backup["usedFor"]))
        self._bindings.inherit(dead_id, key_id, now=now)
        done = self._backups.update_one(
            {"_id": backup["_id"], "usedAt": backup["usedAt"], "activated": {"$ne": True}},
            {"$set": {"activated": True}},
        )
        if done.modified_count != 1:
            return  # another worker was finishing it too
        status = str(document.get("status", KeyStatus.ERROR))
        self._states.add_events(
            [
                KeyEvent(dead_id, status, status, f"replaced by {key_id}", None, now),
                KeyEvent(key_id, None, str(KeyStatus.HEALTHY), f"in the place of {dead_id}", None, now),
            ]
        )
        log.warning("backup key %s has taken the place of upstream key %s (%s)", key_id, dead_id, status)

    def _insert(self, backup: Document, now: datetime) -> str:
        """Put the backup key into the pool.

        Return its pool id: its own, or with a number if that is taken.
        """
        origin = {FROM_BACKUP: backup["_id"], "claimedAt": backup["usedAt"]}
        document = {
            "apiKey": backup["apiKey"],
            "tokensUsed": 0,
            "requestsCount": 0,
            "createdAt": now,
            "replacedKey": backup["usedFor"],
            **origin,
            **state_update(new_state(now))["$set"],
        }
        for number in range(1, _MAX_NAMES):
            key_id = str(backup["_id"]) if number == 1 else f"{backup['_id']}-{number}"
            try:
                self._keys.insert_one({"_id": key_id, **document})
            except DuplicateKeyError:
                if self._keys.find_one({"_id": key_id, **origin}) is None:
                    continue
            return key_id
        raise RuntimeError(f"no free pool id for backup key {backup['_id']}")

    # -- the budget ---------------------------------------------------------------------------------------

    def _take_turn(self, now: datetime, pool_size: int) -> ObjectId | None:
        """Take a place in the budget, atomically; return None when the budget is used up."""
        policy, turn = self._policy, ObjectId()
        allowed = max(1, int(pool_size * policy.share))
        begin = now - timedelta(seconds=policy.window_s)
        recent = {"$filter": {"input": "$turns", "cond": {"$gt": ["$$this.at", begin]}}}
        is_due = {"$lte": [{"$max": "$turns.at"}, now - timedelta(seconds=policy.min_interval_s)]}
        with suppress(DuplicateKeyError):  # made by another worker in this very moment
            self._budget.update_one({"_id": _BUDGET_ID}, {"$setOnInsert": {"turns": []}}, upsert=True)
        taken = self._budget.update_one(
            {"_id": _BUDGET_ID, "$expr": {"$and": [is_due, {"$lt": [{"$size": recent}, allowed]}]}},
            [{"$set": {"turns": {"$concatArrays": [recent, [{"at": now, "turn": turn}]]}}}],
        )
        return turn if taken.modified_count == 1 else None

    def _give_turn_back(self, turn: ObjectId) -> None:
        self._budget.update_one({"_id": _BUDGET_ID}, {"$pull": {"turns": {"turn": turn}}})

    def _has_index(self) -> bool:
        """Make the index of claims if need be; return whether it is there.

        Without it one dead key could get two backup keys: nothing is claimed then.
        """
        if not self._is_indexed:
            try:
                self._backups.create_index(
                    [("usedFor", 1), ("usedForVersion", 1)],
                    unique=True,
                    partialFilterExpression={"isUsed": True, "usedForVersion": {"$exists": True}},
                )
            except OperationFailure as error:
                log.warning("backup keys are not used without their index: %s", error.details or error)
                return False
            self._is_indexed = True
        return True

    def _warn_once(self, dead: _Dead) -> None:
        if dead.store_id not in self._without_spare:
            log.warning("there is no backup key for upstream key %s: weir backup-keys add ID", dead.key_id)
        self._without_spare.add(dead.store_id)
