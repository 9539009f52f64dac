"""The OhMyGPT keys (`ohmygpt_keys`), encrypted at rest, and the reading of key files."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from app.accounts.credentials import mask
from app.keys.key_account import KeyAccount
from app.keys.key_choice import NO_LIMITS, Limits
from app.keys.key_state_store import KEYS, KeyEvent, KeyStateStore, StoredState, limits_of, state_update
from app.keys.key_states import Policy, new_state, reset
from app.store.driver import AlreadyExistsError, yielding
from app.store.fields import optional_date, optional_int
from app.store.key_cipher import PREFIX, KeyCipher, KeyCipherError

Document = dict[str, Any]

HEALTHY = "healthy"
TAKEN_OVER = "takenOverAt"
"""When a key of earlier software got its form of today; its counters include what it was used for before."""
ENV_ID_PREFIX = "env-"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,49}")
_SECRET = re.compile(r"[!-~]{8,512}")
_BOM = "\ufeff"
# Documents fetched at once: taking them apart takes about a millisecond.
_AT_ONCE = 500


class KeyFileError(Exception):
    """A key file with lines that cannot be used; nothing of it was stored.

    `problems` are (line number, reason), from the first line to the last.
    """

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(f"line {number}: {reason}" for number, reason in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class StoredProviderKey:
    """An upstream key as stored; `secret` is None when it cannot be decrypted.

    `account` is what OhMyGPT says about it, where that was asked and found.
    """

    key_id: str
    secret: str | None
    status: str
    last_error: str | None = None
    cooldown_until: datetime | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    requests_count: int = 0
    tokens_used: int = 0
    limits: Limits = NO_LIMITS
    state: StoredState = field(default_factory=StoredState)
    account: KeyAccount | None = None

    @property
    def masked(self) -> str:
        """The key as it may be shown."""
        return mask(self.secret or "")

    @property
    def replaced_by(self) -> str | None:
        """The backup key that took this one's place when it died."""
        return self.state.replaced_by

    def __repr__(self) -> str:
        return f"StoredProviderKey({self.key_id!r}, {self.status!r})"


class ProviderKeyStore:
    """The upstream keys, one document each, under their pool ids."""

    def __init__(self, db: Database[Document], cipher: KeyCipher) -> None:
        self._keys = db[KEYS]
        self._states = KeyStateStore(db)
        self._cipher = cipher
        self._plain: dict[str, str] = {}

    def add(self, key_id: str, secret: str, *, now: datetime) -> StoredProviderKey:
        """Store a key, healthy; raises ValueError for a bad one, `AlreadyExistsError` for a taken id."""
        check_key(key_id, secret)
        document = self._document(key_id, secret, now)
        try:
            self._keys.insert_one(document)
        except DuplicateKeyError:
            raise AlreadyExistsError(f"there is an upstream key {key_id} already") from None
        return self._read(document)

    def import_lines(self, text: str, *, now: datetime) -> list[str]:
        """Store every `id|key` line, all or none; return the ids.

        Raises `KeyFileError` naming each bad line.
        """
        return import_key_lines(self._keys, text, lambda key_id, secret: self._document(key_id, secret, now))

    def get(self, key_id: str) -> StoredProviderKey | None:
        """Return the key, or None."""
        document = self._keys.find_one({"_id": key_id})
        return self._read(document) if document else None

    def list(self) -> Iterator[StoredProviderKey]:
        """Iterate over all keys, oldest first."""
        seen: dict[str, str] = {}
        found = self._keys.find().sort([("createdAt", 1), ("_id", 1)]).batch_size(_AT_ONCE)
        for document in yielding(found):  # every second, of thousands maybe: answers must not wait for it
            key = self._read(document)
            if key.secret is not None:
                seen[str(document["apiKey"])] = key.secret
            yield key
        self._plain = seen  # a pool is read over and over: nothing is decrypted twice

    def reset(self, key_id: str, *, now: datetime) -> StoredProviderKey | None:
        """Take an operator's word that the key is good; return None when there is no such key."""
        found = self.get(key_id)
        if found is None:
            return None
        state, event = reset(found.state.restore(now, now, Policy()), now)
        if not self._states.put(key_id, key_id, state, is_env=False):
            return None
        self._states.add_events([KeyEvent.of(key_id, event)])
        return self.get(key_id)

    def limit(self, key_id: str, changes: Mapping[str, int | None]) -> StoredProviderKey | None:
        """Change limits by their stored names, None takes one away; return None when there is no such key."""
        given = {name: value for name, value in changes.items() if value is not None}
        update: Document = {}
        if given:
            update["$set"] = given
        if taken := changes.keys() - given.keys():
            update["$unset"] = dict.fromkeys(taken, "")
        if update and not self._keys.update_one({"_id": key_id}, update).matched_count:
            return None
        return self.get(key_id)

    def delete(self, key_id: str) -> bool:
        """Remove the key from the pool; return False when there is no such key."""
        return self._keys.delete_one({"_id": key_id}).deleted_count == 1

    def _document(self, key_id: str, secret: str, now: datetime) -> Document:
        return {
            "_id": key_id,
            "apiKey": self._cipher.encrypt(secret),
            "tokensUsed": 0,
            "requestsCount": 0,
            "createdAt": now,
            **state_update(new_state(now))["$set"],
        }

    def _read(self, document: Document) -> StoredProviderKey:
        secret = self._plain.get(str(document.get("apiKey")))
        problem = None
        if secret is None:
            secret, problem = decrypted(self._cipher, document, owner=f"{KEYS}/{document['_id']}")
        return StoredProviderKey(
            key_id=str(document["_id"]),
            secret=secret,
            status=str(document.get("status", HEALTHY)),
            last_error=problem or document.get("lastError"),
            cooldown_until=optional_date(document.get("cooldownUntil")),
            created_at=document.get("createdAt"),
            last_used_at=document.get("lastUsedAt"),
            requests_count=optional_int(document.get("requestsCount")) or 0,
            tokens_used=optional_int(document.get("tokensUsed")) or 0,
            limits=limits_of(document),
            state=StoredState.from_document(document),
        )


