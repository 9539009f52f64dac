"""Which database an installation works on, in words, and a note of it in DATA_DIR.

The note lets a command tell a DATA_DIR whose MONGODB_URI was forgotten from one that is new.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from app.settings import Settings, close_data_dir
from app.store.embedded_mongo.layout import write_private

_NOTE = "database.json"
_MAX_HOSTS = 200


@dataclass(frozen=True, slots=True)
class DatabasePlace:
    """A database's name and where it is: `hosts` of MONGODB_URI, or the embedded MongoDB of `data_dir`.

    Credentials and options are no part of it.
    """

    name: str
    data_dir: str
    hosts: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "DatabasePlace":
        """Return the place these settings lead to."""
        hosts = hosts_in(settings.mongodb_uri.get_secret_value()) if settings.mongodb_uri else None
        return cls(settings.mongodb_db_name, str(settings.data_dir), hosts)

    def __str__(self) -> str:
        where = f"the embedded MongoDB of {self.data_dir}" if self.hosts is None else self.hosts
        return f"{self.name} on {where}"


def hosts_in(uri: str) -> str:
    """Return the hosts that a MongoDB URI names, with their ports: nothing else of it may be shown."""
    authority = uri.partition("://")[2].partition("?")[0].partition("/")[0]
    return unquote(authority.rpartition("@")[2])[:_MAX_HOSTS]


def note_place(settings: Settings) -> None:
    """Write down in DATA_DIR, which is made if need be, which database it goes with.

    Raises OSError, and SettingsError where others have access to it.
    """
    close_data_dir(settings.data_dir)
    place = DatabasePlace.of(settings)
    if noted_place(settings.data_dir) != place:
        write_private(settings.data_dir / _NOTE, json.dumps(asdict(place)) + "\n")


def noted_place(data_dir: Path) -> DatabasePlace | None:
    """Read the place that was written down last; None: nothing that can be read."""
    try:
        noted = json.loads((data_dir / _NOTE).read_text(encoding="utf-8"))
        hosts = noted["hosts"]
        return DatabasePlace(str(noted["name"]), str(noted["data_dir"]), hosts and str(hosts))
    except (OSError, ValueError, KeyError, TypeError):
        return None
