"""What a reload would run into that only the database knows: a SECRET_KEY that is another one now.

gunicorn's master runs this as a process of its own, since a MongoClient would not survive the fork of
workers. It prints one line, or nothing, and ends with 0: a database that is away is no reason, and gunicorn
takes other statuses for those of a worker.
"""

import os
import sys

import pymongo
from pymongo.errors import PyMongoError

from app.common.errors import SettingsError
from app.settings import Settings, existing_secret_key
from app.store.connection import connect
from app.store.deployment import require_secret_key
from app.store.embedded_mongo import running_uri

PREFIX = "weir: "
_BOUND_S = 2.0


def problem() -> str | None:
    """Say why a worker that started now would have the wrong SECRET_KEY, in one line; None: it would not."""
    try:
        settings = Settings.from_env()
        secret = existing_secret_key(settings)
        uri = settings.mongodb_uri.get_secret_value() if settings.mongodb_uri else None
        uri = uri or running_uri(settings.data_dir)
        if uri is not None:
            _compare(uri, settings.mongodb_db_name, secret)
    except SettingsError as error:
        return str(error)
    except PyMongoError:
        return None
    return None


def _compare(uri: str, db_name: str, secret: str) -> None:
    db = connect(uri, db_name, app_name="weir-reload")
    try:
        with pymongo.timeout(_BOUND_S):
            require_secret_key(db, secret)
    finally:
        db.client.close()


def main(directory: str) -> None:
    """Print what there is to say, with paths of the environment seen from `directory`."""
    os.chdir(directory)
    reason = problem()
    if reason is not None:
        sys.stdout.write(f"{PREFIX}{reason}\n")


if __name__ == "__main__":
    main(sys.argv[1])
