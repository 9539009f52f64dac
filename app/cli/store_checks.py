"""What `weir doctor` looks at in the database, one function per concern; nothing here changes anything."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from app.cli.base import cipher_of
from app.cli.checks import Check, CheckState
from app.common.display import counted
from app.common.errors import SettingsError
from app.credit.credit_holds import FIELD as HOLDS
from app.credit.credit_holds import orphans
from app.migration.plan import STEP_NAMES, steps
from app.ohmygpt.live_account import READING
from app.ohmygpt.readings import Readings, accounts_of
from app.pricing.model_file import load_models
from app.settings import Settings, existing_secret_key
from app.statistics import rollups
from app.store.connection import log_expiry_s, overridden, would_lose_history
from app.store.deployment import SecretKeyState, require_secret_key

Store = Database[dict[str, Any]]

_OLDEST = (6, 0)
_MAX_SKEW_S = 5.0
_DAY_S = 86_400
_OVERRIDING = "Weir reads from the primary, and has writes acknowledged by a majority, in its journal"
_IN_USE = timedelta(days=7)
_LATEST = 10_000
_DOUBTS = {
    "estimated": ("were charged by estimate", "ask the upstream why it does not tell what answers use"),
    "unpriced": ("used what has no price", "the records say what (unpriced)"),
}


def check_server(db: Store) -> Iterator[Check]:
    """Check that the server's version and clock are what the books rely on."""
    asked = datetime.now(UTC)
    hello = db.command("hello")
    answered = datetime.now(UTC)
    version = tuple(db.client.server_info()["versionArray"][:2])
    name = "MongoDB"
    if version < _OLDEST:
        shown = ".".join(map(str, version))
        yield Check(
            name,
            CheckState.WARNING,
            f"version {shown} is older than any tested",
            "upgrade it to 6.0 or newer",
        )
    # When it looked at its clock is not known better than that: an answer may be slow.
    told = hello["localTime"].astimezone(UTC)
    skew_s = (told - min(max(told, asked), answered)).total_seconds()
    if abs(skew_s) > _MAX_SKEW_S:
        detail = f"its clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
        yield Check(
            name, CheckState.WARNING, detail, "let both machines follow NTP: key states are shared by time"
        )


def check_uri_options(settings: Settings) -> Iterator[Check]:
    """Report options of MONGODB_URI that would lose records or read stale balances, and are not followed."""
    uri = settings.mongodb_uri
    for option in overridden(uri.get_secret_value()) if uri is not None else ():
        detail = f"{option} in MONGODB_URI is not followed: {_OVERRIDING}"
        yield Check("MongoDB", CheckState.WARNING, detail, "leave it out")


def check_holds(db: Store, now: datetime) -> Iterator[Check]:
    """Report credit that is held for requests nobody runs any more."""
    users = db["usersNew"].find({HOLDS: {"$exists": True}}, {HOLDS: True})
    orphaned = {user["_id"]: found for user in users if (found := orphans(user[HOLDS], now))}
    if orphaned:
        detail = f"{sum(map(len, orphaned.values()))} orphaned, of {', '.join(list(orphaned)[:5])}"
        yield Check("holds on credit", CheckState.WARNING, detail, "weir verify --repair-holds")


def check_secret_key(db: Store, settings: Settings) -> Iterator[Check]:
    """Check that there is a SECRET_KEY here, and the one this database was set up with."""
    name = "secret key"
    try:
        state = require_secret_key(db, existing_secret_key(settings))
    except SettingsError as error:
        yield Check(name, CheckState.FAILED, str(error))
    else:
        if state is SecretKeyState.ROTATING:
            yield Check(name, CheckState.WARNING, "a rotation is under way", "weir secret-key rotate ends it")


