"""What can be known to be wrong before anything is started: checked by gunicorn's master, before it forks.

Nothing here connects, resolves a name, starts a thread or leaves anything open for a fork to share.

`python -m app.preflight COMMAND…` checks first and then becomes the command. gunicorn itself reads
`WEB_CONCURRENCY` before it reads any configuration, and answers what is no number with a traceback.
"""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest is imported: no traceback

from app.common.errors import SettingsError
from app.pricing.model_file import load_models
from app.reload_check import PREFIX
from app.settings import ROOT, Settings, check_data_dir, check_stored_secrets, drop_empty_variables
from app.store.connection import check_uri
from app.store.embedded_mongo import EmbeddedMongoError
from app.store.embedded_mongo.child import spawn

_RELOAD_CHECK_S = 10.0


def checked_settings() -> Settings:
    """Return the settings, once everything they name was looked at; raises `SettingsError`, one line."""
    settings = Settings.from_env()
    check_data_dir(settings.data_dir)
    check_stored_secrets(settings)
    load_models(settings.models_file)
    if settings.mongodb_uri is not None:
        check_uri(settings.mongodb_uri.get_secret_value())
    if settings.rate_limit_storage_uri is not None:
        from app.accounts.storage_rate_limiter import check_storage  # noqa: PLC0415  see its head

        check_storage(settings.rate_limit_storage_uri)
    return settings


def check_or_exit() -> None:
    """End the process with one line if a start would fail; leave an environment that gunicorn can read."""
    reason = problem()
    if reason is not None:
        sys.exit(f"weir: {reason}")
    drop_empty_variables()


def problem() -> str | None:
    """Say what a start with the present configuration would fail with, in one line; None: nothing."""
    try:
        checked_settings()
    except SettingsError as error:
        return str(error)
    return None


def secret_key_problem(data_dir: Path) -> str | None:
    """Say why new workers would have the wrong SECRET_KEY, in one line; None: not, or nobody can say.

    For a running master, which asks a process of its own (`app.reload_check`) and waits, within bounds.
    """
    output = data_dir / ".reload-check"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # noqa: TID251  handed on
    command = [sys.executable, "-m", "app.reload_check", str(Path.cwd())]
    try:
        child = spawn(command, output, environment)
        if not child.wait(_RELOAD_CHECK_S):
            child.stop(1.0)
        said = output.read_text(encoding="utf-8", errors="replace")
        output.unlink()
    except (OSError, EmbeddedMongoError):
        return None
    lines = [line for line in said.splitlines() if line.startswith(PREFIX)]
    return lines[0].removeprefix(PREFIX) if lines else None


def main(command: list[str]) -> None:
    """Check, then become the command, if there is one; end the process with one line if that fails."""
    check_or_exit()
    if command:
        try:
            os.execvp(command[0], command)  # noqa: S606  no shell is the point
        except OSError as error:
            sys.exit(f"weir: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
