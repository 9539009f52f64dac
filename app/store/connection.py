"""The connection to MongoDB and the indexes the collections need."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from pymongo import ASCENDING, DESCENDING, MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from app.common.errors import SettingsError

Document = dict[str, Any]

log = logging.getLogger(__name__)

# The longest that TTL deletion accepts (68 years): what "keep for ever" is on an index that has a TTL
# already, since MongoDB cannot take a TTL away without building the whole index anew.
NEVER_S = 2_147_483_647

_SCHEMES = ("mongodb://", "mongodb+srv://")
_TAKES = "takes mongodb://[user:password@]host[:port]/[?options], user name and password percent-encoded"

_DEFAULTS: dict[str, Any] = {
    "serverSelectionTimeoutMS": 2000,
    "connectTimeoutMS": 2000,
    "socketTimeoutMS": 30_000,
}

# What is acknowledged leaves Weir's journal, so it has to survive a failover (`w`) and a killed server (`j`).
# What decides about money or identity must not be read from a member that is behind. A URI that says
# otherwise is not followed: see `overridden`.
_WRITES = WriteConcern(w="majority", j=True)
_READS = ReadConcern("local")

INDEXES: tuple[tuple[str, tuple[tuple[str, int], ...], dict[str, Any]], ...] = (
    ("request_logs", (("userId", ASCENDING),), {}),
    ("request_logs", (("friendKeyId", ASCENDING),), {}),
    ("request_logs", (("userId", ASCENDING), ("createdAt", DESCENDING)), {}),
    ("request_logs", (("creditType", ASCENDING), ("createdAt", DESCENDING)), {}),
    ("usersNew", (("apiKey", ASCENDING),), {"unique": True, "sparse": True}),
    ("usersNew", (("referralCode", ASCENDING),), {"unique": True, "sparse": True}),
    ("user_keys", (("name", ASCENDING),), {}),
    ("user_keys", (("secrets.id", ASCENDING),), {"sparse": True}),
    ("user_keys", (("hint", ASCENDING),), {"sparse": True}),
    ("user_keys", (("keyName", ASCENDING),), {"sparse": True}),
    ("ohmygpt_keys", (("status", ASCENDING),), {}),
    ("ohmygpt_keys", (("cooldownUntil", ASCENDING),), {}),
    ("ohmygpt_keys", (("createdAt", DESCENDING),), {}),
    ("ohmygpt_backup_keys", (("isUsed", ASCENDING),), {}),
    ("ohmygpt_bindings", (("proxyId", ASCENDING), ("isActive", ASCENDING)), {}),
    ("ohmygpt_bindings", (("ohmygptKeyId", ASCENDING),), {}),
    ("proxy_health_logs", (("proxyId", ASCENDING), ("checkedAt", DESCENDING)), {}),
    ("proxy_health_logs", (("checkedAt", ASCENDING),), {"expireAfterSeconds": 7 * 86_400}),
)
"""The indexes of the deployments whose data this product takes over: collection, keys, options."""


def connect(uri: str, db_name: str, *, app_name: str = "weir", **options: Any) -> Database[Document]:
    """Return the database, without waiting for the server. Close it by `database.client.close()`.

    Reads go to the primary, and writes are acknowledged by a majority, whatever the URI says. Its timeouts
    win over the defaults here, `options` win over both. Retryable writes are left to pymongo, which uses them
    on replica sets and leaves them out on a single server, which would refuse them. Raises `SettingsError`,
    never with the URI (it may hold a password).
    """
    if not uri.startswith(_SCHEMES):
        raise SettingsError(f"MONGODB_URI: {_TAKES}")
    given = {name.lower() for name, _ in parse_qsl(uri.partition("?")[2], keep_blank_values=True)}
    defaults = {name: value for name, value in _DEFAULTS.items() if name.lower() not in given}
    try:
        client: MongoClient[Document] = MongoClient(
            uri, appname=app_name, tz_aware=True, **{**defaults, **options}
        )
        return client.get_database(
            db_name, read_preference=ReadPreference.PRIMARY, write_concern=_WRITES, read_concern=_READS
        )
    except (ConfigurationError, ValueError, TypeError) as error:
        raise SettingsError(_refusal(error)) from None


def check_uri(uri: str) -> None:
    """Look at the URI only: no client, no connection, no lookup of names. Raises `SettingsError`.

    What a `mongodb+srv` URI leads to is in the DNS, so of that one the form is all that is looked at.
    """
    if not uri.startswith(_SCHEMES):
        raise SettingsError(f"MONGODB_URI: {_TAKES}")
    try:
        parse_uri("mongodb://" + uri.partition("://")[2], warn=False)
    except (PyMongoError, ValueError, TypeError) as error:
        raise SettingsError(_refusal(error)) from None


def overridden(uri: str) -> list[str]:
    """Name what the URI asks for that would lose records or read stale balances, and that is not followed.

    Of a single server one member is the majority.
    """
    given = {name.lower(): value for name, value in parse_qsl(uri.partition("?")[2])}
    if given.get("directconnection", "").lower() == "true" and given.get("w") == "1":
        del given["w"]
    wanted = {"w": "majority", "journal": "true", "readpreference": "primary"}
    return [
        f"{name}={given[name.lower()][:40]}"
        for name in ("w", "journal", "readPreference")
        if given.get(name.lower(), wanted[name.lower()]).lower() != wanted[name.lower()]
    ]


def _refusal(error: Exception) -> str:
    return f"MONGODB_URI: is not usable ({type(error).__name__}): {_TAKES}"


def ensure_indexes(db: Database[Document], log_retention_s: int) -> None:
    """Create what is missing; set how long `request_logs` are kept, in seconds (0: for ever).

    Indexes are known by what they index, so one made under another name is left alone. An index that
    cannot be made (say, existing duplicates) is logged and does not stop the start: everything works
    without it, more slowly. Raises `PyMongoError` when the server cannot be reached.
    """
    for name, keys, options in INDEXES:
        collection = db[name]
        if not has_index(collection, keys):
            _create(collection, keys, options)
    ensure_log_expiry(db, log_retention_s)


def has_index(collection: Collection[Document], keys: tuple[tuple[str, int], ...]) -> bool:
    """Return whether there is an index on exactly these fields, under whatever name."""
    return any(index["key"] == keys for index in _existing(collection))


def _existing(collection: Collection[Document]) -> Iterator[Document]:
    for name, index in collection.index_information().items():
        yield {**index, "name": name, "key": tuple((field, _direction(way)) for field, way in index["key"])}


def _direction(way: object) -> object:
    # Shells write directions as doubles.
    return int(way) if isinstance(way, float) else way


def _create(collection: Collection[Document], keys: tuple[tuple[str, int], ...], options: Document) -> None:
    try:
        collection.create_index(list(keys), **options)
    except OperationFailure as error:
        log.warning("index %s on %s was not made: %s", keys, collection.name, error.details or error)


def ensure_log_expiry(db: Database[Document], retention_s: int) -> None:
    """Make the one index on createdAt that serves both sorting and expiry, as in existing deployments.

    Records of earlier software are in no hourly sums. As long as there are some that a shorter expiry would
    delete, it is not made shorter: `weir migrate apply` adds them to the sums first.
    """
    logs = db["request_logs"]
    by_time, wanted = _indexes_by_time(logs), retention_s or NEVER_S
    changes = [
        index for index in _expiring(by_time, retention_s) if index.get("expireAfterSeconds") != wanted
    ]
    is_held_back = (changes or not by_time) and would_lose_history(logs, wanted)
    if not by_time:
        ttl = {"expireAfterSeconds": retention_s} if retention_s and not is_held_back else {}
        _create(logs, (("createdAt", DESCENDING),), ttl)
    if is_held_back:
        log.warning(
            "request_logs hold records of earlier software older than LOG_RETENTION_DAYS: their expiry stays "
            "as it is until 'weir migrate apply' has added them to the statistics"
        )
        return
    for index in changes:
        _change_expiry(db, index, wanted)


def log_expiry_s(db: Database[Document]) -> int | None:
    """Return after how many seconds MongoDB deletes a record now; None: never."""
    found = [
        i["expireAfterSeconds"] for i in _indexes_by_time(db["request_logs"]) if "expireAfterSeconds" in i
    ]
    return min((int(seconds) for seconds in found if seconds < NEVER_S), default=None)


def kept_since(db: Database[Document], now: datetime) -> datetime | None:
    """Return the moment before which records have expired; None: none ever does."""
    kept_s = log_expiry_s(db)
    return None if kept_s is None else now - timedelta(seconds=kept_s)


def would_lose_history(logs: Collection[Document], retention_s: int) -> bool:
    """Return whether records that are in no hourly sums are older than `retention_s` seconds."""
    oldest_kept = datetime.now(UTC) - timedelta(seconds=retention_s)
    return logs.find_one({"outcome": None, "createdAt": {"$lt": oldest_kept}}, {"_id": True}) is not None


def _indexes_by_time(logs: Collection[Document]) -> list[Document]:
    return [i for i in _existing(logs) if i["key"] in ((("createdAt", -1),), (("createdAt", 1),))]


def _expiring(by_time: list[Document], retention_s: int) -> list[Document]:
    """Return the indexes that expire, or the one that is to begin to expire."""
    expiring = [index for index in by_time if "expireAfterSeconds" in index]
    return expiring or (by_time[:1] if retention_s else [])


def _change_expiry(db: Database[Document], index: Document, seconds: int) -> None:
    try:
        db.command("collMod", "request_logs", index={"name": index["name"], "expireAfterSeconds": seconds})
    except OperationFailure as error:
        log.warning("how long request_logs are kept was not changed to %s s: %s", seconds, error.details)


def server_version(db: Database[Document]) -> str:
    """Return the server's version; raises `PyMongoError` when it does not answer."""
    return str(db.client.server_info()["version"])