def check_secrets(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Check that stored upstream keys and proxy passwords can be read with this host's SECRET_KEY."""
    for step in steps(db, cipher_of(settings), settings.log_retention_s, now, settings.tz):
        if step.name == "secrets":
            for problem in step.look().problems:
                yield Check("secrets", CheckState.FAILED, problem, "set the SECRET_KEY that all hosts share")


def check_retention(db: Store, settings: Settings) -> Iterator[Check]:
    """Check that records expire as LOG_RETENTION_DAYS says."""
    found, wanted = log_expiry_s(db), settings.log_retention_s or None
    logs = db["request_logs"]
    if found == wanted or logs.estimated_document_count() == 0:
        return
    kept = "for ever" if found is None else f"for {found / _DAY_S:g} days"
    detail = f"records are kept {kept}, LOG_RETENTION_DAYS is {settings.log_retention_days}"
    is_held_back = wanted is not None and would_lose_history(logs, wanted)
    advice = "weir migrate check" if is_held_back else "restart a worker: it sets this at its start"
    yield Check("retention", CheckState.WARNING, detail, advice)


def check_account(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Report what the workers read from OhMyGPT, and what they could not."""
    readings = Readings(db)
    if settings.unpriced_models != "off" and (problem := readings.get("catalogue").get("problem")):
        yield Check("catalogue", CheckState.WARNING, problem, "weir models sync --from-upstream tries it")
    if settings.ohmygpt_management_key is None:
        return
    stored, name = readings.get(READING), "account"
    if (read_at := stored.get("readAt")) is None or stored.get("problem"):
        reason = stored.get("problem") or "no worker has read it yet"
        yield Check(name, CheckState.WARNING, f"not read: {reason}", "check OHMYGPT_MANAGEMENT_KEY")
        return
    capped = sum(account.is_capped for account in accounts_of(stored).values())
    detail = f"balance {stored['balance']}, read {(now - read_at).total_seconds():.0f} s ago"
    if capped:
        detail += f"; used up caps: {counted(capped, 'keys')}"
        yield Check(name, CheckState.WARNING, detail, "weir keys list, then raise the caps at OhMyGPT")
    else:
        yield Check(name, CheckState.OK, detail)


def check_earlier_software(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Check whether there is anything for `weir migrate`, missing indexes included."""
    if db["request_logs"].estimated_document_count() == 0:
        return
    found = {
        step.name: step.look().pending
        for step in steps(db, cipher_of(settings), settings.log_retention_s, now, settings.tz)
        if step.name in STEP_NAMES[:3]
    }
    found["records"] = int(db["request_logs"].find_one({"outcome": None}, {"_id": True}) is not None)
    left = [name for name, pending in found.items() if pending]
    if left:
        detail = f"something is left of earlier software: {', '.join(left)}"
        yield Check("migration", CheckState.WARNING, detail, "weir migrate check")


def check_prices(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Check that the models that were asked for lately have prices."""
    try:
        models = load_models(settings.models_file)
    except SettingsError:
        return  # a check of its own says so
    used = db[rollups.COLLECTION].distinct("model", {"hour": {"$gte": now - _IN_USE}})
    free = sorted(
        model.id for model in models if model.id in used and not (model.price.input or model.price.output)
    )
    if free:
        detail = f"used within seven days and free of charge: {', '.join(free[:5])}"
        yield Check(
            "prices", CheckState.WARNING, detail, "set input and output in the model table, unless meant"
        )


def check_doubtful_costs(db: Store, now: datetime) -> Iterator[Check]:
    """Check that the latest requests of this hour told what they used, and used nothing without a price."""
    doubtful = {"$or": [{"usageSource": "estimate", "isSuccess": True}, {"unpriced": {"$exists": True}}]}
    found = db["request_logs"].aggregate(
        [
            {"$match": {"createdAt": {"$gte": now - timedelta(hours=1)}}},
            {"$sort": {"createdAt": -1}},
            {"$limit": _LATEST},
            {"$match": doubtful},
            {
                "$group": {
                    "_id": {"$cond": [{"$eq": [{"$type": "$unpriced"}, "missing"]}, "estimated", "unpriced"]},
                    "count": {"$sum": 1},
                    "models": {"$addToSet": "$model"},
                }
            },
        ]
    )
    for group in sorted(found, key=lambda group: str(group["_id"])):
        models = ", ".join(sorted(map(str, group["models"]))[:5])
        what, advice = _DOUBTS[group["_id"]]
        yield Check(
            "costs",
            CheckState.WARNING,
            f"{group['count']} requests of the last hour {what}: {models}",
            advice,
        )
