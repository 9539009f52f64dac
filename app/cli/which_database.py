"""Which database a command works on; where there is none, one line that says what was looked for."""

from pathlib import Path

from app.common.errors import SettingsError
from app.database_place import DatabasePlace, noted_place
from app.running_weirs import RunningWeir, running_weirs
from app.settings import Settings
from app.store.embedded_mongo import has_database

_SHOWN = 3


def look_for_embedded(settings: Settings) -> None:
    """Make sure that DATA_DIR is one with an embedded database; raises `SettingsError`, one line."""
    noted, data_dir = noted_place(settings.data_dir), _data_dir(settings)
    if noted is not None and noted.hosts is not None:
        raise SettingsError(
            f"{data_dir} belongs to a Weir that uses the database {noted}, and MONGODB_URI is not set: "
            "set it as the service has it"
        )
    if has_database(settings.data_dir):
        return
    if (settings.data_dir / "journal").is_dir():
        raise SettingsError(
            f"{data_dir} has a journal and no embedded MongoDB, so it belongs to a Weir with a MONGODB_URI, "
            "which is not set: set it as the service has it"
        )
    raise SettingsError(
        f"there is no database: {data_dir} has no embedded MongoDB, and MONGODB_URI is not set; {_advice()}"
    )


def never_used(settings: Settings) -> SettingsError:
    """Make the error for an external database with nothing of ours in it."""
    return SettingsError(
        f"the database {DatabasePlace.of(settings)} has never been used by Weir: mend MONGODB_URI or "
        "MONGODB_DB_NAME; for a new installation `weir init` makes it"
    )


def written_to(settings: Settings) -> str:
    """Say where a command wrote to; and that another Weir runs, where DATA_DIR is only the default."""
    text = f"weir: wrote to {DatabasePlace.of(settings)}"
    others = [] if settings.mongodb_uri or _is_chosen(settings) else _others(settings.data_dir)
    return f"{text}; another Weir runs with {others[0]}" if others else text


def _data_dir(settings: Settings) -> str:
    source = "from the environment" if _is_chosen(settings) else "the default"
    return f"DATA_DIR {settings.data_dir} ({source})"


def _is_chosen(settings: Settings) -> bool:
    return "data_dir" in settings.model_fields_set


def _advice() -> str:
    found = running_weirs()
    if not found:
        return "set DATA_DIR or MONGODB_URI as the service has it; for a new installation: weir init"
    shown = "; ".join(map(str, found[:_SHOWN]))
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    remedy = _remedy(found[0]) if len(found) == 1 else "set DATA_DIR or MONGODB_URI as one of them has it"
    return f"on this machine Weir runs with {shown}{more}: {remedy}; for a new one: weir init"


def _remedy(weir: RunningWeir) -> str:
    uri = "MONGODB_URI=… " if weir.has_uri else ""
    return f"{uri}DATA_DIR={weir.data_dir} weir …"


def _others(data_dir: Path) -> list[RunningWeir]:
    return [weir for weir in running_weirs() if weir.data_dir != str(data_dir)]
