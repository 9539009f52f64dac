"""What can be known to be wrong before anything is started: checked by gunicorn's master, before it forks.

Nothing here connects, resolves a name, starts a thread or leaves anything open for a fork to share.

`python -m app.preflight COMMAND…` checks first and then becomes the command. gunicorn itself reads
`WEB_CONCURRENCY` before it reads any configuration, and answers what is no number with a traceback.
"""

import os
import sys

from app.adapters.model_file import load_models
from app.adapters.mongo.connection import check_uri
from app.settings import Settings, SettingsError, drop_empty_variables


def checked_settings() -> Settings:
    """The settings, once everything they name has been looked at too; raises `SettingsError`, one line."""
    settings = Settings.from_env()
    load_models(settings.models_file)
    if settings.mongodb_uri is not None:
        check_uri(settings.mongodb_uri.get_secret_value())
    if settings.rate_limit_storage_uri is not None:
        from app.adapters.storage_rate_limiter import check_storage  # noqa: PLC0415  see its head

        check_storage(settings.rate_limit_storage_uri)
    return settings


def problem() -> str | None:
    """What a start with the configuration as it is now would fail with, in one line; None: nothing."""
    try:
        checked_settings()
    except SettingsError as error:
        return str(error)
    return None


def main(command: list[str]) -> None:
    """Check, then become the command, if there is one; what is wrong ends the process with one line."""
    reason = problem()
    if reason is not None:
        sys.exit(f"weir: {reason}")
    if command:
        drop_empty_variables()
        try:
            os.execvp(command[0], command)  # noqa: S606  no shell is the point
        except OSError as error:
            sys.exit(f"weir: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
