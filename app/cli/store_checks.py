"""What `flask doctor` looks at in the database, one function per concern; nothing here changes anything."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from app.adapters.model_file import load_models
from app.adapters.mongo import rollups
from app.adapters.mongo.connection import log_expiry_s, would_lose_history
from app.adapters.mongo.migration.plan import STEP_NAMES, steps
from app.cli.base import cipher_of
from app.cli.checks import Check, State
from app.settings import Settings, SettingsError

Store = Database[dict[str, Any]]

_OLDEST = (6, 0)
_MAX_SKEW_S = 5.0
_DAY_S = 86_400
_IN_USE = timedelta(days=7)


def check_server(db: Store) -> Iterator[Check]:
    """Whether the server's version, clock and write concern are what the books rely on."""
    hello = db.command("hello")
    version = tuple(db.client.server_info()["versionArray"][:2])
    name = "MongoDB"
    if version < _OLDEST:
        shown = ".".join(map(str, version))
        yield Check(
            name, State.WARNING, f"version {shown} is older than any tested", "upgrade it to 6.0 or newer"
        )
    skew_s = (hello["localTime"].astimezone(UTC) - datetime.now(UTC)).total_seconds()
    if abs(skew_s) > _MAX_SKEW_S:
        detail = f"its clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
        yield Check(
            name, State.WARNING, detail, "let both machines follow NTP: key states are shared by time"
        )
    concern = db.client.write_concern.document
    if concern.get("w") == 0:
        yield Check(
            name, State.FAILED, "w=0 in MONGODB_URI: what is not written is not noticed", "leave w out"
        )
    elif concern.get("j") is False:
        detail = "journal=false in MONGODB_URI: a killed server loses records it has taken"
        yield Check(name, State.WARNING, detail, "leave it out, or set journal=true")
    elif "setName" in hello and concern.get("w") == 1:
        detail = "w=1 on a replica set: records may be rolled back when the primary changes"
        yield Check(name, State.WARNING, detail, "leave w out, or set w=majority")


def check_secrets(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Whether stored upstream keys and proxy passwords can be read with this host's SECRET_KEY."""
    for step in steps(db, cipher_of(settings), settings.log_retention_s, now):
        if step.name == "secrets":
            for problem in step.look().problems:
                yield Check("secrets", State.FAILED, problem, "set the SECRET_KEY that all hosts share")


def check_retention(db: Store, settings: Settings) -> Iterator[Check]:
    """Whether records expire as LOG_RETENTION_DAYS says."""
    found, wanted = log_expiry_s(db), settings.log_retention_s or None
    logs = db["request_logs"]
    if found == wanted or logs.estimated_document_count() == 0:
        return
    kept = "for ever" if found is None else f"for {found / _DAY_S:g} days"
    detail = f"records are kept {kept}, LOG_RETENTION_DAYS is {settings.log_retention_days}"
    is_held_back = wanted is not None and would_lose_history(logs, wanted)
    advice = "flask migrate check" if is_held_back else "restart a worker: it sets this at its start"
    yield Check("retention", State.WARNING, detail, advice)


def check_earlier_software(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Whether there is anything for `flask migrate`, missing indexes included."""
    if db["request_logs"].estimated_document_count() == 0:
        return
    found = {
        step.name: step.look().pending
        for step in steps(db, cipher_of(settings), settings.log_retention_s, now)
        if step.name in STEP_NAMES[:3]
    }
    found["records"] = int(db["request_logs"].find_one({"outcome": None}, {"_id": True}) is not None)
    left = [name for name, pending in found.items() if pending]
    if left:
        detail = f"something is left of earlier software: {', '.join(left)}"
        yield Check("migration", State.WARNING, detail, "flask migrate check")


def check_prices(db: Store, settings: Settings, now: datetime) -> Iterator[Check]:
    """Whether the models that were asked for lately have prices."""
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
        yield Check("prices", State.WARNING, detail, "set input and output in the model table, unless meant")