def decrypted(
    cipher: KeyCipher, document: Document, owner: str | None = None
) -> tuple[str | None, str | None]:
    """Decrypt the document's key, or say what is wrong with it; `owner` as `KeyCipher.decrypt` takes it."""
    stored = document.get("apiKey")
    if not isinstance(stored, str) or not stored:
        return None, "has no key"
    try:
        return cipher.decrypt(stored, owner), None
    except KeyCipherError as error:
        return None, str(error)


def encrypt_plain(
    collection: Collection[Document], cipher: KeyCipher, now: datetime, field: str = "apiKey"
) -> int:
    """Encrypt what earlier software left there in plain text; return how many documents that were."""
    if not cipher.may_encrypt:
        return 0
    changed = 0
    for document in collection.find(plain_text(field), {field: True}):
        secret = document[field]
        change = {"$set": {field: cipher.encrypt(secret), TAKEN_OVER: now}}
        changed += collection.update_one({"_id": document["_id"], field: secret}, change).modified_count
    return changed


def plain_text(field: str = "apiKey") -> Document:
    """Build the query of documents whose secret is not encrypted."""
    return {field: {"$type": "string", "$not": {"$regex": f"^{PREFIX}"}, "$ne": ""}}


def check_key(key_id: str, secret: str) -> None:
    """Raise ValueError, with a sentence that gives nothing away, for what cannot be a key and its id."""
    problem = _problem(key_id, secret)
    if problem is not None:
        raise ValueError(problem)


def id_problem(key_id: str) -> str | None:
    """Say why this cannot be the id of a stored key; None: it can."""
    if not _ID.fullmatch(key_id):
        return "the id takes 1 to 50 letters, digits and . _ : @ -, a letter or digit first"
    if key_id.startswith(ENV_ID_PREFIX):
        return f"ids that start with {ENV_ID_PREFIX} are kept for OHMYGPT_API_KEYS"
    return None


def _problem(key_id: str, secret: str) -> str | None:
    if (problem := id_problem(key_id)) is not None:
        return problem
    if not secret:
        return "the key is missing"
    if not _SECRET.fullmatch(secret):
        return "the key takes 8 to 512 printable ASCII characters without spaces"
    return None


def parse_key_lines(text: str, taken: set[str]) -> list[tuple[str, str]]:
    """Parse the (id, key) pairs of `id|key` lines; skip blank lines and lines that start with #.

    Raises `KeyFileError` with every bad line; `taken` are the ids that are in use already.
    """
    keys: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems = []
    for number, line in enumerate(text.removeprefix(_BOM).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key_id, _, secret = (part.strip() for part in line.partition("|"))
        reason = "is not id|key" if "|" not in line else _problem(key_id, secret)
        if reason is None and key_id in taken:
            reason = f"there is a key {key_id} already"
        if reason is None and key_id in keys:
            reason = f"the id {key_id} is on line {lines[key_id]} too"
        if reason is None and secret in lines:
            reason = f"the same key is on line {lines[secret]}"
        if reason is None:
            keys[key_id] = secret
            lines[key_id] = lines[secret] = number
        else:
            problems.append((number, reason))
    if problems:
        raise KeyFileError(problems)
    return list(keys.items())


def import_key_lines(
    collection: Collection[Document], text: str, document_of: Callable[[str, str], Document]
) -> list[str]:
    """Store a document (made of id and key) for every `id|key` line, all or none; return the ids.

    Raises `KeyFileError` with every bad line, `AlreadyExistsError` for an id taken in this very moment.
    """
    taken = {str(document["_id"]) for document in collection.find({}, {"_id": True})}
    keys = parse_key_lines(text, taken)
    insert_all(collection, [document_of(*key) for key in keys])
    return [key_id for key_id, _ in keys]


def insert_all(collection: Collection[Document], documents: list[Document]) -> None:
    """Insert all or, when an id was taken in this very moment, none; raises `AlreadyExistsError` then."""
    inserted: list[Any] = []
    try:
        for document in documents:
            collection.insert_one(document)
            inserted.append(document["_id"])
    except DuplicateKeyError:
        collection.delete_many({"_id": {"$in": inserted}})
        raise AlreadyExistsError(f"there is a key {document['_id']} already; nothing was imported") from None
